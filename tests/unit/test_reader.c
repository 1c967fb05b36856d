/*
 * The reader: what it answers, against brute force over random runs, and what it does with files that are not run files,
 * damaged or hostile.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "run_builder.h"

#include "store/reader_internal.h"
#include "store/schema.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NR_RUNS 25

static char folder[] = "/tmp/nnmem-test-reader-XXXXXX";
static char path[64];

static void empty_folder(void)
{
	DIR *directory = opendir(folder);
	struct dirent *entry;

	while ((entry = readdir(directory))) {
		char name[512];

		snprintf(name, sizeof(name), "%s/%s", folder, entry->d_name);
		if (entry->d_name[0] != '.' && unlink(name))
			rmdir(name);
	}
	closedir(directory);
}

static int make_folder(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/run.db", folder);
	return 0;
}

static int remove_folder(void **state)
{
	empty_folder();
	return rmdir(folder);
}

static int start_empty(void **state)
{
	empty_folder();
	return 0;
}

static struct store *open_store(void)
{
	struct store *store = NULL;
	struct store_error error = {""};

	if (store_open(path, &store, &error))
		fail_msg("%s", error.message);
	return store;
}

static void write_file(const char *name, const void *bytes, size_t nr_bytes)
{
	FILE *file = fopen(name, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, nr_bytes, file), nr_bytes);
	fclose(file);
}

static unsigned char *read_whole_file(const char *name, size_t *ret_bytes)
{
	FILE *file = fopen(name, "r");

	assert_non_null(file);
	fseek(file, 0, SEEK_END);
	*ret_bytes = (size_t)ftell(file);
	rewind(file);
	unsigned char *bytes = malloc(*ret_bytes);

	assert_int_equal(fread(bytes, 1, *ret_bytes, file), *ret_bytes);
	fclose(file);
	return bytes;
}

/* Opening fails with @error and one sentence that names the file and holds @words. */
static void assert_refused(int error, const char *words)
{
	struct store *store = NULL;
	struct store_error sentence = {""};
	int r = store_open(path, &store, &sentence);

	if (r != error || !strstr(sentence.message, words))
		fail_msg("got %d \"%s\", not %d with \"%s\"", r, sentence.message, error, words);
	assert_ptr_equal(strstr(sentence.message, path), sentence.message);
	assert_null(strchr(sentence.message, '\n'));
}

/* ---------------------------------------------------------------- files that cannot be read */

static void test_open_when_the_file_is_missing_then_says_so(void **state)
{
	assert_refused(-ENOENT, "no such file");
}

static void test_open_when_the_file_is_empty_then_says_so(void **state)
{
	write_file(path, "", 0);
	assert_refused(-ENODATA, "is empty");
}

static void test_open_when_it_is_a_directory_then_says_so(void **state)
{
	assert_int_equal(mkdir(path, 0700), 0);
	assert_refused(-EISDIR, "is a directory");
}

static void test_open_when_it_is_a_pipe_then_does_not_wait(void **state)
{
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_refused(-EBADMSG, "not a regular file");
}

static void test_open_when_the_user_may_not_read_then_says_so(void **state)
{
	struct built_run built;

	builder_make_random(path, 1, &built);
	assert_int_equal(chmod(path, 0), 0);
	assert_int_equal(chmod(folder, 0755), 0);
	bool is_root = geteuid() == 0;

	if (is_root)
		assert_int_equal(seteuid(65534), 0);
	struct store *store = NULL;
	struct store_error error = {""};
	int r = store_open(path, &store, &error);

	if (is_root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(r, -EACCES);
	assert_non_null(strstr(error.message, "Permission denied"));
}

static void test_open_when_it_is_text_then_says_so(void **state)
{
	char text[5000];

	memset(text, 'x', sizeof(text));
	write_file(path, text, sizeof(text));
	assert_refused(-EBADMSG, "is not a run file");
	write_file(path, "x", 1);
	assert_refused(-EBADMSG, "is not a run file");
}

static void test_open_when_it_is_the_database_of_another_program_then_says_so(void **state)
{
	sqlite3 *db = NULL;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	builder_exec(db, "CREATE TABLE run (id INTEGER)");
	sqlite3_close(db);
	assert_refused(-EBADMSG, "another program");
}

static void test_open_when_it_is_newer_then_says_so(void **state)
{
	sqlite3 *db = builder_create(path);

	builder_exec(db, "PRAGMA user_version = %d", (int)SCHEMA_VERSION + 1);
	sqlite3_close(db);
	assert_refused(-EPROTONOSUPPORT, "newer nnmem (file version 2; this one reads up to 1)");
}

static void test_open_when_tables_are_missing_then_says_so(void **state)
{
	sqlite3 *db = NULL;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	builder_exec(db, "PRAGMA application_id = %d; PRAGMA user_version = 1", (int)SCHEMA_APPLICATION_ID);
	sqlite3_close(db);
	assert_refused(-EBADMSG, "never finished");
}

static void test_open_when_nothing_was_committed_then_says_so(void **state)
{
	sqlite3 *db = builder_create(path);

	builder_exec(db, "DELETE FROM run");
	sqlite3_close(db);
	assert_refused(-EBADMSG, "holds no run");
}

static void test_open_when_the_file_is_cut_then_says_so_at_every_length(void **state)
{
	struct built_run built;
	size_t nr_bytes;

	builder_make_random(path, 3, &built);
	unsigned char *bytes = read_whole_file(path, &nr_bytes);

	for (size_t cut = 1; cut < nr_bytes; cut += cut < 200 ? 7 : 1013) {
		write_file(path, bytes, cut);
		assert_refused(-EBADMSG, "is ");
	}
	free(bytes);
}

static void test_open_when_something_else_stands_for_a_table_then_refuses(void **state)
{
	static const char *const changes[] = {
	        "DROP TABLE note; CREATE VIEW note AS SELECT 1 AS id, 2 AS seq, 0 AS severity, 'x' AS what",
	        "DROP TABLE note; CREATE VIRTUAL TABLE note USING rtree(id, seq, severity)",
	        "DROP TABLE note; CREATE TABLE note (id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, severity INTEGER AS (7), what "
	        "TEXT)",
	        "CREATE TRIGGER note AFTER INSERT ON note BEGIN DELETE FROM run; END",
	        "DROP TABLE note",
	};

	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		sqlite3 *db = builder_create(path);

		builder_exec(db, "DROP VIEW v_note; %s", changes[i]);
		sqlite3_close(db);
		assert_refused(-EBADMSG, "table `note`");
	}
}

static void test_open_when_a_user_has_added_a_view_then_reads(void **state)
{
	sqlite3 *db = builder_create(path);

	builder_exec(db, "CREATE VIEW mine AS SELECT * FROM allocation; CREATE INDEX size ON allocation (size_bytes)");
	sqlite3_close(db);
	store_close(open_store());
}

static void test_open_when_the_layout_of_the_definition_differs_then_reads(void **state)
{
	sqlite3 *db = builder_create(path);

	builder_exec(db,
	             "DROP VIEW v_note; DROP TABLE note; CREATE TABLE note(id INTEGER  PRIMARY KEY, -- comment, with 'quotes'\n"
	             "seq INTEGER NOT NULL,\n\tseverity INTEGER NOT NULL, what TEXT NOT NULL )");
	sqlite3_close(db);
	store_close(open_store());
}

static int ignore_allocation(const struct store_allocation *allocation, void *arg)
{
	return 0;
}

static void test_read_when_a_value_is_of_a_wrong_type_or_range_then_says_which(void **state)
{
	static const struct {
		const char *change, *words;
	} hostile[] = {
	        {"UPDATE allocation SET size_bytes = -5", "`size_bytes` is out of range (allocation)"},
	        {"UPDATE allocation SET size_bytes = 'much'", "`size_bytes` is not a whole number (allocation)"},
	        {"UPDATE allocation SET category = 13", "`category` is out of range (allocation)"},
	        {"UPDATE allocation SET phase = 6", "`phase` is out of range (allocation)"},
	        {"UPDATE allocation SET stretch = 5000", "`step` is not a whole number (allocation)"},
	        {"UPDATE allocation SET device = 99999999999", ""},
	        {"UPDATE module SET fqn = x'00ff'", "`fqn` is not text (allocation)"},
	};

	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
		struct built_run built;
		sqlite3 *db;

		builder_make_random(path, 2, &built);
		assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
		builder_exec(db, "%s", hostile[i].change);
		sqlite3_close(db);
		struct store *store = open_store();
		int r = store_each_live(store, BUILDER_CUDA, built.last_seq, NULL, ignore_allocation, NULL);

		assert_int_equal(r, hostile[i].words[0] ? -EBADMSG : 0);
		if (r && !strstr(store_message(store), hostile[i].words))
			fail_msg("%s", store_message(store));
		store_close(store);
	}
}

