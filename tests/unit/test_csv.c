/* Cells that no spreadsheet calculates. */
#include "report/csv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

static void assert_cell(const char *raw, const char *expected)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	assert_int_equal(csv_print_text(out, raw), 0);
	fclose(out);
	assert_string_equal(text, expected);
	free(text);
}

static void test_csv_print_text_when_plain_then_as_it_is(void **state)
{
	assert_cell("encoder.0", "encoder.0");
	assert_cell("caf\xc3\xa9 [3]", "caf\xc3\xa9 [3]");
	assert_cell("", "");
	assert_cell(NULL, "");
}

static void test_csv_print_text_when_it_could_end_a_cell_then_quoted(void **state)
{
	assert_cell("3,5", "\"3,5\"");
	assert_cell("a;b", "\"a;b\"");
	assert_cell("say \"hi\"", "\"say \"\"hi\"\"\"");
	assert_cell(" a", "\" a\"");
	assert_cell("a ", "\"a \"");
}

static void test_csv_print_text_when_a_spreadsheet_would_calculate_it_then_made_text(void **state)
{
	assert_cell("=cmd|'/c calc'!A1", "\"'=cmd|'/c calc'!A1\"");
	assert_cell("+1", "\"'+1\"");
	assert_cell("-1", "\"'-1\"");
	assert_cell("@SUM(A1)", "\"'@SUM(A1)\"");
	assert_cell("  =1", "\"'  =1\"");
	assert_cell("\xef\xbc\x9d"
	            "1",
	            "\"'\xef\xbc\x9d"
	            "1\"");
	assert_cell("a=1", "a=1");
}

static void test_csv_print_text_when_it_has_control_characters_then_escaped(void **state)
{
	assert_cell("\t=1", "\\x09=1");
	assert_cell("\r\n=1", "\\x0d\\x0a=1");
	assert_cell("a\033[31m\xff", "a\\x1b[31m\\xff");
	assert_cell("\xe2\x80\xae=1", "\\u202e=1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_csv_print_text_when_plain_then_as_it_is),
	        cmocka_unit_test(test_csv_print_text_when_it_could_end_a_cell_then_quoted),
	        cmocka_unit_test(test_csv_print_text_when_a_spreadsheet_would_calculate_it_then_made_text),
	        cmocka_unit_test(test_csv_print_text_when_it_has_control_characters_then_escaped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
