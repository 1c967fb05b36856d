/* The command line of nnmem-report. */
#include "report/arguments.h"

#include "report/view.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Options without a letter. */
enum { KEY_BOTTOM_UP = 0x100, KEY_FOLDED, KEY_SPEEDSCOPE };

static const struct argp_option options[] = {
        {0, 0, 0, 0, "Which allocations (a view refuses what it cannot honour):", 1},
        {"phase", 'p', "PHASE,...", 0, "Allocated in these phases: static, forward, backward, optimizer, inference, other", 1},
        {"layer", 'l', "LAYER", 0, "Of this layer (encoder.0), of it and all below it (encoder.*), or of none (-)", 1},
        {"category", 'k', "KIND,...", 0, "Of these kinds: parameter, gradient, activation, ...", 1},
        {"device", 'd', "DEVICE", 0, "On this device (cpu, cuda:0) instead of the run's main one", 1},
        {"step", 's', "N", 0, "Allocated in this step; timeline, layers, lifetimes: look at this step", 1},
        {"at", 'a', "WHEN", 0, "segments, ledger: at the peak (default), the end, step=N or oom=N", 1},
        {"min-size", 'm', "SIZE", 0, "Of at least this size: 4096, 512KiB, 1.5MB", 1},
        {0, 0, 0, 0, "How it is shown:", 2},
        {"of", 'o', "WHAT", 0, "stacks: bytes alive at the peak (default), allocated in all, or live at the end", 2},
        {"bottom-up", KEY_BOTTOM_UP, 0, 0, "stacks: what allocated it, callers below", 2},
        {"folded", KEY_FOLDED, 0, 0, "stacks: a line for each, for flame graphs", 2},
        {"speedscope", KEY_SPEEDSCOPE, 0, 0, "stacks: a profile for speedscope", 2},
        {"format", 'f', "FORMAT", 0, "text (default), markdown; for programs json (an object a line) or csv, with exact bytes",
         2},
        {"limit", 'n', "N", 0, "At most N rows (timeline: steps; layers: a list instead of the tree), or all", 2},
        {"units", 'u', "UNITS", 0, "MiB (default: KiB, MiB, GiB), MB (kB, MB, GB) or bytes", 2},
        {"color", 'c', "WHEN", OPTION_ARG_OPTIONAL, "auto (default: on a terminal, unless NO_COLOR is set), always or never", 2},
        {"colour", 0, 0, OPTION_ALIAS | OPTION_HIDDEN, 0, 2},
        {"width", 'w', "COLUMNS", 0, "Width of a line; the terminal's by default", 2},
        {0},
};

static const char usage[] = "[VIEW] FILE";

static const char help_begin[] = "Show what the memory of a training run was used for, and when.\n\n"
                                 "FILE is a run file that a program wrote under libnnmemhook.so. VIEW is one of:";

static const char help_end[] = "Examples:\n"
                               "  nnmem-report run.db                          what the memory was for\n"
                               "  nnmem-report timeline run.db --step 2        one step, phase by phase\n"
                               "  nnmem-report peak run.db --layer 'encoder.*' what the encoder had at the peak\n"
                               "  nnmem-report layers run.db -f json | jq -c .\n"
                               "\n"
                               "Exit status: 0 done, 1 a check failed, 2 wrong usage or unreadable file.";

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

/* Words of a list that @name_of spells, as bits; false: one of them is none.  The list has commas between its words. */
static bool parse_names(const char *text, const char *(*name_of)(unsigned), unsigned nr, uint32_t *ret)
{
	uint32_t bits = 0;

	for (;;) {
		size_t length = strcspn(text, ",");
		unsigned code = 0;

		while (code < nr && (strlen(name_of(code)) != length || strncmp(name_of(code), text, length) != 0))
			code++;
		if (code == nr)
			return false;
		bits |= UINT32_C(1) << code;
		if (!text[length])
			break;
		text += length + 1;
	}
	*ret = bits;
	return true;
}

/* "static, forward, ..." */
static const char *list_names(const char *(*name_of)(unsigned), unsigned nr)
{
	static char list[256];
	size_t used = 0;

	for (unsigned i = 0; i < nr && used < sizeof(list); i++)
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", name_of(i));
	return list;
}

