/*
 * Recovery: a program (a forked child that plays a synthetic run into a ring) and its recorder (another child) die in all
 * orders, and the next reader takes up what is left.  The outcome is compared with the file of a run that nobody killed.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ring_filler.h"
#include "run_builder.h"

#include "store/recording.h"
#include "store/recover.h"
#include "store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR_SLOTS (1u << 12)
#define NOBODY   65534

static char folder[] = "/tmp/nnmem-test-recover-XXXXXX";
static char path[64], ring_path[128];

static void empty_folder(void)
{
	DIR *directory;
	struct dirent *entry;

	chmod(folder, 0755);
	directory = opendir(folder);
	while ((entry = readdir(directory))) {
		char name[512];

		snprintf(name, sizeof(name), "%s/%s", folder, entry->d_name);
		if (entry->d_name[0] != '.')
			unlink(name);
	}
	closedir(directory);
}

static int make_folder(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/run.db", folder);
	snprintf(ring_path, sizeof(ring_path), "%s/nnmem-%d-1-2.ring", folder, (int)geteuid());
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

static bool exists(const char *name)
{
	return access(name, F_OK) == 0;
}

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

/* ---------------------------------------------------------------- a program and its recorder */

struct scene {
	bool record_all;      /* the recorder reads everything and closes the file */
	bool tell_end;        /* RECORD_END says exit 3 */
	bool program_lives;   /* until end_program() */
	bool recorder_lives;  /* until end_program(), with what it has committed */
	bool keeps_ring;      /* with record_all: the recorder dies before it has removed the ring */
	bool tears;           /* a thread claims a slot and dies before it has published it */
	unsigned nr_recorded; /* steps of 5 that the recorder has committed when it dies */
};

struct play {
	pid_t program, recorder;
	uint64_t nr_events, nr_recorded_events;
};

/* What the children tell: shared memory made before they are born. */
struct told {
	uint64_t nr_events, nr_recorded_events;
	int ready; /* the play is over, apart from those who live on */
	int recorded;
};

static void wait_until(const int *value)
{
	for (int i = 0; i < 10000 && !__atomic_load_n(value, __ATOMIC_ACQUIRE); i++)
		usleep(1000);
}

static void be_recorder(const struct scene *scene, struct ring *ring, struct recording *recording, struct told *told)
{
	if (recording_pump(recording, 0, UINT32_MAX, true) < 0)
		_exit(11);
	if (scene->record_all) {
		wait_until(&told->ready);
		recording_producers_gone(recording);
		while (recording_pump(recording, 0, UINT32_MAX, true) > 0)
			;
		if (recording_set_ended(recording, "killed") || recording_close(recording))
			_exit(12);
		if (!scene->keeps_ring)
			unlink(ring_path);
	}
	__atomic_store_n(&told->recorded, 1, __ATOMIC_RELEASE);
	if (scene->recorder_lives)
		pause();
	kill(getpid(), SIGKILL);
}

static void be_program(const struct scene *scene, struct told *told, int lives_fd)
{
	struct recording_origin origin = {
	        .out = path, .ring_path = ring_path, .command = "python train.py", .run_id = "run-1", .rank = -1};
	struct recording *recording = NULL;
	struct ring_filler filler;
	char message[256];
	struct ring *ring = ring_filler_map(ring_path, NR_SLOTS);

	if (!ring)
		_exit(13);
	ring_filler_init(&filler, ring, 4, 3);
	/* The same clock in every play, so that files can be compared. */
	ring_filler_setup(&filler);
	for (unsigned i = 0; i < scene->nr_recorded; i++)
		ring_filler_train_step(&filler);
	told->nr_recorded_events = filler.nr_events;
	pid_t recorder = fork();

	if (recorder == 0) {
		/* Its own process, so that its lock dies with it. */
		if (recording_create(ring, &origin, &recording, message, sizeof(message))) {
			fprintf(stderr, "%s\n", message);
			_exit(14);
		}
		be_recorder(scene, ring, recording, told);
	}
	if (!scene->record_all)
		wait_until(&told->recorded);
	if (scene->tears)
		__atomic_add_fetch(&ring->head, 1, __ATOMIC_SEQ_CST);
	for (unsigned i = scene->nr_recorded; i < 5; i++)
		ring_filler_train_step(&filler);
	ring_filler_evaluate(&filler);
	if (scene->tell_end)
		ring_filler_end(&filler, 3);
	told->nr_events = filler.nr_events;
	__atomic_store_n(&told->ready, (int)recorder, __ATOMIC_RELEASE);
	wait_until(&told->recorded);
	if (!scene->recorder_lives)
		waitpid(recorder, NULL, 0);
	char byte;

	/* Until the test lets go of the other end. */
	if (scene->program_lives && read(lives_fd, &byte, 1) < 0)
		_exit(15);
	kill(getpid(), SIGKILL);
}