static void test_read_when_sums_overflow_then_says_damaged(void **state)
{
	struct built_run built;
	struct store_run run;
	sqlite3 *db;

	builder_make_random(path, 2, &built);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	builder_exec(db, "UPDATE device SET allocs = 0x7fffffffffffffff");
	sqlite3_close(db);
	struct store *store = NULL;
	struct store_error error = {""};
	int r = store_open(path, &store, &error);

	if (!r)
		r = store_read_run(store, &run);
	assert_int_equal(r, -EBADMSG);
	store_close(store);
}

static void test_read_when_births_are_out_of_order_then_says_damaged(void **state)
{
	struct built_run built;
	struct store_composition composition;
	sqlite3 *db;

	builder_make_random(path, 2, &built);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	builder_exec(
	        db,
	        "UPDATE allocation SET alloc_seq = 1 WHERE id = (SELECT max(id) FROM allocation WHERE device = 1 AND level = 0)");
	sqlite3_close(db);
	struct store *store = open_store();

	assert_int_equal(store_read_composition(store, BUILDER_CUDA, WINDOW_STEADY_STEP, &composition), -EBADMSG);
	assert_non_null(strstr(store_message(store), "order of their birth"));
	store_close(store);
}

static int keep_text(const struct store_note *note, void *arg)
{
	snprintf(arg, 100, "%s", note->text);
	return 0;
}

static void test_read_when_text_holds_controls_or_bad_utf8_then_they_are_masked(void **state)
{
	static const struct {
		const char *sql, *shown;
	} texts[] = {
	        {"'a' || char(27) || '[2J' || char(10) || 'b'", "a?[2J b"},
	        {"CAST(x'61c3a9e282ac' AS TEXT)", "a\xc3\xa9\xe2\x82\xac"},
	        {"CAST(x'61ff62' AS TEXT)", "a?b"},
	        {"CAST(x'61c0af62' AS TEXT)", "a??b"},    /* overlong */
	        {"CAST(x'61eda08062' AS TEXT)", "a???b"}, /* a surrogate */
	        {"CAST(x'61e280ae62' AS TEXT)", "a???b"}, /* right-to-left override */
	        {"CAST(x'61c29b62' AS TEXT)", "a??b"},    /* C1 control */
	        {"CAST(x'61f09f9880' AS TEXT)", "a\xf0\x9f\x98\x80"},
	        {"CAST(x'61f09f98' AS TEXT)", "a???"}, /* cut */
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char shown[100] = "";
		sqlite3 *db = builder_create(path);

		builder_exec(db, "INSERT INTO note VALUES (1, 1, 0, %s)", texts[i].sql);
		sqlite3_close(db);
		struct store *store = open_store();

		assert_int_equal(store_each_note(store, keep_text, shown), 0);
		assert_string_equal(shown, texts[i].shown);
		store_close(store);
	}
}

static void test_read_when_it_takes_too_long_then_stops(void **state)
{
	sqlite3 *db = builder_create(path);
	struct store_composition composition;

	builder_exec(db, "INSERT INTO stretch VALUES (1, 1)");
	builder_exec(db, "INSERT INTO step VALUES (1, 1, 1, 1, 1000000, 1, 1)");
	builder_exec(db, "INSERT INTO step_device VALUES (1, 1, 1, 1, 1, 1, 1, 1, 1, 1)");
	builder_exec(
	        db,
	        "WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) INSERT INTO allocation SELECT i, 1, 0, "
	        "64, 4, i, i, i + 1, i, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0 FROM n");
	sqlite3_close(db);
	struct store *store = open_store();

	assert_int_equal(store_read_composition(store, 1, WINDOW_STEADY_STEP, &composition), 0);
	store_set_time_limit(1);
	int r = store_read_composition(store, 1, WINDOW_STEADY_STEP, &composition);

	store_set_time_limit(0);
	assert_int_equal(r, -EBADMSG);
	assert_non_null(strstr(store_message(store), "does not come to an end"));
	assert_int_equal(store_read_composition(store, 1, WINDOW_STEADY_STEP, &composition), 0);
	store_close(store);
}

/* ---------------------------------------------------------------- what reading leaves behind */

static unsigned files_in_folder(void)
{
	DIR *directory = opendir(folder);
	unsigned nr_files = 0;
	struct dirent *entry;

	while ((entry = readdir(directory)))
		nr_files += entry->d_name[0] != '.';
	closedir(directory);
	return nr_files;
}

static void test_open_when_the_run_was_closed_then_leaves_no_file_beside_it(void **state)
{
	struct built_run built;

	builder_make_random(path, 1, &built);
	struct store *store = open_store();

	assert_int_equal(files_in_folder(), 1);
	store_close(store);
	assert_int_equal(files_in_folder(), 1);
}

static void test_open_when_a_wal_file_was_copied_alone_then_reads_and_leaves_no_file(void **state)
{
	struct built_run built;
	size_t nr_bytes;

	builder_make_random(path, 1, &built);
	unsigned char *bytes = read_whole_file(path, &nr_bytes);

	bytes[18] = bytes[19] = 2; /* as journal_mode = WAL leaves it */
	write_file(path, bytes, nr_bytes);
	free(bytes);
	struct store *store = open_store();

	assert_int_equal(files_in_folder(), 1);
	store_close(store);
	assert_int_equal(files_in_folder(), 1);
}

static void test_open_when_the_recorder_is_alive_then_reads_its_last_commit(void **state)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (INT64_C(1) << 40) + 7, .l_len = 1};
	sqlite3 *db = builder_create(path);
	struct store_run run;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	builder_exec(db, "PRAGMA journal_mode = WAL; UPDATE run SET ended = 'running', last_seq = 5");
	builder_exec(db, "BEGIN; UPDATE run SET last_seq = 6");
	struct store *store = open_store();

	assert_int_equal(store_read_run(store, &run), 0);
	assert_int_equal(run.recovery, STORE_LIVE);
	assert_string_equal(run.ended, "running");
	assert_int_equal(run.last_seq, 5);
	/* A later commit does not change what this reader sees. */
	builder_exec(db, "COMMIT");
	assert_int_equal(store_read_run(store, &run), 0);
	assert_int_equal(run.last_seq, 5);
	store_close(store);
	store = open_store();
	assert_int_equal(store_read_run(store, &run), 0);
	assert_int_equal(run.last_seq, 6);
	store_close(store);
	sqlite3_close(db);
	close(fd);
}

static void test_open_when_the_file_is_reached_by_a_link_then_sees_the_wal(void **state)
{
	char target[96];
	struct store_run run;

	snprintf(target, sizeof(target), "%s/target.db", folder);
	sqlite3 *db = builder_create(target);

	builder_exec(db, "PRAGMA journal_mode = WAL; UPDATE run SET last_seq = 5");
	assert_int_equal(symlink(target, path), 0);
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (INT64_C(1) << 40) + 7, .l_len = 1};
	int fd = open(target, O_RDWR | O_CLOEXEC);

	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	struct store *store = open_store();

	assert_int_equal(store_read_run(store, &run), 0);
	assert_int_equal(run.last_seq, 5);
	store_close(store);
	sqlite3_close(db);
	close(fd);
}

/* A run file as a recorder leaves it that dies in mid-transaction: a WAL, or a rollback journal, lies beside it. */
static void leave_unfinished(bool wal)
{
	struct built_run built;

	empty_folder();
	builder_make_random(path, 3, &built);
	pid_t child = fork();

	if (child == 0) {
		sqlite3 *db;

		if (sqlite3_open(path, &db))
			_exit(1);
		if (wal)
			builder_exec(
			        db,
			        "PRAGMA journal_mode = WAL; UPDATE run SET ended = 'exit 7'; UPDATE allocation SET stack = 1");
		else /* So little memory that pages are written before the commit. */
			builder_exec(
			        db,
			        "PRAGMA cache_size = 1; BEGIN; UPDATE run SET ended = 'exit 7'; UPDATE allocation SET stack = 1;"
			        "UPDATE note SET what = hex(zeroblob(100000))");
		kill(getpid(), SIGKILL);
	}
	waitpid(child, NULL, 0);
}

static void test_open_when_a_closed_run_left_its_wal_then_folds_it(void **state)
{
	struct store_run run;

	leave_unfinished(true);
	assert_int_equal(files_in_folder(), 3);
	struct store *store = open_store();

	assert_int_equal(store_read_run(store, &run), 0);
	assert_int_equal(run.recovery, STORE_COMPLETE);
	assert_string_equal(run.ended, "exit 7");
	store_close(store);
	assert_int_equal(files_in_folder(), 1);
}

