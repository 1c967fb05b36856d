/* store/writer.c: what the tagger says arrives in the tables and the views, commit by commit. */
#include "store/writer.h"

#include "store/db.h"
#include "store/schema.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define START_NS UINT64_C(5000000000)
#define CUDA0    0x0001u

struct fixture {
	char folder[64];
	char path[96];
	struct db *db;
	struct writer *writer;
	struct tag_sink sink;
	uint64_t lost[NR_LOST];
};

static const struct writer_run run = {
        .run_id = "the-run",
        .pid = 77,
        .rank = -1,
        .hostname = "host",
        .command = "python train.py",
        .ring_path = "/dev/shm/ring",
        .ring_start_ns = START_NS,
        .start_realtime_ns = 1700000000123456789,
};

static void open_file(struct fixture *f)
{
	assert_int_equal(db_open(f->path, DB_WRITE, &f->db, NULL, 0), 0);
}

static void close_file(struct fixture *f)
{
	writer_free(f->writer);
	f->writer = NULL;
	db_close(f->db);
	f->db = NULL;
}

static int setup_network(void **state, bool network)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->folder, "/tmp/nnmem-test-writer-XXXXXX");
	if (!mkdtemp(f->folder))
		return -1;
	snprintf(f->path, sizeof(f->path), "%s/run.db", f->folder);
	close(open(f->path, O_RDWR | O_CREAT | O_EXCL, 0600));
	open_file(f);
	if (writer_create(f->db, network, &run, &f->writer) != 0)
		return -1;
	f->sink = writer_sink(f->writer);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_network(state, false);
}

static int setup_on_network(void **state)
{
	return setup_network(state, true);
}

static int teardown(void **state)
{
	static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
	struct fixture *f = *state;

	close_file(f);
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s%s", f->path, suffixes[i]);
		unlink(path);
	}
	rmdir(f->folder);
	free(f);
	return 0;
}

static bool exists_beside(const struct fixture *f, const char *suffix)
{
	char path[128];
	struct stat status;

	snprintf(path, sizeof(path), "%s%s", f->path, suffix);
	return stat(path, &status) == 0;
}

