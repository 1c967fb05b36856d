/* What the user's own profiler is told: hook/forward.c. */
#include "hook/forward.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

static struct forward_table table;

static int set_up(void **state)
{
	table = (struct forward_table){0};
	return 0;
}

static int tear_down(void **state)
{
	if (table.memory)
		munmap((void *)(uintptr_t)table.memory, 2 * sizeof(uint64_t) * FORWARD_PLACES);
	return 0;
}

/* A report while the profiler is on.  Returns whether it is passed on. */
static bool report(uint64_t address, int64_t size_bytes, struct forward_report *ret)
{
	*ret = (struct forward_report){.address = address, .size_bytes = size_bytes, .total_bytes = 12345};
	if (forward_is_shared(&table, ret))
		return true;
	return forward_ordinary(&table, ret);
}

static void test_ordinary_when_allocated_while_on_then_passed_with_own_total(void **state)
{
	struct forward_report passed;

	assert_true(report(0x1000, 100, &passed));
	assert_int_equal(passed.size_bytes, 100);
	assert_int_equal(passed.total_bytes, 100);
	assert_true(report(0x2000, 50, &passed));
	assert_int_equal(passed.total_bytes, 150);
	assert_true(report(0x1000, -100, &passed));
	assert_int_equal(passed.size_bytes, -100);
	assert_int_equal(passed.total_bytes, 50);
	assert_int_equal(forward_total(&table), 50);
}

static void test_ordinary_when_block_is_older_than_the_session_then_its_free_is_not_passed(void **state)
{
	struct forward_report passed;

	assert_false(report(0x1000, -100, &passed));
	assert_true(report(0x2000, 50, &passed));
	assert_false(report(0x1000, -100, &passed));
	assert_int_equal(forward_total(&table), 50);
}

static void test_ordinary_when_freed_twice_then_passed_once(void **state)
{
	struct forward_report passed;

	assert_true(report(0x1000, 100, &passed));
	assert_true(report(0x1000, -100, &passed));
	assert_false(report(0x1000, -100, &passed));
}

/* The free came while the profiler was off, so PyTorch would still know the old size when the address returns. */
static void test_ordinary_when_address_returns_then_newest_size_and_total_keeps_the_old(void **state)
{
	struct forward_report passed;

	assert_true(report(0x1000, 100, &passed));
	assert_true(report(0x1000, 40, &passed));
	assert_int_equal(passed.total_bytes, 140);
	assert_true(report(0x1000, -40, &passed));
	assert_int_equal(passed.size_bytes, -40);
	assert_int_equal(passed.total_bytes, 100);
}

static void test_is_shared_when_total_is_0_then_passed_unchanged(void **state)
{
	struct forward_report mapped = {.address = 0x1000, .size_bytes = 100, .total_bytes = 0};

	assert_true(forward_is_shared(&table, &mapped));
	assert_true(mapped.shared);
	assert_int_equal(mapped.size_bytes, 100);
	mapped = (struct forward_report){.address = 0x1000, .size_bytes = -100, .total_bytes = 0};
	assert_true(forward_is_shared(&table, &mapped));
	assert_int_equal(mapped.size_bytes, -100);
	assert_int_equal(mapped.total_bytes, 0);
	assert_int_equal(forward_total(&table), 0);
	assert_false(forward_is_shared(&table, &mapped)); /* forgotten */
}

static void test_is_shared_when_the_last_ordinary_block_is_freed_then_not_shared(void **state)
{
	struct forward_report passed, last = {.address = 0x1000, .size_bytes = -100, .total_bytes = 0};

	assert_true(report(0x1000, 100, &passed));
	assert_false(forward_is_shared(&table, &last));
	assert_true(forward_ordinary(&table, &last));
	assert_int_equal(last.total_bytes, 0);
}

static void test_ordinary_when_many_blocks_then_all_are_remembered(void **state)
{
	struct forward_report passed;
	const uint64_t nr_blocks = 200000;

	for (uint64_t i = 1; i <= nr_blocks; i++)
		assert_true(report(i * 64, (int64_t)i, &passed));
	assert_int_equal(table.overflow, 0);
	for (uint64_t i = 1; i <= nr_blocks; i++) {
		assert_true(report(i * 64, -1, &passed));
		assert_int_equal(passed.size_bytes, -(int64_t)i);
	}
	assert_int_equal(forward_total(&table), 0);
}

static void test_ordinary_when_there_is_no_room_then_overflow_is_counted(void **state)
{
	struct forward_report passed;

	for (uint64_t i = 1; i <= FORWARD_PLACES + 1; i++)
		report(i * 64, 1, &passed);
	assert_true(table.overflow > 0);
	assert_int_equal(forward_total(&table), FORWARD_PLACES + 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	        TEST(test_ordinary_when_allocated_while_on_then_passed_with_own_total),
	        TEST(test_ordinary_when_block_is_older_than_the_session_then_its_free_is_not_passed),
	        TEST(test_ordinary_when_freed_twice_then_passed_once),
	        TEST(test_ordinary_when_address_returns_then_newest_size_and_total_keeps_the_old),
	        TEST(test_is_shared_when_total_is_0_then_passed_unchanged),
	        TEST(test_is_shared_when_the_last_ordinary_block_is_freed_then_not_shared),
	        TEST(test_ordinary_when_many_blocks_then_all_are_remembered),
	        TEST(test_ordinary_when_there_is_no_room_then_overflow_is_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
