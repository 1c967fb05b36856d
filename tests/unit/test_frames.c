/*
 * Reading frames on structures made by hand: hook/frames.c.  That real interpreters look so is tested in tests/frames.
 */
#include "hook/frames.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fake_python.h"

/* ---- line tables, recorded from compile() and co_linetable of 3.10.13 and 3.11.7 */

/* def f(x):\n  a = (x +\n\n    1)\n  return a */
static const unsigned char deltas[] = {2, 1, 2, 2, 2, 0xfe, 2, 3};

static void test_line_by_deltas_when_lines_go_back_then_followed(void **state)
{
	static const uint32_t wanted[] = {2, 4, 2, 5};

	for (int32_t offset = 0; offset < 8; offset++)
		assert_int_equal(frames_line_by_deltas(deltas, sizeof(deltas), 1, offset), wanted[offset / 2]);
	assert_int_equal(frames_line_by_deltas(deltas, sizeof(deltas), 1, -2), 1);
	assert_int_equal(frames_line_by_deltas(deltas, sizeof(deltas), 1, 8), 0);
}

static void test_line_by_deltas_when_128_then_no_line_and_nothing_added(void **state)
{
	static const unsigned char table[] = {4, 1, 2, 0x80, 2, 1, 0, 100, 254, 0};

	assert_int_equal(frames_line_by_deltas(table, sizeof(table), 10, 2), 11);
	assert_int_equal(frames_line_by_deltas(table, sizeof(table), 10, 4), 0);
	assert_int_equal(frames_line_by_deltas(table, sizeof(table), 10, 6), 12);
	assert_int_equal(frames_line_by_deltas(table, sizeof(table), 10, 8), 112); /* an empty range before it counts */
	assert_int_equal(frames_line_by_deltas(table, sizeof(table) - 1, 10, 8), 0);
}

static void test_line_by_locations_when_of_each_kind_then_followed(void **state)
{
	static const unsigned char table[] = {
	        0x80, /* short 0, one unit: the line stays */
	        0x12, /* its columns */
	        0x80 | 11 << 3 | 1,
	        3,
	        9, /* one line further, two units */
	        0x80 | 14 << 3,
	        0x46,
	        0x01,
	        0,
	        1,
	        2, /* long: 6 | 1 << 6 = 70: 35 lines further */
	        0x80 | 13 << 3,
	        0x05,               /* no columns: 2 lines back */
	        0x80 | 15 << 3 | 7, /* none, eight units */
	        0x80 | 12 << 3,
	        1,
	        2, /* two lines further */
	};
	static const uint32_t wanted[] = {20, 21, 21, 56, 54, 0, 0, 0, 0, 0, 0, 0, 0, 56, 0};

	for (int32_t unit = 0; unit < 15; unit++)
		assert_int_equal(frames_line_by_locations(table, sizeof(table), 20, unit * 2), wanted[unit]);
	assert_int_equal(frames_line_by_locations(table, sizeof(table), 20, -2), 20);
}

static void test_line_by_locations_when_table_is_damaged_then_it_ends(void **state)
{
	unsigned char table[64];

	srand(1);
	for (int round = 0; round < 20000; round++) {
		unsigned char *copy;
		size_t size = (size_t)rand() % sizeof(table);

		for (size_t i = 0; i < size; i++)
			table[i] = (unsigned char)rand();
		copy = malloc(size + !size); /* so that a sanitizer sees what lies behind it */
		memcpy(copy, table, size);
		frames_line_by_locations(copy, size, 1, rand() % 1000);
		frames_line_by_deltas(copy, size, 1, rand() % 1000);
		free(copy);
	}
}

/* ---- frames */

static uint32_t walk(struct world *world, struct frames_mark marks[FRAMES_MAX], bool *cut)
{
	struct frames_mark careful[FRAMES_MAX];
	bool careful_cut;
	uint32_t nr = frames_walk(&world->layout, world->thread, marks, cut);

	assert_int_equal(frames_walk_carefully(&world->layout, world->thread, careful, &careful_cut), nr);
	assert_int_equal(careful_cut, *cut);
	return nr;
}

