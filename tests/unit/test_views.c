/*
 * The views of schema.sql: their names and columns are the public contract, and what they say equals what the reader,
 * which never looks at them, works out by itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "run_builder.h"

#include "store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NR_RUNS 12

static char folder[] = "/tmp/nnmem-test-views-XXXXXX";
static char path[64];

static int setup(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/run.db", folder);
	return 0;
}

static int teardown(void **state)
{
	unlink(path);
	return rmdir(folder);
}

static struct store *open_store(void)
{
	struct store *store = NULL;
	struct store_error error = {""};

	if (store_open(path, &store, &error))
		fail_msg("%s", error.message);
	return store;
}

/* One row of @sql as text, cells joined by '|', "" when there is none. */
static const char *row_of(const char *format, ...)
{
	static char text[4096];
	va_list arguments;
	sqlite3 *db;
	sqlite3_stmt *statement = NULL;

	va_start(arguments, format);
	char *sql = sqlite3_vmprintf(format, arguments);
	va_end(arguments);
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL))
		fail_msg("%s: %s", sqlite3_errmsg(db), sql);
	text[0] = 0;
	if (sqlite3_step(statement) == SQLITE_ROW) {
		for (int i = 0; i < sqlite3_column_count(statement); i++) {
			const char *cell = (const char *)sqlite3_column_text(statement, i);
			size_t length = strlen(text);

			snprintf(text + length, sizeof(text) - length, "%s%s", i ? "|" : "", cell ? cell : "NULL");
		}
	}
	sqlite3_finalize(statement);
	sqlite3_close(db);
	sqlite3_free(sql);
	return text;
}

static void test_schema_when_read_by_hand_then_views_keep_names_and_columns(void **state)
{
	static const struct {
		const char *view, *columns;
	} views[] = {
	        {"v_run",
	         "run_id,pid,rank,torch_version,python_version,command,ended,events,lost,audit_checks,audit_failures,steps,"
	         "params_bytes,peak_device,peak_bytes,peak_step,peak_phase,peak_seq"},
	        {"v_device", "device,peak_bytes,peak_step,peak_phase,peak_seq,allocs,frees,live_at_end_bytes"},
	        {"v_step",
	         "step,device,kind,start_ns,end_ns,allocs,frees,alloc_bytes,start_bytes,peak_bytes,end_bytes,template_step"},
	        {"v_phase", "step,phase,device,allocs,alloc_bytes,peak_bytes,end_bytes"},
	        {"v_allocation",
	         "id,device,level,size_bytes,requested_bytes,alloc_seq,free_seq,alloc_ns,free_ns,time_exact,thread,stream,phase,"
	         "free_phase,recompute,step,root,layer,category,category_rule,parameter,state_key,shape,dtype,operation,line,"
	         "source"},
	        {"v_layer",
	         "root,layer,device,class,params_bytes,gradient_bytes,optimizer_state_bytes,saved_bytes,temporary_bytes,"
	         "forward_peak_bytes,backward_peak_bytes,live_at_peak_bytes"},
	        {"v_peak",
	         "id,device,level,size_bytes,requested_bytes,alloc_seq,free_seq,alloc_ns,free_ns,time_exact,thread,stream,phase,"
	         "free_phase,recompute,step,root,layer,category,category_rule,parameter,state_key,shape,dtype,operation,line,"
	         "source"},
	        {"v_external", "storage,size_bytes,layer,parameter"},
	        {"v_lost", "cause,count"},
	        {"v_note", "seq,severity,what"},
	};

	sqlite3_close(builder_create(path));
	for (size_t i = 0; i < sizeof(views) / sizeof(views[0]); i++)
		assert_string_equal(row_of("SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info(%Q) ORDER BY cid)",
		                           views[i].view),
		                    views[i].columns);
}

