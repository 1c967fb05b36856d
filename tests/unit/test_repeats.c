/* Names of operators for what happens again: store/repeats.c on records made by hand. */
#include "store/repeats.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* Stacks 101.. are stacks 1.. with an operation on top. */
#define NAMED(stack) (100 + (stack))

static struct repeats *repeats;

static int set_up(void **state)
{
	if (repeats_new(&repeats))
		return -1;
	for (uint32_t stack = 0; stack < 50; stack++) {
		struct record define = {.kind = RECORD_DEF_STACK, .stack = NAMED(stack), .scope = 7, .address = 7, .a = stack};

		repeats_feed(repeats, &define);
	}
	return 0;
}

static int tear_down(void **state)
{
	repeats_free(repeats);
	return 0;
}

/* The stack that an allocation of @size gets, sent with @stack. */
static uint32_t allocate(uint32_t thread, uint64_t size, uint32_t stack, bool told)
{
	struct record record = {
	        .kind = RECORD_ALLOC, .thread = thread, .size = size, .stack = stack, .flags = told ? RECORD_F_TOLD : 0};

	repeats_feed(repeats, &record);
	return record.stack;
}

static void boundary(uint32_t thread, enum record_kind kind)
{
	struct record record = {.kind = (uint8_t)kind, .thread = thread, .flags = RECORD_F_ROOT};

	repeats_feed(repeats, &record);
}

/* A step of three allocations on @thread, of which the last but one has no operation; told or looked up. */
static void step(uint32_t thread, bool told, bool named)
{
	assert_int_equal(allocate(thread, 64, told ? NAMED(1) : 1, told), named ? NAMED(1) : 1);
	assert_int_equal(allocate(thread, 64, told ? NAMED(2) : 2, told), named ? NAMED(2) : 2);
	boundary(thread, RECORD_BACKWARD_END);
	assert_int_equal(allocate(thread, 8, 3, told), 3);
	assert_int_equal(allocate(thread, 64, told ? NAMED(1) : 1, told), named ? NAMED(1) : 1);
	boundary(thread, RECORD_OPTIMIZER_END);
}

static void test_alloc_when_all_has_happened_before_then_with_its_operation(void **state)
{
	step(1, false, false);
	step(1, true, true);
	step(1, false, true); /* began as the one that was told: behind OPTIMIZER_END */
	step(1, false, true);
}

/* Native frames 8 and 9 on top of stack 1 with its operation, and without. */
static void test_alloc_when_native_frames_follow_the_operation_then_with_it_too(void **state)
{
	const struct record stacks[] = {
	        {.kind = RECORD_DEF_STACK, .stack = 201, .scope = 8, .a = 1},
	        {.kind = RECORD_DEF_STACK, .stack = 202, .scope = 9, .a = 201},
	        {.kind = RECORD_DEF_STACK, .stack = 301, .scope = 8, .address = 7, .a = NAMED(1)},
	        {.kind = RECORD_DEF_STACK, .stack = 302, .scope = 9, .address = 7, .a = 301},
	};

	for (size_t i = 0; i < sizeof(stacks) / sizeof(stacks[0]); i++) {
		struct record record = stacks[i];

		repeats_feed(repeats, &record);
	}
	boundary(1, RECORD_OPTIMIZER_END);
	assert_int_equal(allocate(1, 64, 302, true), 302);
	boundary(1, RECORD_OPTIMIZER_END);
	assert_int_equal(allocate(1, 64, 202, false), 302);
	boundary(1, RECORD_OPTIMIZER_END);
	assert_int_equal(allocate(1, 64, 201, false), 201);
}

static void test_alloc_when_order_or_stack_differs_then_without(void **state)
{
	boundary(1, RECORD_OPTIMIZER_END);
	step(1, true, true);
	assert_int_equal(allocate(1, 64, 3, false), 3);
	assert_int_equal(allocate(1, 64, 2, false), 2); /* behind another */
	boundary(1, RECORD_OPTIMIZER_END);
	assert_int_equal(allocate(1, 64, 2, false), 2);
	boundary(1, RECORD_OPTIMIZER_END);
	assert_int_equal(allocate(1, 64, 4, false), 4);
	boundary(1, RECORD_BACKWARD_END); /* behind another boundary */
	assert_int_equal(allocate(1, 64, 1, false), 1);
	boundary(1, RECORD_OPTIMIZER_END);
	assert_int_equal(allocate(1, 64, 1, false), NAMED(1));
}