static int lives_fds[2];

static struct play begin_play(const struct scene *scene)
{
	struct told *told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct play play = {0};

	assert_int_equal(pipe(lives_fds), 0);
	play.program = fork();
	if (play.program == 0) {
		close(lives_fds[1]);
		be_program(scene, told, lives_fds[0]);
	}
	close(lives_fds[0]);
	wait_until(&told->ready);
	wait_until(&told->recorded);
	assert_true(told->ready > 0);
	play.recorder = told->ready;
	play.nr_events = told->nr_events;
	play.nr_recorded_events = told->nr_recorded_events;
	munmap(told, sizeof(*told));
	if (!scene->program_lives) {
		int status;

		close(lives_fds[1]);
		assert_int_equal(waitpid(play.program, &status, 0), play.program);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	} else {
		/* The recorder is dead once its parent has reaped it. */
		while (!scene->recorder_lives && kill(play.recorder, 0) == 0)
			usleep(1000);
	}
	return play;
}

static void end_program(struct play *play)
{
	close(lives_fds[1]);
	waitpid(play->program, NULL, 0);
}

static struct store *open_store(void)
{
	struct store *store = NULL;
	struct store_error error = {""};

	if (store_open(path, &store, &error))
		fail_msg("%s", error.message);
	return store;
}

static struct store_run read_run(struct store *store)
{
	struct store_run run;

	if (store_read_run(store, &run))
		fail_msg("%s", store_message(store));
	return run;
}

/* ---------------------------------------------------------------- tests */