static void test_walk_when_frames_are_whole_then_all_innermost_first(void **state)
{
	struct frames_mark marks[FRAMES_MAX];
	char words[64];
	bool cut;

	for (uint32_t minor = 11; minor <= 12; minor++) {
		struct world *world = make_world(minor, 3);
		const char *at = world->code.bytes + world->layout.code_bytes + 10;

		put_pointer(world->frames[1].bytes, world->layout.frame_instruction, at);
		assert_int_equal(walk(world, marks, &cut), 3);
		assert_false(cut);
		assert_ptr_equal(marks[0].code, &world->code);
		assert_int_equal(marks[0].offset, 2);
		assert_int_equal(marks[1].offset, 10);
		assert_int_equal(frames_line(&world->layout, &marks[0]), 31);
		assert_int_equal(frames_file(&world->layout, marks[0].code, words, sizeof(words)), 12);
		assert_string_equal(words, "/dir/file.py");
		assert_int_equal(frames_function(&world->layout, marks[0].code, words, sizeof(words)), 11);
		assert_string_equal(words, "Net.forward");
		assert_int_equal(frames_function(&world->layout, marks[0].code, words, 4), 3);
		assert_string_equal(words, "Net");
		free(world);
	}
}

static void test_walk_when_no_frame_then_none(void **state)
{
	struct frames_mark marks[FRAMES_MAX];
	struct world *world = make_world(11, 0);
	bool cut = true;

	assert_int_equal(walk(world, marks, &cut), 0);
	assert_false(cut);
	free(world);
}

static void test_walk_when_a_frame_is_not_complete_then_left_out(void **state)
{
	struct world *world = make_world(11, 3);
	struct frames_mark marks[FRAMES_MAX];
	bool cut;

	put(world->code.bytes, world->layout.code_first_traceable, &(int32_t){2}, 4);
	assert_int_equal(walk(world, marks, &cut), 0);
	world->frames[1].bytes[world->layout.frame_owner] = 1; /* a generator's is always complete */
	assert_int_equal(walk(world, marks, &cut), 1);
	free(world);
}

static void test_walk_when_frames_are_the_interpreters_own_then_left_out(void **state)
{
	struct world *world = make_world(12, 4);
	struct frames_mark marks[FRAMES_MAX];
	bool cut;

	world->frames[0].bytes[world->layout.frame_owner] = 3;                       /* on the C stack */
	put_pointer(world->frames[0].bytes, world->layout.frame_code, NULL);         /* what lies there is not looked at */
	put_pointer(world->frames[2].bytes, world->layout.frame_code, &world->file); /* no code object */
	assert_int_equal(walk(world, marks, &cut), 2);
	free(world);
}

static void test_walk_when_deeper_than_the_limit_then_cut(void **state)
{
	struct frames_mark marks[FRAMES_MAX];
	bool cut;

	for (uint32_t nr = FRAMES_MAX - 1; nr <= FRAMES_MAX + 1; nr++) {
		struct world *world = make_world(12, nr);

		assert_int_equal(walk(world, marks, &cut), nr < FRAMES_MAX ? nr : FRAMES_MAX);
		assert_int_equal(cut, nr > FRAMES_MAX);
		free(world);
	}
}

static void test_walk_when_frames_run_in_a_circle_then_it_ends(void **state)
{
	struct world *world = make_world(12, 3);
	struct frames_mark marks[FRAMES_MAX];
	bool cut;

	put_pointer(world->frames[2].bytes, world->layout.frame_previous, &world->frames[0]);
	for (int i = 0; i < 3; i++)
		world->frames[i].bytes[world->layout.frame_owner] = 3;
	assert_int_equal(walk(world, marks, &cut), 0);
	assert_true(cut);
	free(world);
}

