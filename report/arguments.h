/*
 * The command line of nnmem-report, parsed by argp.
 */
#ifndef NNMEM_REPORT_ARGUMENTS_H
#define NNMEM_REPORT_ARGUMENTS_H

#include "report/format.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct report_view;

enum output_format { FORMAT_TEXT = 0, FORMAT_JSON };
enum colour_when { COLOUR_AUTO = 0, COLOUR_ALWAYS, COLOUR_NEVER };

#define LIMIT_DEFAULT UINT64_MAX /* the view's own */
#define LIMIT_ALL     0u
#define STEP_NONE     UINT64_MAX

struct arguments {
	const struct report_view *view;
	const char *path; /* of the run file; argv's */
	enum output_format format;
	const char *device; /* or NULL */
	uint64_t limit;     /* rows; LIMIT_ALL, LIMIT_DEFAULT */
	uint64_t step;      /* or STEP_NONE */
	unsigned width;     /* columns; 0: the terminal's */
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
