/* Rows for programs. */
#include "report/json.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void test_json_row_end_when_filled_then_one_line_in_order(void **state)
{
	struct json_rows rows;
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	json_rows_begin(&rows, out);
	json_row_begin(&rows, "layer");
	json_row_text(&rows, "zeta", "fc1");
	json_row_count(&rows, "alpha", 18432000);
	json_row_delta(&rows, "residual_bytes", -4);
	json_row_bool(&rows, "recompute", false);
	json_row_text(&rows, "root", NULL);
	json_row_null(&rows, "rank");
	assert_int_equal(json_row_end(&rows), 0);
	json_row_begin(&rows, "empty");
	assert_int_equal(json_row_end(&rows), 0);
	assert_int_equal(json_rows_end(&rows), 0);
	fclose(out);
	assert_string_equal(text,
	                    "{\"row\":\"layer\",\"zeta\":\"fc1\",\"alpha\":18432000,\"residual_bytes\":-4,\"recompute\":false,"
	                    "\"root\":null,\"rank\":null}\n{\"row\":\"empty\"}\n");
	free(text);
}

static void test_json_row_text_when_hostile_then_nothing_but_ascii(void **state)
{
	struct json_rows rows;
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	json_rows_begin(&rows, out);
	json_row_begin(&rows, "note");
	json_row_text(&rows, "what", "\033[31m\xff\xc2\x9b\"\n");
	assert_int_equal(json_row_end(&rows), 0);
	json_rows_end(&rows);
	fclose(out);
	assert_string_equal(text, "{\"row\":\"note\",\"what\":\"\\u001B[31m\\uFFFD\\u009B\\\"\\n\"}\n");
	free(text);
}

static void test_json_row_count_when_beyond_the_signed_then_largest(void **state)
{
	struct json_rows rows;
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	json_rows_begin(&rows, out);
	json_row_begin(&rows, "x");
	json_row_count(&rows, "bytes", UINT64_MAX);
	assert_int_equal(json_row_end(&rows), 0);
	json_rows_end(&rows);
	fclose(out);
	assert_string_equal(text, "{\"row\":\"x\",\"bytes\":9223372036854775807}\n");
	free(text);
}

static void test_json_row_end_when_nothing_can_be_written_then_error_is_kept(void **state)
{
	struct json_rows rows;
	FILE *out = fopen("/dev/full", "w");

	assert_non_null(out);
	setbuf(out, NULL);
	json_rows_begin(&rows, out);
	json_row_begin(&rows, "x");
	assert_int_equal(json_row_end(&rows), -ENOSPC);
	json_row_begin(&rows, "y");
	assert_int_equal(json_row_end(&rows), -ENOSPC);
	assert_int_equal(json_rows_end(&rows), -ENOSPC);
	fclose(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_json_row_end_when_filled_then_one_line_in_order),
	        cmocka_unit_test(test_json_row_text_when_hostile_then_nothing_but_ascii),
	        cmocka_unit_test(test_json_row_count_when_beyond_the_signed_then_largest),
	        cmocka_unit_test(test_json_row_end_when_nothing_can_be_written_then_error_is_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
