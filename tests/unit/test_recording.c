/*
 * store/recording.c and nnmem-record: from a ring to a run file, and on from where a recorder died.
 *
 * The ring filler plays the program; its totals are the truth that the file must show.
 */
#define _GNU_SOURCE
#include "store/recording.h"

#include "ring_filler.h"
#include "store/db.h"
#include "store/runfile.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define CAPACITY    (1u << 14)
#define NR_LAYERS   6u
#define NR_TEMPS    3u
#define NS_PER_MS   UINT64_C(1000000)
#define DEADLINE_MS 10000

struct fixture {
	char folder[64];
	char before[4096];
	char ring_path[128];
	char message[512];
	struct ring *ring;
	struct ring_filler filler;
	struct recording *recording;
	pid_t recorder;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->folder, "/tmp/nnmem-test-recording-XXXXXX");
	if (!getcwd(f->before, sizeof(f->before)) || !mkdtemp(f->folder) || chdir(f->folder) != 0)
		return -1;
	snprintf(f->ring_path, sizeof(f->ring_path), "%s/nnmem-0-1-2.ring", f->folder);
	f->ring = ring_filler_map(f->ring_path, CAPACITY);
	if (!f->ring)
		return -1;
	ring_filler_init(&f->filler, f->ring, NR_LAYERS, NR_TEMPS);
	*state = f;
	return 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
	(void)status, (void)type, (void)walk;
	return remove(path);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int r = chdir(f->before);

	if (f->recording)
		recording_abandon(f->recording, NULL);
	if (f->recorder > 0) {
		kill(f->recorder, SIGKILL);
		waitpid(f->recorder, NULL, 0);
	}
	ring_filler_unmap(f->ring);
	nftw(f->folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(f);
	return r;
}

static bool exists(const char *path)
{
	struct stat status;

	return lstat(path, &status) == 0;
}

/* What a stranger with the sqlite3 program sees in @path: rows of `a|b|c`, joined by newlines.  The caller frees it. */
static char *query_file(const char *path, const char *sql)
{
	sqlite3 *reader;
	sqlite3_stmt *statement;
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	int code = sqlite3_open_v2(path, &reader, SQLITE_OPEN_READONLY, NULL);

	if (code == SQLITE_OK)
		code = sqlite3_prepare_v2(reader, sql, -1, &statement, NULL);
	if (code == SQLITE_OK) {
		for (bool first = true; (code = sqlite3_step(statement)) == SQLITE_ROW; first = false)
			for (int i = 0; i < sqlite3_column_count(statement); i++) {
				const char *value = (const char *)sqlite3_column_text(statement, i);

				fprintf(out, "%s%s", i ? "|" : first ? "" : "\n", value ? value : "NULL");
			}
		sqlite3_finalize(statement);
	}
	if (code != SQLITE_DONE)
		fprintf(out, "error: %s", sqlite3_errmsg(reader));
	sqlite3_close(reader);
	fclose(out);
	return text;
}

static void assert_query(const char *path, const char *sql, const char *expected)
{
	char *found = query_file(path, sql);

	assert_string_equal(found, expected);
	free(found);
}

static uint64_t query_number(const char *path, const char *sql)
{
	char *found = query_file(path, sql);
	uint64_t number = strtoull(found, NULL, 10);

	free(found);
	return number;
}

/* Everything in a run file that does not depend on which clock and which folder it was made under. */
static const char *const whole_run[] = {
        "SELECT * FROM fact",
        "SELECT * FROM thread",
        "SELECT * FROM device",
        "SELECT * FROM module",
        "SELECT * FROM optimizer",
        "SELECT * FROM tensor",
        "SELECT * FROM stretch",
        "SELECT * FROM step",
        "SELECT * FROM step_device",
        "SELECT * FROM step_phase",
        "SELECT * FROM span",
        "SELECT * FROM allocation ORDER BY id",
        "SELECT * FROM layer_peak",
        "SELECT * FROM oom",
        "SELECT seq, severity, what FROM note",
        "SELECT * FROM lost",
        "SELECT ended, last_seq, last_ns, peak_rss_bytes FROM run",
};

