/* What grows from step to step, on runs made by hand: 1000 records a training step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "run_builder.h"

#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEP_RECORDS 1000

static char folder[] = "/tmp/nnmem-test-growth-XXXXXX";
static char path[64];
static int next_block;

static int make_folder(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/run.db", folder);
	return 0;
}

static int remove_folder(void **state)
{
	unlink(path);
	return rmdir(folder);
}

static sqlite3 *begin_run(unsigned nr_steps)
{
	sqlite3 *db = builder_create(path);

	next_block = 0;
	builder_exec(db, "BEGIN");
	builder_exec(db, "INSERT INTO device VALUES (%d, 'cpu', 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0)", BUILDER_CPU);
	builder_exec(db, "INSERT INTO module VALUES (1, 1, 0, '', 'Net', 'Net'), (2, 1, 1, 'fc', 'Linear', 'Net')");
	builder_exec(db, "INSERT INTO frame VALUES (1, 0, '/train.py', 'step', 31, 0, NULL, NULL), (2, 1, '', 'aten::relu', 0, "
	                 "0, NULL, NULL)");
	builder_exec(db, "INSERT INTO stack VALUES (1, 0, 1, 1, 0), (2, 1, 2, 1, 2)");
	for (unsigned step = 0; step <= nr_steps; step++)
		builder_exec(db, "INSERT INTO step VALUES (%u, %u, 1, %u, %u, 0, 0)", step, step ? STEP_TRAIN : STEP_SETUP,
		             step * STEP_RECORDS + 1, (step + 1) * STEP_RECORDS);
	return db;
}

/* A block of layer fc born in @step; @free_step 0: never freed. */
static void add(sqlite3 *db, unsigned step, unsigned free_step, long long size_bytes)
{
	int id = ++next_block;

	builder_exec(db,
	             BUILDER_ALLOCATION "(%d, %d, 0, %d, %lld, %u, 0, nullif(%u, 0), 0, 1, 0, %u, 0, 1, NULL, 5, 0, "
	                                "2, 0, 2, 0, 0, 0)",
	             id, BUILDER_CPU, id, size_bytes, step * STEP_RECORDS + 1 + (unsigned)id % 100,
	             free_step ? free_step * STEP_RECORDS + 500 : 0, step);
}

static void end_run(sqlite3 *db)
{
	builder_exec(db, "COMMIT");
	sqlite3_close(db);
}

struct answer {
	struct store_growth_steps steps;
	struct store_growth first;
	char layer[32], line[64], operation[32];
	unsigned nr;
};

static int each(const struct store_growth *row, void *arg)
{
	struct answer *answer = arg;

	if (answer->nr++ == 0) {
		answer->first = *row;
		snprintf(answer->layer, sizeof(answer->layer), "%s", row->layer ? row->layer : "none");
		snprintf(answer->line, sizeof(answer->line), "%s", row->line ? row->line : "none");
		snprintf(answer->operation, sizeof(answer->operation), "%s", row->operation ? row->operation : "none");
	}
	return 0;
}

static struct answer ask(const struct store_filter *filter)
{
	struct store *store = NULL;
	struct store_error error = {""};
	struct answer answer = {.nr = 0};

	if (store_open(path, &store, &error))
		fail_msg("%s", error.message);
	if (store_each_growth(store, BUILDER_CPU, filter, &answer.steps, each, &answer))
		fail_msg("%s", store_message(store));
	store_close(store);
	return answer;
}

static void test_each_growth_when_each_step_keeps_two_blocks_then_the_rate_and_where(void **state)
{
	static const struct store_filter large = {
	        .phases = UINT32_MAX, .categories = UINT32_MAX, .step = UINT64_MAX, .min_size_bytes = 50};
	sqlite3 *db = begin_run(20);

	for (unsigned step = 1; step <= 20; step++) {
		add(db, step, step == 20 ? 20 : 0, 100);
		add(db, step, 20, 40);
	}
	end_run(db);
	struct answer answer = ask(NULL);

	assert_int_equal(answer.nr, 1);
	assert_int_equal(answer.first.kind, GROWTH_KEPT);
	assert_int_equal(answer.first.bytes_per_step, 140);
	assert_int_equal(answer.first.nr_steps, 16); /* 3 to 18 */
	assert_int_equal(answer.first.nr_blocks, 32);
	assert_int_equal(answer.first.bytes, 16 * 140);
	assert_int_equal(answer.first.since_step, 1);
	assert_int_equal(answer.first.fit_percent, 100);
	assert_string_equal(answer.layer, "fc");
	assert_string_equal(answer.line, "/train.py:31 (step)");
	assert_string_equal(answer.operation, "aten::relu");
	assert_int_equal(answer.steps.nr_training, 20);
	assert_int_equal(answer.steps.first_step, 3);
	assert_int_equal(answer.steps.last_step, 19);
	assert_int_equal(ask(&large).first.bytes_per_step, 100);
}

static void test_each_growth_when_it_begins_late_then_since_that_step(void **state)
{
	sqlite3 *db = begin_run(40);

	for (unsigned step = 25; step <= 40; step++)
		add(db, step, 0, 8);
	end_run(db);
	struct answer answer = ask(NULL);

	assert_int_equal(answer.nr, 1);
	assert_int_equal(answer.first.since_step, 25);
	assert_int_equal(answer.first.bytes_per_step, 8);
}

static void test_each_growth_when_blocks_only_live_into_the_next_steps_then_nothing(void **state)
{
	/* Each block is freed so many steps later: a variable, a queue. */
	for (unsigned later = 1; later <= 4; later++) {
		sqlite3 *db = begin_run(20);
		uint64_t random = later;

		for (unsigned step = 1; step <= 20; step++)
			add(db, step, step + later <= 20 ? step + later : 0, (long long)(8 + builder_random(&random) % 1000));
		end_run(db);
		assert_int_equal(ask(NULL).nr, 0);
	}
}

