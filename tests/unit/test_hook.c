/*
 * The hook's centre on plain memory: hook/hook.c with the real emit.c and ring reader, and the life of the process in our
 * hands.  hook.c is included because a thread's state is its own.
 */
#include "hook/hook.c"

#include "store/ring_reader.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "fake_python.h"

#define CAPACITY (1u << 16)
#define CPU      RECORD_DEVICE_CPU

/* ---- the world around hook.c */

static struct hook_page page;
static struct ring *ring;
static struct ring_reader *reader;
static struct record seen[CAPACITY];
static char texts[64][128]; /* of the first records with text */
static size_t nr_seen, nr_texts;
static uint64_t torch_thread;
static bool torch_says_threads;
static unsigned nr_asked;
static unsigned nr_starts;
static bool start_succeeds;
static void (*in_the_middle)(void); /* called once while a record is being written: a signal handler's place */

bool process_start(void)
{
	nr_starts++;
	page.armed = 0;
	__atomic_store_n(&page.state, start_succeeds ? HOOK_UP : HOOK_DOWN, __ATOMIC_RELEASE);
	return start_succeeds;
}

uint64_t hook_torch_thread(void)
{
	__atomic_add_fetch(&nr_asked, 1, __ATOMIC_RELAXED);
	return torch_says_threads ? __atomic_add_fetch(&torch_thread, 1, __ATOMIC_RELAXED) : UINT64_MAX;
}

/* PyTorch's side of operations: a function is its name, a node's class is set below. */
static bool are_told;
static struct operation_class class_now;
static const void *asked_node;

void operations_want(void)
{
	are_told = true;
}

void operations_unwant(void)
{
	are_told = false;
}

bool operations_are_told(void)
{
	return are_told;
}

const char *operation_name(const void *function)
{
	return function;
}

struct operation_class operation_class_of(const void *node)
{
	asked_node = node;
	return class_now;
}

static uint64_t fake_now(void)
{
	void (*call)(void) = in_the_middle;

	if (call) {
		in_the_middle = NULL;
		call();
	}
	return 1;
}

static void fake_pause(uint64_t ns)
{
}

static bool fake_alive(uint32_t pid)
{
	return true;
}

static const struct emit_env fake_env = {fake_now, fake_pause, fake_alive};

static int set_up(void **state)
{
	ring = aligned_alloc(4096, ring_file_bytes(CAPACITY));
	reader = malloc(sizeof(*reader));
	if (!ring || !reader)
		return -1;
	memset(ring, 0, ring_file_bytes(CAPACITY));
	ring_format(ring, CAPACITY, 0, 0);
	ring_reader_init(reader, ring);
	page = (struct hook_page){.state = HOOK_UP};
	hook = (struct hook){.page = &page, .emitter = {.ring = ring, .env = &fake_env}, .record_cpu = true};
	memset(&this_thread, 0, sizeof(this_thread));
	memset(&nodes, 0, sizeof(nodes));
	memset(&stacks, 0, sizeof(stacks));
	memset(graph_tasks, 0, sizeof(graph_tasks));
	torch_thread = 0;
	torch_says_threads = true;
	nr_asked = 0;
	nr_starts = 0;
	start_succeeds = true;
	in_the_middle = NULL;
	are_told = false;
	class_now = (struct operation_class){0};
	return 0;
}

static int tear_down(void **state)
{
	free(reader);
	free(ring);
	return 0;
}

/* Read all records; those that define threads are left out unless @all. */
static size_t read_records(bool all)
{
	struct ring_item item;

	nr_seen = nr_texts = 0;
	while (ring_reader_next(reader, 1, &item) > 0) {
		if (!all && item.record.kind == RECORD_DEF_THREAD)
			continue;
		if (item.text && nr_texts < 64) {
			size_t length = item.record.stack < 127 ? item.record.stack : 127;

			memset(texts[nr_texts], 0, sizeof(texts[nr_texts]));
			memcpy(texts[nr_texts++], item.text, length);
		}
		seen[nr_seen++] = item.record;
	}
	ring_reader_release(reader);
	return nr_seen;
}

static void report(uint64_t address, int64_t size_bytes)
{
	hook_report((void *)(uintptr_t)address, size_bytes, 1000, 2000, CPU, false);
}

/* ---- reports */

static void test_report_when_allocated_then_record_says_all(void **state)
{
	hook_report((void *)0x1000, 64, 164, 264, 0x0301, false);
	assert_int_equal(read_records(false), 1);
	assert_int_equal(seen[0].kind, RECORD_ALLOC);
	assert_int_equal(seen[0].flags, 0);
	assert_int_equal(seen[0].device, 0x0301);
	assert_int_equal(seen[0].address, 0x1000);
	assert_int_equal(seen[0].size, 64);
	assert_int_equal(seen[0].a, 164);
	assert_int_equal(seen[0].b, 264);
	assert_int_equal(seen[0].scope, 0);
	assert_int_equal(seen[0].thread, 1);
}

