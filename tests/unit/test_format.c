/* How numbers, names and tables look. */
#include "report/format.h"
#include "report/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void test_format_count_when_long_then_groups_of_three(void **state)
{
	char buffer[FORMAT_MAX];

	assert_string_equal(format_count(0, buffer), "0");
	assert_string_equal(format_count(999, buffer), "999");
	assert_string_equal(format_count(1000, buffer), "1 000");
	assert_string_equal(format_count(124071760, buffer), "124 071 760");
	assert_string_equal(format_count(UINT64_MAX, buffer), "18 446 744 073 709 551 615");
}

static void test_format_delta_when_signed_then_sign_first(void **state)
{
	char buffer[FORMAT_MAX];

	assert_string_equal(format_delta(0, buffer), "0");
	assert_string_equal(format_delta(4096, buffer), "+4 096");
	assert_string_equal(format_delta(-12, buffer), "-12");
	assert_string_equal(format_delta(INT64_MIN, buffer), "-9 223 372 036 854 775 808");
}

static void test_format_bytes_when_large_then_unit_of_its_system(void **state)
{
	char buffer[FORMAT_MAX];

	assert_string_equal(format_bytes(UNITS_BINARY, 0, buffer), "0 bytes");
	assert_string_equal(format_bytes(UNITS_BINARY, 1, buffer), "1 byte");
	assert_string_equal(format_bytes(UNITS_BINARY, 1023, buffer), "1 023 bytes");
	assert_string_equal(format_bytes(UNITS_BINARY, 1024, buffer), "1.0 KiB");
	assert_string_equal(format_bytes(UNITS_BINARY, 124071760, buffer), "118.3 MiB");
	assert_string_equal(format_bytes(UNITS_DECIMAL, 124071760, buffer), "124.1 MB");
	assert_string_equal(format_bytes(UNITS_DECIMAL, 999, buffer), "999 bytes");
	assert_string_equal(format_bytes(UNITS_EXACT, 124071760, buffer), "124 071 760 bytes");
	assert_string_equal(format_bytes(UNITS_BINARY, UINT64_MAX, buffer), "16 777 216.0 TiB");
}

static void test_format_in_unit_when_small_then_never_zero_for_something(void **state)
{
	struct unit mib = unit_for(UNITS_BINARY, 5u << 20);
	char buffer[FORMAT_MAX];

	assert_string_equal(mib.name, "MiB");
	assert_string_equal(format_in_unit(mib, 0, buffer), "0");
	assert_string_equal(format_in_unit(mib, 1, buffer), "<0.1");
	assert_string_equal(format_in_unit(mib, (1u << 20) - 1, buffer), "1.0");
	assert_string_equal(format_in_unit(mib, 3u << 19, buffer), "1.5");
}

static void test_unit_for_table_when_largest_is_just_above_then_finer_unit(void **state)
{
	assert_string_equal(unit_for_table(UNITS_BINARY, (10u << 20) - 1).name, "KiB");
	assert_string_equal(unit_for_table(UNITS_BINARY, 10u << 20).name, "MiB");
	assert_string_equal(unit_for_table(UNITS_DECIMAL, 10000000).name, "MB");
	assert_int_equal(unit_for_table(UNITS_EXACT, 10u << 20).bytes, 1);
	assert_int_equal(unit_for_table(UNITS_BINARY, 0).bytes, 1);
}

static void test_format_duration_when_long_then_coarser(void **state)
{
	char buffer[FORMAT_MAX];

	assert_string_equal(format_duration(340000, buffer), "340 us");
	assert_string_equal(format_duration(999999999, buffer), "999 ms");
	assert_string_equal(format_duration(12345678901, buffer), "12.34 s");
	assert_string_equal(format_duration(125000000000, buffer), "2 min 05 s");
	assert_string_equal(format_duration(UINT64_C(12000000000000), buffer), "3 h 20 min");
}

static void test_format_share_when_tiny_then_not_zero(void **state)
{
	char buffer[FORMAT_MAX];

	assert_string_equal(format_share(64, 100, buffer), "64 %");
	assert_string_equal(format_share(1, 1000000, buffer), "<1 %");
	assert_string_equal(format_share(0, 10, buffer), "0 %");
	assert_string_equal(format_share(0, 0, buffer), "-");
}

static void test_text_clean_when_it_steers_a_terminal_then_escaped(void **state)
{
	char buffer[128];

	assert_string_equal(text_clean("a\033[31mb", true, buffer, sizeof(buffer)), "a\\x1b[31mb");
	assert_string_equal(text_clean("a\nb\tc\177", true, buffer, sizeof(buffer)), "a\\x0ab\\x09c\\x7f");
	/* The one-byte controls of ISO 6429 as UTF-8: CSI. */
	assert_string_equal(text_clean("\xc2\x9b"
	                               "31m",
	                               true, buffer, sizeof(buffer)),
	                    "\\u009b31m");
	/* Right-to-left override, byte order mark, zero width space. */
	assert_string_equal(text_clean("\xe2\x80\xae\xef\xbb\xbf\xe2\x80\x8b", true, buffer, sizeof(buffer)),
	                    "\\u202e\\ufeff\\u200b");
}