static void test_v_run_when_a_run_is_finished_then_equals_the_reader(void **state)
{
	for (uint64_t seed = 1; seed <= NR_RUNS; seed++) {
		struct built_run built;
		struct store_run run;
		char expected[1024];

		builder_make_random(path, seed, &built);
		struct store *store = open_store();

		assert_int_equal(store_read_run(store, &run), 0);
		snprintf(expected, sizeof(expected),
		         "%s|%lld|NULL|%s|%s|%s|%s|%llu|%llu|%llu|%llu|%llu|%llu|%s|%llu|%llu|%s|%llu", run.run_id,
		         (long long)run.pid, run.torch_version, run.python_version, run.command, run.ended,
		         (unsigned long long)run.events, (unsigned long long)run.lost.total, (unsigned long long)run.audit_checks,
		         (unsigned long long)run.audit_failures, (unsigned long long)run.steps,
		         (unsigned long long)run.params_bytes, run.peak_device, (unsigned long long)run.peak_bytes,
		         (unsigned long long)run.peak_step, phase_name(run.peak_phase), (unsigned long long)run.peak_seq);
		assert_string_equal(row_of("SELECT * FROM v_run"), expected);
		assert_int_equal(strtoull(row_of("SELECT sum(size_bytes) FROM v_external"), NULL, 10), run.external_bytes);
		store_close(store);
	}
}

struct counted {
	struct store *store;
	unsigned nr;
	uint64_t peak_seq;
};

static int device_equals_its_view(const struct store_device *device, void *arg)
{
	char expected[256];

	(*(unsigned *)arg)++;
	snprintf(expected, sizeof(expected), "%llu|%llu|%s|%llu|%llu|%llu|%llu", (unsigned long long)device->peak_bytes,
	         (unsigned long long)device->peak_step, phase_name(device->peak_phase), (unsigned long long)device->peak_seq,
	         (unsigned long long)device->allocs, (unsigned long long)device->frees,
	         (unsigned long long)device->live_at_end_bytes);
	assert_string_equal(
	        row_of("SELECT peak_bytes, peak_step, peak_phase, peak_seq, allocs, frees, live_at_end_bytes FROM v_device "
	               "WHERE device = %Q",
	               device->name),
	        expected);
	return 0;
}

static int step_equals_its_view(const struct store_step *step, void *arg)
{
	char expected[256], device[DEVICE_NAME_MAX];

	(*(unsigned *)arg)++;
	snprintf(expected, sizeof(expected), "%s|%llu|%llu|%llu|%llu|%llu|%llu|%llu|%llu|NULL", step_kind_name(step->kind),
	         (unsigned long long)step->start_ns, (unsigned long long)step->end_ns, (unsigned long long)step->allocs,
	         (unsigned long long)step->frees, (unsigned long long)step->alloc_bytes, (unsigned long long)step->start_bytes,
	         (unsigned long long)step->peak_bytes, (unsigned long long)step->end_bytes);
	assert_string_equal(
	        row_of("SELECT kind, start_ns, end_ns, allocs, frees, alloc_bytes, start_bytes, peak_bytes, end_bytes, "
	               "template_step FROM v_step WHERE step = %lld AND device = %Q",
	               (long long)step->step, device_name(step->device, device)),
	        expected);
	return 0;
}

static int phase_equals_its_view(const struct store_phase *phase, void *arg)
{
	char expected[256], device[DEVICE_NAME_MAX];

	(*(unsigned *)arg)++;
	snprintf(expected, sizeof(expected), "%llu|%llu|%llu|%llu", (unsigned long long)phase->allocs,
	         (unsigned long long)phase->alloc_bytes, (unsigned long long)phase->peak_bytes,
	         (unsigned long long)phase->end_bytes);
	assert_string_equal(
	        row_of("SELECT allocs, alloc_bytes, peak_bytes, end_bytes FROM v_phase WHERE step = %lld AND phase = %Q AND "
	               "device = %Q",
	               (long long)phase->step, phase_name(phase->phase), device_name(phase->device, device)),
	        expected);
	return 0;
}