static void assert_same_tables(const char *one, const char *other)
{
	static const char *const tables[] = {"fact",        "name",       "lost",   "thread",     "device",
	                                     "module",      "optimizer",  "tensor", "stretch",    "step",
	                                     "step_device", "step_phase", "span",   "allocation", "layer_peak"};
	sqlite3 *db;

	assert_int_equal(sqlite3_open_v2(one, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	builder_exec(db, "ATTACH %Q AS other", other);
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		char *sql =
		        sqlite3_mprintf("SELECT (SELECT count(*) FROM (SELECT * FROM main.%s EXCEPT SELECT * FROM other.%s)) + "
		                        "(SELECT count(*) FROM (SELECT * FROM other.%s EXCEPT SELECT * FROM main.%s))",
		                        tables[i], tables[i], tables[i], tables[i]);
		sqlite3_stmt *statement;

		assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
		assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
		if (sqlite3_column_int(statement, 0))
			fail_msg("%d rows of table %s differ", sqlite3_column_int(statement, 0), tables[i]);
		sqlite3_finalize(statement);
		sqlite3_free(sql);
	}
	sqlite3_close(db);
}

static void test_open_when_recorder_and_program_died_then_equals_a_run_that_nobody_killed(void **state)
{
	const struct scene whole = {.record_all = true, .tell_end = true};
	char control[96];

	begin_play(&whole);
	snprintf(control, sizeof(control), "%s/control.db", folder);
	assert_int_equal(rename(path, control), 0);
	for (unsigned nr_recorded = 0; nr_recorded <= 5; nr_recorded++) {
		const struct scene scene = {.nr_recorded = nr_recorded, .tell_end = true};
		struct play play = begin_play(&scene);

		assert_true(exists(ring_path));
		struct store *store = open_store();
		struct store_run run = read_run(store);

		assert_int_equal(run.recovery, STORE_RECOVERED);
		assert_int_equal(run.events, play.nr_events);
		assert_int_equal(run.recovered_events, play.nr_events - play.nr_recorded_events);
		assert_int_equal(run.lost.total, 0);
		assert_string_equal(run.ended, "exit 3");
		store_close(store);
		assert_false(exists(ring_path));
		assert_int_equal(files_in_folder(), 2);
		assert_same_tables(path, control);
		/* The next one finds a finished run. */
		store = open_store();
		run = read_run(store);
		assert_int_equal(run.recovery, STORE_COMPLETE);
		assert_int_equal(run.events, play.nr_events);
		store_close(store);
		unlink(path);
	}
}

static void test_open_when_nothing_told_the_end_then_says_killed(void **state)
{
	const struct scene scene = {.nr_recorded = 2};

	begin_play(&scene);
	struct store *store = open_store();
	struct store_run run = read_run(store);

	assert_int_equal(run.recovery, STORE_RECOVERED);
	/* From Linux 6.15 on the end of a reaped process can still be told. */
	assert_true(strcmp(run.ended, "killed") == 0 || strcmp(run.ended, "signal 9") == 0);
	store_close(store);
}

static void test_open_when_a_closed_run_left_its_ring_then_removes_it_after_the_program(void **state)
{
	struct scene scene = {.record_all = true, .keeps_ring = true, .tell_end = true, .program_lives = true};
	struct play play = begin_play(&scene);
	struct store *store = open_store();

	assert_int_equal(read_run(store).recovery, STORE_COMPLETE);
	store_close(store);
	assert_true(exists(ring_path));
	end_program(&play);
	store = open_store();
	assert_int_equal(read_run(store).recovery, STORE_COMPLETE);
	store_close(store);
	assert_false(exists(ring_path));
}

static void test_open_when_a_record_was_never_published_then_counts_it_and_reads_on(void **state)
{
	const struct scene scene = {.nr_recorded = 2, .tears = true};
	struct play play = begin_play(&scene);
	struct store *store = open_store();
	struct store_run run = read_run(store);

	assert_int_equal(run.recovery, STORE_RECOVERED);
	assert_int_equal(run.events, play.nr_events);
	assert_int_equal(run.lost.count[LOST_TORN], 1);
	store_close(store);
}

static void test_open_when_the_program_lives_then_leaves_all_for_later(void **state)
{
	const struct scene scene = {.nr_recorded = 2, .program_lives = true};
	struct play play = begin_play(&scene);

	for (int i = 0; i < 2; i++) {
		struct store *store = open_store();
		struct store_run run = read_run(store);

		assert_int_equal(run.recovery, STORE_ORPHANED);
		assert_int_equal(run.events, play.nr_recorded_events);
		assert_string_equal(run.ended, "running");
		store_close(store);
		assert_true(exists(ring_path));
	}
	end_program(&play);
	struct store *store = open_store();
	struct store_run run = read_run(store);

	assert_int_equal(run.recovery, STORE_RECOVERED);
	assert_int_equal(run.events, play.nr_events);
	store_close(store);
}

static void test_open_when_the_recorder_lives_then_reads_its_last_commit(void **state)
{
	const struct scene scene = {.nr_recorded = 2, .program_lives = true, .recorder_lives = true};
	struct play play = begin_play(&scene);
	struct store *store = open_store();
	struct store_run run = read_run(store);

	assert_int_equal(run.recovery, STORE_LIVE);
	assert_int_equal(run.events, play.nr_recorded_events);
	assert_string_equal(run.ended, "running");
	store_close(store);
	kill(play.recorder, SIGKILL);
	end_program(&play);
}

static void test_open_when_the_ring_is_gone_then_reads_what_was_committed(void **state)
{
	const struct scene scene = {.nr_recorded = 2};
	struct play play = begin_play(&scene);

	unlink(ring_path);
	for (int i = 0; i < 2; i++) {
		struct store *store = open_store();
		struct store_run run = read_run(store);

		assert_int_equal(run.recovery, STORE_RING_GONE);
		assert_int_equal(run.events, play.nr_recorded_events);
		assert_int_equal(run.recovered_events, 0);
		store_close(store);
	}
}

static void change_ring(size_t offset, uint64_t value)
{
	int fd = open(ring_path, O_RDWR);

	assert_int_equal(pwrite(fd, &value, sizeof(value), (off_t)offset), sizeof(value));
	close(fd);
}

static void test_open_when_the_ring_is_another_one_then_does_not_touch_it(void **state)
{
	const struct scene scene = {.nr_recorded = 2};
	static const size_t offsets[] = {offsetof(struct ring, magic), offsetof(struct ring, start_monotonic_ns),
	                                 offsetof(struct ring, pid)};

	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		struct play play = begin_play(&scene);

		change_ring(offsets[i], 12345);
		struct store *store = open_store();
		struct store_run run = read_run(store);

		assert_int_equal(run.recovery, STORE_RING_GONE);
		assert_int_equal(run.events, play.nr_recorded_events);
		store_close(store);
		assert_true(exists(ring_path));
		empty_folder();
	}
}

