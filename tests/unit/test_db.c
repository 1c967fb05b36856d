/* store/db.c: opening, statements, errors. */
#include "store/db.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	char folder[64];
	char path[96];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->folder, "/tmp/nnmem-test-db-XXXXXX");
	if (!mkdtemp(f->folder))
		return -1;
	snprintf(f->path, sizeof(f->path), "%s/file:a b?#%%.db", f->folder);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	rmdir(f->folder);
	free(f);
	return 0;
}

static void make_file(const struct fixture *f, const char *sql)
{
	struct db *db;
	int fd = open(f->path, O_RDWR | O_CREAT | O_EXCL, 0600);

	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(db_open(f->path, DB_WRITE, &db, NULL, 0), 0);
	assert_int_equal(db_exec(db, sql), 0);
	db_close(db);
}

static void test_db_open_when_the_file_is_missing_then_says_so_and_creates_nothing(void **state)
{
	struct fixture *f = *state;
	struct db *db = NULL;
	char message[100] = "";
	struct stat status;

	assert_int_equal(db_open(f->path, DB_WRITE, &db, message, sizeof(message)), -ENOENT);
	assert_null(db);
	assert_string_not_equal(message, "");
	assert_int_equal(db_open(f->path, DB_READ, &db, NULL, 0), -ENOENT);
	assert_int_equal(stat(f->path, &status), -1);
}

static void test_db_open_when_the_name_has_special_characters_then_every_mode_opens_that_file(void **state)
{
	static const enum db_mode modes[] = {DB_READ, DB_READ_IMMUTABLE, DB_WRITE};
	struct fixture *f = *state;

	make_file(f, "CREATE TABLE t (a); INSERT INTO t VALUES (42)");
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		struct db *db;
		int64_t value = 0;

		assert_int_equal(db_open(f->path, modes[i], &db, NULL, 0), 0);
		assert_int_equal(db_read_i64(db, "SELECT a FROM t", &value), 0);
		assert_int_equal(value, 42);
		assert_int_equal(db_exec(db, "INSERT INTO t VALUES (43)"), modes[i] == DB_WRITE ? 0 : -EROFS);
		db_close(db);
	}
}

static void test_db_open_when_a_relative_name_means_something_to_sqlite_then_it_is_a_file_all_the_same(void **state)
{
	static const char *const names[] = {":memory:", "file:x?mode=memory", ""};
	struct fixture *f = *state;
	char before[4096];
	struct db *db = NULL;

	assert_non_null(getcwd(before, sizeof(before)));
	assert_int_equal(chdir(f->folder), 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_true(db_open(names[i], DB_WRITE, &db, NULL, 0) < 0);
		assert_null(db);
	}
	assert_int_equal(chdir(before), 0);
}

static void test_db_open_when_the_file_has_views_and_triggers_then_neither_runs(void **state)
{
	struct fixture *f = *state;
	struct db *db;
	int64_t value;

	make_file(f, "CREATE TABLE t (a); CREATE VIEW v AS SELECT 1 AS a;"
	             "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO t VALUES (7), (8); END");
	assert_int_equal(db_open(f->path, DB_WRITE, &db, NULL, 0), 0);
	assert_int_equal(db_exec(db, "INSERT INTO t VALUES (1)"), 0);
	assert_int_equal(db_read_i64(db, "SELECT count(*) FROM t", &value), 0);
	assert_int_equal(value, 1);
	assert_int_equal(db_read_i64(db, "SELECT a FROM v", &value), -EBADMSG);
	assert_string_not_equal(db_message(db), "");
	db_close(db);
}

static void test_db_prepare_when_asked_again_then_the_statement_is_kept_and_ready(void **state)
{
	static const char sql[] = "SELECT value FROM (SELECT 1 AS value UNION SELECT 2 UNION SELECT 3) WHERE value >= ?";
	struct db *db;
	sqlite3_stmt *first, *second;
	(void)state;

	assert_int_equal(db_open(NULL, DB_MEMORY, &db, NULL, 0), 0);
	assert_int_equal(db_prepare(db, sql, &first), 0);
	assert_int_equal(db_bind_u64(first, 1, 2), 0);
	assert_int_equal(db_step(db, first), 1);
	assert_int_equal(db_prepare(db, sql, &second), 0);
	assert_ptr_equal(first, second);
	assert_int_equal(db_step(db, second), 1);
	assert_int_equal(db_column_u64(second, 0), 2);
	assert_int_equal(db_step(db, second), 1);
	assert_int_equal(db_step(db, second), 0);
	db_close(db);
}

static void test_db_read_i64_when_there_is_no_row_or_null_then_enodata(void **state)
{
	struct db *db;
	int64_t value = 5;
	(void)state;

	assert_int_equal(db_open(NULL, DB_MEMORY, &db, NULL, 0), 0);
	assert_int_equal(db_read_i64(db, "SELECT 1 WHERE 0", &value), -ENODATA);
	assert_int_equal(db_read_i64(db, "SELECT NULL", &value), -ENODATA);
	assert_int_equal(value, 5);
	db_close(db);
}

static void test_db_error_when_the_file_is_foreign_then_ebadmsg(void **state)
{
	struct fixture *f = *state;
	struct db *db;
	int64_t value;
	int fd = open(f->path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	char junk[4096];

	memset(junk, 'x', sizeof(junk));
	assert_int_equal(write(fd, junk, sizeof(junk)), sizeof(junk));
	close(fd);
	assert_int_equal(db_open(f->path, DB_READ, &db, NULL, 0), 0);
	assert_int_equal(db_read_i64(db, "SELECT count(*) FROM sqlite_schema", &value), -EBADMSG);
	db_close(db);
}

static void test_db_rollback_when_in_a_transaction_then_undoes_it(void **state)
{
	struct db *db;
	int64_t value;
	(void)state;

	assert_int_equal(db_open(NULL, DB_MEMORY, &db, NULL, 0), 0);
	assert_int_equal(db_exec(db, "CREATE TABLE t (a)"), 0);
	for (int keep = 0; keep < 2; keep++) {
		assert_int_equal(db_begin(db), 0);
		assert_int_equal(db_exec(db, "INSERT INTO t VALUES (1)"), 0);
		if (keep)
			assert_int_equal(db_commit(db), 0);
		db_rollback(db);
		assert_int_equal(db_read_i64(db, "SELECT count(*) FROM t", &value), 0);
		assert_int_equal(value, keep);
	}
	db_close(db);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	        TEST(test_db_open_when_the_file_is_missing_then_says_so_and_creates_nothing),
	        TEST(test_db_open_when_the_name_has_special_characters_then_every_mode_opens_that_file),
	        TEST(test_db_open_when_a_relative_name_means_something_to_sqlite_then_it_is_a_file_all_the_same),
	        TEST(test_db_open_when_the_file_has_views_and_triggers_then_neither_runs),
	        TEST(test_db_prepare_when_asked_again_then_the_statement_is_kept_and_ready),
	        TEST(test_db_read_i64_when_there_is_no_row_or_null_then_enodata),
	        TEST(test_db_error_when_the_file_is_foreign_then_ebadmsg),
	        TEST(test_db_rollback_when_in_a_transaction_then_undoes_it),
	};

	return cmocka_run_group_tests_name("db", tests, NULL, NULL);
}