static void test_v_device_v_step_v_phase_when_read_then_equal_the_reader(void **state)
{
	for (uint64_t seed = 1; seed <= NR_RUNS; seed++) {
		struct built_run built;
		unsigned nr_devices = 0, nr_steps = 0, nr_phases = 0;

		builder_make_random(path, seed, &built);
		struct store *store = open_store();

		assert_int_equal(store_each_device(store, device_equals_its_view, &nr_devices), 0);
		assert_int_equal(store_each_step(store, BUILDER_CPU, step_equals_its_view, &nr_steps), 0);
		assert_int_equal(store_each_step(store, BUILDER_CUDA, step_equals_its_view, &nr_steps), 0);
		assert_int_equal(store_each_phase(store, BUILDER_CPU, phase_equals_its_view, &nr_phases), 0);
		assert_int_equal(store_each_phase(store, BUILDER_CUDA, phase_equals_its_view, &nr_phases), 0);
		assert_int_equal(nr_devices, strtoul(row_of("SELECT count(*) FROM v_device"), NULL, 10));
		assert_int_equal(nr_steps, strtoul(row_of("SELECT count(*) FROM v_step"), NULL, 10));
		assert_int_equal(nr_phases, strtoul(row_of("SELECT count(*) FROM v_phase"), NULL, 10));
		store_close(store);
	}
}

#define OR_NULL(text) ((text) ? (text) : "NULL")

static int block_equals_its_view(const struct store_allocation *block, void *arg)
{
	char expected[1024], device[DEVICE_NAME_MAX], freed[64] = "NULL|NULL";

	(*(unsigned *)arg)++;
	if (block->free_seq)
		snprintf(freed, sizeof(freed), "%llu|%llu", (unsigned long long)block->free_seq,
		         (unsigned long long)block->free_ns);
	snprintf(expected, sizeof(expected),
	         "%llu|%s|%s|%llu|NULL|%llu|%llu|%s|1|%u|NULL|%s|%s|%d|%llu|%s|%s|%s|%s|%s|%s|%s|%s|NULL|NULL|report",
	         (unsigned long long)block->id, device_name(block->device, device), level_name(block->level),
	         (unsigned long long)block->size_bytes, (unsigned long long)block->alloc_seq, (unsigned long long)block->alloc_ns,
	         freed, block->thread, phase_name(block->phase), block->free_seq ? phase_name(block->free_phase) : "NULL",
	         block->recompute, (unsigned long long)block->step, OR_NULL(block->root), OR_NULL(block->layer),
	         category_name(block->category), category_rule_name(block->rule), OR_NULL(block->parameter),
	         OR_NULL(block->state_key), OR_NULL(block->shape), OR_NULL(block->dtype));
	assert_string_equal(
	        row_of("SELECT id, device, level, size_bytes, requested_bytes, alloc_seq, alloc_ns, free_seq, free_ns, "
	               "time_exact, thread, stream, phase, free_phase, recompute, step, root, layer, category, category_rule, "
	               "parameter, state_key, shape, dtype, operation, line, source FROM v_peak WHERE id = %lld",
	               (long long)block->id),
	        expected);
	return 0;
}

static int live_at_device_peak(const struct store_device *device, void *arg)
{
	struct counted *counted = arg;

	return store_each_live(counted->store, device->device, device->peak_seq, NULL, block_equals_its_view, &counted->nr);
}

static void test_v_peak_when_read_then_equals_what_is_alive_at_the_peak(void **state)
{
	for (uint64_t seed = 1; seed <= NR_RUNS; seed++) {
		struct built_run built;
		struct counted counted = {0};

		builder_make_random(path, seed, &built);
		counted.store = open_store();
		assert_int_equal(store_each_device(counted.store, live_at_device_peak, &counted), 0);
		assert_int_equal(counted.nr, strtoul(row_of("SELECT count(*) FROM v_peak"), NULL, 10));
		assert_true(counted.nr > 0);
		store_close(counted.store);
	}
}