/* "4096", "512KiB", "1.5 MB".  Fractions count to the third digit. */
static bool parse_size(const char *text, uint64_t *ret)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} units[] = {
	        {"", 1},
	        {"B", 1},
	        {"bytes", 1},
	        {"kB", UINT64_C(1000)},
	        {"MB", UINT64_C(1000000)},
	        {"GB", UINT64_C(1000000000)},
	        {"TB", UINT64_C(1000000000000)},
	        {"KiB", UINT64_C(1) << 10},
	        {"MiB", UINT64_C(1) << 20},
	        {"GiB", UINT64_C(1) << 30},
	        {"TiB", UINT64_C(1) << 40},
	};
	size_t digits = strspn(text, "0123456789");
	uint64_t whole = 0, thousandths = 0, scale = 1000;
	char number[24];

	if (digits == 0 || digits > 15)
		return false;
	snprintf(number, sizeof(number), "%.*s", (int)digits, text);
	parse_number(number, 0, INT64_MAX, &whole);
	text += digits;
	if (*text == '.') {
		for (text++; *text >= '0' && *text <= '9'; text++) {
			scale /= 10;
			thousandths += scale * (uint64_t)(*text - '0');
		}
		if (text[-1] == '.')
			return false;
	}
	text += strspn(text, " ");
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		uint64_t bytes;

		if (strcasecmp(text, units[i].name) != 0)
			continue;
		if (__builtin_mul_overflow(whole, units[i].bytes, &bytes) || bytes > INT64_MAX / 2)
			return false;
		*ret = bytes + units[i].bytes / 1000 * thousandths + units[i].bytes % 1000 * thousandths / 1000;
		return true;
	}
	return false;
}

/* "encoder.0", "encoder.*", "-". */
static bool parse_layer(struct arguments *arguments, const char *text)
{
	size_t length = strlen(text);
	bool below = length > 2 && !strcmp(text + length - 2, ".*");

	if (!strcmp(text, "-")) {
		arguments->filter.layers = STORE_LAYERS_NONE;
		return true;
	}
	length -= below ? 2 : 0;
	if (length == 0 || length >= sizeof(arguments->layer) || memchr(text, '*', length))
		return false;
	memcpy(arguments->layer, text, length);
	arguments->layer[length] = '\0';
	arguments->filter.layer = arguments->layer;
	arguments->filter.layers = below ? STORE_LAYERS_BELOW : STORE_LAYERS_ONE;
	return true;
}

static const char *const filter_options[NR_FILTERS] = {"--phase", "--layer", "--category", "--device", "--step", "--min-size"};

/* Refuse a filter that the view would have to ignore. */
static error_t check_filters(struct arguments *arguments)
{
	unsigned refused = arguments->filters & ~arguments->view->filters;
	char honoured[128] = "";

	if (!refused)
		return 0;
	for (unsigned i = 0; i < NR_FILTERS; i++) {
		size_t used = strlen(honoured);

		if (arguments->view->filters >> i & 1)
			snprintf(honoured + used, sizeof(honoured) - used, "%s%s", used ? ", " : "", filter_options[i]);
	}
	return wrong(arguments, "%s has no meaning for the view %s; it takes %s", filter_options[__builtin_ctz(refused)],
	             arguments->view->name, *honoured ? honoured : "no filter");
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
	if (arguments->stacks_option && strcmp(arguments->view->name, "stacks") != 0)
		return wrong(arguments, "--of, --bottom-up, --folded and --speedscope are of the view stacks");
	if (arguments->stacks_as >= STACKS_FOLDED && arguments->format != FORMAT_TEXT)
		return wrong(arguments, "--folded and --speedscope are formats of their own: no --format with them");
	if (arguments->at_option && !arguments->view->takes_instant)
		return wrong(arguments, "--at has no meaning for the view %s", arguments->view->name);
	return check_filters(arguments);
}

