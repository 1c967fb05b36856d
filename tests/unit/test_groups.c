/* Blocks added up by who they belong to. */
#include "report/groups.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct report report = {.utf8 = true};

static struct store_allocation block(const char *layer, const char *parameter, uint64_t size_bytes)
{
	static uint64_t id;

	return (struct store_allocation){
	        .id = ++id, .root = "Net", .layer = layer, .parameter = parameter, .size_bytes = size_bytes, .step = id};
}

static int add_one(struct groups *groups, const struct store_allocation *allocation)
{
	struct group *group = NULL;
	int error = groups_add(groups, allocation, GROUP_EQUAL, &group);

	assert_true(error || group || groups->nr == GROUPS_MAX);
	return error;
}

static void add(struct groups *groups, const char *layer, const char *parameter, uint64_t size_bytes)
{
	const struct store_allocation allocation = block(layer, parameter, size_bytes);

	assert_int_equal(add_one(groups, &allocation), 0);
}

static void test_groups_add_when_only_numbers_of_the_layer_differ_then_one_group(void **state)
{
	struct groups groups = {0};

	add(&groups, "encoder.layers.11.linear1", "encoder.layers.11.linear1.weight", 100);
	add(&groups, "encoder.layers.2.linear1", "encoder.layers.2.linear1.weight", 100);
	add(&groups, "encoder.layers.7.linear1", "encoder.layers.7.linear1.weight", 100);
	add(&groups, "encoder.layers.7.linear2", "encoder.layers.7.linear2.weight", 100);
	groups_sort(&groups, GROUP_EQUAL);
	assert_int_equal(groups.nr, 2);
	assert_int_equal(groups.nr_blocks, 4);
	assert_int_equal(groups.bytes, 400);
	assert_int_equal(groups.all[0]->nr_blocks, 3);
	assert_int_equal(groups.all[0]->bytes, 300);
	assert_string_equal(group_layer(&report, groups.all[0]), "encoder.layers.[2-11].linear1");
	assert_string_equal(group_tensor(&report, &groups.all[0]->first), "weight");
	assert_true(groups.all[0]->last_step - groups.all[0]->first_step == 2);
	assert_string_equal(group_layer(&report, groups.all[1]), "encoder.layers.7.linear2");
	groups_release(&groups);
}

static void test_groups_add_when_anything_else_differs_then_apart(void **state)
{
	struct groups groups = {0};
	struct store_allocation allocation = block("a.0", NULL, 100);

	assert_int_equal(add_one(&groups, &allocation), 0);
	allocation.size_bytes = 101;
	assert_int_equal(add_one(&groups, &allocation), 0);
	allocation.category = CATEGORY_GRADIENT;
	assert_int_equal(add_one(&groups, &allocation), 0);
	allocation.line = "train.py:3";
	assert_int_equal(add_one(&groups, &allocation), 0);
	allocation.operation = "aten::relu";
	assert_int_equal(add_one(&groups, &allocation), 0);
	allocation.parameter = "a.0.weight";
	assert_int_equal(add_one(&groups, &allocation), 0);
	allocation.state_key = "exp_avg";
	assert_int_equal(add_one(&groups, &allocation), 0);
	allocation.phase = PHASE_BACKWARD;
	assert_int_equal(add_one(&groups, &allocation), 0);
	allocation.root = "Net#2";
	assert_int_equal(add_one(&groups, &allocation), 0);
	allocation.layer = NULL;
	assert_int_equal(add_one(&groups, &allocation), 0);
	assert_int_equal(add_one(&groups, &allocation), 0);
	assert_int_equal(groups.nr, 10);
	groups_release(&groups);
}

static void test_groups_add_when_the_path_is_only_a_number_then_layers_stay_apart(void **state)
{
	struct groups groups = {0};

	add(&groups, "0", NULL, 100);
	add(&groups, "3", NULL, 100);
	groups_sort(&groups, GROUP_EQUAL);
	assert_int_equal(groups.nr, 2);
	assert_string_equal(group_layer(&report, groups.all[0]), "0");
	groups_release(&groups);
}

