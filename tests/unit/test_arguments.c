/* The command line of nnmem-report. */
#include "report/arguments.h"

#include "report/view.h"

#include <argp.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* Parse the words after the program's name; the list ends with NULL. */
#define PARSE(ret, ...) parse((const char *const[]){"nnmem-report", __VA_ARGS__, NULL}, ret)

static int parse(const char *const *words, struct arguments *ret)
{
	char copies[12][64];
	char *argv[13];
	int argc = 0;

	for (; words[argc]; argc++) {
		strncpy(copies[argc], words[argc], sizeof(copies[0]) - 1);
		copies[argc][sizeof(copies[0]) - 1] = '\0';
		argv[argc] = copies[argc];
	}
	argv[argc] = NULL;
	return arguments_parse(argc, argv, ARGP_SILENT, ret);
}

static void test_arguments_parse_when_file_only_then_summary_as_text(void **state)
{
	struct arguments arguments;

	assert_int_equal(PARSE(&arguments, "run.db"), 0);
	assert_ptr_equal(arguments.view, &summary_view);
	assert_int_equal(arguments.format, FORMAT_TEXT);
	assert_int_equal(arguments.colour, COLOUR_AUTO);
	assert_int_equal(arguments.units, UNITS_BINARY);
	assert_true(arguments.limit == LIMIT_DEFAULT);
	assert_true(arguments.filter.step == UINT64_MAX);
	assert_int_equal(arguments.filters, 0);
	assert_int_equal(arguments.width, 0);
	assert_null(arguments.device);
}

static void test_arguments_parse_when_view_named_then_chosen(void **state)
{
	struct arguments arguments;

	for (size_t i = 0; report_views[i]; i++) {
		assert_int_equal(PARSE(&arguments, report_views[i]->name, "run.db"), 0);
		assert_ptr_equal(arguments.view, report_views[i]);
	}
}

static void test_arguments_parse_when_options_given_then_read(void **state)
{
	struct arguments arguments;

	assert_int_equal(
	        PARSE(&arguments, "timeline", "run.db", "-f", "json", "--step=3", "--limit", "12", "--width=72", "--color=never"),
	        0);
	assert_int_equal(arguments.format, FORMAT_JSON);
	assert_int_equal(arguments.filter.step, 3);
	assert_int_equal(arguments.limit, 12);
	assert_int_equal(arguments.width, 72);
	assert_int_equal(arguments.colour, COLOUR_NEVER);
	assert_int_equal(PARSE(&arguments, "--limit=all", "--units=MB", "--color", "peak", "run.db"), 0);
	assert_int_equal(arguments.limit, LIMIT_ALL);
	assert_int_equal(arguments.units, UNITS_DECIMAL);
	assert_int_equal(arguments.colour, COLOUR_ALWAYS);
}

static void test_arguments_parse_when_a_moment_is_given_then_the_view_must_take_it(void **state)
{
	struct arguments arguments;

	assert_int_equal(PARSE(&arguments, "segments", "run.db"), 0);
	assert_int_equal(arguments.at, INSTANT_PEAK);
	assert_int_equal(PARSE(&arguments, "segments", "run.db", "--at=end"), 0);
	assert_int_equal(arguments.at, INSTANT_END);
	assert_int_equal(PARSE(&arguments, "ledger", "run.db", "--at", "step=0"), 0);
	assert_int_equal(arguments.at, INSTANT_STEP);
	assert_int_equal(arguments.at_number, 0);
	assert_int_equal(PARSE(&arguments, "ledger", "run.db", "--at=oom=12"), 0);
	assert_int_equal(arguments.at, INSTANT_OOM);
	assert_int_equal(arguments.at_number, 12);
	assert_int_equal(PARSE(&arguments, "peak", "run.db", "--at=end"), -EINVAL);
	assert_string_equal(arguments.message, "--at has no meaning for the view peak");
	for (size_t i = 0; i < 5; i++) {
		static const char *const wrong[] = {"--at=oom=0", "--at=step", "--at=step=", "--at=oom=x", "--at=noon"};
		char message[96];

		assert_int_equal(PARSE(&arguments, "segments", "run.db", wrong[i]), -EINVAL);
		snprintf(message, sizeof(message), "%s: a moment is peak, end, step=N or oom=N", wrong[i]);
		assert_string_equal(arguments.message, message);
	}
}