static void test_open_when_a_hot_journal_is_left_then_rolls_it_back(void **state)
{
	struct store_run run;

	leave_unfinished(false);
	assert_int_equal(files_in_folder(), 2);
	struct store *store = open_store();

	assert_int_equal(store_read_run(store, &run), 0);
	assert_string_equal(run.ended, "exit 0");
	store_close(store);
	assert_int_equal(files_in_folder(), 1);
}

/* SQLite deletes the file that a journal names as its super-journal. */
static void test_open_when_the_journal_names_a_victim_then_leaves_it(void **state)
{
	static const unsigned char magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
	char journal[96], victim[96];
	uint32_t sum = 0, length;

	leave_unfinished(false);
	snprintf(journal, sizeof(journal), "%s-journal", path);
	snprintf(victim, sizeof(victim), "%s/victim", folder);
	write_file(victim, "precious", 9);
	length = (uint32_t)strlen(victim);
	for (const char *c = victim; *c; c++)
		sum += (uint32_t)*c;
	FILE *file = fopen(journal, "a");
	const uint32_t words[] = {__builtin_bswap32((UINT32_C(1) << 30) / 4096 + 1), __builtin_bswap32(length),
	                          __builtin_bswap32(sum)};

	fwrite(&words[0], 4, 1, file);
	fwrite(victim, 1, length, file);
	fwrite(&words[1], 4, 2, file);
	fwrite(magic, 1, sizeof(magic), file);
	fclose(file);
	struct store *store = NULL;
	struct store_error error;

	store_open(path, &store, &error);
	store_close(store);
	assert_int_equal(access(victim, F_OK), 0);
	assert_int_equal(access(journal, F_OK), 0);
}

static void test_open_when_what_lies_beside_is_a_pipe_then_does_not_wait(void **state)
{
	static const char *const suffixes[] = {"-journal", "-wal", "-shm"};

	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		struct built_run built;
		char name[96];

		empty_folder();
		builder_make_random(path, 1, &built);
		snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
		assert_int_equal(mkfifo(name, 0600), 0);
		alarm(10);
		assert_refused(-EBADMSG, suffixes[i]);
		alarm(0);
	}
}

/* A copy of it into memory would take all of that. */
static void test_open_when_it_cannot_be_read_and_is_huge_then_is_not_copied(void **state)
{
	const off_t nr_bytes = (off_t)1 << 42;
	char wal[96];
	struct store *store = NULL;
	struct store_error error = {""};

	sqlite3 *db = builder_create(path);

	sqlite3_close(db);
	FILE *file = fopen(path, "r+");

	fseek(file, 100, SEEK_SET);
	fputc(0, file); /* the root page's kind */
	fclose(file);
	assert_int_equal(truncate(path, nr_bytes), 0);
	snprintf(wal, sizeof(wal), "%s-wal", path);
	write_file(wal, "x", 1);
	alarm(10);
	assert_true(store_open(path, &store, &error) < 0);
	alarm(0);
}

/* ---------------------------------------------------------------- answers */

static void test_read_run_when_finished_then_tells_all_facts(void **state)
{
	struct built_run built;
	struct store_run run;

	builder_make_random(path, 5, &built);
	struct store *store = open_store();

	assert_int_equal(store_read_run(store, &run), 0);
	assert_string_equal(run.run_id, "run-1");
	assert_int_equal(run.pid, 4242);
	assert_int_equal(run.rank, -1);
	assert_string_equal(run.torch_version, "2.13.0");
	assert_string_equal(run.python_version, "3.13.1");
	assert_string_equal(run.nnmem_version, "0.1.0");
	assert_string_equal(run.hostname, "host");
	assert_string_equal(run.command, "python train.py");
	assert_string_equal(run.ended, "exit 0");
	assert_int_equal(run.start_realtime_ns, 1000);
	assert_int_equal(run.duration_ns, built.last_seq * 10);
	assert_int_equal(run.last_seq, built.last_seq);
	assert_int_equal(run.audit_checks, 10);
	assert_int_equal(run.params_bytes, 40 + 12 + 4);
	assert_int_equal(run.params_values, 10 + 3 + 1);
	assert_int_equal(run.external_bytes, 12);
	assert_int_equal(run.ooms, 1);
	assert_int_equal(run.peak_rss_bytes, 123456);
	assert_string_equal(run.peak_device, "cuda:0");
	assert_int_equal(run.peak_device_id, BUILDER_CUDA);
	assert_int_equal(run.peak_phase, PHASE_FORWARD);
	assert_int_equal(built_live(&built, BUILDER_CUDA, run.peak_seq, -1, -1), run.peak_bytes);
	assert_int_equal(run.lost.count[LOST_FULL], 3);
	assert_int_equal(run.lost.count[LOST_TORN], 2);
	assert_int_equal(run.lost.total, 9);
	assert_int_equal(run.recovery, STORE_COMPLETE);
	assert_int_equal(run.recovered_events, 0);
	assert_int_equal(run.schema_version, 1);
	store_close(store);
}

static void test_read_run_when_a_shape_is_not_known_then_values_are_not(void **state)
{
	static const char *const shapes[] = {"3,x", "3,", ",3", "-3", "4294967296,4294967296,4294967296"};

	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		struct store_run run;
		sqlite3 *db = builder_create(path);

		builder_exec(db,
		             "INSERT INTO tensor VALUES (1, 1, 0, 0, 'w', 'float32', '3', NULL, 1, 12, NULL), "
		             "(2, 1, 0, 0, 'v', 'float32', %Q, NULL, 2, 12, NULL)",
		             shapes[i]);
		sqlite3_close(db);
		struct store *store = open_store();

		assert_int_equal(store_read_run(store, &run), 0);
		assert_int_equal(run.params_bytes, 24);
		assert_int_equal(run.params_values, 0);
		store_close(store);
	}
}

static void test_find_device_when_named_then_gives_its_id(void **state)
{
	struct built_run built;
	uint16_t device = 0;

	builder_make_random(path, 5, &built);
	struct store *store = open_store();

	assert_int_equal(store_find_device(store, "cuda:0", &device), 0);
	assert_int_equal(device, BUILDER_CUDA);
	assert_int_equal(store_find_device(store, "cpu", &device), 0);
	assert_int_equal(device, BUILDER_CPU);
	assert_int_equal(store_find_device(store, "cuda:1", &device), -ENOENT);
	assert_non_null(strstr(store_message(store), "cuda:1"));
	store_close(store);
}

/* The steady step of @run by its definition. */
static int steady_step(const struct built_run *run, uint16_t device, const struct built_step **ret)
{
	const struct built_step *first = NULL, *best = NULL;
	uint64_t best_peak = 0;
	int best_index = -1;

	for (size_t i = 0; i < run->nr_steps; i++) {
		const struct built_step *step = &run->steps[i];
		uint64_t peak = 0;

		if (step->kind != STEP_TRAIN && step->kind != STEP_PARTIAL)
			continue;
		for (uint64_t seq = step->start_seq - 1; seq <= step->end_seq; seq++) {
			uint64_t bytes = built_live(run, device, seq, -1, -1);

			peak = bytes > peak ? bytes : peak;
		}
		if (!first) {
			first = step;
			best_index = best_index < 0 ? (int)i : best_index;
		} else if (step->kind == STEP_TRAIN && (!best || peak > best_peak)) {
			best = step;
			best_peak = peak;
			best_index = (int)i;
		}
	}
	*ret = best ? best : first;
	return best_index;
}

static void assert_composition(const struct built_run *built, uint16_t device, const bool *in_window,
                               const struct store_composition *composition)
{
	uint64_t sum = 0, peak = 0, peak_seq = 0;

	for (int category = 0; category < NR_CATEGORIES; category++) {
		uint64_t most = 0;

		for (uint64_t seq = 0; seq <= built->last_seq; seq++) {
			uint64_t bytes = in_window[seq] ? built_live(built, device, seq, category, -1) : 0;

			most = bytes > most ? bytes : most;
		}
		assert_int_equal(composition->max_bytes[category], most);
		sum += most;
	}
	for (uint64_t seq = 0; seq <= built->last_seq; seq++) {
		uint64_t bytes = in_window[seq] ? built_live(built, device, seq, -1, -1) : 0;

		if (bytes > peak) {
			peak = bytes;
			peak_seq = seq;
		}
	}
	assert_int_equal(composition->sum_of_max_bytes, sum);
	assert_int_equal(composition->peak_bytes, peak);
	if (peak)
		assert_int_equal(composition->peak_seq, peak_seq);
	for (int category = 0; category < NR_CATEGORIES && peak; category++)
		assert_int_equal(composition->at_peak_bytes[category], built_live(built, device, peak_seq, category, -1));
}

