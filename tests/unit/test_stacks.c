/* Stacks as numbers: hook/stacks.c on frames made by hand, with the real emit.c and ring reader. */
#include "hook/stacks.h"

#include "store/ring_reader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fake_python.h"

#define CAPACITY (1u << 12)

static struct stacks *stacks;
static struct ring *ring;
static struct ring_reader *reader;
static struct emitter emitter;

/* What was defined so far, as a recorder would know it. */
static struct {
	bool known, internal;
	uint32_t line;
	char file[64], function[64];
} frames[STACKS_FRAMES + 1];
static struct {
	bool known;
	uint32_t parent, frame, shown, operation;
} tree[STACKS_STACKS + 1];
static unsigned nr_definitions;

static uint64_t now_ns;

static uint64_t fake_now(void)
{
	return now_ns;
}

static void fake_pause(uint64_t ns)
{
	now_ns += ns;
}

static bool fake_alive(uint32_t pid)
{
	return false; /* nobody waits for a recorder */
}

static const struct emit_env fake_env = {fake_now, fake_pause, fake_alive};

static int set_up(void **state)
{
	ring = aligned_alloc(4096, ring_file_bytes(CAPACITY));
	reader = malloc(sizeof(*reader));
	stacks = calloc(1, sizeof(*stacks));
	memset(ring, 0, ring_file_bytes(CAPACITY));
	ring_format(ring, CAPACITY, 0, 0);
	ring_reader_init(reader, ring);
	emitter = (struct emitter){.ring = ring, .env = &fake_env};
	memset(frames, 0, sizeof(frames));
	memset(tree, 0, sizeof(tree));
	return 0;
}

static int tear_down(void **state)
{
	free(ring);
	free(reader);
	free(stacks);
	return 0;
}

/* Read the ring; each definition must be of what is known already. */
static void learn(void)
{
	struct ring_item item;

	nr_definitions = 0;
	while (ring_reader_next(reader, 1, &item) > 0) {
		const struct record *record = &item.record;

		nr_definitions++;
		assert_int_equal(record->thread, 5);
		if (record->kind == RECORD_DEF_FRAME) {
			assert_in_range(record->scope, 1, STACKS_FRAMES);
			frames[record->scope].known = true;
			frames[record->scope].internal = record->flags & RECORD_F_INTERNAL;
			frames[record->scope].line = (uint32_t)record->a;
			snprintf(frames[record->scope].file, 64, "%s", item.text);
			snprintf(frames[record->scope].function, 64, "%s", item.text + strlen(item.text) + 1);
			continue;
		}
		assert_int_equal(record->kind, RECORD_DEF_STACK);
		assert_in_range(record->stack, 1, STACKS_STACKS);
		assert_true(frames[record->scope].known && (!record->b || frames[record->b].known));
		assert_true(!record->address || frames[record->address].known);
		assert_true(!record->a || tree[record->a].known);
		tree[record->stack].known = true;
		tree[record->stack].parent = (uint32_t)record->a;
		tree[record->stack].frame = record->scope;
		tree[record->stack].shown = (uint32_t)record->b;
		tree[record->stack].operation = (uint32_t)record->address;
	}
	ring_reader_release(reader);
}

static uint32_t capture(const struct world *world)
{
	return stacks_capture(stacks, &emitter, 5, world->thread);
}

/* "file:line function" of each frame, innermost first, each followed by a blank. */
static const char *words(uint32_t stack)
{
	static char text[8192];
	size_t used = 0;

	text[0] = 0;
	for (; stack; stack = tree[stack].parent) {
		uint32_t frame = tree[stack].frame;

		assert_true(tree[stack].known && used < sizeof(text) - 200);
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s:%u %s ", frames[frame].file, frames[frame].line,
		                         frames[frame].function);
	}
	return text;
}

static struct world *start(uint32_t nr)
{
	struct world *world = make_world(12, nr);

	stacks_start(stacks, &world->layout, "/lib/torch", "/usr/lib/python3");
	return world;
}

static void test_start_when_not_yet_then_off(void **state)
{
	struct world *world;

	assert_false(stacks_are_on(stacks));
	world = start(1);
	assert_true(stacks_are_on(stacks));
	free(world);
}

static void test_capture_when_first_then_all_is_defined_and_when_again_then_nothing(void **state)
{
	struct world *world = start(2), *caller = make_world(12, 1);
	uint32_t stack;

	name_code(caller, "/home/train.py", "main", 7);
	run_code_of(world, 1, caller, 1);
	stack = capture(world);
	learn();
	assert_int_equal(nr_definitions, 4);
	assert_string_equal(words(stack), "/dir/file.py:31 Net.forward /home/train.py:8 main ");
	assert_int_equal(capture(world), stack);
	learn();
	assert_int_equal(nr_definitions, 0);
	free(world);
	free(caller);
}

static void test_capture_when_no_frame_then_no_stack(void **state)
{
	struct world *world = start(0);

	assert_int_equal(capture(world), 0);
	free(world);
}