static void test_report_when_a_storage_was_computed_then_says_what_was_asked_for(void **state)
{
	hook_storage(1000);
	hook_report((void *)0x1000, 1024, 1024, 2 << 20, 0x0001, false);
	hook_report((void *)0x2000, 8192, 9216, 2 << 20, 0x0001, false); /* no storage of its own: a library's */
	hook_storage(0x1000000);
	hook_report((void *)0x3000, 512, 9728, 2 << 20, 0x0001, false); /* the storage was for something else */
	hook_storage(100);
	hook_report((void *)0x1000, -1024, 8704, 2 << 20, 0x0001, false); /* something dies meanwhile */
	hook_report((void *)0x4000, 512, 9216, 2 << 20, 0x0001, false);
	read_records(false);
	assert_int_equal(record_requested(seen[0].b, seen[0].size), 1000);
	assert_int_equal(record_reserved(seen[0].b), 2 << 20);
	assert_int_equal(record_requested(seen[1].b, seen[1].size), 0);
	assert_int_equal(record_requested(seen[2].b, seen[2].size), 0);
	assert_int_equal(seen[3].b, 2 << 20);
	assert_int_equal(record_requested(seen[4].b, seen[4].size), 100);
}

static void test_memory_given_when_called_then_says_who_called_and_the_driver_speaks(void **state)
{
	hook_memory_given(&(struct hook_given){.address = (void *)0x1000,
	                                       .size_bytes = 2 << 20,
	                                       .level = LEVEL_SEGMENT,
	                                       .device = 0x0101,
	                                       .caller = (void *)0x7000});
	hook_used(0x0101, 5 << 20, 80 << 20, true);
	read_records(false);
	assert_int_equal(seen[0].a, 0x7000);
	assert_int_equal(record_level(seen[0].flags), LEVEL_SEGMENT);
	assert_int_equal(seen[1].kind, RECORD_USED);
	assert_int_equal(seen[1].device, 0x0101);
	assert_int_equal(seen[1].flags, RECORD_F_FIRST);
	assert_int_equal(seen[1].a, 5 << 20);
	assert_int_equal(seen[1].b, 80 << 20);
}

static void test_report_when_freed_then_size_is_positive(void **state)
{
	report(0x1000, -64);
	assert_int_equal(read_records(false), 1);
	assert_int_equal(seen[0].kind, RECORD_FREE);
	assert_int_equal(seen[0].size, 64);
}

static void test_report_when_size_is_0_then_nothing(void **state)
{
	report(0x1000, 0);
	assert_int_equal(read_records(true), 0);
}

static void test_report_when_shared_then_flagged(void **state)
{
	hook_report((void *)0x1000, 64, 0, 64, CPU, true);
	assert_int_equal(read_records(false), 1);
	assert_int_equal(seen[0].flags, RECORD_F_SHARED);
}

static void test_report_when_first_on_thread_then_thread_is_defined_before(void **state)
{
	report(0x1000, 64);
	report(0x2000, 64);
	assert_int_equal(read_records(true), 3);
	assert_int_equal(seen[0].kind, RECORD_DEF_THREAD);
	assert_int_equal(seen[0].thread, 1);
	assert_int_equal(seen[0].a, syscall(SYS_gettid));
	assert_string_equal(texts[0], "test_hook");
}

static void test_report_when_down_then_nothing(void **state)
{
	page.state = HOOK_DOWN;
	report(0x1000, 64);
	hook.page = NULL;
	report(0x1000, 64);
	hook.page = &page;
	page.state = HOOK_DRAINING;
	report(0x1000, 64);
	assert_int_equal(read_records(true), 0);
	assert_int_equal(nr_starts, 0);
}

static void test_report_when_armed_then_started_once_and_recorded(void **state)
{
	page = (struct hook_page){.state = HOOK_DOWN, .armed = 1};
	report(0x1000, 64);
	report(0x2000, 64);
	assert_int_equal(nr_starts, 1);
	assert_int_equal(read_records(false), 2);
}

static void test_report_when_start_fails_then_never_again(void **state)
{
	page = (struct hook_page){.state = HOOK_DOWN, .armed = 1};
	start_succeeds = false;
	report(0x1000, 64);
	report(0x2000, 64);
	assert_int_equal(nr_starts, 1);
	assert_int_equal(read_records(true), 0);
	assert_int_equal(this_thread.busy, 0);
}

static void report_from_handler(void)
{
	report(0x9000, 64);
}

static void test_report_when_hook_is_at_work_on_the_thread_then_counted_as_reentered(void **state)
{
	report(0x1000, 64);
	in_the_middle = report_from_handler;
	report(0x2000, 64);
	report(0x3000, 64);
	assert_int_equal(read_records(false), 3);
	assert_int_equal(ring->lost[LOST_REENTERED], 1);
}

static void test_report_when_inside_the_start_then_counted_early(void **state)
{
	page = (struct hook_page){.state = HOOK_STARTING};
	this_thread.busy = 1;
	report(0x1000, 64);
	assert_int_equal(hook.nr_early_lost, 1);
	this_thread.busy = 0;
}

static void test_report_oom_when_told_then_record(void **state)
{
	hook_module_enter(5, true, true, true);
	hook_report_oom(1 << 30, 10, 20, 0x0001);
	assert_int_equal(read_records(false), 2);
	assert_int_equal(seen[1].kind, RECORD_OOM);
	assert_int_equal(seen[1].size, 1 << 30);
	assert_int_equal(seen[1].scope, 5);
	assert_int_equal(seen[1].device, 1);
}