static void test_composition_when_a_steady_step_then_equals_brute_force(void **state)
{
	const uint16_t devices[] = {BUILDER_CPU, BUILDER_CUDA};

	for (uint64_t seed = 1; seed <= NR_RUNS; seed++) {
		struct built_run built;

		builder_make_random(path, seed, &built);
		struct store *store = open_store();

		for (size_t d = 0; d < 2; d++) {
			bool in_window[BUILDER_MAX_SEQ + 2] = {false};
			struct store_composition composition;
			const struct built_step *step;
			int index = steady_step(&built, devices[d], &step);

			assert_int_equal(store_read_composition(store, devices[d], WINDOW_STEADY_STEP, &composition), 0);
			assert_true(composition.present);
			assert_int_equal(composition.step, index);
			assert_int_equal(composition.step_kind, step->kind);
			assert_int_equal(composition.peak_phase, PHASE_BACKWARD);
			for (uint64_t seq = step->start_seq - 1; seq <= step->end_seq; seq++)
				in_window[seq] = true;
			assert_composition(&built, devices[d], in_window, &composition);
		}
		store_close(store);
	}
}

static void test_composition_when_inference_then_equals_brute_force(void **state)
{
	unsigned nr_present = 0;

	for (uint64_t seed = 1; seed <= NR_RUNS; seed++) {
		struct built_run built;
		struct store_composition composition;
		uint64_t best = 0;
		const struct built_step *step = NULL;
		bool in_window[BUILDER_MAX_SEQ + 2] = {false};

		builder_make_random(path, seed, &built);
		struct store *store = open_store();

		for (size_t i = 0; i < built.nr_steps; i++) {
			uint64_t peak = 0;
			bool any = false;

			for (uint64_t seq = built.steps[i].start_seq; seq <= built.steps[i].end_seq; seq++) {
				uint64_t bytes = built.inference[seq] ? built_live(&built, BUILDER_CUDA, seq, -1, -1) : 0;

				any = any || built.inference[seq];
				peak = bytes > peak ? bytes : peak;
			}
			if (any && (!step || peak > best)) {
				step = &built.steps[i];
				best = peak;
			}
		}
		assert_int_equal(store_read_composition(store, BUILDER_CUDA, WINDOW_INFERENCE, &composition), 0);
		assert_int_equal(composition.present, step != NULL);
		store_close(store);
		if (!step)
			continue;
		nr_present++;
		assert_int_equal(composition.step_kind, STEP_EVAL);
		assert_int_equal(composition.peak_phase, PHASE_INFERENCE);
		for (uint64_t seq = step->start_seq; seq <= step->end_seq; seq++)
			in_window[seq] = built.inference[seq];
		assert_composition(&built, BUILDER_CUDA, in_window, &composition);
	}
	assert_true(nr_present > NR_RUNS / 3);
}

/* The figures of a small ConvNet, batch 64: static 18 531 608, inputs 1 920 000, forward temporaries 40 960 000. */
static void test_composition_when_only_inference_then_counts_all_that_is_alive(void **state)
{
	sqlite3 *db = builder_create(path);
	struct store_composition composition;

	builder_exec(db, "INSERT INTO stretch VALUES (1, 0), (2, 1); INSERT INTO step VALUES (0, 0, 1, 1, 2, 1, 2), (1, 2, 1, 3, "
	                 "9, 3, 9)");
	builder_exec(db, "INSERT INTO span VALUES (1, 2, 1, 0, 0, 4, 0, 3, 9, 3, 9, 0, 0, 0)");
	builder_exec(db, "INSERT INTO step_phase VALUES (1, 65280, 4, 2, 1, 61411608, 1)");
	builder_exec(db, "INSERT INTO device VALUES (65280, 'cpu', 1, 4, 2, 20451608, 61411608, 5, 2, 4, 0, 0, 0, 0)");
	builder_exec(db, BUILDER_ALLOCATION
	             "(1, 65280, 0, 64, 18531608, 1, 1, NULL, NULL, 1, 0, 1, 0, 0, NULL, 1, 1, "
	             "0, 0, 0, 0, 0, 0),"
	             "(2, 65280, 0, 65, 1920000, 2, 2, NULL, NULL, 1, 0, 1, 0, 0, NULL, 6, 5, 0, 0, 0, 0, 0, 0),"
	             "(3, 65280, 0, 66, 20480000, 4, 4, 6, 6, 1, 1, 2, 2, 4, 4, 7, 13, 0, 0, 0, 0, 0, 0),"
	             "(4, 65280, 0, 67, 20480000, 5, 5, 8, 8, 1, 1, 2, 2, 4, 4, 7, 13, 0, 0, 0, 0, 0, 0)");
	sqlite3_close(db);
	struct store *store = open_store();

	assert_int_equal(store_read_composition(store, BUILDER_CPU, WINDOW_INFERENCE, &composition), 0);
	assert_true(composition.present);
	assert_int_equal(composition.max_bytes[CATEGORY_PARAMETER], 18531608);
	assert_int_equal(composition.max_bytes[CATEGORY_INPUT], 1920000);
	assert_int_equal(composition.max_bytes[CATEGORY_FORWARD_TEMPORARY], 40960000);
	assert_int_equal(composition.sum_of_max_bytes, 61411608);
	assert_int_equal(composition.peak_bytes, 61411608);
	assert_int_equal(composition.peak_seq, 5);
	assert_int_equal(store_read_composition(store, BUILDER_CPU, WINDOW_STEADY_STEP, &composition), 0);
	assert_false(composition.present);
	store_close(store);
}

static void test_levels_when_any_number_of_buckets_then_no_peak_is_lost(void **state)
{
	static const size_t numbers[] = {1, 2, 7, 60, 100, 1000};

	for (uint64_t seed = 1; seed <= NR_RUNS; seed++) {
		struct built_run built;
		uint64_t random = seed;

		builder_make_random(path, seed, &built);
		struct store *store = open_store();

		for (size_t n = 0; n < sizeof(numbers) / sizeof(numbers[0]); n++) {
			static struct store_bucket buckets[1000];
			uint64_t start = builder_random(&random) % built.last_seq;
			uint64_t end = start + 1 + builder_random(&random) % (built.last_seq + 5 - start);

			assert_int_equal(store_read_levels(store, BUILDER_CUDA, start, end, buckets, numbers[n]), 0);
			assert_int_equal(buckets[0].start_seq, start);
			assert_int_equal(buckets[numbers[n] - 1].end_seq, end);
			for (size_t i = 0; i < numbers[n]; i++) {
				uint64_t low = UINT64_MAX, high = 0;
				uint64_t bucket_end =
				        buckets[i].end_seq > buckets[i].start_seq ? buckets[i].end_seq : buckets[i].start_seq + 1;

				assert_int_equal(buckets[i].start_seq, start + (end - start) * i / numbers[n]);
				for (uint64_t seq = buckets[i].start_seq; seq < bucket_end; seq++) {
					uint64_t bytes = built_live(&built, BUILDER_CUDA, seq, -1, -1);

					low = bytes < low ? bytes : low;
					high = bytes > high ? bytes : high;
				}
				assert_int_equal(buckets[i].min_bytes, low);
				assert_int_equal(buckets[i].max_bytes, high);
			}
		}
		store_close(store);
	}
}

static void test_levels_when_the_window_is_empty_then_refuses(void **state)
{
	struct built_run built;
	struct store_bucket bucket;

	builder_make_random(path, 1, &built);
	struct store *store = open_store();

	assert_int_equal(store_read_levels(store, BUILDER_CUDA, 5, 5, &bucket, 1), -EINVAL);
	assert_int_equal(store_read_levels(store, BUILDER_CUDA, 5, 6, &bucket, 0), -EINVAL);
	store_close(store);
}

struct live_check {
	const struct built_run *built;
	uint64_t seq, last_size, last_id, sum;
};

static int check_live(const struct store_allocation *allocation, void *arg)
{
	struct live_check *check = arg;
	const struct built_block *block = &check->built->blocks[allocation->id - 1];

	assert_true(allocation->size_bytes < check->last_size ||
	            (allocation->size_bytes == check->last_size && allocation->id > check->last_id));
	assert_int_equal(allocation->size_bytes, block->size_bytes);
	assert_int_equal(allocation->alloc_seq, block->alloc_seq);
	assert_int_equal(allocation->free_seq, block->free_seq);
	assert_int_equal(allocation->category, block->category);
	assert_int_equal(allocation->phase, block->phase);
	assert_int_equal(allocation->provisional, (allocation->id - 1) % 4 & 1);
	assert_int_equal(allocation->recompute, (allocation->id - 1) % 4 >> 1);
	if (block->module >= 1 && block->module <= BUILDER_NR_MODULES)
		assert_string_equal(allocation->root, block->module == 5 ? "Other" : "Net");
	else
		assert_null(allocation->root);
	check->last_size = allocation->size_bytes;
	check->last_id = allocation->id;
	check->sum += allocation->size_bytes;
	return 0;
}