static void test_alloc_when_sizes_differ_then_those_that_agree_count_more(void **state)
{
	boundary(1, RECORD_OPTIMIZER_END);
	step(1, true, true);
	allocate(1, 65, 1, true); /* in another size by no operator */
	boundary(1, RECORD_OPTIMIZER_END);
	assert_int_equal(allocate(1, 64, 1, false), NAMED(1));
	boundary(1, RECORD_OPTIMIZER_END);
	assert_int_equal(allocate(1, 65, 1, false), 1);
	assert_int_equal(allocate(1, 66, 2, false), NAMED(2));
}

static void test_alloc_when_threads_take_turns_then_each_by_itself(void **state)
{
	boundary(1, RECORD_OPTIMIZER_END);
	boundary(2, RECORD_OPTIMIZER_END);
	step(1, true, true);
	assert_int_equal(allocate(1, 64, 1, false), NAMED(1));
	assert_int_equal(allocate(2, 64, 1, false), NAMED(1));
	assert_int_equal(allocate(2, 64, 2, false), NAMED(2));
	assert_int_equal(allocate(1, 64, 2, false), NAMED(2));
}

static void test_alloc_when_told_again_then_the_new_name_counts(void **state)
{
	boundary(1, RECORD_OPTIMIZER_END);
	allocate(1, 64, 1, true); /* none ran */
	boundary(1, RECORD_OPTIMIZER_END);
	assert_int_equal(allocate(1, 64, 1, false), 1);
	boundary(1, RECORD_OPTIMIZER_END);
	assert_int_equal(allocate(1, 64, NAMED(1), true), NAMED(1));
	boundary(1, RECORD_OPTIMIZER_END);
	assert_int_equal(allocate(1, 64, 1, false), NAMED(1));
}

static void test_known_when_steps_repeat_then_until_one_differs(void **state)
{
	assert_false(repeats_all_known(repeats));
	step(1, true, true);
	step(1, true, true); /* behind OPTIMIZER_END for the first time */
	for (int i = 0; i < 3; i++)
		step(1, true, true);
	assert_false(repeats_all_known(repeats));
	step(1, true, true);
	assert_true(repeats_all_known(repeats));
	step(1, false, true);
	assert_true(repeats_all_known(repeats));
	allocate(1, 4096, 4, false);
	assert_true(repeats_all_known(repeats)); /* decided at boundaries */
	boundary(1, RECORD_OPTIMIZER_END);
	assert_false(repeats_all_known(repeats));
	for (int i = 0; i < 5; i++)
		step(1, true, true);
	assert_true(repeats_all_known(repeats));
}

static void test_known_when_nothing_ever_repeats_then_mostly(void **state)
{
	uint64_t nr_known = 0, nr = 4000000;

	for (uint64_t i = 0, random = 1; i < nr; i++) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		allocate(1, 64, random >> 60, !repeats_all_known(repeats));
		if (i % 100 == 99)
			boundary(1, RECORD_OPTIMIZER_END);
		nr_known += repeats_all_known(repeats);
	}
	assert_in_range(nr_known, nr * 9 / 10, nr - nr / 32);
}

static void test_feed_when_stacks_are_damaged_then_ignored(void **state)
{
	struct record define = {.kind = RECORD_DEF_STACK, .stack = UINT32_MAX, .address = 7, .a = UINT64_MAX};

	repeats_feed(repeats, &define);
	define.stack = 5;
	repeats_feed(repeats, &define);
	assert_int_equal(allocate(1, 64, UINT32_MAX, true), UINT32_MAX);
	assert_int_equal(allocate(UINT32_MAX, 0, 5, true), 5);
	repeats_free(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_alloc_when_all_has_happened_before_then_with_its_operation),
	        TEST(test_alloc_when_native_frames_follow_the_operation_then_with_it_too),
	        TEST(test_alloc_when_order_or_stack_differs_then_without),
	        TEST(test_alloc_when_sizes_differ_then_those_that_agree_count_more),
	        TEST(test_alloc_when_threads_take_turns_then_each_by_itself),
	        TEST(test_alloc_when_told_again_then_the_new_name_counts),
	        TEST(test_known_when_steps_repeat_then_until_one_differs),
	        TEST(test_known_when_nothing_ever_repeats_then_mostly),
	        TEST(test_feed_when_stacks_are_damaged_then_ignored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
