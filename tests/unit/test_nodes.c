/* From a node's number back to its module: hook/nodes.c. */
#include "hook/nodes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct nodes *new_nodes(void)
{
	struct nodes *nodes = calloc(1, sizeof(*nodes));

	assert_non_null(nodes);
	return nodes;
}

static void test_find_when_made_then_its_module(void **state)
{
	struct nodes *nodes = new_nodes();
	uint32_t module = 0;

	nodes_made(nodes, 1, 10, 7);
	nodes_made(nodes, 2, 10, 8); /* another thread's node of the same number */
	assert_true(nodes_find(nodes, 1, 10, &module));
	assert_int_equal(module, 7);
	assert_true(nodes_find(nodes, 2, 10, &module));
	assert_int_equal(module, 8);
	assert_false(nodes_find(nodes, 3, 10, &module));
	assert_false(nodes_find(nodes, 1, 11, &module));
	free(nodes);
}

static void test_find_when_nothing_was_made_then_unknown(void **state)
{
	struct nodes *nodes = new_nodes();
	uint32_t module;

	for (uint64_t thread = 0; thread < 8; thread++) {
		for (uint64_t number = 0; number < NODES_ENTRIES; number += 97)
			assert_false(nodes_find(nodes, thread, number, &module));
	}
	free(nodes);
}

static void test_find_when_65536_nodes_are_alive_then_all_are_known(void **state)
{
	struct nodes *nodes = new_nodes();
	uint32_t module = 0;

	for (uint64_t number = 1000; number < 1000 + NODES_ENTRIES; number++)
		nodes_made(nodes, 5, number, (uint32_t)(number % 999));
	for (uint64_t number = 1000; number < 1000 + NODES_ENTRIES; number++) {
		assert_true(nodes_find(nodes, 5, number, &module));
		assert_int_equal(module, number % 999);
	}
	free(nodes);
}

static void test_find_when_overwritten_then_unknown_not_wrong(void **state)
{
	struct nodes *nodes = new_nodes();
	uint32_t module;

	nodes_made(nodes, 1, 10, 7);
	nodes_made(nodes, 1, 10 + NODES_ENTRIES, 8);
	assert_false(nodes_find(nodes, 1, 10, &module));
	free(nodes);
}

static void test_made_when_module_id_is_too_big_then_no_module(void **state)
{
	struct nodes *nodes = new_nodes();
	uint32_t module = 1;

	nodes_made(nodes, 1, 10, NODES_MAX_MODULE + 1);
	assert_true(nodes_find(nodes, 1, 10, &module));
	assert_int_equal(module, 0);
	nodes_made(nodes, 1, 11, NODES_MAX_MODULE);
	assert_true(nodes_find(nodes, 1, 11, &module));
	assert_int_equal(module, NODES_MAX_MODULE);
	free(nodes);
}

/* A Node as 2.14.1 lays it out: vtable, reference count, number, topological number, has_parent, thread, ... */
struct fake_node {
	uint64_t words[NODES_WORDS];
};

static struct fake_node node(uint64_t number, uint64_t thread)
{
	return (struct fake_node){.words = {0x7f0000001000, 1, number, 3, 1, thread, 0, 0, 0x5500000000, 0x5500000010}};
}

static void test_module_when_two_nodes_agree_then_layout_is_known(void **state)
{
	struct nodes *nodes = new_nodes();
	struct fake_node first = node(40, 1), second = node(41, 1), of_other_thread = node(40, 2), unknown = node(500, 1);

	nodes_made(nodes, 1, 40, 7);
	nodes_made(nodes, 1, 41, 8);
	nodes_made(nodes, 2, 40, 9);
	assert_int_equal(nodes_layout(nodes), NODES_LEARNING);
	assert_int_equal(nodes_module(nodes, &first), 7);
	assert_int_equal(nodes_module(nodes, &first), 7); /* the same node again proves nothing */
	assert_int_equal(nodes_layout(nodes), NODES_LEARNING);
	assert_int_equal(nodes_module(nodes, &second), 8);
	assert_int_equal(nodes_layout(nodes), NODES_KNOWN);
	assert_int_equal(nodes_module(nodes, &of_other_thread), 9);
	assert_int_equal(nodes_module(nodes, &unknown), 0);
	free(nodes);
}

static void test_module_when_node_has_no_number_then_nothing_is_learnt(void **state)
{
	struct nodes *nodes = new_nodes();
	struct fake_node accumulate = node(UINT64_MAX, 1);

	nodes_made(nodes, 1, 40, 7);
	for (int i = 0; i < 10; i++)
		assert_int_equal(nodes_module(nodes, &accumulate), 0);
	assert_int_equal(nodes_layout(nodes), NODES_LEARNING);
	free(nodes);
}

static void test_module_when_nothing_ever_fits_then_given_up(void **state)
{
	struct nodes *nodes = new_nodes();
	struct fake_node stranger = node(40, 1);

	for (unsigned i = 0; i < NODES_MAX_TRIES; i++)
		assert_int_equal(nodes_module(nodes, &stranger), 0);
	assert_int_equal(nodes_layout(nodes), NODES_GIVEN_UP);
	nodes_made(nodes, 1, 40, 7);
	assert_int_equal(nodes_module(nodes, &stranger), 0);
	free(nodes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_find_when_made_then_its_module),
	        cmocka_unit_test(test_find_when_nothing_was_made_then_unknown),
	        cmocka_unit_test(test_find_when_65536_nodes_are_alive_then_all_are_known),
	        cmocka_unit_test(test_find_when_overwritten_then_unknown_not_wrong),
	        cmocka_unit_test(test_made_when_module_id_is_too_big_then_no_module),
	        cmocka_unit_test(test_module_when_two_nodes_agree_then_layout_is_known),
	        cmocka_unit_test(test_module_when_node_has_no_number_then_nothing_is_learnt),
	        cmocka_unit_test(test_module_when_nothing_ever_fits_then_given_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