/* "peak", "end", "step=3", "oom=1". */
static error_t parse_instant(const char *value, struct arguments *arguments)
{
	static const char *const simple[] = {"peak", "end", NULL};
	int choice = choose(value, simple);
	bool step = !strncmp(value, "step=", 5), oom = !strncmp(value, "oom=", 4);

	arguments->at_option = true;
	if (choice >= 0) {
		arguments->at = (enum instant_kind)choice;
		return 0;
	}
	arguments->at = step ? INSTANT_STEP : INSTANT_OOM;
	if ((step || oom) && parse_number(value + (step ? 5 : 4), oom, INT64_MAX, &arguments->at_number))
		return 0;
	return wrong(arguments, "--at=%s: a moment is peak, end, step=N or oom=N", value);
}

static error_t parse_stacks_option(int key, const char *value, struct arguments *arguments)
{
	static const char *const of[] = {"peak", "allocated", "live", NULL};
	int choice;

	arguments->stacks_option = true;
	if (key != 'o') {
		arguments->stacks_as = key == KEY_FOLDED       ? STACKS_FOLDED
		                       : key == KEY_SPEEDSCOPE ? STACKS_SPEEDSCOPE
		                                               : STACKS_BOTTOM_UP;
		return 0;
	}
	choice = choose(value, of);
	if (choice < 0)
		return wrong(arguments, "--of=%s: stacks are of peak, allocated or live", value);
	arguments->stacks_of = (enum store_stacks_of)choice;
	return 0;
}

static error_t parse_filter(int key, char *value, struct arguments *arguments)
{
	struct store_filter *filter = &arguments->filter;

	switch (key) {
	case 'p':
		arguments->filters |= FILTER_PHASE;
		if (!parse_names(value, phase_name, NR_PHASES, &filter->phases))
			return wrong(arguments, "--phase=%s: phases are %s", value, list_names(phase_name, NR_PHASES));
		return 0;
	case 'k':
		arguments->filters |= FILTER_CATEGORY;
		if (!parse_names(value, category_name, NR_CATEGORIES, &filter->categories))
			return wrong(arguments, "--category=%s: categories are %s", value,
			             list_names(category_name, NR_CATEGORIES));
		return 0;
	case 'l':
		arguments->filters |= FILTER_LAYER;
		if (!parse_layer(arguments, value))
			return wrong(arguments,
			             "--layer=%s: a layer is a path like encoder.0, encoder.* with all below it, or - for none",
			             value);
		return 0;
	case 'd':
		arguments->filters |= FILTER_DEVICE;
		arguments->device = value;
		return 0;
	case 's':
		arguments->filters |= FILTER_STEP;
		if (!parse_number(value, 0, INT64_MAX, &filter->step))
			return wrong(arguments, "--step=%s: a step is a whole number from 0", value);
		return 0;
	case 'm':
		arguments->filters |= FILTER_MIN_SIZE;
		if (!parse_size(value, &filter->min_size_bytes))
			return wrong(arguments,
			             "--min-size=%s: a size is a number of bytes, or of kB, MB, GB, TB (powers of 1000) or KiB, "
			             "MiB, GiB, TiB (of 1024), like 1.5MiB",
			             value);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	static const char *const formats[] = {"text", "json", "csv", "markdown", NULL};
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
			return wrong(arguments, "--format=%s: formats are text, json, csv and markdown", value);
		arguments->format = (enum output_format)choice;
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
	case 'a':
		return parse_instant(value, arguments);
	case 'o':
	case KEY_BOTTOM_UP:
	case KEY_FOLDED:
	case KEY_SPEEDSCOPE:
		return parse_stacks_option(key, value, arguments);
	case ARGP_KEY_ARG:
		if (parsing->nr_positional == 2)
			return wrong(arguments, "one FILE at a time: what is '%s'?", value);
		parsing->positional[parsing->nr_positional++] = value;
		return 0;
	case ARGP_KEY_SUCCESS:
		return finish(parsing);
	default:
		return parse_filter(key, value, arguments);
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
	*ret = (struct arguments){.limit = LIMIT_DEFAULT, .filter = STORE_FILTER_NONE};
	argp_err_exit_status = 2;
	error = argp_parse(&argp, argc, argv, flags, NULL, &parsing);
	if (error && !*ret->message)
		snprintf(ret->message, sizeof(ret->message), "wrong usage; see 'nnmem-report --help'");
	return error ? -EINVAL : 0;
}