static void test_capture_when_innermost_frames_are_not_the_users_then_another_is_shown(void **state)
{
	static const char *const internal[] = {"/lib/torch/nn/functional.py",
	                                       "<frozen importlib._bootstrap>",
	                                       "<nnmem>",
	                                       "/usr/lib/python3/contextlib.py",
	                                       "<eval_with_key>.3",
	                                       "/tmp/torchinductor_me/ab/cab.py",
	                                       "/v/site-packages/pkg/a.py",
	                                       "/usr/lib/python3/dist-packages/b.py"};
	struct world *world = start(3), *user = make_world(12, 1), *library = make_world(12, 1);
	uint32_t stack;

	name_code(user, "/lib/torchvision/net.py", "Net.forward", 70);
	for (int i = 0; i < 8; i++) {
		name_code(library, internal[i], "relu", 100);
		run_code_of(world, 0, library, 1);
		run_code_of(world, 1, user, 1);
		run_code_of(world, 2, library, 1);
		stack = capture(world);
		learn();
		assert_true(frames[tree[stack].frame].internal);
		assert_string_equal(frames[tree[stack].shown].file, "/lib/torchvision/net.py");
		assert_false(frames[tree[stack].shown].internal);
		run_code_of(world, 1, library, 2);
		stack = capture(world);
		learn();
		assert_int_equal(tree[stack].shown, tree[stack].frame);
	}
	free(world);
	free(user);
	free(library);
}

static void test_capture_when_no_frame_is_the_users_then_a_packages_is_shown(void **state)
{
	struct world *world = start(3), *package = make_world(12, 1), *library = make_world(12, 1);
	uint32_t stack;

	name_code(package, "/v/lib/python3/site-packages/trainer/loop.py", "fit", 70);
	name_code(library, "/usr/lib/python3/runpy.py", "run", 100);
	run_code_of(world, 0, library, 1);
	run_code_of(world, 1, package, 1);
	run_code_of(world, 2, library, 1);
	stack = capture(world);
	learn();
	assert_true(frames[tree[stack].shown].internal);
	assert_string_equal(frames[tree[stack].shown].function, "fit");
	free(world);
	free(package);
	free(library);
}

static void test_operation_when_on_a_stack_then_what_is_shown_stays(void **state)
{
	struct world *world = start(1), *library = make_world(12, 1);
	uint32_t stack, user, frame = stacks_operation(stacks, &emitter, 5, "aten::conv2d", false);

	assert_int_equal(stacks_operation(stacks, &emitter, 5, "aten::conv2d", false), frame);
	user = capture(world);
	name_code(library, "/lib/torch/nn/functional.py", "relu", 100);
	run_code_of(world, 0, library, 1);
	stack = capture(world);
	for (int i = 0; i < 3; i++) {
		uint32_t below = i == 0 ? user : i == 1 ? stack : 0, above = stacks_on(stacks, &emitter, 5, below, frame);

		learn();
		assert_int_equal(stacks_on(stacks, &emitter, 5, below, frame), above);
		assert_int_equal(tree[above].parent, below);
		assert_int_equal(tree[above].frame, frame);
		assert_int_equal(tree[above].operation, frame);
		assert_int_equal(tree[above].shown, tree[below].shown); /* also where it is PyTorch's, or none */
		assert_int_equal(tree[below].operation, 0);
	}
	assert_string_equal(frames[frame].file, "");
	assert_string_equal(frames[frame].function, "aten::conv2d");
	free(world);
	free(library);
}