static void test_everything_when_called_then_errno_is_kept(void **state)
{
	errno = 77;
	report(0x1000, 64);
	hook_backward_begin(true, false);
	hook_node_made(1);
	hook_backward_end();
	hook_module_enter(1, true, true, true);
	hook_module_leave();
	hook_define(&(struct record){.kind = RECORD_INFO}, "a\0b", 3);
	assert_int_equal(errno, 77);
}

/* ---- modules */

static void test_module_when_nested_then_innermost_is_the_scope(void **state)
{
	hook_module_enter(1, true, true, false);
	report(0x1000, 1);
	hook_module_enter(2, false, false, false);
	report(0x2000, 2);
	hook_module_leave();
	report(0x3000, 3);
	hook_module_leave();
	report(0x4000, 4);
	assert_int_equal(read_records(false), 8);
	assert_int_equal(seen[0].kind, RECORD_MODULE_ENTER);
	assert_int_equal(seen[0].scope, 1);
	assert_int_equal(seen[0].flags, RECORD_F_ROOT | RECORD_F_GRAD);
	assert_int_equal(seen[1].scope, 1);
	assert_int_equal(seen[2].flags, 0);
	assert_int_equal(seen[3].scope, 2);
	assert_int_equal(seen[4].kind, RECORD_MODULE_LEAVE);
	assert_int_equal(seen[4].scope, 2);
	assert_int_equal(seen[4].flags, 0);
	assert_int_equal(seen[5].scope, 1);
	assert_int_equal(seen[6].scope, 1);
	assert_int_equal(seen[6].flags, RECORD_F_ROOT);
	assert_int_equal(seen[7].scope, 0);
}

static void test_module_leave_when_nodes_were_made_then_counted_inside(void **state)
{
	hook_module_enter(1, true, true, true);
	hook_node_made(10);
	hook_module_enter(2, false, false, false);
	hook_node_made(11);
	hook_node_made(12);
	hook_module_leave();
	hook_module_leave();
	assert_int_equal(read_records(false), 4);
	assert_int_equal(seen[2].a, 2);
	assert_int_equal(seen[3].a, 3);
}

static void test_module_when_too_deep_then_counted_and_still_paired(void **state)
{
	for (uint32_t i = 1; i <= HOOK_MAX_DEPTH + 3; i++)
		hook_module_enter(i, i == 1, true, true);
	report(0x1000, 64);
	for (uint32_t i = 1; i <= HOOK_MAX_DEPTH + 3; i++)
		hook_module_leave();
	assert_false(hook_in_module());
	report(0x2000, 64);
	assert_int_equal(read_records(false), 2 * HOOK_MAX_DEPTH + 2);
	assert_int_equal(seen[HOOK_MAX_DEPTH].scope, HOOK_MAX_DEPTH);
	assert_int_equal(seen[2 * HOOK_MAX_DEPTH].scope, 1);
	assert_int_equal(seen[2 * HOOK_MAX_DEPTH].flags, RECORD_F_ROOT);
	assert_int_equal(seen[2 * HOOK_MAX_DEPTH + 1].scope, 0);
	assert_int_equal(ring->lost[LOST_DEEP], 3);
}

static void test_module_leave_when_none_is_open_then_nothing(void **state)
{
	hook_module_leave();
	assert_int_equal(read_records(true), 0);
	assert_false(hook_in_module());
	hook_module_enter(1, true, true, true);
	assert_true(hook_in_module());
}

/* ---- autograd */

struct fake_node {
	uint64_t words[NODES_WORDS];
};

static struct fake_node node(uint64_t number, uint64_t thread)
{
	return (struct fake_node){.words = {0x7f0000001000, 1, number, 3, 1, thread}};
}

static void test_node_when_it_runs_then_scope_is_the_module_that_made_it(void **state)
{
	struct fake_node first = node(10, 1), second = node(11, 1);

	hook_module_enter(4, true, true, true);
	hook_node_made(10);
	hook_module_enter(5, false, false, false);
	hook_node_made(11);
	hook_module_leave();
	hook_module_leave();
	hook_backward_begin(true, false);
	hook_node_begin(NULL, &second);
	report(0x1000, 64);
	hook_node_end();
	report(0x2000, 64);
	hook_node_begin(NULL, &first);
	report(0x3000, 64);
	hook_node_end();
	hook_backward_end();
	report(0x4000, 64);
	assert_int_equal(read_records(false), 10);
	assert_int_equal(seen[4].kind, RECORD_BACKWARD_BEGIN);
	assert_int_equal(seen[4].flags, RECORD_F_ACCUMULATE);
	assert_int_equal(seen[5].scope, 5);
	assert_int_equal(seen[5].flags, RECORD_F_NODE | RECORD_F_NEW_NODE);
	assert_int_equal(seen[6].scope, 0);
	assert_int_equal(seen[6].flags, 0);
	assert_int_equal(seen[7].scope, 4);
	assert_int_equal(seen[8].kind, RECORD_BACKWARD_END);
	assert_int_equal(seen[9].flags, 0);
}

