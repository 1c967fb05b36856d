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

/* Each module has a stack of its own, so that the two cannot be taken for each other. */
static struct nodes_origin made_by(uint32_t module)
{
	return (struct nodes_origin){.module = module, .stack = module + 1000};
}

static void test_find_when_made_then_its_module(void **state)
{
	struct nodes *nodes = new_nodes();
	struct nodes_origin origin = {0};

	nodes_made(nodes, 1, 10, made_by(7));
	nodes_made(nodes, 2, 10, made_by(8)); /* another thread's node of the same number */
	assert_true(nodes_find(nodes, 1, 10, &origin));
	assert_int_equal(origin.module, 7);
	assert_true(nodes_find(nodes, 2, 10, &origin));
	assert_int_equal(origin.module, 8);
	assert_int_equal(origin.stack, 1008);
	assert_false(nodes_find(nodes, 3, 10, &origin));
	assert_false(nodes_find(nodes, 1, 11, &origin));
	free(nodes);
}

static void test_find_when_nothing_was_made_then_unknown(void **state)
{
	struct nodes *nodes = new_nodes();
	struct nodes_origin origin;

	for (uint64_t thread = 0; thread < 8; thread++) {
		for (uint64_t number = 0; number < NODES_ENTRIES; number += 97)
			assert_false(nodes_find(nodes, thread, number, &origin));
	}
	free(nodes);
}

static void test_find_when_65536_nodes_are_alive_then_all_are_known(void **state)
{
	struct nodes *nodes = new_nodes();
	struct nodes_origin origin = {0};

	for (uint64_t number = 1000; number < 1000 + NODES_ENTRIES; number++)
		nodes_made(nodes, 5, number, made_by((uint32_t)(number % 999)));
	for (uint64_t number = 1000; number < 1000 + NODES_ENTRIES; number++) {
		assert_true(nodes_find(nodes, 5, number, &origin));
		assert_int_equal(origin.module, number % 999);
		assert_int_equal(origin.stack, number % 999 + 1000);
	}
	free(nodes);
}

static void test_find_when_overwritten_then_unknown_not_wrong(void **state)
{
	struct nodes *nodes = new_nodes();
	struct nodes_origin origin;

	nodes_made(nodes, 1, 10, made_by(7));
	nodes_made(nodes, 1, 10 + NODES_ENTRIES, made_by(8));
	assert_false(nodes_find(nodes, 1, 10, &origin));
	free(nodes);
}

static void test_made_when_module_id_is_too_big_then_no_module(void **state)
{
	struct nodes *nodes = new_nodes();
	struct nodes_origin origin = {0};

	nodes_made(nodes, 1, 10, made_by(NODES_MAX_MODULE + 1));
	assert_true(nodes_find(nodes, 1, 10, &origin));
	assert_int_equal(origin.module, 0);
	nodes_made(nodes, 1, 11, made_by(NODES_MAX_MODULE));
	assert_true(nodes_find(nodes, 1, 11, &origin));
	assert_int_equal(origin.module, NODES_MAX_MODULE);
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

	nodes_made(nodes, 1, 40, made_by(7));
	nodes_made(nodes, 1, 41, made_by(8));
	nodes_made(nodes, 2, 40, made_by(9));
	assert_int_equal(nodes_layout(nodes), NODES_LEARNING);
	assert_int_equal(nodes_origin(nodes, &first).module, 7);
	assert_int_equal(nodes_origin(nodes, &first).module, 7); /* the same node again proves nothing */
	assert_int_equal(nodes_layout(nodes), NODES_LEARNING);
	assert_int_equal(nodes_origin(nodes, &second).module, 8);
	assert_int_equal(nodes_layout(nodes), NODES_KNOWN);
	assert_true(nodes_is_numbered(nodes, &first));
	assert_false(nodes_is_numbered(nodes, &(struct fake_node){.words = {0, 1, UINT64_MAX, 3, 1, 1}}));
	assert_int_equal(nodes_origin(nodes, &of_other_thread).module, 9);
	assert_int_equal(nodes_origin(nodes, &of_other_thread).stack, 1009);
	assert_int_equal(nodes_origin(nodes, &unknown).module, 0);
	free(nodes);
}

static void test_module_when_node_has_no_number_then_nothing_is_learnt(void **state)
{
	struct nodes *nodes = new_nodes();
	struct fake_node accumulate = node(UINT64_MAX, 1);

	nodes_made(nodes, 1, 40, made_by(7));
	for (int i = 0; i < 10; i++)
		assert_int_equal(nodes_origin(nodes, &accumulate).module, 0);
	assert_true(nodes_is_numbered(nodes, &accumulate)); /* who knows */
	assert_int_equal(nodes_layout(nodes), NODES_LEARNING);
	free(nodes);
}

static void test_module_when_nothing_ever_fits_then_given_up(void **state)
{
	struct nodes *nodes = new_nodes();
	struct fake_node stranger = node(40, 1);

	for (unsigned i = 0; i < NODES_MAX_TRIES; i++)
		assert_int_equal(nodes_origin(nodes, &stranger).module, 0);
	assert_int_equal(nodes_layout(nodes), NODES_GIVEN_UP);
	nodes_made(nodes, 1, 40, made_by(7));
	assert_int_equal(nodes_origin(nodes, &stranger).module, 0);
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