static void assert_same_run(const char *path, const char *other)
{
	for (size_t i = 0; i < sizeof(whole_run) / sizeof(whole_run[0]); i++) {
		char *found = query_file(path, whole_run[i]), *expected = query_file(other, whole_run[i]);

		if (strcmp(found, expected) != 0)
			print_message("%s\n", whole_run[i]);
		assert_string_equal(found, expected);
		assert_null(strstr(found, "error:"));
		free(found);
		free(expected);
	}
}

static void create(struct fixture *f, const char *out)
{
	struct recording_origin origin = {.out = out, .ring_path = f->ring_path, .command = "python x.py", .rank = -1};

	assert_int_equal(recording_create(f->ring, &origin, &f->recording, f->message, sizeof(f->message)), 0);
}

static int64_t pump(struct fixture *f, bool commit)
{
	int64_t nr_slots = recording_pump(f->recording, 0, UINT32_MAX, commit);

	assert_true(nr_slots >= 0);
	return nr_slots;
}

static void close_recording(struct fixture *f)
{
	struct recording *recording = f->recording;

	f->recording = NULL;
	assert_int_equal(recording_close(recording), 0);
}

/* A run that nothing disturbs, with a commit after each step, in @out; the ring is fresh afterwards. */
static void record_undisturbed(struct fixture *f, const char *out, unsigned nr_steps)
{
	create(f, out);
	ring_filler_setup(&f->filler);
	for (unsigned i = 0; i < nr_steps; i++) {
		ring_filler_train_step(&f->filler);
		pump(f, true);
	}
	ring_filler_evaluate(&f->filler);
	ring_filler_end(&f->filler, 0);
	pump(f, true);
	close_recording(f);
}

static void renew_ring(struct fixture *f)
{
	uint64_t realtime_ns = f->ring->start_realtime_ns, monotonic_ns = f->ring->start_monotonic_ns;

	ring_filler_unmap(f->ring);
	unlink(f->ring_path);
	f->ring = ring_filler_map(f->ring_path, CAPACITY);
	assert_non_null(f->ring);
	f->ring->start_realtime_ns = realtime_ns;
	f->ring->start_monotonic_ns = monotonic_ns;
	ring_filler_init(&f->filler, f->ring, NR_LAYERS, NR_TEMPS);
}

static void test_recording_when_a_run_ends_then_the_file_holds_every_event(void **state)
{
	struct fixture *f = *state;
	char expected[200];

	record_undisturbed(f, NULL, 5);
	snprintf(expected, sizeof(expected), "exit 0|%" PRIu64 "|0|cpu|%" PRIu64 "|2.14.1|python x.py|%d", f->filler.nr_events,
	         f->filler.peak_bytes, getpid());
	assert_query("run.db", "SELECT ended, events, lost, peak_device, peak_bytes, torch_version, command, pid FROM v_run",
	             expected);
	snprintf(expected, sizeof(expected), "%" PRIu64, f->filler.live_bytes);
	assert_query("run.db", "SELECT sum(size_bytes) FROM allocation WHERE free_seq IS NULL", expected);
	assert_query("run.db", "SELECT live_at_end_bytes FROM v_device", expected);
	assert_int_equal(query_number("run.db", "SELECT count(*) + count(free_seq) FROM allocation"), f->filler.nr_events);
	assert_int_equal(query_number("run.db", "SELECT sum(size_bytes) FROM v_peak"), f->filler.peak_bytes);
	assert_int_equal(query_number("run.db", "SELECT peak_rss_bytes FROM run"), 123456789);
	assert_int_equal(query_number("run.db", "SELECT count(*) FROM commit_state"), 0);
	assert_int_equal(f->ring->tail, f->ring->head);
	assert_false(exists("run.db-wal") || exists("run.db-shm") || exists("run.db-journal"));
	assert_int_equal(runfile_is_live("run.db"), 0);
}

