/* The command line of nnmem-report. */
#include "report/arguments.h"

#include "report/view.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const struct argp_option options[] = {
        {"format", 'f', "FORMAT", 0, "text (default), or json: one object a line, exact bytes", 0},
        {"device", 'd', "DEVICE", 0, "Look at this device (cpu, cuda:0) instead of the run's main one", 0},
        {"step", 's', "N", 0, "timeline: show this step only", 0},
        {"limit", 'n', "N", 0, "At most N rows (timeline: steps), or all", 0},
        {"units", 'u', "UNITS", 0, "MiB (default: KiB, MiB, GiB), MB (kB, MB, GB) or bytes", 0},
        {"color", 'c', "WHEN", OPTION_ARG_OPTIONAL, "auto (default: on a terminal, unless NO_COLOR is set), always or never", 0},
        {"colour", 0, 0, OPTION_ALIAS | OPTION_HIDDEN, 0, 0},
        {"width", 'w', "COLUMNS", 0, "Width of a line; the terminal's by default", 0},
        {0},
};

static const char usage[] = "[VIEW] FILE";

static const char help_begin[] = "Show what the memory of a training run was used for, and when.\n\n"
                                 "FILE is a run file that a program wrote under libnnmemhook.so. VIEW is one of:";

static const char help_end[] = "Examples:\n"
                               "  nnmem-report run.db                       what the memory was for\n"
                               "  nnmem-report timeline run.db --step 2     one step, phase by phase\n"
                               "  nnmem-report peak run.db --limit all      every block alive at the peak\n"
                               "  nnmem-report layers run.db -f json | jq -c .\n"
                               "\n"
                               "Exit status: 0 done, 1 a check failed, 2 wrong usage or a file that cannot be read.";

static error_t wrong(struct arguments *arguments, const char *format, ...) __attribute__((format(printf, 2, 3)));

static error_t wrong(struct arguments *arguments, const char *format, ...)
{
	va_list list;

	if (!*arguments->message) {
		va_start(list, format);
		vsnprintf(arguments->message, sizeof(arguments->message), format, list);
		va_end(list);
	}
	return EINVAL;
}

/* A whole number in decimal, from @least to @most. */
static bool parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *ret)
{
	uint64_t number = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		unsigned digit = (unsigned)(*text - '0');

		if (digit > 9 || number > (most - digit) / 10)
			return false;
		number = number * 10 + digit;
	}
	if (number < least)
		return false;
	*ret = number;
	return true;
}

/* The place of @text in a list that ends with NULL, or -1. */
static int choose(const char *text, const char *const *list)
{
	for (int i = 0; list[i]; i++)
		if (!strcmp(text, list[i]))
			return i;
	return -1;
}

struct parsing {
	struct arguments *arguments;
	const char *positional[2];
	unsigned nr_positional;
};

static error_t finish(struct parsing *parsing)
{
	struct arguments *arguments = parsing->arguments;

	switch (parsing->nr_positional) {
	case 0:
		return wrong(arguments, "no FILE given; try 'nnmem-report run.db' or 'nnmem-report --help'");
	case 1:
		arguments->view = report_views[0];
		arguments->path = parsing->positional[0];
		if (report_view_find(arguments->path))
			return wrong(arguments, "no FILE given for the view '%s' (a file of that name is './%s')",
			             arguments->path, arguments->path);
		break;
	default:
		arguments->view = report_view_find(parsing->positional[0]);
		arguments->path = parsing->positional[1];
		if (!arguments->view)
			return wrong(arguments, "there is no view '%s'; views are %s", parsing->positional[0],
			             report_view_names());
	}
	if (arguments->step != STEP_NONE && arguments->view != &timeline_view)
		return wrong(arguments, "--step is for the view timeline, not for %s", arguments->view->name);
	return 0;
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	static const char *const formats[] = {"text", "json", NULL};
	static const char *const whens[] = {"auto", "always", "never", NULL};
	static const char *const systems[] = {"MiB", "MB", "bytes", NULL};
	struct parsing *parsing = state->input;
	struct arguments *arguments = parsing->arguments;
	uint64_t number;
	int choice;

	switch (key) {
	case 'f':
		choice = choose(value, formats);
		if (choice < 0)
			return wrong(arguments, "--format=%s: formats are text and json", value);
		arguments->format = (enum output_format)choice;
		return 0;
	case 'd':
		arguments->device = value;
		return 0;
	case 's':
		if (!parse_number(value, 0, INT64_MAX, &arguments->step))
			return wrong(arguments, "--step=%s: a step is a whole number from 0", value);
		return 0;
	case 'n':
		if (!strcmp(value, "all"))
			arguments->limit = LIMIT_ALL;
		else if (!parse_number(value, 1, INT64_MAX, &arguments->limit))
			return wrong(arguments, "--limit=%s: a limit is a whole number from 1, or 'all'", value);
		return 0;
	case 'u':
		choice = choose(value, systems);
		if (choice < 0)
			return wrong(arguments, "--units=%s: units are MiB, MB and bytes", value);
		arguments->units = (enum unit_system)choice;
		return 0;
	case 'c':
		choice = value ? choose(value, whens) : COLOUR_ALWAYS;
		if (choice < 0)
			return wrong(arguments, "--color=%s: auto, always or never", value);
		arguments->colour = (enum colour_when)choice;
		return 0;
	case 'w':
		if (!parse_number(value, 40, 1000, &number))
			return wrong(arguments, "--width=%s: a width is a whole number from 40 to 1000", value);
		arguments->width = (unsigned)number;
		return 0;
	case ARGP_KEY_ARG:
		if (parsing->nr_positional == 2)
			return wrong(arguments, "one FILE at a time: what is '%s'?", value);
		parsing->positional[parsing->nr_positional++] = value;
		return 0;
	case ARGP_KEY_SUCCESS:
		return finish(parsing);
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* The text before the options names every view. */
static char *help_filter(int key, const char *text, void *input)
{
	char *whole;
	size_t size = 0;
	FILE *stream;

	if (key != ARGP_KEY_HELP_PRE_DOC)
		return (char *)(uintptr_t)text;
	stream = open_memstream(&whole, &size);
	if (!stream)
		return (char *)(uintptr_t)text;
	fprintf(stream, "%s\n", text);
	for (size_t i = 0; report_views[i]; i++)
		fprintf(stream, "  %-10s %s%s\n", report_views[i]->name, report_views[i]->help, i == 0 ? " (the default)" : "");
	return fclose(stream) ? NULL : whole;
}

int arguments_parse(int argc, char **argv, unsigned flags, struct arguments *ret)
{
	static char doc[sizeof(help_begin) + sizeof(help_end) + 1];
	struct argp argp = {.options = options, .parser = parse, .args_doc = usage, .doc = doc, .help_filter = help_filter};
	struct parsing parsing = {.arguments = ret};
	error_t error;

	snprintf(doc, sizeof(doc), "%s\v%s", help_begin, help_end);
	*ret = (struct arguments){.limit = LIMIT_DEFAULT, .step = STEP_NONE};
	argp_err_exit_status = 2;
	error = argp_parse(&argp, argc, argv, flags, NULL, &parsing);
	if (error && !*ret->message)
		snprintf(ret->message, sizeof(ret->message), "wrong usage; see 'nnmem-report --help'");
	return error ? -EINVAL : 0;
}
