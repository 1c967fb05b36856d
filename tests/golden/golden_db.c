/*
 * Makes a run file of a recorded one that is kept as text: golden_db OUT SQL...: today's schema, then each file's rows.
 */
#include "store/schema.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char *read_file(const char *path)
{
	FILE *file = fopen(path, "r");
	char *text = NULL;
	size_t size = 0;

	if (!file || getdelim(&text, &size, '\0', file) < 0) {
		fprintf(stderr, "golden_db: cannot read %s\n", path);
		exit(2);
	}
	fclose(file);
	return text;
}

static void run(sqlite3 *db, const char *what, const char *sql)
{
	char *message = NULL;

	if (sqlite3_exec(db, sql, NULL, NULL, &message)) {
		fprintf(stderr, "golden_db: %s: %s\n", what, message);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	sqlite3 *db;

	if (argc < 3)
		return 2;
	unlink(argv[1]);
	umask(077);
	if (sqlite3_open(argv[1], &db))
		return 2;
	/* A file that need not survive a power cut. */
	run(db, "speed", "PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY");
	run(db, "schema", store_schema_sql);
	for (int i = 2; i < argc; i++) {
		char *sql = read_file(argv[i]);

		run(db, argv[i], sql);
		free(sql);
	}
	return sqlite3_close(db) ? 2 : 0;
}