static void test_recording_pump_when_there_is_no_commit_then_the_tail_stays(void **state)
{
	struct fixture *f = *state;

	create(f, NULL);
	assert_int_equal(runfile_is_live("run.db"), 1);
	ring_filler_setup(&f->filler);
	assert_true(recording_backlog(f->recording) > 0);
	pump(f, false);
	assert_int_equal(recording_backlog(f->recording), 0);
	assert_int_equal(f->ring->tail, 0);
	assert_query("run.db", "SELECT last_seq, (SELECT count(*) FROM allocation) FROM run", "0|0");
	pump(f, true);
	assert_int_equal(f->ring->tail, f->ring->head);
	assert_int_equal(query_number("run.db", "SELECT count(*) FROM allocation WHERE free_seq IS NULL"), 2 * NR_LAYERS);
	assert_query("run.db", "SELECT ended FROM v_run", "running");
}

static void test_recording_pump_when_a_batch_is_full_then_it_commits_by_itself(void **state)
{
	struct fixture *f = *state;

	create(f, NULL);
	ring_filler_setup(&f->filler);
	while (f->ring->head < CAPACITY / 2)
		ring_filler_train_step(&f->filler);
	pump(f, false);
	assert_true(f->ring->tail >= CAPACITY / 4);
	assert_true(f->ring->tail < f->ring->head);
}

static void test_recording_pump_when_told_how_much_then_it_reads_about_that(void **state)
{
	struct fixture *f = *state;

	create(f, NULL);
	ring_filler_setup(&f->filler);
	ring_filler_train_step(&f->filler);
	assert_in_range(recording_pump(f->recording, 0, 50, false), 50, 50 + 100);
	assert_true(recording_backlog(f->recording) > 0);
}

/* The recorder dies after each possible number of slots, at a commit or between two; recovery ends where nothing happened. */
static void test_recording_reopen_when_the_recorder_died_anywhere_then_the_same_file(void **state)
{
	struct fixture *f = *state;
	uint64_t nr_slots;

	record_undisturbed(f, "whole.db", 4);
	nr_slots = f->ring->head;
	for (uint64_t died_at = 0; died_at <= nr_slots + 37; died_at += 37) {
		bool all_committed = died_at > nr_slots;
		struct db *db;
		struct runfile file;

		renew_ring(f);
		create(f, "cut.db");
		ring_filler_setup(&f->filler);
		for (unsigned i = 0; i < 4; i++)
			ring_filler_train_step(&f->filler);
		ring_filler_evaluate(&f->filler);
		ring_filler_end(&f->filler, 0);
		assert_true(recording_pump(f->recording, 0, all_committed ? UINT32_MAX : (uint32_t)(died_at - died_at / 3),
		                           true) >= 0);
		assert_true(recording_pump(f->recording, 0, (uint32_t)(died_at / 3), false) >= 0);
		recording_abandon(f->recording, NULL);
		f->recording = NULL;
		assert_query("cut.db", "SELECT ended FROM run", "running");

		assert_int_equal(runfile_take_over("cut.db", &file), 0);
		assert_int_equal(db_open("cut.db", DB_WRITE, &db, NULL, 0), 0);
		assert_int_equal(recording_reopen(db, f->ring, &f->recording, f->message, sizeof(f->message)), 0);
		recording_producers_gone(f->recording);
		while (pump(f, true) > 0)
			;
		assert_int_equal(recording_set_ended(f->recording, "killed"), 0);
		close_recording(f);
		db_close(db);
		runfile_release(&file);
		assert_same_run("cut.db", "whole.db");
		assert_false(exists("cut.db-wal"));
		unlink("cut.db");
	}
}

/* Between COMMIT and the release of the slots: they are read again, and must not count twice. */
static void test_recording_reopen_when_the_tail_had_not_moved_then_nothing_counts_twice(void **state)
{
	struct fixture *f = *state;
	struct db *db;

	record_undisturbed(f, "whole.db", 2);
	renew_ring(f);
	create(f, "cut.db");
	ring_filler_setup(&f->filler);
	ring_filler_train_step(&f->filler);
	pump(f, true);
	recording_abandon(f->recording, NULL);
	f->ring->tail = 0;
	ring_filler_train_step(&f->filler);
	ring_filler_evaluate(&f->filler);
	ring_filler_end(&f->filler, 0);
	assert_int_equal(db_open("cut.db", DB_WRITE, &db, NULL, 0), 0);
	assert_int_equal(recording_reopen(db, f->ring, &f->recording, f->message, sizeof(f->message)), 0);
	pump(f, true);
	close_recording(f);
	db_close(db);
	assert_same_run("cut.db", "whole.db");
}