static void test_text_clean_when_not_utf8_then_bytes_shown(void **state)
{
	char buffer[128];

	assert_string_equal(text_clean("a\xff"
	                               "b\xc3",
	                               true, buffer, sizeof(buffer)),
	                    "a\\xffb\\xc3");
	assert_string_equal(text_clean("\xc0\x9b", true, buffer, sizeof(buffer)), "\\xc0\\x9b");          /* overlong */
	assert_string_equal(text_clean("\xe0\x80\x9b", true, buffer, sizeof(buffer)), "\\xe0\\x80\\x9b"); /* overlong */
	assert_string_equal(text_clean("\xed\xa0\x80", true, buffer, sizeof(buffer)), "\\xed\\xa0\\x80"); /* a surrogate */
	assert_string_equal(text_clean("\xf4\x90\x80\x80", true, buffer, sizeof(buffer)), "\\xf4\\x90\\x80\\x80");
}

static void test_text_clean_when_terminal_is_ascii_then_escaped(void **state)
{
	char buffer[128];

	assert_string_equal(text_clean("caf\xc3\xa9", true, buffer, sizeof(buffer)), "caf\xc3\xa9");
	assert_string_equal(text_clean("caf\xc3\xa9", false, buffer, sizeof(buffer)), "caf\\u00e9");
}

static void test_text_clean_when_too_long_then_cut_at_a_character(void **state)
{
	char buffer[6];

	assert_string_equal(text_clean("abcdefgh", true, buffer, sizeof(buffer)), "abcde");
	assert_string_equal(text_clean("abcd\xc3\xa9", true, buffer, sizeof(buffer)), "abcd");
	assert_string_equal(text_clean("abc\033", true, buffer, sizeof(buffer)), "abc");
}

static void test_text_make_valid_when_not_utf8_then_replacement(void **state)
{
	char buffer[64];

	assert_string_equal(text_make_valid("a\xff\xc3\xa9\033", buffer, sizeof(buffer)), "a\xef\xbf\xbd\xc3\xa9\033");
}

static void test_text_width_when_wide_then_two_columns(void **state)
{
	assert_int_equal(text_width("abc"), 3);
	assert_int_equal(text_width("\xc3\xa9"), 1);
	assert_int_equal(text_width("\xe6\xbc\xa2"), 2); /* a Chinese character */
	assert_int_equal(text_width("e\xcc\x81"), 1);    /* a combining accent */
}

static const struct column columns[] = {{.heading = "name", .flexible = true}, {.heading = "bytes", .right = true}};

/* Print a table of @rows pairs into a string that the caller frees. */
static char *print_table(const char *const (*rows)[2], size_t nr_rows, unsigned width, bool utf8, bool colour)
{
	struct table *table = table_new(columns, 2);
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	for (size_t i = 0; i < nr_rows; i++) {
		table_row(table, STYLE_STRONG);
		table_cell(table, rows[i][0]);
		table_cell(table, rows[i][1]);
	}
	assert_int_equal(table_print(table, out, width, utf8, colour), 0);
	fclose(out);
	table_free(table);
	return text;
}

static void test_table_print_when_cells_differ_then_aligned(void **state)
{
	static const char *const rows[][2] = {{"fc1", "1 024"}, {"caf\xc3\xa9", "8"}};
	char *text = print_table(rows, 2, 0, true, false);

	assert_string_equal(text, "name  bytes\n"
	                          "fc1   1 024\n"
	                          "caf\xc3\xa9      8\n");
	free(text);
}

static void test_table_print_when_too_wide_then_middle_of_flexible_cut(void **state)
{
	static const char *const rows[][2] = {{"encoder.layers.0.linear1", "1 024"}};
	char *text = print_table(rows, 1, 20, true, false);

	assert_string_equal(text, "name           bytes\n"
	                          "encode\xe2\x80\xa6inear1  1 024\n");
	free(text);
	text = print_table(rows, 1, 20, false, false);
	assert_string_equal(text, "name           bytes\n"
	                          "encode~inear1  1 024\n");
	free(text);
}

static void test_table_print_when_coloured_then_every_line_ends_its_colour(void **state)
{
	static const char *const rows[][2] = {{"fc1", "1"}};
	char *text = print_table(rows, 1, 0, true, true);

	assert_string_equal(text, "\033[1mname  bytes\033[0m\n"
	                          "\033[1mfc1       1\033[0m\n");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_format_count_when_long_then_groups_of_three),
	        cmocka_unit_test(test_format_delta_when_signed_then_sign_first),
	        cmocka_unit_test(test_format_bytes_when_large_then_unit_of_its_system),
	        cmocka_unit_test(test_format_in_unit_when_small_then_never_zero_for_something),
	        cmocka_unit_test(test_unit_for_table_when_largest_is_just_above_then_finer_unit),
	        cmocka_unit_test(test_format_duration_when_long_then_coarser),
	        cmocka_unit_test(test_format_share_when_tiny_then_not_zero),
	        cmocka_unit_test(test_text_clean_when_it_steers_a_terminal_then_escaped),
	        cmocka_unit_test(test_text_clean_when_not_utf8_then_bytes_shown),
	        cmocka_unit_test(test_text_clean_when_terminal_is_ascii_then_escaped),
	        cmocka_unit_test(test_text_clean_when_too_long_then_cut_at_a_character),
	        cmocka_unit_test(test_text_make_valid_when_not_utf8_then_replacement),
	        cmocka_unit_test(test_text_width_when_wide_then_two_columns),
	        cmocka_unit_test(test_table_print_when_cells_differ_then_aligned),
	        cmocka_unit_test(test_table_print_when_too_wide_then_middle_of_flexible_cut),
	        cmocka_unit_test(test_table_print_when_coloured_then_every_line_ends_its_colour),
	};

	setlocale(LC_CTYPE, "C.UTF-8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