static void test_each_live_when_at_any_instant_then_biggest_first_and_complete(void **state)
{
	for (uint64_t seed = 1; seed <= NR_RUNS; seed++) {
		struct built_run built;

		builder_make_random(path, seed, &built);
		struct store *store = open_store();

		for (uint64_t seq = 0; seq <= built.last_seq; seq += 17) {
			struct live_check check = {.built = &built, .seq = seq, .last_size = UINT64_MAX};

			assert_int_equal(store_each_live(store, BUILDER_CPU, seq, NULL, check_live, &check), 0);
			assert_int_equal(check.sum, built_live(&built, BUILDER_CPU, seq, -1, -1));
		}
		store_close(store);
	}
}

struct filtering {
	uint64_t bytes;
	unsigned nr;
};

static int add_filtered(const struct store_allocation *allocation, void *arg)
{
	struct filtering *filtering = arg;

	filtering->nr++;
	filtering->bytes += allocation->size_bytes;
	return 0;
}

/* The step of the builder's run in which @seq lies. */
static uint64_t built_step_of(const struct built_run *built, uint64_t seq)
{
	size_t step = 0;

	while (step + 1 < built->nr_steps && built->steps[step].end_seq < seq)
		step++;
	return step;
}

struct filter_case {
	struct store_filter filter;
	uint32_t modules; /* bits of those that pass, 0 for what no module owns; 0: all */
};

static bool built_passes(const struct built_run *built, const struct built_block *block, const struct filter_case *wanted)
{
	const struct store_filter *filter = &wanted->filter;
	uint32_t module = block->module > BUILDER_NR_MODULES ? 0 : block->module;

	return block->size_bytes >= filter->min_size_bytes && filter->phases >> block->phase & 1 &&
	       filter->categories >> block->category & 1 &&
	       (filter->step == UINT64_MAX || built_step_of(built, block->alloc_seq) == filter->step) &&
	       (!wanted->modules || wanted->modules >> module & 1);
}

static void test_each_live_when_filtered_then_equals_brute_force(void **state)
{
	/* The builder's modules: 1 Net, 2 Net.a, 3 Net.a.b, 4 Net.c, 5 Other. */
	static const struct {
		enum store_layers layers;
		const char *layer;
		uint32_t modules;
	} layers[] = {
	        {STORE_LAYERS_ONE, "a", 1u << 2},       {STORE_LAYERS_BELOW, "a", 1u << 2 | 1u << 3},
	        {STORE_LAYERS_ONE, "Net", 1u << 1},     {STORE_LAYERS_BELOW, "Net", 1u << 1 | 1u << 2 | 1u << 3 | 1u << 4},
	        {STORE_LAYERS_ONE, "Net.a.b", 1u << 3}, {STORE_LAYERS_BELOW, "Net.a", 1u << 2 | 1u << 3},
	        {STORE_LAYERS_NONE, NULL, 1u << 0},
	};
	struct filter_case cases[11];
	struct built_run built;
	size_t nr_cases = 4;

	for (size_t i = 0; i < 11; i++)
		cases[i] = (struct filter_case){.filter = STORE_FILTER_NONE};
	cases[0].filter.phases = 1u << PHASE_FORWARD | 1u << PHASE_OTHER;
	cases[1].filter.categories = 1u << CATEGORY_GRADIENT | 1u << CATEGORY_INPUT;
	cases[2].filter.step = 1;
	cases[3].filter.min_size_bytes = 500;
	for (size_t i = 0; i < sizeof(layers) / sizeof(layers[0]); i++) {
		cases[nr_cases].filter.layers = layers[i].layers;
		cases[nr_cases].filter.layer = layers[i].layer;
		cases[nr_cases++].modules = layers[i].modules;
	}
	builder_make_random(path, 3, &built);
	struct store *store = open_store();

	for (size_t i = 0; i < nr_cases; i++) {
		unsigned nr_all = 0;

		for (uint64_t seq = 0; seq <= built.last_seq; seq += 37) {
			struct filtering got = {0}, expected = {0};

			for (size_t j = 0; j < built.nr_blocks; j++) {
				const struct built_block *block = &built.blocks[j];

				if (block->device != BUILDER_CUDA || block->level != LEVEL_BLOCK || block->alloc_seq > seq ||
				    (block->free_seq && block->free_seq <= seq) || !built_passes(&built, block, &cases[i]))
					continue;
				expected.nr++;
				expected.bytes += block->size_bytes;
			}
			assert_int_equal(store_each_live(store, BUILDER_CUDA, seq, &cases[i].filter, add_filtered, &got), 0);
			assert_int_equal(got.nr, expected.nr);
			assert_int_equal(got.bytes, expected.bytes);
			nr_all += expected.nr;
		}
		assert_true(nr_all > 0);
	}
	store_close(store);
}

static void test_check_filter_when_the_run_has_no_such_layer_or_step_then_says_so(void **state)
{
	struct store_filter filter = STORE_FILTER_NONE;
	struct built_run built;

	builder_make_random(path, 3, &built);
	struct store *store = open_store();

	assert_int_equal(store_check_filter(store, &filter), 0);
	filter.layers = STORE_LAYERS_BELOW;
	filter.layer = "a";
	filter.step = built.nr_steps - 1;
	assert_int_equal(store_check_filter(store, &filter), 0);
	filter.layer = "b";
	assert_int_equal(store_check_filter(store, &filter), -ENOENT);
	assert_non_null(strstr(store_message(store), "has no layer 'b'"));
	filter.layer = NULL;
	filter.step = built.nr_steps;
	assert_int_equal(store_check_filter(store, &filter), -ENOENT);
	assert_non_null(strstr(store_message(store), "has no step"));
	store_close(store);
}

static int stop_at_third(const struct store_allocation *allocation, void *arg)
{
	return ++*(int *)arg == 3 ? 42 : 0;
}

static void test_each_when_the_callback_returns_nonzero_then_stops_with_it(void **state)
{
	struct built_run built;
	int calls = 0;

	builder_make_random(path, 4, &built);
	struct store *store = open_store();

	assert_int_equal(store_each_live(store, BUILDER_CUDA, built.last_seq, NULL, stop_at_third, &calls), 42);
	assert_int_equal(calls, 3);
	store_close(store);
}

struct layer_check {
	const struct built_run *built;
	uint64_t peak_seq, start_seq, end_seq;
	uint16_t device;
	bool has_peaks;
	char order[256];
};

/* Live bytes of the modules whose bits are set; bit 0: what no module owns. */
static uint64_t live_of(const struct layer_check *check, uint64_t seq, int category, uint32_t modules)
{
	uint64_t bytes = 0;

	for (uint32_t module = 0; module <= BUILDER_NR_MODULES; module++)
		if (modules >> module & 1)
			bytes += built_live(check->built, check->device, seq, category, module);
	if (modules & 1)
		bytes += built_live(check->built, check->device, seq, category, BUILDER_LOST_MODULE);
	return bytes;
}

static uint64_t most_of(const struct layer_check *check, uint32_t modules, const int *categories, size_t nr_categories)
{
	uint64_t most = 0;

	for (uint64_t seq = check->start_seq - 1; seq <= check->end_seq; seq++) {
		uint64_t bytes = 0;

		for (size_t i = 0; i < nr_categories; i++)
			bytes += live_of(check, seq, categories[i], modules);
		most = bytes > most ? bytes : most;
	}
	return most;
}

static void check_sums(const struct layer_check *check, const struct store_layer_sums *sums, uint32_t modules)
{
	const int gradient[] = {CATEGORY_GRADIENT}, state[] = {CATEGORY_OPTIMIZER_STATE}, saved[] = {CATEGORY_ACTIVATION};
	const int temporary[] = {CATEGORY_FORWARD_TEMPORARY, CATEGORY_BACKWARD_TEMPORARY, CATEGORY_OPTIMIZER_TEMPORARY,
	                         CATEGORY_RECOMPUTE};

	assert_int_equal(sums->gradient_bytes, most_of(check, modules, gradient, 1));
	assert_int_equal(sums->optimizer_state_bytes, most_of(check, modules, state, 1));
	assert_int_equal(sums->saved_bytes, most_of(check, modules, saved, 1));
	assert_int_equal(sums->temporary_bytes, most_of(check, modules, temporary, 4));
	assert_int_equal(sums->live_at_peak_bytes, live_of(check, check->peak_seq, -1, modules));
}