static void test_recording_reopen_when_it_is_not_the_ring_of_the_run_then_refuses(void **state)
{
	struct fixture *f = *state;
	struct recording *none = NULL;
	struct db *db;

	create(f, NULL);
	ring_filler_setup(&f->filler);
	pump(f, true);
	recording_abandon(f->recording, "why not");
	f->recording = NULL;
	assert_query("run.db", "SELECT severity, what FROM v_note", "error|why not");
	assert_int_equal(db_open("run.db", DB_WRITE, &db, NULL, 0), 0);
	f->ring->start_monotonic_ns++;
	assert_int_equal(recording_reopen(db, f->ring, &none, f->message, sizeof(f->message)), -ESTALE);
	assert_string_equal(f->message, "the ring is not that of this run");
	f->ring->start_monotonic_ns--;
	assert_int_equal(db_exec(db, "UPDATE commit_state SET tagger = x'00'"), 0);
	assert_int_equal(recording_reopen(db, f->ring, &none, f->message, sizeof(f->message)), -EBADMSG);
	assert_int_equal(db_exec(db, "DELETE FROM commit_state"), 0);
	assert_int_equal(recording_reopen(db, f->ring, &none, f->message, sizeof(f->message)), -EBADMSG);
	assert_int_equal(db_exec(db, "UPDATE run SET ended = 'exit 0'"), 0);
	assert_int_equal(recording_reopen(db, f->ring, &none, f->message, sizeof(f->message)), -EALREADY);
	assert_null(none);
	db_close(db);
}

static void test_recording_close_when_the_program_did_not_say_then_as_observed(void **state)
{
	struct fixture *f = *state;
	static const struct {
		bool told;
		enum ring_producer producer;
		const char *observed;
		const char *ended;
	} cases[] = {
	        {true, PRODUCER_ENDED, "signal 9", "exit 3"},
	        {true, PRODUCER_RUNNING, "signal 9", "signal 9"}, /* It went on after that: exec had failed. */
	        {false, PRODUCER_RUNNING, "signal 11", "signal 11"},
	        {false, PRODUCER_RUNNING, NULL, "killed"},
	        {false, PRODUCER_EXEC, "signal 9", "exec"},
	        {false, PRODUCER_ENDED, "exit 5", "exit 5"}, /* The ring had no room for the record. */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		renew_ring(f);
		create(f, NULL);
		ring_filler_setup(&f->filler);
		if (cases[i].told)
			ring_filler_end(&f->filler, 3);
		f->ring->producer = cases[i].producer;
		pump(f, true);
		if (cases[i].observed)
			recording_set_ended(f->recording, cases[i].observed);
		close_recording(f);
		assert_query("run.db", "SELECT ended FROM v_run", cases[i].ended);
	}
}

static void test_recording_sample_when_little_changes_then_few_rows(void **state)
{
	struct fixture *f = *state;
	uint64_t now_ns = f->ring->start_monotonic_ns;

	create(f, NULL);
	/* A minute, ten times a second, within half a percent: one row in ten seconds, and the last one. */
	for (uint64_t i = 0; i <= 600; i++, now_ns += 100 * NS_PER_MS)
		assert_int_equal(recording_sample(f->recording, now_ns, 1000000 + i % 5 * 1000, 2000000), 0);
	pump(f, true);
	assert_query("run.db", "SELECT count(*), min(ns), max(ns), max(peak_rss_bytes) FROM sample", "7|0|60000000000|2000000");
	/* A jump is seen at once, and so is the way back. */
	assert_int_equal(recording_sample(f->recording, now_ns, 1100000, 2000000), 0);
	assert_int_equal(recording_sample(f->recording, now_ns + 1, 1000000, 2000000), 0);
	assert_int_equal(recording_sample(f->recording, now_ns + 2, 1000001, 3000000), 0);
	close_recording(f);
	assert_query("run.db", "SELECT rss_bytes FROM sample WHERE ns > 60000000000", "1100000\n1000000\n1000001");
	assert_query("run.db", "SELECT peak_rss_bytes FROM run", "3000000");
}