static void test_walk_carefully_when_a_pointer_leads_nowhere_then_an_error(void **state)
{
	struct world *world = make_world(11, 3);
	struct frames_mark marks[FRAMES_MAX];
	bool cut;

	put_pointer(world->frames[1].bytes, world->layout.frame_previous, (const void *)16);
	assert_int_equal(frames_walk_carefully(&world->layout, world->thread, marks, &cut), -1);
	free(world);
}

static struct frames_fact fact_of(const struct world *world)
{
	return (struct frames_fact){.code = &world->code,
	                            .filename = &world->file,
	                            .name = &world->function,
	                            .linetable = &world->table,
	                            .first_line = 30,
	                            .line = 31,
	                            .file = "/dir/file.py",
	                            .function = "Net.forward"};
}

static void test_check_when_all_agrees_then_true_and_when_anything_differs_then_false(void **state)
{
	struct world *world = make_world(11, 2);
	const struct frames_fact right = fact_of(world);
	struct frames_fact facts[3] = {right, right, right};

	assert_true(frames_check(&world->layout, world->thread, facts, 2));
	assert_false(frames_check(&world->layout, world->thread, facts, 1));
	assert_false(frames_check(&world->layout, world->thread, facts, 3));
	assert_false(frames_check(&world->layout, world->thread, facts, 0));
#define WRONG(field, value)                                                                                                      \
	do {                                                                                                                     \
		facts[1] = right;                                                                                                \
		facts[1].field = (value);                                                                                        \
		assert_false(frames_check(&world->layout, world->thread, facts, 2));                                             \
	} while (0)
	WRONG(code, &world->file);
	WRONG(filename, &world->function);
	WRONG(name, &world->file);
	WRONG(linetable, &world->file);
	WRONG(first_line, 29);
	WRONG(line, 30);
	WRONG(file, "/dir/file.p");
	WRONG(function, "Net.backward");
#undef WRONG
	free(world);
}

static void test_file_when_not_ascii_then_utf8(void **state)
{
	struct world *world = make_world(12, 1);
	char words[32];

	make_text(&world->file, &world->layout, 1, false, "\xe9t\xe9", 3);
	frames_file(&world->layout, world->code.bytes, words, sizeof(words));
	assert_string_equal(words, "\xc3\xa9t\xc3\xa9");
	make_text(&world->file, &world->layout, 2, false, (const uint16_t[]){0x65e5, 0xdc80, 'x'}, 3);
	frames_file(&world->layout, world->code.bytes, words, sizeof(words));
	assert_string_equal(words, "\xe6\x97\xa5\xef\xbf\xbdx");
	make_text(&world->file, &world->layout, 4, false, (const uint32_t[]){0x1f600, 0, 'x'}, 3);
	frames_file(&world->layout, world->code.bytes, words, sizeof(words));
	assert_string_equal(words, "\xf0\x9f\x98\x80 x");
	assert_int_equal(frames_file(&world->layout, world->code.bytes, words, 4), 0); /* no half characters */
	free(world);
}

