/*
 * The table of known objects in hook/python.c, which is included to reach it; everything that needs an interpreter is
 * tested in tests/adapter.  No interpreter is in this process, so the constructor finds nothing.
 */
#include "hook/python.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* ---- the hook and the source, which nothing here reaches */

const char nnmem_adapter_source[] = "";

bool hook_is_on(void)
{
	return true;
}

enum hook_state hook_current_state(void)
{
	return HOOK_UP;
}

bool hook_in_module(void)
{
	return false;
}

bool hook_in_backward(void)
{
	return false;
}

uint32_t hook_current_module(void)
{
	return 0;
}

void hook_module_enter(uint32_t module, bool root, bool grad, bool training)
{
}

void hook_module_leave(void)
{
}

void hook_optimizer_begin(uint32_t optimizer)
{
}

void hook_optimizer_end(void)
{
}

void hook_scaler_update(void)
{
}

void hook_input(uint64_t storage, uint64_t size_bytes, bool requires_grad)
{
}

void hook_gradient(uint32_t number, uint64_t address)
{
}

void hook_define(const struct record *record, const char *text, uint32_t text_bytes)
{
}

void hook_note(uint8_t *once, enum record_severity severity, const char *format, ...)
{
}

bool hook_wants_stacks(void)
{
	return false;
}

void hook_stacks_start(const struct frames_layout *layout, const char *torch, const char *library)
{
}

/* ---- the table */

static void clear_table(void)
{
	free(table);
	table = NULL;
	table_size = table_used = 0;
}

static void test_table_find_when_empty_then_finds_nothing(void **state)
{
	assert_null(table_find(16));
	assert_null(table_remove(16));
}

static void test_table_put_when_known_then_keeps_the_reference(void **state)
{
	PyObject *ref = (PyObject *)(uintptr_t)0x100;

	table_put(32, 1)->ref = ref;
	assert_ptr_equal(table_put(32, 2)->ref, ref);
	assert_int_equal(table_find(32)->id, 2);
	assert_int_equal(table_used, 1);
	assert_ptr_equal(table_remove(32), ref);
	assert_null(table_find(32));
	clear_table();
}

static void test_table_when_addresses_come_and_go_then_equals_an_array(void **state)
{
	enum { NR_ADDRESSES = 600, NR_CHANGES = 200000 };
	static uint32_t expected[NR_ADDRESSES];
	uint32_t random = 1;

	for (uint32_t change = 1; change <= NR_CHANGES; change++) {
		uint32_t which;
		uintptr_t address;

		random = random * 1664525u + 1013904223u;
		which = (random >> 8) % NR_ADDRESSES;
		address = 0x7f0000000000u + (uintptr_t)which * 16;
		if (random >> 31) {
			assert_non_null(table_put(address, change));
			expected[which] = change;
		} else {
			table_remove(address);
			expected[which] = 0;
		}
		if (change % 1000 && change > 3000)
			continue;
		for (uint32_t i = 0; i < NR_ADDRESSES; i++) {
			const struct known *known = table_find(0x7f0000000000u + (uintptr_t)i * 16);

			assert_int_equal(known ? known->id : 0, expected[i]);
		}
	}
	assert_true(table_used * 2 <= table_size);
	clear_table();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_table_find_when_empty_then_finds_nothing),
	        cmocka_unit_test(test_table_put_when_known_then_keeps_the_reference),
	        cmocka_unit_test(test_table_when_addresses_come_and_go_then_equals_an_array),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