static void test_recording_when_slots_are_lost_then_they_are_counted_by_cause(void **state)
{
	struct fixture *f = *state;

	create(f, NULL);
	ring_filler_setup(&f->filler);
	f->ring->lost[LOST_FULL] = 7;
	f->ring->head++; /* Claimed by a thread that died. */
	recording_producers_gone(f->recording);
	pump(f, true);
	f->ring->lost[LOST_FULL] = 9;
	close_recording(f);
	assert_query("run.db", "SELECT * FROM v_lost ORDER BY cause", "ring_full|9\ntorn|1");
	assert_query("run.db", "SELECT lost FROM v_run", "10");
}

/* A program that scribbles over the header costs time in proportion to the ring, not to what it wrote. */
static void test_recording_when_the_header_is_damaged_then_it_ends(void **state)
{
	struct fixture *f = *state;

	create(f, NULL);
	ring_filler_setup(&f->filler);
	f->ring->head = UINT64_C(1) << 60;
	recording_producers_gone(f->recording);
	f->ring->head = UINT64_MAX;
	while (pump(f, true) > 0)
		;
	close_recording(f);
	assert_int_equal(query_number("run.db", "SELECT count(*) FROM allocation"), 2 * NR_LAYERS);
}

static void test_recording_create_when_the_folder_cannot_be_written_then_the_message_says_so(void **state)
{
	struct fixture *f = *state;
	struct recording_origin origin = {.out = "none/run.db", .rank = -1};

	assert_int_equal(recording_create(f->ring, &origin, &f->recording, f->message, sizeof(f->message)), -ENOENT);
	assert_null(f->recording);
	assert_string_equal(f->message, "cannot create none/run.db: No such file or directory");
}

static void test_recording_create_when_no_run_id_is_given_then_each_run_has_its_own(void **state)
{
	struct fixture *f = *state;
	struct recording_origin origin = {.out = "given.db", .run_id = "given", .rank = 2};

	create(f, "a.db");
	close_recording(f);
	create(f, "b.db");
	close_recording(f);
	assert_int_equal(recording_create(f->ring, &origin, &f->recording, f->message, sizeof(f->message)), 0);
	assert_string_equal(recording_path(f->recording), "given.rank2.db");
	close_recording(f);
	assert_query("given.rank2.db", "SELECT run_id, rank FROM v_run", "given|2");
	char *a = query_file("a.db", "SELECT run_id FROM v_run"), *b = query_file("b.db", "SELECT run_id FROM v_run");

	assert_true(strlen(a) > 10);
	assert_string_not_equal(a, b);
	free(a);
	free(b);
}

/* ---- nnmem-record itself */

static uint64_t monotonic_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / NS_PER_MS;
}

static void start_recorder(struct fixture *f, rlim_t file_limit)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit limit = {file_limit, file_limit};
		int null = open("/dev/null", O_RDWR);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		setrlimit(RLIMIT_FSIZE, &limit);
		execl(NNMEM_RECORD, "nnmem-record", "--ring", f->ring_path, (char *)NULL);
		_exit(127);
	}
	f->recorder = pid;
}

static void wait_for_state(const struct fixture *f, enum ring_recorder wanted)
{
	uint64_t deadline_ms = monotonic_ms() + DEADLINE_MS;

	while (atomic32_load_acquire(&f->ring->recorder) != wanted && monotonic_ms() < deadline_ms)
		usleep(1000);
	assert_int_equal(f->ring->recorder, wanted);
}

static int wait_for_recorder(struct fixture *f)
{
	uint64_t deadline_ms = monotonic_ms() + DEADLINE_MS;
	int status = -1;
	pid_t pid;

	while ((pid = waitpid(f->recorder, &status, WNOHANG)) == 0 && monotonic_ms() < deadline_ms)
		usleep(1000);
	assert_int_equal(pid, f->recorder);
	f->recorder = 0;
	return status;
}