static int check_layer(const struct store_layer *layer, void *arg)
{
	/* 1 Net, 2 Net.a, 3 Net.a.b, 4 Net.c, 5 Other; 0: everything. */
	static const uint32_t subtrees[] = {0x3f, 0x1e, 0x0c, 0x08, 0x10, 0x20};
	struct layer_check *check = arg;
	size_t length = strlen(check->order);

	snprintf(check->order + length, sizeof(check->order) - length, "%u(%u) ", layer->module, layer->parent);
	check_sums(check, &layer->own, 1u << layer->module);
	check_sums(check, &layer->subtree, subtrees[layer->module]);
	assert_int_equal(layer->has_peaks, check->has_peaks && layer->module);
	assert_int_equal(layer->forward_peak_bytes, check->has_peaks && layer->module % 2 ? 100 * layer->module : 0);
	assert_int_equal(layer->backward_peak_bytes, check->has_peaks && layer->module % 2 ? 200 * layer->module : 0);
	return 0;
}

/* The first instant of [start, end] in which most is alive. */
static uint64_t peak_between(const struct built_run *built, uint16_t device, uint64_t start, uint64_t end)
{
	uint64_t peak = 0, peak_seq = start;

	for (uint64_t seq = start; seq <= end; seq++) {
		uint64_t bytes = built_live(built, device, seq, -1, -1);

		if (bytes > peak) {
			peak = bytes;
			peak_seq = seq;
		}
	}
	return peak_seq;
}

static void test_each_layer_when_read_then_equals_brute_force_in_tree_order(void **state)
{
	const uint16_t devices[] = {BUILDER_CPU, BUILDER_CUDA};

	for (uint64_t seed = 1; seed <= NR_RUNS; seed++) {
		struct built_run built;

		builder_make_random(path, seed, &built);
		struct store *store = open_store();

		for (size_t d = 0; d < 2; d++) {
			uint64_t peak_seq = peak_between(&built, devices[d], 1, built.last_seq);

			for (size_t i = 0; i < built.nr_steps; i++) {
				struct layer_check check = {.built = &built, .device = devices[d]};

				check.start_seq = built.steps[i].start_seq;
				check.end_seq = built.steps[i].end_seq;
				check.peak_seq = peak_between(&built, devices[d], check.start_seq - 1, check.end_seq);
				check.has_peaks = check.start_seq <= peak_seq && peak_seq <= check.end_seq;
				assert_int_equal(store_each_layer(store, devices[d], i, check_layer, &check), 0);
				assert_string_equal(check.order, "1(0) 2(1) 3(2) 4(1) 5(0) 0(0) ");
				if (!check.has_peaks)
					continue;
				check.order[0] = '\0';
				assert_int_equal(store_each_layer(store, devices[d], UINT64_MAX, check_layer, &check), 0);
				assert_string_equal(check.order, "1(0) 2(1) 3(2) 4(1) 5(0) 0(0) ");
			}
		}
		store_close(store);
	}
}

struct call_check {
	const struct built_run *built;
	uint16_t device;
	size_t step;
	uint64_t peak_seq, nr_blocks, last_module, last_call;
};

static int check_call(const struct store_layer_call *call, void *arg)
{
	struct call_check *check = arg;
	uint64_t expected_call = check->last_module == call->module ? check->last_call + 1 : 1;
	uint64_t blocks = 0, bytes = 0, saved = 0, live = 0, ordinal = 0;
	int last = 0;

	/* Blocks are in the order of birth, and so are calls. */
	for (size_t i = 0; i < check->built->nr_blocks; i++) {
		const struct built_block *block = &check->built->blocks[i];

		if (block->device != check->device || block->level != LEVEL_BLOCK || block->module != call->module ||
		    !built_call(block) || built_step_of(check->built, block->alloc_seq) != check->step)
			continue;
		ordinal += built_call(block) != last;
		last = built_call(block);
		if (ordinal != call->call)
			continue;
		blocks++;
		bytes += block->size_bytes;
		saved += block->category == CATEGORY_ACTIVATION ? block->size_bytes : 0;
		if (block->alloc_seq <= check->peak_seq && (!block->free_seq || block->free_seq > check->peak_seq))
			live += block->size_bytes;
	}
	assert_int_equal(call->call, expected_call);
	assert_true(call->module >= check->last_module);
	assert_int_equal(call->blocks, blocks);
	assert_int_equal(call->alloc_bytes, bytes);
	assert_int_equal(call->saved_bytes, saved);
	assert_int_equal(call->live_at_peak_bytes, live);
	assert_int_equal(call->phase, PHASE_FORWARD);
	check->last_module = call->module;
	check->last_call = call->call;
	check->nr_blocks += blocks;
	return 0;
}

static void test_each_layer_call_when_read_then_equals_brute_force(void **state)
{
	struct store_filter below = STORE_FILTER_NONE;
	uint64_t nr_all = 0;

	below.layers = STORE_LAYERS_BELOW;
	below.layer = "a";
	for (uint64_t seed = 1; seed <= NR_RUNS; seed++) {
		struct built_run built;

		builder_make_random(path, seed, &built);
		struct store *store = open_store();

		for (size_t i = 0; i < built.nr_steps; i++) {
			struct call_check check = {.built = &built, .device = BUILDER_CUDA, .step = i}, fewer;
			uint64_t nr_blocks = 0, nr_below = 0;

			check.peak_seq = peak_between(&built, BUILDER_CUDA, built.steps[i].start_seq - 1, built.steps[i].end_seq);
			fewer = check;
			for (size_t j = 0; j < built.nr_blocks; j++) {
				const struct built_block *block = &built.blocks[j];
				bool counts = block->device == BUILDER_CUDA && block->level == LEVEL_BLOCK && built_call(block) &&
				              block->module && block->module <= BUILDER_NR_MODULES &&
				              built_step_of(&built, block->alloc_seq) == i;

				nr_blocks += counts;
				nr_below += counts && (block->module == 2 || block->module == 3);
			}
			assert_int_equal(store_each_layer_call(store, BUILDER_CUDA, i, NULL, check_call, &check), 0);
			assert_int_equal(check.nr_blocks, nr_blocks);
			assert_int_equal(store_each_layer_call(store, BUILDER_CUDA, i, &below, check_call, &fewer), 0);
			assert_int_equal(fewer.nr_blocks, nr_below);
			nr_all += nr_below;
		}
		store_close(store);
	}
	assert_true(nr_all > 0);
}

static int note_order(const struct store_layer *layer, void *arg)
{
	size_t length = strlen(arg);

	snprintf((char *)arg + length, 200 - length, "%u(%u) ", layer->module, layer->parent);
	return 0;
}

static void test_each_layer_when_parents_run_in_circles_then_each_comes_once(void **state)
{
	char order[200] = "";
	sqlite3 *db = builder_create(path);

	builder_exec(db, "INSERT INTO module VALUES (1, 1, 1, '', 'A', 'A'), (2, 1, 3, 'x', 'B', 'A'), (3, 1, 4, 'y', 'B', 'A'), "
	                 "(4, 1, 2, 'z', 'B', 'A'), (5, 1, 99, 'lost', 'B', 'A'), (6, 1, 5, 'lost.x', 'B', 'A')");
	sqlite3_close(db);
	struct store *store = open_store();

	assert_int_equal(store_each_layer(store, BUILDER_CPU, UINT64_MAX, note_order, order), 0);
	assert_string_equal(order, "1(0) 5(0) 6(5) 2(0) 3(0) 4(0) 0(0) ");
	store_close(store);
}

static int count_spans(const struct store_span *span, void *arg)
{
	uint64_t *window = arg;

	assert_true(span->start_seq < window[1] && (!span->end_seq || span->end_seq >= window[0]));
	assert_string_equal(span->root, "Net");
	assert_int_equal(span->phase, PHASE_INFERENCE);
	window[2]++;
	return 0;
}

static void test_each_span_when_a_window_is_given_then_only_those_that_touch_it(void **state)
{
	sqlite3 *db = builder_create(path);
	uint64_t window[3] = {10, 20, 0};

	builder_exec(db, "INSERT INTO module VALUES (1, 1, 0, '', 'Net', 'Net'); INSERT INTO stretch VALUES (1, 1)");
	builder_exec(db, "INSERT INTO span VALUES (1, 1, 1, 1, 0, 4, 0, 1, 9, 1, 9, 0, 0, 0), (2, 1, 1, 1, 0, 4, 0, 5, 10, 1, 9, "
	                 "0, 0, 0), "
	                 "(3, 1, 1, 1, 0, 4, 0, 12, 15, 1, 9, 0, 0, 0), (4, 1, 1, 1, 0, 4, 0, 19, 0, 1, 9, 0, 0, 0), "
	                 "(5, 1, 1, 1, 0, 4, 0, 20, 30, 1, 9, 0, 0, 0), (6, 1, 1, 1, 0, 4, 0, 2, 0, 1, 9, 0, 0, 0)");
	sqlite3_close(db);
	struct store *store = open_store();

	assert_int_equal(store_each_span(store, window[0], window[1], count_spans, window), 0);
	assert_int_equal(window[2], 4);
	store_close(store);
}