/* Recomputation, and double backward: what is made while a node runs belongs to the node's module, or to one called in it. */
static void test_node_when_it_makes_nodes_then_they_inherit_its_module(void **state)
{
	struct fake_node outer = node(10, 1), inner = node(12, 1), learnt = node(11, 1);
	struct nodes_origin origin = {0};

	hook_module_enter(4, true, true, true);
	hook_node_made(10);
	hook_node_made(11);
	hook_module_leave();
	hook_backward_begin(true, false);
	hook_node_begin(NULL, &learnt);
	hook_node_end();
	hook_node_begin(NULL, &outer);
	hook_node_made(12);
	assert_true(nodes_find(&nodes, 1, 12, &origin));
	assert_int_equal(origin.module, 4);
	hook_module_enter(6, true, true, true);
	report(0x1000, 64);
	hook_module_leave();
	hook_node_begin(NULL, &inner);
	report(0x2000, 64);
	hook_node_end();
	hook_node_end();
	hook_backward_end();
	assert_int_equal(read_records(false), 8);
	assert_int_equal(seen[3].kind, RECORD_MODULE_ENTER);
	assert_true(seen[3].flags & RECORD_F_NODE);
	assert_int_equal(seen[4].scope, 6);
	assert_int_equal(seen[4].flags, RECORD_F_NODE | RECORD_F_NEW_NODE);
	assert_int_equal(seen[6].scope, 4);
}

static void test_node_when_it_has_no_number_then_is_of_the_one_before(void **state)
{
	struct fake_node first = node(10, 1), second = node(11, 1), accumulate = node(UINT64_MAX, 1);

	hook_module_enter(4, true, true, true);
	hook_node_made(10);
	hook_module_enter(5, false, false, false);
	hook_node_made(11);
	hook_module_leave();
	hook_module_leave();
	hook_backward_begin(true, true);
	hook_node_begin(NULL, &second);
	hook_node_end();
	hook_node_begin(NULL, &first);
	/* A backward inside the node ends with another one. */
	hook_node_begin(NULL, &second);
	hook_node_end();
	hook_node_end();
	hook_node_begin(NULL, &accumulate);
	report(0x1000, 64);
	hook_node_end();
	hook_node_begin(NULL, &second);
	hook_node_end();
	hook_node_begin(NULL, &accumulate);
	report(0x2000, 64);
	hook_node_end();
	hook_backward_end();
	assert_int_equal(read_records(false), 8);
	assert_int_equal(seen[4].flags, RECORD_F_ACCUMULATE | RECORD_F_KEEP);
	assert_int_equal(seen[5].scope, 4);
	assert_int_equal(seen[6].scope, 5);
}

static void test_current_module_when_in_a_node_then_is_what_made_it(void **state)
{
	struct fake_node first = node(10, 1), second = node(11, 1);

	assert_int_equal(hook_current_module(), 0);
	hook_module_enter(4, true, true, true);
	hook_node_made(10);
	hook_node_made(11);
	assert_int_equal(hook_current_module(), 4);
	hook_module_leave();
	assert_int_equal(hook_current_module(), 0);
	hook_backward_begin(true, false);
	hook_node_begin(NULL, &second);
	hook_node_end();
	hook_node_begin(NULL, &first);
	assert_int_equal(hook_current_module(), 4);
	hook_node_end();
	hook_backward_end();
}

/* ---- stacks */

static struct world *python; /* what the thread runs; NULL: no Python */
static int python_is_up;

static void *fake_thread_state(void)
{
	return python ? python->thread : NULL;
}

static int fake_python_is_up(void)
{
	return python_is_up;
}

static void start_stacks(void)
{
	python = make_world(12, 1);
	python_is_up = 1;
	hook.thread_state = fake_thread_state;
	hook.python_is_up = fake_python_is_up;
	hook_stacks_start(&python->layout, "/torch", "/library");
}

/* The line that the stack of record @index was defined with; 0: it has none. */
static uint64_t line_of(size_t nr, size_t index)
{
	uint32_t frame = 0;

	for (size_t i = 0; i < nr && seen[index].stack; i++)
		if (seen[i].kind == RECORD_DEF_STACK && seen[i].stack == seen[index].stack)
			frame = seen[i].scope;
	for (size_t i = 0; i < nr && frame; i++)
		if (seen[i].kind == RECORD_DEF_FRAME && seen[i].scope == frame)
			return seen[i].a;
	return 0;
}

static void at_line(uint32_t line)
{
	line--;
	put(python->code.bytes, python->layout.code_first_line, &line, sizeof(line));
}

/* Lines of the reports, in their order. */
static void check_lines(const uint64_t *wanted, size_t nr_wanted)
{
	size_t nr = read_records(false), nr_reports = 0;

	for (size_t i = 0; i < nr; i++) {
		if (seen[i].kind != RECORD_ALLOC && seen[i].kind != RECORD_FREE && seen[i].kind != RECORD_OOM)
			continue;
		assert_true(nr_reports < nr_wanted);
		assert_int_equal(line_of(nr, i), wanted[nr_reports++]);
	}
	assert_int_equal(nr_reports, nr_wanted);
}

static void test_report_when_python_runs_then_with_its_stack(void **state)
{
	report(0x1000, 64); /* not started */
	start_stacks();
	at_line(10);
	report(0x1000, 64);
	report(0x1000, -64);
	at_line(11);
	hook_report_oom(64, 1, 2, CPU);
	python_is_up = 0;
	report(0x1000, 64);
	python_is_up = 1;
	free(python);
	python = NULL;
	report(0x1000, 64);
	check_lines((const uint64_t[]){0, 10, 0, 11, 0, 0}, 6);
}

