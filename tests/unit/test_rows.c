/* One row, every format. */
#include "report/rows.h"

#include "report/view.h"

#include <errno.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct row_column columns[] = {
        {"layer", NULL, COLUMN_TEXT, 0, 0},
        {"shown", "layer", COLUMN_TEXT, COLUMN_FOR_PEOPLE | COLUMN_FLEXIBLE, 0},
        {"size_bytes", "%", COLUMN_BYTES, 0, 0},
        {"share", "share", COLUMN_TEXT, COLUMN_FOR_PEOPLE | COLUMN_RIGHT, 0},
        {"grown_bytes", "grown", COLUMN_DELTA, 0, 0},
        {"step", "step", COLUMN_NUMBER, 0, 100},
        {"recompute", "again", COLUMN_BOOL, COLUMN_IF_ANY, 0},
};
static const struct row_kind block_kind = ROW_KIND("block", columns);
static const struct row_column other_columns[] = {
        {"what", NULL, COLUMN_TEXT, 0, 0},
        {"size_bytes", NULL, COLUMN_BYTES, 0, 0},
};
static const struct row_kind other_kind = ROW_KIND("other", other_columns);

struct shown {
	struct arguments arguments;
	struct report_view view;
	struct report report;
	char *text;
	size_t size;
};

static const struct row_kind *const one_kind[] = {&block_kind, NULL};
static const struct row_kind *const two_kinds[] = {&other_kind, &block_kind, NULL};

static void begin(struct shown *shown, enum output_format format, const struct row_kind *const *kinds, unsigned width)
{
	*shown = (struct shown){.arguments = {.format = format}, .view = {.kinds = kinds}};
	shown->arguments.view = &shown->view;
	shown->report = (struct report){.arguments = &shown->arguments, .width = 100, .table_width = width, .utf8 = true};
	shown->report.out = shown->report.final = open_memstream(&shown->text, &shown->size);
	assert_int_equal(report_begin(&shown->report), 0);
}

static void end(struct shown *shown, const char *expected)
{
	assert_int_equal(report_end(&shown->report), 0);
	fclose(shown->report.final);
	assert_string_equal(shown->text, expected);
	free(shown->text);
}

/* Two rows and one for people. */
static void fill(struct shown *shown)
{
	struct rows *rows = rows_new(&shown->report, &block_kind);

	row_begin(rows);
	row_text(rows, "layer", "fc1");
	row_text(rows, "shown", "Net.fc1");
	row_count(rows, "size_bytes", 20 << 20);
	row_share(rows, "share", 2, 4);
	row_delta(rows, "grown_bytes", -4096);
	row_count(rows, "step", 1000);
	assert_int_equal(row_end(rows), 0);
	row_begin(rows);
	row_text(rows, "layer", NULL);
	row_text(rows, "shown", "=a|b");
	/* Not in the order of the columns. */
	row_count(rows, "step", 2);
	row_count(rows, "size_bytes", 512);
	assert_int_equal(row_end(rows), 0);
	row_begin_for_people(rows, STYLE_STRONG);
	row_text(rows, "shown", "total");
	row_count(rows, "size_bytes", 30 << 20);
	assert_int_equal(row_end(rows), 0);
	assert_int_equal(rows_close(rows, 0), 0);
}

static void test_rows_when_json_then_every_column_in_order(void **state)
{
	struct shown shown;

	begin(&shown, FORMAT_JSON, one_kind, 0);
	fill(&shown);
	end(&shown, "{\"row\":\"block\",\"layer\":\"fc1\",\"size_bytes\":20971520,\"grown_bytes\":-4096,\"step\":1000,"
	            "\"recompute\":null}\n"
	            "{\"row\":\"block\",\"layer\":null,\"size_bytes\":512,\"grown_bytes\":null,\"step\":2,\"recompute\":null}\n");
}

static void test_rows_when_csv_then_heading_and_exact_numbers(void **state)
{
	struct shown shown;

	begin(&shown, FORMAT_CSV, one_kind, 0);
	fill(&shown);
	end(&shown, "layer,size_bytes,grown_bytes,step,recompute\r\n"
	            "fc1,20971520,-4096,1000,\r\n"
	            ",512,,2,\r\n");
}