static void test_nnmem_record_when_the_program_ends_then_closes_and_leaves(void **state)
{
	struct fixture *f = *state;
	struct stat status;

	record_undisturbed(f, "whole.db", 20);
	renew_ring(f);
	umask(0);
	start_recorder(f, RLIM_INFINITY);
	wait_for_state(f, RECORDER_READY);
	assert_string_equal(f->ring->run_path, "run.db");
	assert_int_equal(f->ring->recorder_pid, f->recorder);
	ring_filler_setup(&f->filler);
	for (unsigned i = 0; i < 20; i++)
		ring_filler_train_step(&f->filler);
	/* Whoever ends a job signals all of its processes: the recorder stays. */
	kill(f->recorder, SIGTERM);
	kill(f->recorder, SIGINT);
	kill(f->recorder, SIGHUP);
	ring_filler_evaluate(&f->filler);
	ring_filler_end(&f->filler, 0);
	wait_for_state(f, RECORDER_CLOSED);
	assert_int_equal(wait_for_recorder(f), 0);
	assert_false(exists(f->ring_path));
	assert_int_equal(stat("run.db", &status), 0);
	assert_int_equal(status.st_mode & 07777, 0600);
	assert_query("run.db", "SELECT ended FROM v_run", "exit 0");
	assert_query("run.db", "SELECT command LIKE '%test_recording%', ring_path <> '' FROM run", "1|1");
	assert_true(query_number("run.db", "SELECT count(*) FROM sample") > 0);
	/* Its own peak is what the test's is; everything else is as it should be. */
	char *peak = query_file("run.db", "SELECT peak_rss_bytes FROM run");
	char *sql = NULL;

	assert_true(asprintf(&sql, "UPDATE run SET peak_rss_bytes = %s", peak) > 0);
	struct db *db;

	assert_int_equal(db_open("whole.db", DB_WRITE, &db, NULL, 0), 0);
	assert_int_equal(db_exec(db, sql), 0);
	db_close(db);
	free(sql);
	free(peak);
	assert_same_run("run.db", "whole.db");
}

static void test_nnmem_record_when_the_program_is_killed_then_everything_up_to_its_death(void **state)
{
	struct fixture *f = *state;
	uint64_t nr_events;
	int ready[2];
	pid_t program;

	assert_int_equal(pipe(ready), 0);
	program = fork();
	if (program == 0) {
		char byte;

		ring_filler_unmap(f->ring);
		unlink(f->ring_path);
		f->ring = ring_filler_map(f->ring_path, CAPACITY);
		ring_filler_init(&f->filler, f->ring, NR_LAYERS, NR_TEMPS);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		ring_filler_setup(&f->filler);
		for (unsigned i = 0; i < 200; i++)
			ring_filler_train_step(&f->filler);
		f->ring->head++; /* It dies with a slot claimed. */
		if (write(ready[1], &f->filler.nr_events, sizeof(f->filler.nr_events)) != sizeof(f->filler.nr_events))
			_exit(1);
		kill(getpid(), SIGKILL);
		_exit((int)read(ready[0], &byte, 1));
	}
	char byte;

	assert_int_equal(read(ready[0], &byte, 1), 1);
	start_recorder(f, RLIM_INFINITY);
	assert_int_equal(read(ready[0], &nr_events, sizeof(nr_events)), sizeof(nr_events));
	assert_int_equal(wait_for_recorder(f), 0);
	assert_false(exists(f->ring_path));
	assert_query("run.db", "SELECT ended, lost FROM v_run", "signal 9|1");
	assert_int_equal(query_number("run.db", "SELECT events FROM v_run"), nr_events);
	waitpid(program, NULL, 0);
	close(ready[0]);
	close(ready[1]);
}

