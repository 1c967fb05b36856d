/*
 * The command line of nnmem-report, parsed by argp.
 */
#ifndef NNMEM_REPORT_ARGUMENTS_H
#define NNMEM_REPORT_ARGUMENTS_H

#include "report/format.h"
#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct report_view;

enum output_format { FORMAT_TEXT = 0, FORMAT_JSON, FORMAT_CSV, FORMAT_MARKDOWN };
enum stacks_as { STACKS_TOP_DOWN = 0, STACKS_BOTTOM_UP, STACKS_FOLDED, STACKS_SPEEDSCOPE };
enum colour_when { COLOUR_AUTO = 0, COLOUR_ALWAYS, COLOUR_NEVER };

#define LIMIT_DEFAULT UINT64_MAX /* the view's own */
#define LIMIT_ALL     0u

/* The common filters, as bits of report_view.filters: those that a view honours.  The others are refused. */
enum filters {
	FILTER_PHASE = 1,
	FILTER_LAYER = 2,
	FILTER_CATEGORY = 4,
	FILTER_DEVICE = 8,
	FILTER_STEP = 16,
	FILTER_MIN_SIZE = 32,
	FILTERS_ALL = 63,
};
#define NR_FILTERS 6

/* The moment that a view looks at, of those that honour it (report_view.takes_instant). */
enum instant_kind {
	INSTANT_PEAK = 0, /* of the device */
	INSTANT_END,
	INSTANT_STEP, /* the highest point of a step */
	INSTANT_OOM,  /* the n-th time that memory was refused, from 1 */
};

struct arguments {
	const struct report_view *view;
	const char *path; /* of the run file; argv's */
	enum output_format format;
	const char *device;         /* or NULL */
	struct store_filter filter; /* what the others say; STORE_FILTER_NONE: nothing.  For the reader's queries */
	char layer[512];            /* filter.layer's */
	unsigned filters;           /* FILTER_*: those that were given */
	enum store_stacks_of stacks_of;
	enum stacks_as stacks_as;
	bool stacks_option; /* one of the two was given */
	enum instant_kind at;
	uint64_t at_number; /* of the step, of the refusal */
	bool at_option;
	uint64_t limit; /* rows; LIMIT_ALL, LIMIT_DEFAULT */
	unsigned width; /* columns; 0: the terminal's */
	enum colour_when colour;
	enum unit_system units;
	char message[512]; /* what is wrong, a sentence without the program's name */
};

/*
 * Parse @argv.  @flags: ARGP_*; without ARGP_NO_EXIT and friends, --help, --version and unknown options end the process.
 * Errors: -EINVAL with arguments->message.
 */
int arguments_parse(int argc, char **argv, unsigned flags, struct arguments *ret);

#endif