static void test_rows_when_csv_of_several_kinds_then_one_heading_for_all(void **state)
{
	struct shown shown;
	struct rows *rows;

	begin(&shown, FORMAT_CSV, two_kinds, 0);
	rows = rows_new(&shown.report, &other_kind);
	row_begin(rows);
	row_text(rows, "what", "a,\"b\"");
	row_count(rows, "size_bytes", 3);
	assert_int_equal(rows_close(rows, row_end(rows)), 0);
	fill(&shown);
	end(&shown, "row,what,size_bytes,layer,grown_bytes,step,recompute\r\n"
	            "other,\"a,\"\"b\"\"\",3,,,,\r\n"
	            "block,,20971520,fc1,-4096,1000,\r\n"
	            "block,,512,,,2,\r\n");
}

static void test_rows_when_text_then_one_unit_and_what_fits(void **state)
{
	struct shown shown;

	begin(&shown, FORMAT_TEXT, one_kind, 60);
	fill(&shown);
	end(&shown, "layer     MiB  share   grown\n"
	            "Net.fc1  20.0   50 %  -4 096\n"
	            "=a|b     <0.1\n"
	            "total    30.0\n");
	begin(&shown, FORMAT_TEXT, one_kind, 0);
	fill(&shown);
	end(&shown, "layer     MiB  share   grown  step\n"
	            "Net.fc1  20.0   50 %  -4 096  1000\n"
	            "=a|b     <0.1                    2\n"
	            "total    30.0\n");
}

static void test_rows_when_markdown_then_escaped_and_prose_indented(void **state)
{
	struct shown shown;

	begin(&shown, FORMAT_MARKDOWN, one_kind, 60);
	fprintf(shown.report.out, "\nBlocks of\n  ```html <b>\n");
	fill(&shown);
	fprintf(shown.report.out, "(all)\n");
	end(&shown, "    Blocks of\n"
	            "      ```html <b>\n"
	            "\n"
	            "| layer | MiB | share | grown | step |\n"
	            "|---|---:|---:|---:|---:|\n"
	            "| Net.fc1 | 20.0 | 50 % | -4 096 | 1000 |\n"
	            "| =a\\|b | \\<0.1 |  |  | 2 |\n"
	            "| **total** | **30.0** |  |  |  |\n"
	            "\n"
	            "    (all)\n"
	            "\n");
}

static void test_row_end_when_a_column_is_none_of_its_kind_then_refused(void **state)
{
	struct shown shown;
	struct rows *rows;

	begin(&shown, FORMAT_JSON, one_kind, 0);
	rows = rows_new(&shown.report, &block_kind);
	row_begin(rows);
	row_count(rows, "bytes", 1);
	assert_int_equal(row_end(rows), -EINVAL);
	assert_int_equal(rows_close(rows, 0), -EINVAL);
	end(&shown, "");
}

static void test_rows_close_when_given_an_error_then_prints_nothing(void **state)
{
	struct shown shown;
	struct rows *rows;

	begin(&shown, FORMAT_TEXT, one_kind, 0);
	rows = rows_new(&shown.report, &block_kind);
	row_begin(rows);
	row_text(rows, "shown", "fc1");
	assert_int_equal(row_end(rows), 0);
	assert_int_equal(rows_close(rows, -EBADMSG), -EBADMSG);
	end(&shown, "");
}

static void test_row_end_when_nothing_can_be_written_then_error_is_kept(void **state)
{
	struct shown shown;
	struct rows *rows;

	for (enum output_format format = FORMAT_JSON; format <= FORMAT_CSV; format++) {
		begin(&shown, format, one_kind, 0);
		fclose(shown.report.final);
		free(shown.text);
		shown.report.out = shown.report.final = shown.report.rows.out = fopen("/dev/full", "w");
		assert_non_null(shown.report.out);
		setbuf(shown.report.out, NULL);
		rows = rows_new(&shown.report, &block_kind);
		row_begin(rows);
		assert_int_equal(row_end(rows), -ENOSPC);
		assert_int_equal(rows_close(rows, 0), -ENOSPC);
		fclose(shown.report.out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_rows_when_json_then_every_column_in_order),
	        cmocka_unit_test(test_rows_when_csv_then_heading_and_exact_numbers),
	        cmocka_unit_test(test_rows_when_csv_of_several_kinds_then_one_heading_for_all),
	        cmocka_unit_test(test_rows_when_text_then_one_unit_and_what_fits),
	        cmocka_unit_test(test_rows_when_markdown_then_escaped_and_prose_indented),
	        cmocka_unit_test(test_row_end_when_a_column_is_none_of_its_kind_then_refused),
	        cmocka_unit_test(test_rows_close_when_given_an_error_then_prints_nothing),
	        cmocka_unit_test(test_row_end_when_nothing_can_be_written_then_error_is_kept),
	};

	setlocale(LC_CTYPE, "C.UTF-8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