static void test_nnmem_record_when_killed_itself_then_recovery_gives_the_whole_run(void **state)
{
	struct fixture *f = *state;
	struct db *db;

	record_undisturbed(f, "whole.db", 30);
	renew_ring(f);
	start_recorder(f, RLIM_INFINITY);
	wait_for_state(f, RECORDER_READY);
	ring_filler_setup(&f->filler);
	for (unsigned i = 0; i < 25; i++) {
		ring_filler_train_step(&f->filler);
		if (i % 5 == 0)
			usleep(30000); /* So that it has something to commit now and then. */
	}
	kill(f->recorder, SIGKILL);
	assert_true(WIFSIGNALED(wait_for_recorder(f)));
	for (unsigned i = 0; i < 5; i++)
		ring_filler_train_step(&f->filler);
	ring_filler_evaluate(&f->filler);
	ring_filler_end(&f->filler, 0);
	assert_true(f->ring->tail > 0);
	assert_true(f->ring->tail < f->ring->head);
	assert_true(exists(f->ring_path));
	assert_query("run.db", "SELECT ended FROM v_run", "running");
	assert_int_equal(runfile_is_live("run.db"), 0);

	assert_int_equal(db_open("run.db", DB_WRITE, &db, NULL, 0), 0);
	assert_int_equal(recording_reopen(db, f->ring, &f->recording, f->message, sizeof(f->message)), 0);
	recording_producers_gone(f->recording);
	while (pump(f, true) > 0)
		;
	close_recording(f);
	/* Samples of the process raise its peak: make them equal. */
	assert_int_equal(db_exec(db, "UPDATE run SET peak_rss_bytes = 123456789"), 0);
	db_close(db);
	assert_same_run("run.db", "whole.db");
}

static void test_nnmem_record_when_it_cannot_create_then_says_failed_and_takes_the_ring_away(void **state)
{
	struct fixture *f = *state;

	setenv("NNMEM_OUT", "none/run.db", 1);
	start_recorder(f, RLIM_INFINITY);
	unsetenv("NNMEM_OUT");
	assert_int_equal(WEXITSTATUS(wait_for_recorder(f)), 1);
	assert_int_equal(f->ring->recorder, RECORDER_FAILED);
	assert_string_equal(f->ring->message, "cannot create none/run.db: No such file or directory");
	assert_false(exists(f->ring_path));
}

/* The disk is full in mid-run: what was committed stays, the ring stays, and with room again nothing is missing. */
static void test_nnmem_record_when_writing_fails_then_the_rest_can_be_recovered(void **state)
{
	struct fixture *f = *state;
	struct db *db;
	uint64_t nr_events;

	start_recorder(f, 600000);
	wait_for_state(f, RECORDER_READY);
	ring_filler_setup(&f->filler);
	while (atomic32_load_acquire(&f->ring->recorder) == RECORDER_READY &&
	       f->ring->head - atomic64_load_acquire(&f->ring->tail) < CAPACITY / 2) {
		ring_filler_train_step(&f->filler);
		usleep(1000);
	}
	wait_for_state(f, RECORDER_FAILED);
	assert_int_equal(WEXITSTATUS(wait_for_recorder(f)), 1);
	assert_non_null(strstr(f->ring->message, "cannot write run.db: "));
	assert_true(exists(f->ring_path));
	assert_query("run.db", "SELECT ended FROM v_run", "running");
	nr_events = f->filler.nr_events;
	assert_int_equal(db_open("run.db", DB_WRITE, &db, NULL, 0), 0);
	assert_int_equal(recording_reopen(db, f->ring, &f->recording, f->message, sizeof(f->message)), 0);
	recording_producers_gone(f->recording);
	while (pump(f, true) > 0)
		;
	close_recording(f);
	db_close(db);
	assert_int_equal(query_number("run.db", "SELECT events FROM v_run"), nr_events);
	assert_int_equal(query_number("run.db", "SELECT count(*) + count(free_seq) FROM allocation"), nr_events);
}