static int check_thread(const struct store_thread *thread, void *arg)
{
	(*(int *)arg)++;
	assert_string_equal(thread->name, thread->id == 1 ? "MainThread" : "pt_autograd_0");
	assert_int_equal(thread->python, thread->id == 1);
	assert_int_equal(thread->autograd, thread->id == 2);
	return 0;
}

static int check_oom(const struct store_oom *oom, void *arg)
{
	(*(int *)arg)++;
	assert_int_equal(oom->seq, 11);
	assert_int_equal(oom->step, 1);
	assert_int_equal(oom->size_bytes, UINT64_C(1) << 40);
	assert_string_equal(oom->layer, "a.b");
	return 0;
}

static int check_fact(const char *key, const char *value, void *arg)
{
	assert_string_equal(key, (*(int *)arg)++ ? "torch_version" : "python_version");
	assert_string_equal(value, strcmp(key, "torch_version") ? "3.13.1" : "2.13.0");
	return 0;
}

static void test_each_thread_oom_fact_when_read_then_as_stored(void **state)
{
	struct built_run built;
	int nr_threads = 0, nr_ooms = 0, nr_facts = 0;

	builder_make_random(path, 1, &built);
	struct store *store = open_store();

	assert_int_equal(store_each_thread(store, check_thread, &nr_threads), 0);
	assert_int_equal(store_each_oom(store, check_oom, &nr_ooms), 0);
	assert_int_equal(store_each_fact(store, check_fact, &nr_facts), 0);
	assert_int_equal(nr_threads, 2);
	assert_int_equal(nr_ooms, 1);
	assert_int_equal(nr_facts, 2);
	store_close(store);
}

static int join_names(const char *name, void *arg)
{
	size_t length = strlen(arg);

	snprintf((char *)arg + length, 400 - length, "%s ", name + strlen(folder) + 1);
	return 0;
}

static void test_each_sibling_when_files_lie_beside_then_names_those_of_the_run(void **state)
{
	struct built_run built;
	char name[128], names[400] = "";
	sqlite3 *db;

	builder_make_random(path, 1, &built);
	static const char *const others[] = {"run.rank1.db", "run.rank0.db", "other.db", "run.rank2.txt"};

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		snprintf(name, sizeof(name), "%s/%s", folder, others[i]);
		builder_make_random(name, i, &built);
		if (i == 2) {
			assert_int_equal(sqlite3_open(name, &db), SQLITE_OK);
			builder_exec(db, "UPDATE run SET run_id = 'run-2'");
			sqlite3_close(db);
		}
	}
	snprintf(name, sizeof(name), "%s/text.db", folder);
	write_file(name, "text", 4);
	snprintf(name, sizeof(name), "%s/pipe.db", folder);
	assert_int_equal(mkfifo(name, 0600), 0);
	snprintf(name, sizeof(name), "%s/hard.db", folder);
	assert_int_equal(link(path, name), 0);
	struct store *store = open_store();

	assert_int_equal(store_each_sibling(store, join_names, names), 0);
	assert_string_equal(names, "run.rank0.db run.rank1.db ");
	store_close(store);
}

/* ---------------------------------------------------------------- hostile bytes */

static int ignore_device(const struct store_device *device, void *arg)
{
	return 0;
}
static int ignore_step(const struct store_step *step, void *arg)
{
	return 0;
}
static int ignore_phase(const struct store_phase *phase, void *arg)
{
	return 0;
}
static int ignore_span(const struct store_span *span, void *arg)
{
	return 0;
}
static int ignore_layer(const struct store_layer *layer, void *arg)
{
	return 0;
}
static int ignore_call(const struct store_layer_call *call, void *arg)
{
	return 0;
}
static int ignore_thread(const struct store_thread *thread, void *arg)
{
	return 0;
}
static int ignore_oom(const struct store_oom *oom, void *arg)
{
	return 0;
}
static int ignore_note(const struct store_note *note, void *arg)
{
	return 0;
}
static int ignore_fact(const char *key, const char *value, void *arg)
{
	return 0;
}

static void assert_errno(int r)
{
	assert_true(r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT || r == -ENOMEM || r == -EACCES || r == -EIO ||
	            r == -ENODATA);
}

/* Ask everything that can be asked; whatever the bytes are, each answer is an answer or a plain refusal. */
static bool read_everything(void)
{
	struct store *store = NULL;
	struct store_error error = {""};
	struct store_run run;
	struct store_composition composition;
	struct store_bucket buckets[20];
	struct store_values values;
	const uint16_t devices[] = {BUILDER_CPU, BUILDER_CUDA};
	int r = store_open(path, &store, &error);

	if (r) {
		assert_errno(r);
		assert_ptr_equal(strstr(error.message, path), error.message);
		return false;
	}
	assert_errno(store_read_run(store, &run));
	assert_errno(store_each_device(store, ignore_device, NULL));
	assert_errno(store_each_span(store, 0, UINT64_MAX, ignore_span, NULL));
	assert_errno(store_each_thread(store, ignore_thread, NULL));
	assert_errno(store_each_oom(store, ignore_oom, NULL));
	assert_errno(store_each_note(store, ignore_note, NULL));
	assert_errno(store_each_fact(store, ignore_fact, NULL));
	for (size_t d = 0; d < 2; d++) {
		assert_errno(store_each_step(store, devices[d], ignore_step, NULL));
		assert_errno(store_each_phase(store, devices[d], ignore_phase, NULL));
		assert_errno(store_each_live(store, devices[d], 100, NULL, ignore_allocation, NULL));
		assert_errno(store_each_layer(store, devices[d], UINT64_MAX, ignore_layer, NULL));
		assert_errno(store_each_layer(store, devices[d], 1, ignore_layer, NULL));
		assert_errno(store_each_layer_call(store, devices[d], UINT64_MAX, NULL, ignore_call, NULL));
		assert_errno(store_each_layer_call(store, devices[d], 1, NULL, ignore_call, NULL));
		assert_errno(store_read_values(store, devices[d], &values));
		assert_errno(store_read_composition(store, devices[d], WINDOW_STEADY_STEP, &composition));
		assert_errno(store_read_composition(store, devices[d], WINDOW_INFERENCE, &composition));
		assert_errno(store_read_levels(store, devices[d], 0, 500, buckets, 20));
	}
	store_close(store);
	return true;
}

/* NNMEM_TEST_FUZZ=n tries n mutations; the default is a short form of the same sequence. */
static void test_read_when_bytes_are_mutated_then_never_crashes_or_hangs(void **state)
{
	const char *wanted = getenv("NNMEM_TEST_FUZZ");
	unsigned nr_mutations = wanted ? (unsigned)atoi(wanted) : 250, nr_opened = 0;
	struct built_run built;
	size_t nr_bytes;

	builder_make_random(path, 7, &built);
	unsigned char *good = read_whole_file(path, &nr_bytes);
	unsigned char *bytes = malloc(nr_bytes);

	store_set_time_limit(300000000);
	for (uint64_t seed = 0; seed < nr_mutations; seed++) {
		uint64_t random = seed;
		unsigned nr_changes = 1 + (unsigned)(builder_random(&random) % 8);
		size_t length = nr_bytes;

		memcpy(bytes, good, nr_bytes);
		for (unsigned i = 0; i < nr_changes; i++) {
			uint64_t at = builder_random(&random) % nr_bytes, value = builder_random(&random);

			switch (builder_random(&random) % 6) {
			case 0:
				bytes[at] ^= (unsigned char)(1u << value % 8);
				break;
			case 1:
				bytes[at] = (unsigned char)value;
				break;
			case 2: /* page headers and cell pointers */
				bytes[at / 4096 * 4096 + value % 40] = (unsigned char)(value >> 8);
				break;
			case 3: /* the database header and the schema */
				bytes[value % 4096] = (unsigned char)(value >> 16);
				break;
			case 4: { /* one page over another */
				uint64_t to = value % (nr_bytes / 4096);

				memmove(bytes + to * 4096, bytes + at / 4096 * 4096, 4096);
				break;
			}
			default:
				if (value % 4 == 0)
					length = at + 1;
				else
					memset(bytes + at, (int)(value >> 8), at + 64 < nr_bytes ? 64 : nr_bytes - at);
			}
		}
		write_file(path, bytes, length);
		nr_opened += read_everything();
	}
	store_set_time_limit(0);
	/* Had all been refused at the door, nothing behind it would have been tried. */
	assert_true(nr_opened > nr_mutations / 10);
	free(good);
	free(bytes);
}