static void test_report_when_in_a_node_then_with_the_stack_that_made_it(void **state)
{
	struct fake_node first = node(10, 1), second = node(11, 1), inner = node(12, 1), unknown = node(999, 1);
	struct fake_node accumulate = node(UINT64_MAX, 1);

	start_stacks();
	at_line(20);
	hook_node_made(10);
	at_line(21);
	hook_node_made(11);
	at_line(30);
	hook_backward_begin(true, false);
	hook_node_begin(NULL, &first);
	hook_node_end();
	hook_node_begin(NULL, &second);
	report(0x1000, 64);
	hook_node_made(12); /* double backward */
	hook_module_enter(3, true, true, true);
	at_line(40);
	report(0x2000, 64); /* recomputed: where it is computed */
	hook_module_leave();
	hook_node_end();
	hook_node_begin(NULL, &accumulate);
	report(0x6000, 64); /* the gradient of what the node before it came from */
	hook_node_end();
	hook_node_begin(NULL, &unknown);
	at_line(31);
	report(0x3000, 64);
	hook_node_end();
	hook_node_begin(NULL, &inner);
	report(0x4000, 64);
	hook_node_end();
	hook_backward_end();
	report(0x5000, 64);
	check_lines((const uint64_t[]){21, 40, 21, 31, 21, 31}, 6);
	free(python);
	python = NULL;
}

static void test_node_made_when_not_recording_yet_then_nothing_is_started(void **state)
{
	start_stacks();
	page = (struct hook_page){.state = HOOK_DOWN, .armed = 1};
	this_thread.forward_told = true;
	hook_node_made(10);
	assert_int_equal(nr_starts, 0);
	free(python);
	python = NULL;
}

/* What the stack of record @index names as its operation, or "". */
static const char *operation_of(size_t nr, size_t index)
{
	uint64_t frame = 0;
	size_t nr_text = 0;

	for (size_t i = 0; i < nr && seen[index].stack; i++)
		if (seen[i].kind == RECORD_DEF_STACK && seen[i].stack == seen[index].stack)
			frame = seen[i].address;
	for (size_t i = 0; i < nr && frame; i++) {
		if (seen[i].kind == RECORD_DEF_FRAME && seen[i].scope == frame) {
			assert_true(seen[i].flags & RECORD_F_OPERATION);
			return texts[nr_text] + 1; /* behind the file's name, which is empty */
		}
		nr_text += record_has_text(seen[i].kind);
	}
	return "";
}

static void check_operations(const char *const wanted[], size_t nr_wanted)
{
	size_t nr = read_records(false), nr_reports = 0;

	for (size_t i = 0; i < nr; i++) {
		if (seen[i].kind != RECORD_ALLOC && seen[i].kind != RECORD_OOM)
			continue;
		assert_true(nr_reports < nr_wanted);
		assert_string_equal(operation_of(nr, i), wanted[nr_reports++]);
	}
	assert_int_equal(nr_reports, nr_wanted);
}

static void test_report_when_operators_nest_then_the_outermost_of_the_scope(void **state)
{
	hook.operations = true;
	report(0x1000, 64);
	hook_operation_begin("aten::conv2d");
	report(0x1000, 64);
	hook_operation_begin("aten::empty");
	hook_report_oom(64, 1, 2, CPU);
	hook_operation_end();
	hook_module_enter(3, true, true, true); /* an operator that is Python calls a module */
	report(0x1000, 64);
	hook_operation_begin("aten::relu");
	report(0x1000, 64);
	hook_operation_end();
	hook_module_leave();
	report(0x1000, 64);
	hook_operation_end();
	report(0x1000, 64);
	hook_operation_end(); /* one that began before they were told */
	hook_operation_begin("aten::add");
	report(0x1000, 64);
	check_operations((const char *[]){"", "aten::conv2d", "aten::conv2d", "", "aten::relu", "aten::conv2d", "", "aten::add"},
	                 8);
}

static void test_report_when_in_a_node_then_its_class_unless_it_is_python(void **state)
{
	struct fake_node backward = node(10, 1), python_node = node(11, 1);

	hook.operations = true;
	hook_backward_begin(true, false);
	class_now = (struct operation_class){.name = "6MyNode"};
	hook_operation_begin("aten::outside");
	hook_node_begin(NULL, &backward);
	report(0x1000, 64);
	assert_ptr_equal(asked_node, &backward);
	hook_operation_begin("aten::mul");
	report(0x1000, 64);
	hook_operation_end();
	hook_module_enter(3, true, true, true); /* recomputed */
	hook_operation_begin("aten::mm");
	report(0x1000, 64);
	hook_operation_end();
	hook_module_leave();
	hook_node_end();
	report(0x1000, 64);
	class_now = (struct operation_class){.name = "FooBackward", .is_python = true};
	hook_node_begin(NULL, &python_node);
	report(0x1000, 64);
	hook_operation_begin("autograd::engine::evaluate_function: FooBackward"); /* for a profiler */
	report(0x1000, 64);
	hook_operation_begin("aten::mul");
	report(0x1000, 64);
	class_now = (struct operation_class){0}; /* not to be had */
	report(0x1000, 64);
	hook_operation_end();
	report(0x1000, 64);
	hook_operation_end();
	hook_operation_begin("aten::add");
	report(0x1000, 64);
	check_operations((const char *[]){"6MyNode", "6MyNode", "aten::mm", "aten::outside", "FooBackward", "FooBackward",
	                                  "aten::mul", "aten::mul", "", "aten::add"},
	                 10);
}