static void test_nnmem_record_when_exec_is_announced_then_closes(void **state)
{
	struct fixture *f = *state;
	char expected[100];

	start_recorder(f, RLIM_INFINITY);
	wait_for_state(f, RECORDER_READY);
	ring_filler_setup(&f->filler);
	for (unsigned i = 0; i < 12; i++)
		ring_filler_train_step(&f->filler);
	f->ring->lost[LOST_REENTERED] = 2;
	atomic32_store_release(&f->ring->producer, PRODUCER_EXEC);
	wait_for_state(f, RECORDER_CLOSED);
	assert_int_equal(wait_for_recorder(f), 0);
	assert_false(exists(f->ring_path));
	assert_int_equal(query_number("run.db", "SELECT events FROM v_run"), f->filler.nr_events);
	assert_query("run.db", "SELECT ended FROM v_run", "exec");
	assert_in_range(f->filler.nr_events, 1000, 9999);
	snprintf(expected, sizeof(expected), "%" PRIu64 " %03" PRIu64 " events, 12 steps, 2 lost", f->filler.nr_events / 1000,
	         f->filler.nr_events % 1000);
	assert_string_equal(f->ring->message, expected);
}

static void test_nnmem_record_when_the_ring_is_anothers_by_name_then_it_is_left_alone(void **state)
{
	struct fixture *f = *state;

	start_recorder(f, RLIM_INFINITY);
	wait_for_state(f, RECORDER_READY);
	unlink(f->ring_path);
	close(open(f->ring_path, O_RDWR | O_CREAT | O_EXCL, 0600));
	ring_filler_end(&f->filler, 0);
	assert_int_equal(wait_for_recorder(f), 0);
	assert_true(exists(f->ring_path));
}

static void test_nnmem_record_when_the_ring_has_a_recorder_or_is_none_then_refuses(void **state)
{
	struct fixture *f = *state;

	f->ring->recorder = RECORDER_READY;
	start_recorder(f, RLIM_INFINITY);
	assert_int_equal(WEXITSTATUS(wait_for_recorder(f)), 1);
	f->ring->recorder = RECORDER_STARTING;
	f->ring->magic++;
	start_recorder(f, RLIM_INFINITY);
	assert_int_equal(WEXITSTATUS(wait_for_recorder(f)), 1);
	assert_true(exists(f->ring_path));
	assert_false(exists("run.db"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	        TEST(test_recording_when_a_run_ends_then_the_file_holds_every_event),
	        TEST(test_recording_pump_when_there_is_no_commit_then_the_tail_stays),
	        TEST(test_recording_pump_when_a_batch_is_full_then_it_commits_by_itself),
	        TEST(test_recording_pump_when_told_how_much_then_it_reads_about_that),
	        TEST(test_recording_reopen_when_the_recorder_died_anywhere_then_the_same_file),
	        TEST(test_recording_reopen_when_the_tail_had_not_moved_then_nothing_counts_twice),
	        TEST(test_recording_reopen_when_it_is_not_the_ring_of_the_run_then_refuses),
	        TEST(test_recording_close_when_the_program_did_not_say_then_as_observed),
	        TEST(test_recording_sample_when_little_changes_then_few_rows),
	        TEST(test_recording_when_slots_are_lost_then_they_are_counted_by_cause),
	        TEST(test_recording_when_the_header_is_damaged_then_it_ends),
	        TEST(test_recording_create_when_the_folder_cannot_be_written_then_the_message_says_so),
	        TEST(test_recording_create_when_no_run_id_is_given_then_each_run_has_its_own),
	        TEST(test_nnmem_record_when_the_program_ends_then_closes_and_leaves),
	        TEST(test_nnmem_record_when_the_program_is_killed_then_everything_up_to_its_death),
	        TEST(test_nnmem_record_when_killed_itself_then_recovery_gives_the_whole_run),
	        TEST(test_nnmem_record_when_it_cannot_create_then_says_failed_and_takes_the_ring_away),
	        TEST(test_nnmem_record_when_writing_fails_then_the_rest_can_be_recovered),
	        TEST(test_nnmem_record_when_exec_is_announced_then_closes),
	        TEST(test_nnmem_record_when_the_ring_is_anothers_by_name_then_it_is_left_alone),
	        TEST(test_nnmem_record_when_the_ring_has_a_recorder_or_is_none_then_refuses),
	};

	return cmocka_run_group_tests_name("recording", tests, NULL, NULL);
}