static void test_operation_when_names_differ_anywhere_then_so_do_frames(void **state)
{
	static const char *const names[] = {
	        "", "a", "b", "aten::conv2d", "aten::conv3d", "bten::conv2d", "aten::conv2e", "aten::conv2d_"};
	char long_name[400];
	uint32_t ids[9];

	for (size_t i = 0; i < 8; i++)
		ids[i] = stacks_operation(stacks, &emitter, 5, names[i], false);
	ids[8] = stacks_operation(stacks, &emitter, 5, names[3], true); /* the same, mangled */
	for (size_t i = 0; i < 9; i++)
		for (size_t j = 0; j < i; j++)
			assert_int_not_equal(ids[i], ids[j]);
	memset(long_name, 'x', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	ids[0] = stacks_operation(stacks, &emitter, 5, long_name, false);
	long_name[STACKS_NAME_MAX] = '\0';
	assert_int_equal(stacks_operation(stacks, &emitter, 5, long_name, false), ids[0]);
}

static void test_operation_when_a_table_is_full_then_the_stack_stays_and_said(void **state)
{
	uint32_t frame = stacks_operation(stacks, &emitter, 5, "aten::conv2d", false);

	for (uint32_t i = 0; i < STACKS_STACKS; i++)
		stacks->stacks[i] = UINT64_MAX;
	assert_int_equal(stacks_on(stacks, &emitter, 5, 3, frame), 3);
	assert_true(stacks->is_full);
	for (uint32_t i = 0; i < STACKS_FRAMES; i++)
		stacks->frames[i] = UINT64_MAX;
	assert_int_equal(stacks_operation(stacks, &emitter, 5, "aten::conv3d", false), 0);
}

static void test_capture_when_code_at_the_same_address_changes_then_another_stack(void **state)
{
	struct world *world = start(1);
	uint32_t first = capture(world), second, third;

	name_code(world, "/dir/fils.py", "Net.forward", 30);
	second = capture(world);
	name_code(world, "/dir/fils.py", "Net.forward", 40);
	third = capture(world);
	learn();
	assert_string_equal(words(first), "/dir/file.py:31 Net.forward ");
	assert_string_equal(words(second), "/dir/fils.py:31 Net.forward ");
	assert_string_equal(words(third), "/dir/fils.py:41 Net.forward ");
	name_code(world, "/dir/file.py", "Net.forward", 30);
	assert_int_equal(capture(world), first);
	free(world);
}

static void test_capture_when_the_same_source_is_elsewhere_then_the_same_stack(void **state)
{
	struct world *world = start(1), *again = make_world(12, 1);
	uint32_t stack = capture(world);

	learn();
	assert_int_equal(capture(again), stack);
	learn();
	assert_int_equal(nr_definitions, 0);
	free(world);
	free(again);
}

static void test_capture_when_deeper_than_is_kept_then_one_stack_for_all_depths(void **state)
{
	struct world *world = start(FRAMES_MAX + 1), *deeper = make_world(12, FRAMES_MAX + 2),
	             *whole = make_world(12, FRAMES_MAX);
	uint32_t stack = capture(world), nr = 0;

	assert_int_equal(capture(deeper), stack);
	assert_int_not_equal(capture(whole), stack);
	learn();
	for (; tree[stack].parent; stack = tree[stack].parent)
		nr++;
	assert_int_equal(nr, FRAMES_MAX);
	assert_string_equal(words(stack), ":0 <more frames> ");
	free(world);
	free(deeper);
	free(whole);
}

static void test_capture_when_the_ring_was_full_then_defined_later(void **state)
{
	struct world *world = start(2);
	uint64_t head = ring->head;
	uint32_t stack;

	ring->head = ring->tail + CAPACITY; /* nothing fits */
	assert_int_equal(capture(world), 0);
	assert_int_equal(capture(world), 0);
	ring->head = head;
	stack = capture(world);
	learn();
	assert_int_equal(nr_definitions, 3);
	assert_string_equal(words(stack), "/dir/file.py:31 Net.forward /dir/file.py:31 Net.forward ");
	free(world);
}

static void test_capture_when_a_table_is_full_then_no_stack_and_said(void **state)
{
	struct world *world = start(1);

	memset(stacks->stacks, 0xff, sizeof(stacks->stacks));
	assert_int_equal(capture(world), 0);
	assert_int_equal(stacks->is_full, 1);
	stacks->is_full = 0;
	memset(stacks->stacks, 0, sizeof(stacks->stacks));
	memset(stacks->frames, 0xff, sizeof(stacks->frames));
	memset(stacks->seen, 0, sizeof(stacks->seen));
	assert_int_equal(capture(world), 0);
	assert_int_equal(stacks->is_full, 1);
	free(world);
}

/* Thousands of lines: more than `seen` holds, so that entries fall on each other. */
static void test_capture_when_there_are_many_then_each_is_right(void **state)
{
	struct world *world = start(1);
	static uint32_t ids[20000];
	char wanted[64];

	for (int round = 0; round < 2; round++) {
		for (uint32_t i = 0; i < 20000; i++) {
			uint32_t stack;

			put(world->code.bytes, world->layout.code_first_line, &i, sizeof(i));
			stack = capture(world);
			learn();
			assert_int_equal(nr_definitions, round ? 0 : 2);
			assert_true(!round || stack == ids[i]);
			ids[i] = stack;
			snprintf(wanted, sizeof(wanted), "/dir/file.py:%u Net.forward ", i + 1);
			assert_string_equal(words(stack), wanted);
			ring->tail = ring->head; /* as if it were committed */
		}
	}
	free(world);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_start_when_not_yet_then_off),
	        TEST(test_capture_when_first_then_all_is_defined_and_when_again_then_nothing),
	        TEST(test_capture_when_no_frame_then_no_stack),
	        TEST(test_capture_when_innermost_frames_are_not_the_users_then_another_is_shown),
	        TEST(test_capture_when_no_frame_is_the_users_then_a_packages_is_shown),
	        TEST(test_operation_when_on_a_stack_then_what_is_shown_stays),
	        TEST(test_operation_when_names_differ_anywhere_then_so_do_frames),
	        TEST(test_operation_when_a_table_is_full_then_the_stack_stays_and_said),
	        TEST(test_capture_when_code_at_the_same_address_changes_then_another_stack),
	        TEST(test_capture_when_the_same_source_is_elsewhere_then_the_same_stack),
	        TEST(test_capture_when_deeper_than_is_kept_then_one_stack_for_all_depths),
	        TEST(test_capture_when_the_ring_was_full_then_defined_later),
	        TEST(test_capture_when_a_table_is_full_then_no_stack_and_said),
	        TEST(test_capture_when_there_are_many_then_each_is_right),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