/* A file may name anything as its ring: what is not called like one is neither opened nor removed. */
static void test_open_when_the_file_names_a_victim_as_its_ring_then_leaves_it(void **state)
{
	const struct scene scene = {.nr_recorded = 2};
	char victim[96];
	sqlite3 *db;

	begin_play(&scene);
	snprintf(victim, sizeof(victim), "%s/victim", folder);
	assert_int_equal(rename(ring_path, victim), 0);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	builder_exec(db, "UPDATE run SET ring_path = %Q", victim);
	sqlite3_close(db);
	struct store *store = open_store();

	assert_int_equal(read_run(store).recovery, STORE_RING_GONE);
	store_close(store);
	assert_true(exists(victim));
}

static void test_open_when_the_folder_cannot_be_written_then_recovers_in_memory(void **state)
{
	const struct scene scene = {.nr_recorded = 2, .tell_end = true};
	struct play play = begin_play(&scene);
	char wal[96], shm[96];
	bool is_root = geteuid() == 0;
	struct stat before, after;

	snprintf(wal, sizeof(wal), "%s-wal", path);
	snprintf(shm, sizeof(shm), "%s-shm", path);
	if (is_root) {
		const char *const names[] = {path, wal, shm, ring_path, folder};

		for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
			assert_int_equal(chown(names[i], NOBODY, NOBODY), 0);
	}
	assert_int_equal(chmod(folder, 0555), 0);
	assert_int_equal(stat(path, &before), 0);
	unsigned nr_files = files_in_folder();

	for (int i = 0; i < 2; i++) {
		if (is_root)
			assert_int_equal(seteuid(NOBODY), 0);
		struct store *store = NULL;
		struct store_error error = {""};
		int r = store_open(path, &store, &error);
		struct store_run run = {0};

		if (!r)
			r = store_read_run(store, &run);
		if (is_root)
			assert_int_equal(seteuid(0), 0);
		if (r)
			fail_msg("%s", error.message);
		assert_int_equal(run.recovery, STORE_RECOVERED_IN_MEMORY);
		assert_int_equal(run.events, play.nr_events);
		assert_int_equal(run.recovered_events, play.nr_events - play.nr_recorded_events);
		assert_string_equal(run.ended, "exit 3");
		store_close(store);
	}
	assert_int_equal(stat(path, &after), 0);
	assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
	assert_int_equal(files_in_folder(), nr_files);
	chmod(folder, 0755);
	if (is_root) {
		assert_int_equal(chown(folder, 0, 0), 0);
		assert_int_equal(chown(path, 0, 0), 0);
		assert_int_equal(chown(ring_path, 0, 0), 0);
	}
	/* Where it can be written again, the real recovery finds everything as it was. */
	struct store *store = open_store();

	assert_int_equal(read_run(store).recovery, STORE_RECOVERED);
	assert_int_equal(read_run(store).events, play.nr_events);
	store_close(store);
	assert_int_equal(files_in_folder(), 1);
}