static void test_proof_when_anything_of_the_code_differs_then_another(void **state)
{
	struct world *world = make_world(11, 1);
	unsigned char table[300] = {0};
	uint64_t proof;

	for (size_t size = 1; size <= 128; size++) {
		make_table(world, table, size);
		proof = frames_proof(&world->layout, world->code.bytes);
		assert_true(proof == frames_proof(&world->layout, world->code.bytes));
		for (size_t i = 0; i < size; i++) {
			world->table.bytes[32 + i] ^= 1;
			assert_true(proof != frames_proof(&world->layout, world->code.bytes));
			world->table.bytes[32 + i] ^= 1;
		}
	}
	make_table(world, table, sizeof(table));
	proof = frames_proof(&world->layout, world->code.bytes);
	world->table.bytes[32 + sizeof(table) - 1] ^= 1;
	assert_true(proof != frames_proof(&world->layout, world->code.bytes));
	world->table.bytes[32 + sizeof(table) - 1] ^= 1;
	put(world->code.bytes, world->layout.code_first_line, &(uint32_t){31}, 4);
	assert_true(proof != frames_proof(&world->layout, world->code.bytes));
	put(world->code.bytes, world->layout.code_first_line, &(uint32_t){30}, 4);
	for (size_t length = 1; length <= 32; length++) { /* the objects are the same, what is in them is not */
		static const char characters[33] = "0123456789abcdefghijklmnopqrstu!";

		make_text(&world->file, &world->layout, 1, true, characters, length);
		proof = frames_proof(&world->layout, world->code.bytes);
		for (size_t i = 0; i < length; i++) {
			world->file.bytes[world->layout.text_ascii + i] ^= 1;
			assert_true(proof != frames_proof(&world->layout, world->code.bytes));
			world->file.bytes[world->layout.text_ascii + i] ^= 1;
		}
		world->function.bytes[24] ^= 1; /* its hash */
		assert_true(proof != frames_proof(&world->layout, world->code.bytes));
		world->function.bytes[24] ^= 1;
		assert_true(proof == frames_proof(&world->layout, world->code.bytes));
	}
	put_pointer(world->code.bytes, world->layout.code_name, &world->file);
	assert_true(proof != frames_proof(&world->layout, world->code.bytes));
	free(world);
}

static void test_layout_when_version_is_not_known_then_none(void **state)
{
	struct frames_layout layout;
	uint64_t runtime[128] = {0};

	for (uint32_t minor = 0; minor < 10; minor++)
		assert_false(frames_layout_of(minor, runtime, &code_type, &layout));
	assert_false(frames_layout_of(14, runtime, &code_type, &layout));
	assert_false(frames_layout_of(11, runtime, NULL, &layout));
	assert_false(frames_layout_of(13, NULL, &code_type, &layout));
	assert_false(frames_layout_of(13, runtime, &code_type, &layout)); /* no cookie */
	memcpy(runtime, "xdebugpy", 8);
	runtime[1] = 0x030d00f0;
	runtime[65] = 16;
	runtime[66] = 32;
	assert_true(frames_layout_of(13, runtime, &code_type, &layout));
	runtime[2] = 1; /* free-threaded */
	assert_false(frames_layout_of(13, runtime, &code_type, &layout));
	runtime[2] = 0;
	runtime[1] = 0x030e00f0;
	assert_false(frames_layout_of(13, runtime, &code_type, &layout));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_line_by_deltas_when_lines_go_back_then_followed),
	        cmocka_unit_test(test_line_by_deltas_when_128_then_no_line_and_nothing_added),
	        cmocka_unit_test(test_line_by_locations_when_of_each_kind_then_followed),
	        cmocka_unit_test(test_line_by_locations_when_table_is_damaged_then_it_ends),
	        cmocka_unit_test(test_walk_when_frames_are_whole_then_all_innermost_first),
	        cmocka_unit_test(test_walk_when_no_frame_then_none),
	        cmocka_unit_test(test_walk_when_a_frame_is_not_complete_then_left_out),
	        cmocka_unit_test(test_walk_when_frames_are_the_interpreters_own_then_left_out),
	        cmocka_unit_test(test_walk_when_deeper_than_the_limit_then_cut),
	        cmocka_unit_test(test_walk_when_frames_run_in_a_circle_then_it_ends),
	        cmocka_unit_test(test_walk_carefully_when_a_pointer_leads_nowhere_then_an_error),
	        cmocka_unit_test(test_check_when_all_agrees_then_true_and_when_anything_differs_then_false),
	        cmocka_unit_test(test_file_when_not_ascii_then_utf8),
	        cmocka_unit_test(test_proof_when_anything_of_the_code_differs_then_another),
	        cmocka_unit_test(test_layout_when_version_is_not_known_then_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