static void test_report_when_in_a_node_then_only_cpp_names_are_mangled(void **state)
{
	struct fake_node backward = node(10, 1);

	hook.operations = true;
	class_now = (struct operation_class){.name = "6MyNode"};
	hook_node_begin(NULL, &backward);
	report(0x1000, 64);
	class_now.is_python = true;
	report(0x1000, 64);
	read_records(false);
	for (size_t i = 0, nr = 0; i < nr_seen; i++)
		if (seen[i].kind == RECORD_DEF_FRAME)
			assert_int_equal(seen[i].flags, RECORD_F_OPERATION | (nr++ == 0 ? RECORD_F_MANGLED : 0));
}

static void test_report_when_there_is_python_too_then_the_operation_lies_on_it(void **state)
{
	size_t nr, stack = 0;

	hook.operations = true;
	start_stacks();
	at_line(10);
	hook_operation_begin("aten::conv2d");
	report(0x1000, 64);
	hook_operation_end();
	report(0x1000, 64);
	nr = read_records(false);
	for (size_t i = 0; i < nr; i++)
		if (seen[i].kind == RECORD_DEF_STACK && seen[i].address)
			stack = i;
	assert_int_equal(seen[stack].scope, seen[stack].address);
	assert_int_equal(seen[stack].a, seen[nr - 1].stack);
	for (size_t i = 0; i < nr; i++)
		if (seen[i].kind == RECORD_DEF_STACK && seen[i].stack == seen[stack].a)
			assert_int_equal(seen[stack].b, seen[i].scope); /* the line is still shown */
	free(python);
	python = NULL;
}

static void test_operations_when_not_asked_for_then_none_and_nobody_tells(void **state)
{
	struct fake_node backward = node(10, 1);

	hook_module_enter(3, true, true, true);
	class_now = (struct operation_class){.name = "6MyNode"};
	hook_node_begin(NULL, &backward);
	report(0x1000, 64);
	assert_false(are_told);
	check_operations((const char *[]){""}, 1);
}

static void test_operations_when_the_recorder_knows_them_then_told_no_more(void **state)
{
	hook.operations = true;
	hook_optimizer_begin(1);
	assert_true(are_told);
	report(0x1000, 64);
	ring->operations_known = 1;
	hook_optimizer_end();
	assert_true(are_told); /* until an operator runs */
	hook_operation_begin("aten::mul");
	assert_false(are_told);
	hook_backward_begin(true, false);
	hook_module_enter(1, true, true, true);
	hook_optimizer_begin(1);
	assert_false(are_told);
	report(0x1000, 64);
	ring->operations_known = 0;
	hook_module_enter(1, false, true, true);
	assert_false(are_told);
	hook_module_enter(1, true, true, true);
	assert_true(are_told);
	are_told = false;
	hook_backward_begin(true, false);
	assert_true(are_told);
	read_records(false);
	assert_int_equal(seen[1].flags & RECORD_F_TOLD, RECORD_F_TOLD);
	for (size_t i = 2, nr = 0; i < nr_seen; i++)
		if (seen[i].kind == RECORD_ALLOC && nr++ == 0)
			assert_int_equal(seen[i].flags & RECORD_F_TOLD, 0);
}

static void test_operations_when_nothing_is_recorded_then_nobody_is_asked(void **state)
{
	hook.operations = true;
	page.state = HOOK_DRAINING;
	hook_backward_begin(true, false);
	assert_false(are_told);
	are_told = true; /* a forked child: page is zero, and the lock that this takes may be held */
	page = (struct hook_page){0};
	hook_operation_begin("aten::mul");
	assert_true(are_told);
}

static void test_report_when_stacks_are_too_many_then_noted_once(void **state)
{
	start_stacks();
	memset(stacks.stacks, 0xff, sizeof(stacks.stacks));
	report(0x1000, 64);
	report(0x2000, 64);
	assert_int_equal(read_records(false), 4); /* a frame, two reports, a note */
	assert_int_equal(seen[1].stack, 0);
	assert_int_equal(seen[2].kind, RECORD_NOTE);
	free(python);
	python = NULL;
}

static void test_report_when_a_node_was_made_then_the_first_one_after_it_says_so(void **state)
{
	report(0x1000, 64);
	hook_module_enter(3, true, true, true);
	hook_node_made(10);
	report(0x2000, 64);
	report(0x3000, 64);
	hook_node_made(11);
	report(0x3000, -64);
	assert_int_equal(read_records(false), 5);
	assert_int_equal(seen[0].flags, 0);
	assert_int_equal(seen[2].flags, RECORD_F_NEW_NODE);
	assert_int_equal(seen[3].flags, 0);
	assert_int_equal(seen[4].flags, RECORD_F_NEW_NODE);
}