static void test_group_layer_when_hostile_then_never_more_than_fits(void **state)
{
	struct groups groups = {0};
	char path[4000];

	memset(path, '.', sizeof(path));
	for (size_t i = 0; i + 2 < sizeof(path); i += 2)
		path[i] = (char)('0' + i % 10);
	path[0] = 'a';
	path[sizeof(path) - 1] = '\0';
	add(&groups, path, NULL, 1);
	path[2] = '9';
	path[4] = '1';
	add(&groups, path, NULL, 1);
	add(&groups, "00.a.99999999999999999999.", NULL, 1);
	add(&groups, "..", "..x", 1);
	add(&groups, "", "", 1);
	groups_sort(&groups, GROUP_EQUAL);
	assert_int_equal(groups.nr, 4);
	for (size_t i = 0; i < groups.nr; i++) {
		assert_true(strlen(group_layer(&report, groups.all[i])) < SAFE_TEXT_MAX);
		assert_non_null(group_tensor(&report, &groups.all[i]->first));
	}
	assert_memory_equal(group_layer(&report, groups.all[0]), "a.[2-9].[1-4].6.8.", 18);
	groups_release(&groups);
}

static void test_groups_add_when_there_are_too_many_then_only_counted(void **state)
{
	struct groups groups = {0};

	for (uint64_t i = 0; i < GROUPS_MAX + 10; i++)
		add(&groups, "a", NULL, 1 + i);
	assert_int_equal(groups.nr, GROUPS_MAX);
	assert_int_equal(groups.nr_blocks, GROUPS_MAX + 10);
	groups_release(&groups);
}

static void test_groups_add_when_by_life_then_size_does_not_matter_but_the_end_does(void **state)
{
	struct groups groups = {0};
	struct store_allocation allocation = block("a.0", NULL, 100);
	struct group *first = NULL, *group = NULL;

	allocation.free_seq = 9;
	allocation.free_step = allocation.step;
	assert_int_equal(groups_add(&groups, &allocation, GROUP_LIVES, &first), 0);
	allocation.size_bytes = 7;
	assert_int_equal(groups_add(&groups, &allocation, GROUP_LIVES, &group), 0);
	assert_ptr_equal(group, first);
	assert_int_equal(first->bytes, 107);
	allocation.free_step++;
	assert_int_equal(groups_add(&groups, &allocation, GROUP_LIVES, &group), 0);
	assert_ptr_not_equal(group, first);
	group->idle_byte_ns = 5;
	allocation.free_phase = PHASE_OPTIMIZER;
	assert_int_equal(groups_add(&groups, &allocation, GROUP_LIVES, &group), 0);
	allocation.free_seq = 0;
	assert_int_equal(groups_add(&groups, &allocation, GROUP_LIVES, &group), 0);
	assert_int_equal(groups.nr, 4);
	groups_sort(&groups, GROUP_LIVES);
	assert_true(groups.all[0]->idle_byte_ns == 5 && groups.all[1] == first);
	groups_release(&groups);
}

static void test_short_line_when_in_a_folder_then_its_name_only(void **state)
{
	assert_string_equal(short_line(&report, "/home/u/train.py:12 (Net.forward)", true), "train.py:12 (Net.forward)");
	assert_string_equal(short_line(&report, "/home/u/train.py:12 (Net.forward)", false), "train.py:12");
	assert_string_equal(short_line(&report, "/home/a (b)/train.py:12 (f)", false), "train.py:12");
	assert_string_equal(short_line(&report, "x.py:1", true), "x.py:1");
	assert_string_equal(short_line(&report, NULL, true), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_groups_add_when_only_numbers_of_the_layer_differ_then_one_group),
	        cmocka_unit_test(test_groups_add_when_anything_else_differs_then_apart),
	        cmocka_unit_test(test_groups_add_when_the_path_is_only_a_number_then_layers_stay_apart),
	        cmocka_unit_test(test_group_layer_when_hostile_then_never_more_than_fits),
	        cmocka_unit_test(test_groups_add_when_there_are_too_many_then_only_counted),
	        cmocka_unit_test(test_groups_add_when_by_life_then_size_does_not_matter_but_the_end_does),
	        cmocka_unit_test(test_short_line_when_in_a_folder_then_its_name_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