static void mutate(unsigned char *bytes, size_t nr_bytes, uint64_t *random)
{
	for (unsigned i = 1 + (unsigned)(builder_random(random) % 8); i > 0; i--) {
		uint64_t at = builder_random(random) % nr_bytes;

		/* Headers, of the file and of its first frame, more often than the rest. */
		bytes[builder_random(random) % 3 ? at : at % 80] ^= (unsigned char)(1 + builder_random(random) % 255);
	}
}

static void test_read_when_what_lies_beside_is_mutated_then_never_crashes_or_hangs(void **state)
{
	const char *wanted = getenv("NNMEM_TEST_FUZZ");
	unsigned nr_mutations = wanted ? (unsigned)atoi(wanted) / 5 : 30;

	store_set_time_limit(300000000);
	for (int wal = 0; wal < 2; wal++) {
		char beside[96], shm[96];
		size_t nr_bytes, nr_beside;

		leave_unfinished(wal);
		snprintf(beside, sizeof(beside), "%s-%s", path, wal ? "wal" : "journal");
		snprintf(shm, sizeof(shm), "%s-shm", path);
		unsigned char *bytes = read_whole_file(path, &nr_bytes), *others = read_whole_file(beside, &nr_beside);
		unsigned char *changed = malloc(nr_beside);

		for (uint64_t seed = 0; seed < nr_mutations; seed++) {
			uint64_t random = seed;

			empty_folder();
			memcpy(changed, others, nr_beside);
			mutate(changed, nr_beside, &random);
			write_file(path, bytes, nr_bytes);
			write_file(beside, changed,
			           builder_random(&random) % 4 ? nr_beside : builder_random(&random) % nr_beside);
			if (wal && seed % 2)
				write_file(shm, changed, nr_beside < 32768 ? nr_beside : 32768);
			read_everything();
		}
		free(bytes);
		free(others);
		free(changed);
	}
	store_set_time_limit(0);
}

/* Any column of any table may hold any value that SQLite can store there. */
static void test_read_when_any_column_holds_any_value_then_never_crashes_or_hangs(void **state)
{
	static const char *const values[] = {
	        "-1",      "0",   "9223372036854775807", "-9223372036854775808", "4294967296", "1.5", "1e300", "'x'", "''",
	        "x'00ff'", "NULL"};
	const size_t nr_values = sizeof(values) / sizeof(values[0]);
	const size_t step = getenv("NNMEM_TEST_FUZZ") ? 1 : 9; /* the short form takes every ninth pair */
	struct built_run built;
	size_t nr_bytes, pair = 0, nr_changed = 0;
	sqlite3 *model, *db;
	sqlite3_stmt *columns;

	builder_make_random(path, 7, &built);
	unsigned char *good = read_whole_file(path, &nr_bytes);

	assert_int_equal(sqlite3_open(":memory:", &model), SQLITE_OK);
	assert_int_equal(sqlite3_exec(model, store_schema_sql, NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(
	                         model,
	                         "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'",
	                         -1, &columns, NULL),
	                 SQLITE_OK);
	store_set_time_limit(300000000);
	while (sqlite3_step(columns) == SQLITE_ROW) {
		for (size_t i = 0; i < nr_values; i++) {
			if (pair++ % step)
				continue;
			char *sql = sqlite3_mprintf("PRAGMA synchronous = OFF; UPDATE OR IGNORE %s SET %s = %s",
			                            sqlite3_column_text(columns, 0), sqlite3_column_text(columns, 1), values[i]);

			write_file(path, good, nr_bytes);
			assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
			nr_changed += sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK && sqlite3_changes(db) > 0;
			sqlite3_close(db);
			sqlite3_free(sql);
			read_everything();
		}
	}
	store_set_time_limit(0);
	assert_true(nr_changed > pair / step / 2);
	sqlite3_finalize(columns);
	sqlite3_close(model);
	free(good);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup(test_open_when_the_file_is_missing_then_says_so, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_file_is_empty_then_says_so, start_empty),
	        cmocka_unit_test_setup(test_open_when_it_is_a_directory_then_says_so, start_empty),
	        cmocka_unit_test_setup(test_open_when_it_is_a_pipe_then_does_not_wait, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_user_may_not_read_then_says_so, start_empty),
	        cmocka_unit_test_setup(test_open_when_it_is_text_then_says_so, start_empty),
	        cmocka_unit_test_setup(test_open_when_it_is_the_database_of_another_program_then_says_so, start_empty),
	        cmocka_unit_test_setup(test_open_when_it_is_newer_then_says_so, start_empty),
	        cmocka_unit_test_setup(test_open_when_tables_are_missing_then_says_so, start_empty),
	        cmocka_unit_test_setup(test_open_when_nothing_was_committed_then_says_so, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_file_is_cut_then_says_so_at_every_length, start_empty),
	        cmocka_unit_test_setup(test_open_when_something_else_stands_for_a_table_then_refuses, start_empty),
	        cmocka_unit_test_setup(test_open_when_a_user_has_added_a_view_then_reads, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_layout_of_the_definition_differs_then_reads, start_empty),
	        cmocka_unit_test_setup(test_read_when_a_value_is_of_a_wrong_type_or_range_then_says_which, start_empty),
	        cmocka_unit_test_setup(test_read_when_sums_overflow_then_says_damaged, start_empty),
	        cmocka_unit_test_setup(test_read_when_births_are_out_of_order_then_says_damaged, start_empty),
	        cmocka_unit_test_setup(test_read_when_text_holds_controls_or_bad_utf8_then_they_are_masked, start_empty),
	        cmocka_unit_test_setup(test_read_when_it_takes_too_long_then_stops, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_run_was_closed_then_leaves_no_file_beside_it, start_empty),
	        cmocka_unit_test_setup(test_open_when_a_wal_file_was_copied_alone_then_reads_and_leaves_no_file, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_recorder_is_alive_then_reads_its_last_commit, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_file_is_reached_by_a_link_then_sees_the_wal, start_empty),
	        cmocka_unit_test_setup(test_open_when_a_closed_run_left_its_wal_then_folds_it, start_empty),
	        cmocka_unit_test_setup(test_open_when_a_hot_journal_is_left_then_rolls_it_back, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_journal_names_a_victim_then_leaves_it, start_empty),
	        cmocka_unit_test_setup(test_open_when_what_lies_beside_is_a_pipe_then_does_not_wait, start_empty),
	        cmocka_unit_test_setup(test_open_when_it_cannot_be_read_and_is_huge_then_is_not_copied, start_empty),
	        cmocka_unit_test_setup(test_read_run_when_finished_then_tells_all_facts, start_empty),
	        cmocka_unit_test_setup(test_read_run_when_a_shape_is_not_known_then_values_are_not, start_empty),
	        cmocka_unit_test_setup(test_find_device_when_named_then_gives_its_id, start_empty),
	        cmocka_unit_test_setup(test_composition_when_a_steady_step_then_equals_brute_force, start_empty),
	        cmocka_unit_test_setup(test_composition_when_inference_then_equals_brute_force, start_empty),
	        cmocka_unit_test_setup(test_composition_when_only_inference_then_counts_all_that_is_alive, start_empty),
	        cmocka_unit_test_setup(test_levels_when_any_number_of_buckets_then_no_peak_is_lost, start_empty),
	        cmocka_unit_test_setup(test_levels_when_the_window_is_empty_then_refuses, start_empty),
	        cmocka_unit_test_setup(test_each_live_when_at_any_instant_then_biggest_first_and_complete, start_empty),
	        cmocka_unit_test_setup(test_each_live_when_filtered_then_equals_brute_force, start_empty),
	        cmocka_unit_test_setup(test_check_filter_when_the_run_has_no_such_layer_or_step_then_says_so, start_empty),
	        cmocka_unit_test_setup(test_each_when_the_callback_returns_nonzero_then_stops_with_it, start_empty),
	        cmocka_unit_test_setup(test_each_layer_when_read_then_equals_brute_force_in_tree_order, start_empty),
	        cmocka_unit_test_setup(test_each_layer_call_when_read_then_equals_brute_force, start_empty),
	        cmocka_unit_test_setup(test_each_layer_when_parents_run_in_circles_then_each_comes_once, start_empty),
	        cmocka_unit_test_setup(test_each_span_when_a_window_is_given_then_only_those_that_touch_it, start_empty),
	        cmocka_unit_test_setup(test_each_thread_oom_fact_when_read_then_as_stored, start_empty),
	        cmocka_unit_test_setup(test_each_sibling_when_files_lie_beside_then_names_those_of_the_run, start_empty),
	        cmocka_unit_test_setup(test_read_when_bytes_are_mutated_then_never_crashes_or_hangs, start_empty),
	        cmocka_unit_test_setup(test_read_when_any_column_holds_any_value_then_never_crashes_or_hangs, start_empty),
	        cmocka_unit_test_setup(test_read_when_what_lies_beside_is_mutated_then_never_crashes_or_hangs, start_empty),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