static void test_node_made_when_outside_everything_then_forward_once_until_backward(void **state)
{
	hook_node_made(1);
	hook_node_made(2);
	hook_backward_begin(true, false);
	hook_node_made(3);
	hook_backward_end();
	hook_node_made(4);
	hook_optimizer_begin(9);
	hook_node_made(5);
	hook_optimizer_end();
	hook_node_made(6);
	assert_int_equal(read_records(false), 7);
	assert_int_equal(seen[0].kind, RECORD_FORWARD);
	assert_int_equal(seen[1].kind, RECORD_BACKWARD_BEGIN);
	assert_int_equal(seen[2].kind, RECORD_BACKWARD_END);
	assert_int_equal(seen[3].kind, RECORD_FORWARD);
	assert_int_equal(seen[4].kind, RECORD_OPTIMIZER_BEGIN);
	assert_int_equal(seen[5].kind, RECORD_OPTIMIZER_END);
	assert_int_equal(seen[5].scope, 9);
	assert_int_equal(seen[6].kind, RECORD_FORWARD);
}

static void test_node_made_when_a_root_forward_came_before_then_no_forward(void **state)
{
	hook_module_enter(1, true, true, true);
	hook_node_made(1);
	hook_module_leave();
	hook_node_made(2); /* the loss */
	assert_int_equal(read_records(false), 2);
	hook_module_enter(1, true, false, false);
	hook_module_leave();
	hook_backward_begin(true, false);
	hook_backward_end();
	hook_module_enter(1, true, false, false); /* without gradients */
	hook_module_leave();
	hook_node_made(3);
	assert_int_equal(read_records(false), 7);
	assert_int_equal(seen[6].kind, RECORD_FORWARD);
}

struct worker {
	const void *task;
	const void *node;
	bool says_so;
};

static void *work(void *arg)
{
	const struct worker *worker = arg;

	if (worker->says_so)
		hook_autograd_worker();
	for (int i = 0; i < 2; i++) {
		hook_node_begin(worker->task, worker->node);
		report(0x5000, 64);
		hook_node_end();
	}
	return NULL;
}

static void run_worker(const void *task, const void *running, bool says_so)
{
	struct worker worker = {task, running, says_so};
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, work, &worker), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
}

static void test_worker_when_it_runs_nodes_then_caller_is_named_once(void **state)
{
	struct fake_node running = node(10, 1);
	const void *task = (const void *)0x7f0000401230;

	hook_backward_begin(true, false);
	hook_graph_task(task);
	run_worker(task, &running, true);
	hook_backward_end();
	assert_int_equal(read_records(true), 7);
	assert_int_equal(seen[2].kind, RECORD_DEF_THREAD);
	assert_int_equal(seen[2].thread, 2);
	assert_int_equal(seen[2].flags, RECORD_F_AUTOGRAD);
	assert_int_equal(seen[3].kind, RECORD_WORKER);
	assert_int_equal(seen[3].thread, 2);
	assert_int_equal(seen[3].a, 1);
	assert_int_equal(seen[4].kind, RECORD_ALLOC);
	assert_int_equal(seen[5].kind, RECORD_ALLOC);
	assert_int_equal(seen[5].flags, RECORD_F_NODE);
	assert_int_equal(seen[6].kind, RECORD_BACKWARD_END);
}

static void test_worker_when_task_is_unknown_then_it_works_for_nobody_known(void **state)
{
	struct fake_node running = node(10, 1);

	run_worker((const void *)0x7f0000401230, &running, false);
	assert_int_equal(read_records(true), 4);
	assert_int_equal(seen[0].flags, 0);
	assert_int_equal(seen[1].kind, RECORD_WORKER);
	assert_true(seen[1].a == RECORD_NO_THREAD);
}

/* ---- words and marks */

static void test_define_when_called_then_text_and_thread_are_filled(void **state)
{
	hook_define(&(struct record){.kind = RECORD_DEF_OPTIMIZER, .scope = 3}, "SGD", 3);
	assert_int_equal(read_records(false), 1);
	assert_int_equal(seen[0].scope, 3);
	assert_int_equal(seen[0].thread, 1);
	assert_string_equal(texts[0], "SGD");
}

static void test_note_when_called_twice_then_once(void **state)
{
	uint8_t once = 0;

	for (int i = 0; i < 2; i++)
		hook_note(&once, RECORD_SEVERITY_DEGRADED, "%s: %d of %lu%%", "text", -5, 7ul);
	assert_int_equal(read_records(false), 1);
	assert_int_equal(seen[0].kind, RECORD_NOTE);
	assert_int_equal(seen[0].a, RECORD_SEVERITY_DEGRADED);
	assert_string_equal(texts[0], "text: -5 of 7%");
}

static void test_others_when_called_then_their_records(void **state)
{
	hook_scaler_update();
	hook_input(0x1000, 99, true);
	hook_mark(RECORD_MARK_PHASE_BEGIN, PHASE_OPTIMIZER);
	hook_gradient(7, 0x2000);
	hook_input(0x1000, 99, false);
	assert_int_equal(read_records(false), 5);
	assert_int_equal(seen[0].kind, RECORD_SCALER_UPDATE);
	assert_int_equal(seen[1].kind, RECORD_INPUT);
	assert_int_equal(seen[1].address, 0x1000);
	assert_int_equal(seen[1].size, 99);
	assert_int_equal(seen[1].flags, RECORD_F_GRAD);
	assert_int_equal(seen[2].kind, RECORD_MARK_PHASE_BEGIN);
	assert_int_equal(seen[2].a, PHASE_OPTIMIZER);
	assert_int_equal(seen[3].kind, RECORD_GRADIENT);
	assert_int_equal(seen[3].a, 7);
	assert_int_equal(seen[3].address, 0x2000);
	assert_int_equal(seen[4].flags, 0);
}