/* ---------------------------------------------------------------- the tagger's totals against the reader's replay */

struct totals {
	struct store *store;
	uint64_t peak_bytes[16], inference_bytes;
	size_t nr_steps;
};

static int check_step(const struct store_step *step, void *arg)
{
	struct totals *totals = arg;
	struct store_bucket bucket;

	assert_int_equal(store_read_levels(totals->store, BUILDER_CPU, step->start_seq - 1, step->end_seq + 1, &bucket, 1), 0);
	assert_int_equal(bucket.max_bytes, step->peak_bytes);
	totals->peak_bytes[totals->nr_steps++] = step->peak_bytes;
	return 0;
}

static int check_phase(const struct store_phase *phase, void *arg)
{
	struct totals *totals = arg;

	if (phase->phase == PHASE_INFERENCE && phase->peak_bytes > totals->inference_bytes)
		totals->inference_bytes = phase->peak_bytes;
	return 0;
}

static int add_layer(const struct store_layer *layer, void *arg)
{
	*(uint64_t *)arg += layer->own.live_at_peak_bytes;
	return 0;
}

static void test_read_when_recorded_then_totals_equal_the_replay(void **state)
{
	const struct scene scene = {.record_all = true, .tell_end = true};
	struct store_composition composition;
	struct totals totals = {0};
	uint64_t live_bytes = 0;

	begin_play(&scene);
	totals.store = open_store();
	struct store_run run = read_run(totals.store);

	assert_int_equal(run.recovery, STORE_COMPLETE);
	assert_int_equal(run.audit_failures, 0);
	assert_int_equal(run.params_bytes, 4 * (RING_FILLER_WEIGHT_BYTES + RING_FILLER_BIAS_BYTES));
	assert_int_equal(store_each_step(totals.store, BUILDER_CPU, check_step, &totals), 0);
	assert_int_equal(store_each_phase(totals.store, BUILDER_CPU, check_phase, &totals), 0);
	assert_true(totals.nr_steps >= 6);
	assert_int_equal(store_read_composition(totals.store, BUILDER_CPU, WINDOW_STEADY_STEP, &composition), 0);
	assert_int_equal(composition.peak_bytes, totals.peak_bytes[composition.step]);
	assert_int_equal(composition.max_bytes[CATEGORY_PARAMETER], run.params_bytes);
	assert_int_equal(composition.max_bytes[CATEGORY_GRADIENT], run.params_bytes);
	assert_int_equal(composition.max_bytes[CATEGORY_OPTIMIZER_STATE], run.params_bytes);
	assert_int_equal(store_read_composition(totals.store, BUILDER_CPU, WINDOW_INFERENCE, &composition), 0);
	assert_true(composition.present);
	assert_int_equal(composition.peak_bytes, totals.inference_bytes);
	assert_int_equal(composition.max_bytes[CATEGORY_GRADIENT], 0);
	assert_int_equal(store_each_layer(totals.store, BUILDER_CPU, UINT64_MAX, add_layer, &live_bytes), 0);
	assert_int_equal(live_bytes, run.peak_bytes);
	store_close(totals.store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup(test_open_when_recorder_and_program_died_then_equals_a_run_that_nobody_killed,
	                               start_empty),
	        cmocka_unit_test_setup(test_open_when_nothing_told_the_end_then_says_killed, start_empty),
	        cmocka_unit_test_setup(test_read_when_recorded_then_totals_equal_the_replay, start_empty),
	        cmocka_unit_test_setup(test_open_when_a_closed_run_left_its_ring_then_removes_it_after_the_program, start_empty),
	        cmocka_unit_test_setup(test_open_when_a_record_was_never_published_then_counts_it_and_reads_on, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_program_lives_then_leaves_all_for_later, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_recorder_lives_then_reads_its_last_commit, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_ring_is_gone_then_reads_what_was_committed, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_ring_is_another_one_then_does_not_touch_it, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_file_names_a_victim_as_its_ring_then_leaves_it, start_empty),
	        cmocka_unit_test_setup(test_open_when_the_folder_cannot_be_written_then_recovers_in_memory, start_empty),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