static void test_arguments_parse_when_value_is_wrong_then_says_what_is_allowed(void **state)
{
	static const struct {
		const char *option, *message;
	} wrong[] = {
	        {"--format=xml", "--format=xml: formats are text, json, csv and markdown"},
	        {"--phase=forwards", "--phase=forwards: phases are static, forward, backward, optimizer, inference, other"},
	        {"--phase=forward,", "--phase=forward,: phases are static, forward, backward, optimizer, inference, other"},
	        {"--category=weights",
	         "--category=weights: categories are unknown, parameter, buffer, gradient, optimizer_state, activation, input, "
	         "forward_temporary, backward_temporary, optimizer_temporary, recompute, workspace, communication"},
	        {"--layer=", "--layer=: a layer is a path like encoder.0, encoder.* with all below it, or - for none"},
	        {"--layer=en*er", "--layer=en*er: a layer is a path like encoder.0, encoder.* with all below it, or - for none"},
	        {"--min-size=1.",
	         "--min-size=1.: a size is a number of bytes, or of kB, MB, GB, TB (powers of 1000) or KiB, MiB, "
	         "GiB, TiB (of 1024), like 1.5MiB"},
	        {"--min-size=9999999TiB", "--min-size=9999999TiB: a size is a number of bytes, or of kB, MB, GB, TB (powers of "
	                                  "1000) or KiB, MiB, GiB, TiB (of 1024), like 1.5MiB"},
	        {"--step=-1", "--step=-1: a step is a whole number from 0"},
	        {"--step=", "--step=: a step is a whole number from 0"},
	        {"--step=99999999999999999999", "--step=99999999999999999999: a step is a whole number from 0"},
	        {"--limit=0", "--limit=0: a limit is a whole number from 1, or 'all'"},
	        {"--limit=1x", "--limit=1x: a limit is a whole number from 1, or 'all'"},
	        {"--width=39", "--width=39: a width is a whole number from 40 to 1000"},
	        {"--width=1001", "--width=1001: a width is a whole number from 40 to 1000"},
	        {"--color=red", "--color=red: auto, always or never"},
	        {"--units=mb", "--units=mb: units are MiB, MB and bytes"},
	};
	struct arguments arguments;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(PARSE(&arguments, "timeline", "run.db", wrong[i].option), -EINVAL);
		assert_string_equal(arguments.message, wrong[i].message);
	}
}

static void test_arguments_parse_when_no_file_then_refused(void **state)
{
	struct arguments arguments;
	char *argv[] = {(char[]){"nnmem-report"}, NULL};

	assert_int_equal(arguments_parse(1, argv, ARGP_SILENT, &arguments), -EINVAL);
	assert_non_null(strstr(arguments.message, "no FILE given"));
	assert_int_equal(PARSE(&arguments, "peak"), -EINVAL);
	assert_string_equal(arguments.message, "no FILE given for the view 'peak' (a file of that name is './peak')");
}

static void test_arguments_parse_when_view_is_unknown_then_lists_them(void **state)
{
	struct arguments arguments;

	assert_int_equal(PARSE(&arguments, "peaks", "run.db"), -EINVAL);
	assert_string_equal(
	        arguments.message,
	        "there is no view 'peaks'; views are summary, timeline, peak, layers, lifetimes, growth, stacks, segments, "
	        "ledger, oom, info");
}

static void test_arguments_parse_when_two_files_then_refused(void **state)
{
	struct arguments arguments;

	assert_int_equal(PARSE(&arguments, "peak", "a.db", "b.db"), -EINVAL);
	assert_string_equal(arguments.message, "one FILE at a time: what is 'b.db'?");
}