/* ---- many threads */

#define NR_THREADS 4
#define NR_REPORTS 2000

static void *report_much(void *arg)
{
	for (uint64_t i = 1; i <= NR_REPORTS; i++) {
		hook_module_enter((uint32_t)i, true, true, true);
		report((uint64_t)(uintptr_t)arg + i, (int64_t)i);
		hook_node_made(i);
		hook_module_leave();
	}
	return NULL;
}

static void test_report_when_many_threads_then_all_arrive_in_each_threads_order(void **state)
{
	uint64_t last[NR_THREADS + 1] = {0};
	pthread_t threads[NR_THREADS];
	size_t nr_records;

	for (size_t i = 0; i < NR_THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, report_much, (void *)((i + 1) << 20)), 0);
	for (size_t i = 0; i < NR_THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	nr_records = read_records(false);
	assert_int_equal(nr_records, NR_THREADS * NR_REPORTS * 3);
	for (size_t i = 0; i < nr_records; i++) {
		assert_in_range(seen[i].thread, 1, NR_THREADS);
		if (seen[i].kind != RECORD_ALLOC)
			continue;
		assert_int_equal(seen[i].size, ++last[seen[i].thread]);
		assert_int_equal(seen[i].scope, seen[i].size);
	}
	for (size_t i = 1; i <= NR_THREADS; i++)
		assert_int_equal(last[i], NR_REPORTS);
}

/* Comes last: nobody asks again in this process. */
static void test_node_made_when_pytorch_does_not_number_threads_then_asked_and_noted_once(void **state)
{
	torch_says_threads = false;
	hook_module_enter(1, true, true, true);
	for (uint64_t number = 1; number <= 100; number++)
		hook_node_made(number);
	hook_module_leave();
	assert_int_equal(nr_asked, 1);
	assert_int_equal(read_records(false), 3);
	assert_int_equal(seen[1].kind, RECORD_NOTE);
	assert_int_equal(seen[2].a, 100);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	        TEST(test_report_when_allocated_then_record_says_all),
	        TEST(test_report_when_a_storage_was_computed_then_says_what_was_asked_for),
	        TEST(test_memory_given_when_called_then_says_who_called_and_the_driver_speaks),
	        TEST(test_report_when_freed_then_size_is_positive),
	        TEST(test_report_when_size_is_0_then_nothing),
	        TEST(test_report_when_shared_then_flagged),
	        TEST(test_report_when_first_on_thread_then_thread_is_defined_before),
	        TEST(test_report_when_down_then_nothing),
	        TEST(test_report_when_armed_then_started_once_and_recorded),
	        TEST(test_report_when_start_fails_then_never_again),
	        TEST(test_report_when_hook_is_at_work_on_the_thread_then_counted_as_reentered),
	        TEST(test_report_when_inside_the_start_then_counted_early),
	        TEST(test_report_oom_when_told_then_record),
	        TEST(test_everything_when_called_then_errno_is_kept),
	        TEST(test_module_when_nested_then_innermost_is_the_scope),
	        TEST(test_module_leave_when_nodes_were_made_then_counted_inside),
	        TEST(test_module_when_too_deep_then_counted_and_still_paired),
	        TEST(test_module_leave_when_none_is_open_then_nothing),
	        TEST(test_node_when_it_runs_then_scope_is_the_module_that_made_it),
	        TEST(test_node_when_it_makes_nodes_then_they_inherit_its_module),
	        TEST(test_node_when_it_has_no_number_then_is_of_the_one_before),
	        TEST(test_current_module_when_in_a_node_then_is_what_made_it),
	        TEST(test_report_when_python_runs_then_with_its_stack),
	        TEST(test_report_when_in_a_node_then_with_the_stack_that_made_it),
	        TEST(test_node_made_when_not_recording_yet_then_nothing_is_started),
	        TEST(test_report_when_operators_nest_then_the_outermost_of_the_scope),
	        TEST(test_report_when_in_a_node_then_its_class_unless_it_is_python),
	        TEST(test_report_when_in_a_node_then_only_cpp_names_are_mangled),
	        TEST(test_report_when_there_is_python_too_then_the_operation_lies_on_it),
	        TEST(test_operations_when_not_asked_for_then_none_and_nobody_tells),
	        TEST(test_operations_when_the_recorder_knows_them_then_told_no_more),
	        TEST(test_operations_when_nothing_is_recorded_then_nobody_is_asked),
	        TEST(test_report_when_stacks_are_too_many_then_noted_once),
	        TEST(test_report_when_a_node_was_made_then_the_first_one_after_it_says_so),
	        TEST(test_node_made_when_outside_everything_then_forward_once_until_backward),
	        TEST(test_node_made_when_a_root_forward_came_before_then_no_forward),
	        TEST(test_worker_when_it_runs_nodes_then_caller_is_named_once),
	        TEST(test_worker_when_task_is_unknown_then_it_works_for_nobody_known),
	        TEST(test_define_when_called_then_text_and_thread_are_filled),
	        TEST(test_note_when_called_twice_then_once),
	        TEST(test_others_when_called_then_their_records),
	        TEST(test_report_when_many_threads_then_all_arrive_in_each_threads_order),
	        TEST(test_node_made_when_pytorch_does_not_number_threads_then_asked_and_noted_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