static int layer_equals_its_view(const struct store_layer *layer, void *arg)
{
	char expected[512], device[DEVICE_NAME_MAX];

	(*(unsigned *)arg)++;
	snprintf(expected, sizeof(expected), "%s|%s|%s|%llu|%llu|%llu|%llu|%llu|%llu|%llu|%llu", OR_NULL(layer->root),
	         OR_NULL(layer->layer), OR_NULL(layer->class_name), (unsigned long long)layer->own.params_bytes,
	         (unsigned long long)layer->own.gradient_bytes, (unsigned long long)layer->own.optimizer_state_bytes,
	         (unsigned long long)layer->own.saved_bytes, (unsigned long long)layer->own.temporary_bytes,
	         (unsigned long long)layer->forward_peak_bytes, (unsigned long long)layer->backward_peak_bytes,
	         (unsigned long long)layer->own.live_at_peak_bytes);
	assert_string_equal(row_of("SELECT root, layer, class, params_bytes, gradient_bytes, optimizer_state_bytes, saved_bytes, "
	                           "temporary_bytes, forward_peak_bytes, backward_peak_bytes, live_at_peak_bytes FROM v_layer "
	                           "WHERE root IS %Q AND layer IS %Q AND device = %Q",
	                           layer->root, layer->layer, device_name(layer->device, device)),
	                    expected);
	return 0;
}

static void test_v_layer_when_read_then_equals_the_reader(void **state)
{
	for (uint64_t seed = 1; seed <= NR_RUNS; seed++) {
		struct built_run built;
		unsigned nr_layers = 0;

		builder_make_random(path, seed, &built);
		struct store *store = open_store();

		assert_int_equal(store_each_layer(store, BUILDER_CPU, UINT64_MAX, layer_equals_its_view, &nr_layers), 0);
		assert_int_equal(store_each_layer(store, BUILDER_CUDA, UINT64_MAX, layer_equals_its_view, &nr_layers), 0);
		assert_int_equal(nr_layers, strtoul(row_of("SELECT count(*) FROM v_layer"), NULL, 10));
		assert_int_equal(nr_layers, 2 * (BUILDER_NR_MODULES + 1));
		assert_string_equal(row_of("SELECT sum(params_bytes) FROM v_layer"), row_of("SELECT params_bytes FROM v_run"));
		store_close(store);
	}
}

static int note_equals_its_view(const struct store_note *note, void *arg)
{
	char expected[256];

	snprintf(expected, sizeof(expected), "%llu|%s|%s", (unsigned long long)note->seq, severity_name(note->severity),
	         note->text);
	assert_string_equal(row_of("SELECT * FROM v_note LIMIT 1 OFFSET %u", (*(unsigned *)arg)++), expected);
	return 0;
}

static void test_v_note_and_v_lost_when_read_then_equal_the_reader(void **state)
{
	struct built_run built;
	struct store_run run;
	unsigned nr_notes = 0;

	builder_make_random(path, 1, &built);
	struct store *store = open_store();

	assert_int_equal(store_each_note(store, note_equals_its_view, &nr_notes), 0);
	assert_int_equal(nr_notes, 2);
	assert_int_equal(store_read_run(store, &run), 0);
	for (unsigned i = 0; i < NR_LOST; i++)
		assert_int_equal(
		        run.lost.count[i],
		        strtoull(row_of("SELECT ifnull(sum(count), 0) FROM v_lost WHERE cause = %Q", lost_name(i)), NULL, 10));
	assert_int_equal(run.lost.total, strtoull(row_of("SELECT sum(count) FROM v_lost"), NULL, 10));
	store_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_schema_when_read_by_hand_then_views_keep_names_and_columns),
	        cmocka_unit_test(test_v_run_when_a_run_is_finished_then_equals_the_reader),
	        cmocka_unit_test(test_v_device_v_step_v_phase_when_read_then_equal_the_reader),
	        cmocka_unit_test(test_v_peak_when_read_then_equals_what_is_alive_at_the_peak),
	        cmocka_unit_test(test_v_layer_when_read_then_equals_the_reader),
	        cmocka_unit_test(test_v_note_and_v_lost_when_read_then_equal_the_reader),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