/* What a stranger with the sqlite3 program sees: every row of @sql as `a|b|c`, rows joined by newlines. */
static char *query(const struct fixture *f, const char *sql)
{
	static char text[20000];
	sqlite3 *reader;
	sqlite3_stmt *statement;
	size_t length = 0;
	int code;

	text[0] = '\0';
	assert_int_equal(sqlite3_open_v2(f->path, &reader, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	code = sqlite3_prepare_v2(reader, sql, -1, &statement, NULL);
	if (code != SQLITE_OK) {
		snprintf(text, sizeof(text), "error: %s", sqlite3_errmsg(reader));
		sqlite3_close(reader);
		return text;
	}
	while ((code = sqlite3_step(statement)) == SQLITE_ROW && length < sizeof(text) - 2000) {
		for (int i = 0; i < sqlite3_column_count(statement); i++) {
			const char *value = (const char *)sqlite3_column_text(statement, i);

			length += (size_t)snprintf(text + length, 1000, "%s%s",
			                           i        ? "|"
			                           : length ? "\n"
			                                    : "",
			                           value ? value : "NULL");
		}
	}
	if (code != SQLITE_DONE)
		snprintf(text, sizeof(text), "error: %s", sqlite3_errmsg(reader));
	sqlite3_finalize(statement);
	sqlite3_close(reader);
	return text;
}

static int commit(struct fixture *f, uint64_t last_seq)
{
	struct writer_commit c = {
	        .last_seq = last_seq, .last_ns = START_NS + 10 * last_seq, .lost = f->lost, .state = "state", .state_bytes = 5};

	return writer_commit(f->writer, &c);
}

static struct tag_allocation full_allocation(void)
{
	return (struct tag_allocation){
	        .id = 3,
	        .address = 0xfedcba9876543210,
	        .size_bytes = 1 << 20,
	        .alloc_seq = 10,
	        .alloc_ns = START_NS + 100,
	        .free_seq = 20,
	        .free_ns = START_NS + 200,
	        .stretch = 2,
	        .free_stretch = 3,
	        .thread = 1,
	        .free_thread = 4,
	        .module = 5,
	        .tensor = 6,
	        .stack = 7,
	        .device = RECORD_DEVICE_CPU,
	        .level = LEVEL_BLOCK,
	        .phase = PHASE_FORWARD,
	        .free_phase = PHASE_BACKWARD,
	        .category = CATEGORY_ACTIVATION,
	        .rule = RULE_FORWARD_KEPT,
	        .recompute = true,
	        .episode = 9,
	        .requested_bytes = (1 << 20) - 5,
	        .caller = 0x7fff12345678,
	};
}

static void write_basics(struct fixture *f)
{
	struct tag_device cpu = {.device = RECORD_DEVICE_CPU,
	                         .allocs = 1,
	                         .frees = 1,
	                         .peak_bytes = 1 << 20,
	                         .peak_seq = 10,
	                         .peak_stretch = 2,
	                         .peak_phase = PHASE_FORWARD,
	                         .audit_checks = 2};
	struct tag_module root = {4, 4, 0, "", "Net", "Net#2"}, layer = {5, 4, 4, "body.0", "Linear", "Net#2"};
	struct tag_tensor tensor = {.id = 6,
	                            .module = 5,
	                            .kind = RECORD_TENSOR_PARAMETER,
	                            .address = 0xfedcba9876543210,
	                            .size_bytes = 1 << 20,
	                            .allocation = 3,
	                            .name = "body.0.weight",
	                            .dtype = "float32",
	                            .shape = "512,512",
	                            .state_key = ""};
	struct tag_allocation allocation = full_allocation();

	assert_int_equal(f->sink.device(f->sink.arg, &cpu), 0);
	assert_int_equal(f->sink.module(f->sink.arg, &root), 0);
	assert_int_equal(f->sink.module(f->sink.arg, &layer), 0);
	assert_int_equal(f->sink.tensor(f->sink.arg, &tensor), 0);
	assert_int_equal(f->sink.stretch(f->sink.arg, 2, 1), 0);
	assert_int_equal(f->sink.allocation(f->sink.arg, &allocation), 0);
	assert_true(allocation.stored);
}

static void test_writer_create_when_done_then_the_file_says_what_it_is(void **state)
{
	struct fixture *f = *state;
	char expected[64];

	snprintf(expected, sizeof(expected), "%u", SCHEMA_APPLICATION_ID);
	assert_string_equal(query(f, "PRAGMA application_id"), expected);
	assert_string_equal(query(f, "PRAGMA user_version"), "1");
	assert_string_equal(query(f, "PRAGMA journal_mode"), "wal");
	assert_string_equal(query(f, "SELECT run_id, pid, rank, command, ended, events, lost, steps FROM v_run"),
	                    "the-run|77|NULL|python train.py|running|0|0|0");
	assert_string_equal(
	        query(f, "SELECT hostname, ring_path, ring_start_ns, start_realtime_ns, last_seq, nnmem_version FROM run"),
	        "host|/dev/shm/ring|5000000000|1700000000123456789|0|" NNMEM_VERSION);
	assert_string_equal(
	        query(f, "SELECT list, count(*) FROM name GROUP BY list"),
	        "category|13\ncategory_rule|23\nframe_kind|3\nlevel|5\nphase|6\nseverity|3\nstep_kind|4\ntensor_kind|4");
	assert_string_equal(query(f, "SELECT name FROM name WHERE list = 'phase' AND code = 2"), "backward");
	assert_string_equal(query(f, "SELECT count(*) FROM name WHERE name = '?'"), "0");
}

static void test_writer_create_when_on_a_network_then_no_wal_and_nobody_else_reads(void **state)
{
	struct fixture *f = *state;

	write_basics(f);
	assert_int_equal(commit(f, 20), 0);
	assert_false(exists_beside(f, "-wal"));
	assert_false(exists_beside(f, "-shm"));
	assert_non_null(strstr(query(f, "SELECT * FROM v_run"), "locked"));
}

static void test_writer_allocation_when_dead_then_every_column_arrives(void **state)
{
	struct fixture *f = *state;

	write_basics(f);
	assert_int_equal(commit(f, 20), 0);
	assert_string_equal(
	        query(f, "SELECT * FROM v_allocation"),
	        "3|cpu|block|1048576|1048571|10|20|100|200|1|1|NULL|forward|backward|1|1|Net#2|body.0|activation|forward_kept|"
	        "body.0.weight|NULL|512,512|float32|NULL|NULL|report");
	assert_string_equal(query(f, "SELECT printf('%x', address), free_thread, free_stretch, tensor, stack, flags, episode, "
	                             "printf('%x', caller)"
	                             " FROM allocation"),
	                    "fedcba9876543210|4|3|6|7|2|9|7fff12345678");
	assert_string_equal(query(f, "SELECT id, address IS NOT NULL FROM v_peak JOIN allocation USING (id)"), "3|1");
}

static void test_writer_used_when_told_again_then_one_row_says_how_long_it_held(void **state)
{
	struct fixture *f = *state;
	struct tag_device cuda = {.device = CUDA0};
	struct tag_used used = {.seq = 5,
	                        .last_seq = 5,
	                        .ns = START_NS + 7,
	                        .used_bytes = 100,
	                        .total_bytes = 1000,
	                        .segment_bytes = 30,
	                        .reserved_bytes = 20,
	                        .device = CUDA0,
	                        .first = true};

	assert_int_equal(f->sink.device(f->sink.arg, &cuda), 0);
	assert_int_equal(f->sink.used(f->sink.arg, &used), 0);
	used.last_seq = 9;
	assert_int_equal(f->sink.used(f->sink.arg, &used), 0);
	assert_int_equal(writer_object(f->writer, 0x1000, 0x2000, "/lib/libx.so"), 0);
	assert_int_equal(commit(f, 20), 0);
	assert_string_equal(query(f, "SELECT * FROM v_driver"), "cuda:0|5|9|7|100|1000|30|20|1");
	assert_string_equal(query(f, "SELECT * FROM object"), "4096|8192|/lib/libx.so");
}

static void test_writer_stack_when_told_then_the_shown_frame_is_the_line(void **state)
{
	struct fixture *f = *state;
	const struct tag_frame user = {.id = 4, .line = 12, .file = "/home/a (b)/train.py", .function = "Net.forward"};
	const struct tag_frame library = {.id = 9, .line = 99, .internal = true, .file = "/torch/f.py", .function = "relu"};
	const struct tag_stack outer = {.id = 3, .frame = 4, .shown = 4}, inner = {.id = 6, .parent = 3, .frame = 9, .shown = 4},
	                       operation = {.id = 7, .parent = 6, .frame = 10, .shown = 4, .operation = 10},
	                       native = {.id = 8, .parent = 7, .frame = 11, .shown = 4, .operation = 10};
	const struct tag_frame relu = {.id = 10, .kind = FRAME_OPERATION, .internal = true, .file = "", .function = "aten::relu"};
	const struct tag_frame object = {.id = 11,
	                                 .kind = FRAME_NATIVE,
	                                 .internal = true,
	                                 .file = "/a.so",
	                                 .function = "",
	                                 .build_id = "00ff",
	                                 .offset = 64};
	struct tag_oom oom = {.seq = 30, .ns = START_NS, .stack = 8, .device = RECORD_DEVICE_CPU, .phase = PHASE_FORWARD};

	write_basics(f);
	assert_int_equal(f->sink.frame(f->sink.arg, &user), 0);
	assert_int_equal(f->sink.frame(f->sink.arg, &library), 0);
	assert_int_equal(f->sink.frame(f->sink.arg, &relu), 0);
	assert_int_equal(f->sink.frame(f->sink.arg, &object), 0);
	assert_int_equal(f->sink.stack(f->sink.arg, &outer), 0);
	assert_int_equal(f->sink.stack(f->sink.arg, &inner), 0);
	assert_int_equal(f->sink.stack(f->sink.arg, &inner), 0); /* a definition may come again */
	assert_int_equal(f->sink.stack(f->sink.arg, &operation), 0);
	assert_int_equal(f->sink.stack(f->sink.arg, &native), 0);
	assert_int_equal(f->sink.oom(f->sink.arg, &oom), 0);
	assert_int_equal(commit(f, 20), 0);
	assert_string_equal(query(f, "SELECT line FROM v_allocation"), "/home/a (b)/train.py:12 (Net.forward)");
	assert_string_equal(query(f, "SELECT line FROM v_peak"), "/home/a (b)/train.py:12 (Net.forward)");
	assert_string_equal(query(f, "SELECT * FROM frame"),
	                    "4|0|/home/a (b)/train.py|Net.forward|12|0|NULL|NULL\n9|0|/torch/f.py|relu|99|1|NULL|NULL\n"
	                    "10|1||aten::relu|0|1|NULL|NULL\n11|2|/a.so||0|1|00ff|64");
	assert_string_equal(query(f, "SELECT * FROM stack"), "3|0|4|4|0\n6|3|9|4|0\n7|6|10|4|10\n8|7|11|4|10");
	assert_string_equal(query(f, "SELECT operation, line FROM v_oom"), "aten::relu|/home/a (b)/train.py:12 (Net.forward)");
}

static void test_writer_allocation_when_open_at_a_commit_then_its_row_is_replaced_at_its_death(void **state)
{
	struct fixture *f = *state;
	struct tag_allocation allocation = full_allocation();

	write_basics(f);
	allocation.id = 8;
	allocation.free_seq = allocation.free_ns = allocation.free_stretch = 0;
	allocation.free_thread = 0;
	allocation.provisional = allocation.seen_forward = allocation.named_input = allocation.seed = allocation.shared = true;
	allocation.recompute = false;
	assert_int_equal(f->sink.allocation(f->sink.arg, &allocation), 0);
	assert_int_equal(commit(f, 15), 0);
	assert_string_equal(query(f, "SELECT free_seq, free_ns, free_phase, flags FROM allocation WHERE id = 8"),
	                    "NULL|NULL|NULL|117");
	allocation.provisional = false;
	allocation.free_lost = true;
	allocation.free_seq = 30;
	allocation.free_ns = START_NS + 300;
	allocation.free_phase = PHASE_OTHER;
	allocation.category = CATEGORY_INPUT;
	assert_int_equal(f->sink.allocation(f->sink.arg, &allocation), 0);
	assert_int_equal(commit(f, 30), 0);
	assert_string_equal(query(f, "SELECT free_seq, free_ns, free_phase, flags, category FROM allocation WHERE id = 8"),
	                    "30|300|5|124|6");
	assert_string_equal(query(f, "SELECT count(*) FROM allocation"), "2");
}

static void test_writer_commit_when_it_has_not_come_then_readers_see_the_last_one(void **state)
{
	struct fixture *f = *state;
	struct tag_allocation allocation = full_allocation();

	assert_false(writer_is_dirty(f->writer));
	write_basics(f);
	assert_true(writer_is_dirty(f->writer));
	assert_string_equal(query(f, "SELECT count(*) FROM allocation"), "0");
	f->lost[LOST_FULL] = 4;
	assert_int_equal(commit(f, 20), 0);
	assert_false(writer_is_dirty(f->writer));
	assert_string_equal(query(f, "SELECT last_seq, last_ns, (SELECT tagger FROM commit_state) FROM run"), "20|200|state");
	assert_string_equal(query(f, "SELECT * FROM v_lost"), "ring_full|4");
	assert_string_equal(
	        query(f,
	              "SELECT events, lost, audit_checks, params_bytes, peak_device, peak_bytes, peak_step, peak_phase, peak_seq"
	              " FROM v_run"),
	        "2|4|2|1048576|cpu|1048576|1|forward|10");
	allocation.id = 9;
	assert_int_equal(f->sink.allocation(f->sink.arg, &allocation), 0);
	writer_rollback(f->writer);
	assert_int_equal(commit(f, 21), 0);
	assert_string_equal(query(f, "SELECT count(*), max(id) FROM allocation"), "1|3");
}

static void test_writer_step_when_it_comes_again_then_the_later_replaces_the_earlier(void **state)
{
	struct fixture *f = *state;
	struct tag_step_device devices[2] = {
	        {.device = RECORD_DEVICE_CPU,
	         .peak_phase = PHASE_BACKWARD,
	         .allocs = 5,
	         .frees = 4,
	         .alloc_bytes = 500,
	         .start_bytes = 10,
	         .peak_bytes = 300,
	         .end_bytes = 110,
	         .peak_seq = 17},
	        {.device = CUDA0, .allocs = 1},
	};
	struct tag_step step = {.step = 1,
	                        .kind = STEP_TRAIN,
	                        .start_seq = 10,
	                        .end_seq = 20,
	                        .start_ns = START_NS + 1,
	                        .end_ns = START_NS + 2,
	                        .devices = devices,
	                        .nr_devices = 2};

	devices[0].phases[PHASE_FORWARD] = (struct tag_phase_totals){true, 3, 300, 250, 240};
	devices[0].phases[PHASE_BACKWARD] = devices[0].phases[PHASE_FORWARD];
	write_basics(f);
	for (unsigned device = 0; device < 2; device++) {
		struct tag_device row = {.device = devices[device].device};

		assert_int_equal(f->sink.device(f->sink.arg, &row), 0);
	}
	assert_int_equal(f->sink.step(f->sink.arg, &step), 0);
	assert_int_equal(commit(f, 20), 0);
	devices[0].phases[PHASE_FORWARD].end_bytes = 230;
	devices[0].phases[PHASE_BACKWARD].seen = false; /* It belongs to the next step after all. */
	devices[0].end_bytes = 100;
	step.closed = true;
	step.end_seq = 25;
	step.end_ns = START_NS - 7; /* Before the start: never a huge number. */
	assert_int_equal(f->sink.step(f->sink.arg, &step), 0);
	assert_int_equal(commit(f, 25), 0);
	assert_string_equal(query(f, "SELECT * FROM v_step ORDER BY device"), "1|cpu|train|1|0|5|4|500|10|300|100|NULL\n"
	                                                                      "1|cuda:0|train|1|0|1|0|0|0|0|0|NULL");
	assert_string_equal(query(f, "SELECT * FROM v_phase"), "1|forward|cpu|3|300|250|230");
	assert_string_equal(query(f, "SELECT closed, end_seq FROM step"), "1|25");
	assert_string_equal(query(f, "SELECT peak_seq, peak_phase FROM step_device WHERE device <> 1"), "17|2");
	assert_string_equal(query(f, "SELECT steps FROM v_run"), "1");
}

static void test_writer_device_when_a_cuda_device_comes_then_it_is_the_main_one_for_good(void **state)
{
	struct fixture *f = *state;
	static const uint16_t order[] = {RECORD_DEVICE_CPU, 0x0301, CUDA0, RECORD_DEVICE_CPU, 0x0301};

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		struct tag_device device = {.device = order[i], .peak_bytes = i};

		assert_int_equal(f->sink.device(f->sink.arg, &device), 0);
		if (i == 0) {
			assert_int_equal(commit(f, 1), 0);
			assert_string_equal(query(f, "SELECT peak_device FROM v_run"), "cpu");
		}
	}
	assert_int_equal(commit(f, 2), 0);
	assert_string_equal(query(f, "SELECT name, is_main FROM device ORDER BY name"), "cpu|0\ncuda:0|0\ncuda:3|1");
	assert_string_equal(query(f, "SELECT peak_device, peak_bytes FROM v_run"), "cuda:3|4");
}

static void test_writer_rest_of_the_sink_when_called_then_every_column_arrives(void **state)
{
	struct fixture *f = *state;
	struct tag_span span = {1, 2, 3, 4, 5, PHASE_OPTIMIZER, true, 6, 0, START_NS + 7, START_NS + 8, 9, 10, 11};
	struct tag_layer_peak peaks[] = {{4, RECORD_DEVICE_CPU, 100, 200}, {5, RECORD_DEVICE_CPU, 50, 60}};
	struct tag_thread thread = {1, 4242, RECORD_F_PYTHON, "Main\xffThread"};
	struct tag_optimizer optimizer = {1, "SGD"};
	struct tag_oom oom = {30, START_NS + 300, 2, 1 << 30, 1000, 2000, 1, 5, 6, RECORD_DEVICE_CPU, PHASE_FORWARD};
	struct tag_note note = {31, RECORD_SEVERITY_DEGRADED, "no stacks"};
	struct tag_tensor external = {
	        .id = 9, .module = 5, .kind = RECORD_TENSOR_BUFFER, .address = 99, .size_bytes = 8, .name = "body.0.seen"};

	write_basics(f);
	assert_int_equal(f->sink.span(f->sink.arg, &span), 0);
	assert_int_equal(f->sink.layer_peaks(f->sink.arg, RECORD_DEVICE_CPU, peaks, 2), 0);
	assert_int_equal(f->sink.layer_peaks(f->sink.arg, RECORD_DEVICE_CPU, peaks + 1, 1), 0);
	assert_int_equal(f->sink.thread(f->sink.arg, &thread), 0);
	assert_int_equal(f->sink.optimizer(f->sink.arg, &optimizer), 0);
	assert_int_equal(f->sink.oom(f->sink.arg, &oom), 0);
	assert_int_equal(f->sink.note(f->sink.arg, &note), 0);
	assert_int_equal(f->sink.info(f->sink.arg, "torch_version", "2.14.0"), 0);
	assert_int_equal(f->sink.info(f->sink.arg, "torch_version", "2.14.1"), 0);
	assert_int_equal(f->sink.tensor(f->sink.arg, &external), 0);
	assert_int_equal(writer_sample(f->writer, START_NS + 50, 1000, 1100), 0);
	assert_int_equal(f->sink.end(f->sink.arg, RECORD_END_EXIT, 3, 1200), 0);
	assert_int_equal(commit(f, 40), 0);
	assert_string_equal(query(f, "SELECT * FROM span"), "1|2|3|4|5|3|1|6|0|7|8|9|10|11");
	assert_string_equal(query(f, "SELECT * FROM layer_peak"), "65280|5|50|60");
	assert_string_equal(query(f, "SELECT id, os_id, flags, hex(name) FROM thread"), "1|4242|32|4D61696EFF546872656164");
	assert_string_equal(query(f, "SELECT * FROM optimizer"), "1|SGD");
	assert_string_equal(query(f, "SELECT * FROM oom"), "30|300|2|1|5|65280|1|1073741824|1000|2000|6");
	assert_string_equal(query(f, "SELECT * FROM v_note"), "31|degraded|no stacks");
	assert_string_equal(query(f, "SELECT * FROM fact"), "torch_version|2.14.1");
	assert_string_equal(query(f, "SELECT * FROM v_external"), "99|8|body.0|body.0.seen");
	assert_string_equal(query(f, "SELECT * FROM sample"), "50|1000|1100");
	/* The end is told, and becomes that of the run only when the file is closed: until then a dead recorder's run is open. */
	assert_string_equal(query(f, "SELECT ended, told_end, peak_rss_bytes FROM run"), "running|exit 3|1200");
	assert_string_equal(writer_told_end(f->writer), "exit 3");
}

static void test_writer_finish_when_done_then_one_file_without_state(void **state)
{
	struct fixture *f = *state;
	struct writer_commit last = {.last_seq = 40, .last_ns = START_NS + 400, .lost = f->lost};

	write_basics(f);
	assert_int_equal(commit(f, 20), 0);
	assert_true(exists_beside(f, "-wal"));
	assert_int_equal(writer_finish(f->writer, &last, "signal 9"), 0);
	close_file(f);
	assert_false(exists_beside(f, "-wal"));
	assert_false(exists_beside(f, "-shm"));
	assert_false(exists_beside(f, "-journal"));
	assert_string_equal(query(f, "PRAGMA journal_mode"), "delete");
	assert_string_equal(query(f, "SELECT ended, last_seq, last_ns, (SELECT count(*) FROM commit_state) FROM run"),
	                    "signal 9|40|400|0");
	assert_string_equal(query(f, "PRAGMA integrity_check"), "ok");
}

static void test_writer_finish_when_a_reader_holds_the_file_then_it_is_still_closed(void **state)
{
	struct fixture *f = *state;
	struct writer_commit last = {.last_seq = 40, .last_ns = START_NS + 400, .lost = f->lost};
	struct db *reader;
	sqlite3_stmt *statement;

	write_basics(f);
	assert_int_equal(commit(f, 20), 0);
	assert_int_equal(db_open(f->path, DB_READ, &reader, NULL, 0), 0);
	assert_int_equal(db_prepare(reader, "SELECT * FROM name", &statement), 0);
	assert_int_equal(db_step(reader, statement), 1);
	assert_int_equal(writer_finish(f->writer, &last, "exit 0"), 0);
	db_close(reader);
	close_file(f);
	assert_string_equal(query(f, "SELECT ended FROM v_run"), "exit 0");
}

static void assert_same_allocation(const struct tag_allocation *a, const struct tag_allocation *b)
{
	assert_int_equal(a->id, b->id);
	assert_int_equal(a->address, b->address);
	assert_int_equal(a->size_bytes, b->size_bytes);
	assert_int_equal(a->alloc_seq, b->alloc_seq);
	assert_int_equal(a->alloc_ns, b->alloc_ns);
	assert_int_equal(a->free_seq, b->free_seq);
	assert_int_equal(a->stretch, b->stretch);
	assert_int_equal(a->thread, b->thread);
	assert_int_equal(a->module, b->module);
	assert_int_equal(a->tensor, b->tensor);
	assert_int_equal(a->stack, b->stack);
	assert_int_equal(a->device, b->device);
	assert_int_equal(a->level, b->level);
	assert_int_equal(a->phase, b->phase);
	assert_int_equal(a->category, b->category);
	assert_int_equal(a->rule, b->rule);
	assert_int_equal(a->provisional, b->provisional);
	assert_int_equal(a->recompute, b->recompute);
	assert_int_equal(a->shared, b->shared);
	assert_int_equal(a->stored, b->stored);
	assert_int_equal(a->episode, b->episode);
	assert_int_equal(a->seen_forward, b->seen_forward);
	assert_int_equal(a->named_input, b->named_input);
	assert_int_equal(a->seed, b->seed);
	assert_int_equal(a->requested_bytes, b->requested_bytes);
	assert_int_equal(a->caller, b->caller);
}

static int collect(void *arg, const struct tag_allocation *allocation)
{
	struct tag_allocation **next = arg;

	*(*next)++ = *allocation;
	return 0;
}

static void test_writer_resume_when_the_writer_died_then_everything_of_the_last_commit_is_back(void **state)
{
	struct fixture *f = *state;
	struct tag_allocation open_row = full_allocation(), dead = full_allocation(), found[3], *next = found;
	struct tag_device cuda = {.device = CUDA0};
	unsigned char *saved;
	size_t saved_bytes;

	write_basics(f);
	open_row.id = 8;
	open_row.free_seq = open_row.free_ns = open_row.free_stretch = 0;
	open_row.free_thread = 0;
	open_row.free_phase = 0;
	open_row.provisional = open_row.seen_forward = true;
	assert_int_equal(f->sink.allocation(f->sink.arg, &open_row), 0);
	assert_int_equal(f->sink.device(f->sink.arg, &cuda), 0);
	assert_int_equal(f->sink.end(f->sink.arg, RECORD_END_EXEC, 0, 55), 0);
	assert_int_equal(commit(f, 20), 0);
	dead.id = 9;
	assert_int_equal(f->sink.allocation(f->sink.arg, &dead), 0); /* Not committed: gone with its writer. */
	close_file(f);
	open_file(f);
	assert_int_equal(writer_resume(f->db, &f->writer), 0);
	assert_int_equal(writer_last_seq(f->writer), 20);
	assert_int_equal(writer_last_ns(f->writer), START_NS + 200);
	assert_string_equal(writer_told_end(f->writer), "exec");
	assert_string_equal(writer_run(f->writer)->run_id, "the-run");
	assert_string_equal(writer_run(f->writer)->ring_path, "/dev/shm/ring");
	assert_int_equal(writer_run(f->writer)->pid, 77);
	assert_int_equal(writer_run(f->writer)->rank, -1);
	assert_int_equal(writer_run(f->writer)->ring_start_ns, START_NS);
	assert_int_equal(writer_read_state(f->writer, &saved, &saved_bytes), 0);
	assert_int_equal(saved_bytes, 5);
	assert_memory_equal(saved, "state", 5);
	free(saved);
	assert_int_equal(writer_each_open(f->writer, collect, &next), 0);
	assert_ptr_equal(next, found + 1);
	open_row.stored = true;
	assert_same_allocation(found, &open_row);
	/* The main device is remembered. */
	f->sink = writer_sink(f->writer);
	cuda.device = 0x0101;
	assert_int_equal(f->sink.device(f->sink.arg, &cuda), 0);
	assert_int_equal(commit(f, 30), 0);
	assert_string_equal(query(f, "SELECT peak_device FROM v_run"), "cuda:0");
	assert_string_equal(query(f, "SELECT count(*) FROM allocation"), "2");
}

static void test_writer_resume_when_closed_or_foreign_then_refuses(void **state)
{
	struct fixture *f = *state;
	struct writer_commit last = {.lost = f->lost};
	struct writer *none = NULL;
	struct db *foreign;

	assert_int_equal(writer_finish(f->writer, &last, "exit 0"), 0);
	close_file(f);
	open_file(f);
	assert_int_equal(writer_resume(f->db, &none), -EALREADY);
	assert_null(none);
	assert_int_equal(db_exec(f->db, "PRAGMA user_version = 2"), 0);
	assert_int_equal(writer_resume(f->db, &none), -EBADMSG);
	assert_int_equal(db_open(NULL, DB_MEMORY, &foreign, NULL, 0), 0);
	assert_int_equal(writer_resume(foreign, &none), -EBADMSG);
	db_close(foreign);
}

static void test_writer_when_the_disk_is_full_then_the_last_commit_stays(void **state)
{
	struct fixture *f = *state;
	struct tag_allocation allocation = full_allocation();
	int r = 0;

	write_basics(f);
	assert_int_equal(commit(f, 20), 0);
	assert_int_equal(db_exec(f->db, "PRAGMA max_page_count = 60"), 0);
	for (uint64_t id = 100; id < 100000 && !r; id++) {
		allocation.id = id;
		r = f->sink.allocation(f->sink.arg, &allocation);
	}
	assert_int_equal(r, -ENOSPC);
	assert_string_not_equal(writer_message(f->writer), "");
	writer_rollback(f->writer);
	assert_string_equal(query(f, "SELECT count(*), (SELECT last_seq FROM run) FROM allocation"), "1|20");
	assert_int_equal(writer_note(f->writer, 20, RECORD_SEVERITY_ERROR, "full"), 0);
	assert_int_equal(commit(f, 20), 0);
	assert_string_equal(query(f, "SELECT what FROM v_note"), "full");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	        TEST(test_writer_create_when_done_then_the_file_says_what_it_is),
	        cmocka_unit_test_setup_teardown(test_writer_create_when_on_a_network_then_no_wal_and_nobody_else_reads,
	                                        setup_on_network, teardown),
	        TEST(test_writer_allocation_when_dead_then_every_column_arrives),
	        TEST(test_writer_used_when_told_again_then_one_row_says_how_long_it_held),
	        TEST(test_writer_stack_when_told_then_the_shown_frame_is_the_line),
	        TEST(test_writer_allocation_when_open_at_a_commit_then_its_row_is_replaced_at_its_death),
	        TEST(test_writer_commit_when_it_has_not_come_then_readers_see_the_last_one),
	        TEST(test_writer_step_when_it_comes_again_then_the_later_replaces_the_earlier),
	        TEST(test_writer_device_when_a_cuda_device_comes_then_it_is_the_main_one_for_good),
	        TEST(test_writer_rest_of_the_sink_when_called_then_every_column_arrives),
	        TEST(test_writer_finish_when_done_then_one_file_without_state),
	        TEST(test_writer_finish_when_a_reader_holds_the_file_then_it_is_still_closed),
	        TEST(test_writer_resume_when_the_writer_died_then_everything_of_the_last_commit_is_back),
	        TEST(test_writer_resume_when_closed_or_foreign_then_refuses),
	        TEST(test_writer_when_the_disk_is_full_then_the_last_commit_stays),
	};

	return cmocka_run_group_tests_name("writer", tests, NULL, NULL);
}