static void test_arguments_parse_when_view_cannot_honour_a_filter_then_refused(void **state)
{
	struct arguments arguments;

	assert_int_equal(PARSE(&arguments, "timeline", "a.db", "--phase=forward"), -EINVAL);
	assert_string_equal(arguments.message, "--phase has no meaning for the view timeline; it takes --device, --step");
	assert_int_equal(PARSE(&arguments, "info", "a.db", "--device=cpu"), -EINVAL);
	assert_string_equal(arguments.message, "--device has no meaning for the view info; it takes no filter");
}

static void test_arguments_parse_when_filters_given_then_read(void **state)
{
	struct arguments arguments;

	assert_int_equal(PARSE(&arguments, "peak", "a.db", "--phase=backward,forward", "--category=gradient", "--layer=encoder.*",
	                       "--min-size=1.5 MiB", "--step=0", "--device=cuda:1"),
	                 0);
	assert_int_equal(arguments.filter.phases, 1u << PHASE_BACKWARD | 1u << PHASE_FORWARD);
	assert_int_equal(arguments.filter.categories, 1u << CATEGORY_GRADIENT);
	assert_int_equal(arguments.filter.layers, STORE_LAYERS_BELOW);
	assert_string_equal(arguments.filter.layer, "encoder");
	assert_int_equal(arguments.filter.min_size_bytes, 3u << 19);
	assert_int_equal(arguments.filter.step, 0);
	assert_string_equal(arguments.device, "cuda:1");
	assert_int_equal(arguments.filters, FILTERS_ALL);
	assert_int_equal(PARSE(&arguments, "peak", "a.db", "--layer=encoder.0"), 0);
	assert_int_equal(arguments.filter.layers, STORE_LAYERS_ONE);
	assert_string_equal(arguments.filter.layer, "encoder.0");
	assert_int_equal(PARSE(&arguments, "peak", "a.db", "--layer=-"), 0);
	assert_int_equal(arguments.filter.layers, STORE_LAYERS_NONE);
	assert_null(arguments.filter.layer);
}

static void test_arguments_parse_when_size_has_a_unit_then_bytes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} sizes[] = {
	        {"--min-size=0", 0},
	        {"--min-size=4096", 4096},
	        {"--min-size=1kB", 1000},
	        {"--min-size=1kib", 1024},
	        {"--min-size=2GiB", UINT64_C(2) << 30},
	        {"--min-size=0.25MB", 250000},
	        {"--min-size=1.001KiB", 1025},
	};
	struct arguments arguments;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_int_equal(PARSE(&arguments, "peak", "a.db", sizes[i].text), 0);
		assert_int_equal(arguments.filter.min_size_bytes, sizes[i].bytes);
	}
}

static void test_arguments_parse_when_option_is_unknown_then_refused(void **state)
{
	struct arguments arguments;

	assert_int_equal(PARSE(&arguments, "a.db", "--bogus"), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_arguments_parse_when_file_only_then_summary_as_text),
	        cmocka_unit_test(test_arguments_parse_when_view_named_then_chosen),
	        cmocka_unit_test(test_arguments_parse_when_options_given_then_read),
	        cmocka_unit_test(test_arguments_parse_when_a_moment_is_given_then_the_view_must_take_it),
	        cmocka_unit_test(test_arguments_parse_when_value_is_wrong_then_says_what_is_allowed),
	        cmocka_unit_test(test_arguments_parse_when_no_file_then_refused),
	        cmocka_unit_test(test_arguments_parse_when_view_is_unknown_then_lists_them),
	        cmocka_unit_test(test_arguments_parse_when_two_files_then_refused),
	        cmocka_unit_test(test_arguments_parse_when_view_cannot_honour_a_filter_then_refused),
	        cmocka_unit_test(test_arguments_parse_when_filters_given_then_read),
	        cmocka_unit_test(test_arguments_parse_when_size_has_a_unit_then_bytes),
	        cmocka_unit_test(test_arguments_parse_when_option_is_unknown_then_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