static void test_each_growth_when_only_the_first_steps_keep_then_nothing(void **state)
{
	sqlite3 *db = begin_run(20);

	for (unsigned step = 0; step <= 2; step++)
		add(db, step, 0, 100);
	add(db, 9, 0, 100); /* and once something that is made when first needed */
	end_run(db);
	assert_int_equal(ask(NULL).nr, 0);
}

static void test_each_growth_when_lengths_are_random_then_nothing(void **state)
{
	for (uint64_t seed = 1; seed <= 50; seed++) {
		unsigned nr_steps = 5 + (unsigned)(seed % 20);
		sqlite3 *db = begin_run(nr_steps);
		uint64_t random = seed;

		for (unsigned step = 1; step <= nr_steps; step++) {
			long long length = (long long)(1 + builder_random(&random) % 500);

			for (int i = 0; i < 4; i++)
				add(db, step, step, 64 * length); /* activations */
			add(db, step, step < nr_steps ? step + 1 : 0, 8 * length);
		}
		end_run(db);
		assert_int_equal(ask(NULL).nr, 0);
	}
}

/* @others: bytes that each step allocates besides, for each of its number. */
static struct answer ask_replaced(long long others)
{
	sqlite3 *db = begin_run(12);

	for (unsigned step = 1; step <= 12; step++) {
		add(db, step, step < 12 ? step + 1 : 0, 100 * step);
		if (others)
			add(db, step, step, others * step);
	}
	end_run(db);
	return ask(NULL);
}

static void test_each_growth_when_a_block_is_replaced_by_a_larger_one_then_replaced(void **state)
{
	struct answer answer = ask_replaced(0);

	assert_int_equal(answer.nr, 1);
	assert_int_equal(answer.first.kind, GROWTH_REPLACED);
	assert_int_equal(answer.first.bytes_per_step, 100);
	assert_int_equal(answer.first.nr_blocks, 1);
	assert_int_equal(answer.first.fit_percent, 100);
}

static void test_each_growth_when_whole_steps_grow_much_more_then_explained_by_them(void **state)
{
	struct answer answer = ask_replaced(2000);

	assert_int_equal(answer.nr, 1);
	assert_int_equal(answer.first.kind, GROWTH_WITH_STEPS);
}

static void test_each_growth_when_the_steps_are_few_then_not_enough(void **state)
{
	for (unsigned nr_steps = 0; nr_steps < 5; nr_steps++) {
		sqlite3 *db = begin_run(nr_steps);

		for (unsigned step = 1; step <= nr_steps; step++)
			add(db, step, 0, 100);
		end_run(db);
		struct answer answer = ask(NULL);

		assert_false(answer.steps.enough);
		assert_int_equal(answer.nr, 0);
		assert_int_equal(answer.steps.nr_training, nr_steps);
	}
}

static void test_each_growth_when_there_are_many_steps_then_the_same_rate(void **state)
{
	sqlite3 *db = begin_run(1000);

	for (unsigned step = 1; step <= 1000; step++)
		add(db, step, 0, 12);
	end_run(db);
	struct answer answer = ask(NULL);

	assert_int_equal(answer.nr, 1);
	assert_int_equal(answer.first.bytes_per_step, 12);
	assert_int_equal(answer.first.since_step, 1);
	assert_in_range(answer.first.nr_steps, 900, 999);
}

static void test_each_growth_when_values_are_out_of_range_then_said_or_survived(void **state)
{
	static const char *const damages[] = {
	        "UPDATE step SET end_seq = 9223372036854775807, start_seq = 9223372036854775807",
	        "UPDATE step SET end_seq = 20000 - end_seq",
	        "UPDATE allocation SET size_bytes = 9223372036854775807",
	        "UPDATE allocation SET free_seq = 1",
	        "UPDATE allocation SET phase = 77",
	        "UPDATE allocation SET size_bytes = 'many'",
	        "UPDATE allocation SET stack = 99, module = 99",
	        "UPDATE step SET end_seq = 'x'",
	};

	for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
		struct store *store = NULL;
		struct store_error error = {""};
		struct answer answer = {.nr = 0};
		sqlite3 *db = begin_run(9);

		for (unsigned step = 1; step <= 9; step++)
			add(db, step, 0, 12);
		builder_exec(db, damages[i]);
		end_run(db);
		assert_int_equal(store_open(path, &store, &error), 0);
		int r = store_each_growth(store, BUILDER_CPU, NULL, &answer.steps, each, &answer);

		if (r) {
			assert_int_equal(r, -EBADMSG);
			assert_non_null(strstr(store_message(store), "is damaged"));
		}
		store_close(store);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_each_growth_when_each_step_keeps_two_blocks_then_the_rate_and_where),
	        cmocka_unit_test(test_each_growth_when_it_begins_late_then_since_that_step),
	        cmocka_unit_test(test_each_growth_when_blocks_only_live_into_the_next_steps_then_nothing),
	        cmocka_unit_test(test_each_growth_when_only_the_first_steps_keep_then_nothing),
	        cmocka_unit_test(test_each_growth_when_lengths_are_random_then_nothing),
	        cmocka_unit_test(test_each_growth_when_a_block_is_replaced_by_a_larger_one_then_replaced),
	        cmocka_unit_test(test_each_growth_when_whole_steps_grow_much_more_then_explained_by_them),
	        cmocka_unit_test(test_each_growth_when_the_steps_are_few_then_not_enough),
	        cmocka_unit_test(test_each_growth_when_there_are_many_steps_then_the_same_rate),
	        cmocka_unit_test(test_each_growth_when_values_are_out_of_range_then_said_or_survived),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
