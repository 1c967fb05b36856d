/*
 * ledger: a GPU's memory from what tensors asked for to what the driver says is in use, line by line; each has its bytes, and
 * the last line closes.
 *
 * What the driver says is asked for at a few moments only (hook/cudart.h); the nearest answer is used, with what the program
 * was seen to take and give back since.  What nobody was seen to take is the line `unexplained`, whatever its sign.
 */
#include "report/driver.h"
#include "report/instant.h"
#include "report/live.h"
#include "report/memory_map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CALLERS 32u

struct caller {
	const char *file; /* the map's, or NULL */
	uint64_t nr, bytes;
};

struct ledger {
	struct report *report;
	struct instant instant;
	struct memory_map map;
	struct driver_said driver;
	struct caller callers[MAX_CALLERS]; /* of memory that is not PyTorch's, most bytes first; the last takes all others */
	unsigned nr_callers;
	uint64_t nr_pinned, pinned_bytes, nr_managed, managed_bytes;
	struct rows *rows;
};

/* ---- adding up */

static bool same_file(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static int compare_callers(const void *a, const void *b)
{
	const struct caller *x = a, *y = b;

	return (x->bytes < y->bytes) - (x->bytes > y->bytes);
}

static void add_callers(struct ledger *ledger)
{
	for (size_t i = 0; i < ledger->map.nr_regions; i++) {
		const struct map_region *region = &ledger->map.regions[i];
		unsigned at = 0;

		if (region->of_pytorch)
			continue;
		while (at < ledger->nr_callers && !same_file(ledger->callers[at].file, region->caller))
			at++;
		if (at == MAX_CALLERS)
			at--;
		else if (at == ledger->nr_callers)
			ledger->callers[ledger->nr_callers++].file = region->caller;
		ledger->callers[at].nr++;
		ledger->callers[at].bytes += region->size_bytes;
	}
	qsort(ledger->callers, ledger->nr_callers, sizeof(*ledger->callers), compare_callers);
}

static int read_ledger(struct ledger *ledger)
{
	struct report *report = ledger->report;
	int error = instant_find(report, &ledger->instant);

	if (!error)
		error = memory_map_read(report, report->device, ledger->instant.seq, &ledger->map);
	if (!error)
		error = driver_read(report, report->device, ledger->instant.seq, &ledger->map, &ledger->driver);
	if (!error)
		error = store_read_level(report->store, LEVEL_PINNED, ledger->instant.seq, &ledger->nr_pinned,
		                         &ledger->pinned_bytes);
	if (!error)
		error = store_read_level(report->store, LEVEL_MANAGED, ledger->instant.seq, &ledger->nr_managed,
		                         &ledger->managed_bytes);
	if (!error)
		add_callers(ledger);
	return error;
}

/* ---- lines, for people and programs */

static const struct row_column line_columns[] = {
        {"device", NULL, COLUMN_TEXT, 0, 0},
        {"at", NULL, COLUMN_TEXT, 0, 0},
        {"at_number", NULL, COLUMN_NUMBER, 0, 0},
        {"seq", NULL, COLUMN_NUMBER, 0, 0},
        {"sign", "", COLUMN_TEXT, COLUMN_FOR_PEOPLE, 0},
        {"line", NULL, COLUMN_TEXT, 0, 0},
        {"is_sum", NULL, COLUMN_BOOL, 0, 0},
        {"bytes", NULL, COLUMN_DELTA, 0, 0},
        {"exact_bytes", "bytes", COLUMN_EXACT, COLUMN_FOR_PEOPLE | COLUMN_IF_ANY, 0},
        {"size_bytes", "%", COLUMN_BYTES, COLUMN_FOR_PEOPLE, 0},
        {"words", "", COLUMN_TEXT, COLUMN_FOR_PEOPLE, 0},
        {"caller", NULL, COLUMN_TEXT, 0, 0},
        {"count", NULL, COLUMN_COUNT, 0, 0},
        {"largest_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"detail", "", COLUMN_TEXT, COLUMN_FOR_PEOPLE | COLUMN_FLEXIBLE | COLUMN_CUT_END | COLUMN_IF_ANY, 0},
};
static const struct row_kind line_kind = ROW_KIND("line", line_columns);
static const struct row_kind *const kinds[] = {&line_kind, NULL};

enum sum { PART, SUM };

static void begin_line(struct ledger *ledger, const char *name, enum sum sum, int64_t bytes, const char *words)
{
	struct report *report = ledger->report;
	struct rows *rows = ledger->rows;
	uint64_t size_bytes = bytes < 0 ? -(uint64_t)bytes : (uint64_t)bytes;

	row_begin(rows);
	row_text(rows, "device", report->device_name);
	row_text(rows, "at", ledger->instant.name);
	if (report->arguments->at >= INSTANT_STEP)
		row_count(rows, "at_number", ledger->instant.number);
	row_count(rows, "seq", ledger->instant.seq);
	row_text(rows, "line", name);
	row_bool(rows, "is_sum", sum == SUM);
	row_delta(rows, "bytes", bytes);
	row_text(rows, "sign", sum == SUM ? "=" : bytes < 0 ? "-" : "+");
	if (report->arguments->units != UNITS_EXACT)
		row_count(rows, "exact_bytes", size_bytes);
	row_count(rows, "size_bytes", size_bytes);
	row_text(rows, "words", words);
}

static int line(struct ledger *ledger, const char *name, enum sum sum, uint64_t bytes, const char *words, const char *detail)
{
	begin_line(ledger, name, sum, (int64_t)bytes, words);
	row_text(ledger->rows, "detail", detail);
	return row_end(ledger->rows);
}

static int add_free(struct ledger *ledger)
{
	const struct memory_map *map = &ledger->map;
	format_buffer gaps, largest, share;

	begin_line(ledger, "free", PART, (int64_t)map->free_bytes, "free inside segments");
	row_count(ledger->rows, "count", map->nr_gaps);
	row_count(ledger->rows, "largest_bytes", map->largest_free_bytes);
	if (map->free_bytes)
		row_textf(ledger->rows, "detail", "%s piece%s, the largest %s; %s of it is in smaller ones",
		          format_count(map->nr_gaps, gaps), map->nr_gaps == 1 ? "" : "s",
		          report_bytes(ledger->report, map->largest_free_bytes, largest),
		          format_share(map->free_bytes - map->largest_free_bytes, map->free_bytes, share));
	return row_end(ledger->rows);
}

/* From what was asked for to what PyTorch has reserved. */
static int add_pytorchs(struct ledger *ledger)
{
	const struct memory_map *map = &ledger->map;
	format_buffer count;
	char detail[128];
	int error = line(ledger, "requested", PART, map->requested_bytes, "asked for", NULL);

	if (!error && map->block_bytes != map->known_bytes)
		error = line(ledger, "request_unknown", PART, map->block_bytes - map->known_bytes, "blocks of no tensor",
		             "what was asked for is not known: libraries' workspaces");
	if (!error)
		error = line(ledger, "rounding", PART, map->known_bytes - map->requested_bytes, "rounding of blocks",
		             "to 512 bytes, or all of a piece whose rest was too small");
	snprintf(detail, sizeof(detail), "in %s block%s", format_count(map->nr_blocks, count), map->nr_blocks == 1 ? "" : "s");
	if (!error)
		error = line(ledger, "allocated", SUM, map->block_bytes, "allocated by PyTorch", detail);
	if (!error)
		error = add_free(ledger);
	if (map->unplaced_bytes)
		snprintf(detail, sizeof(detail), "%s of it in segments that were not seen",
		         report_bytes(ledger->report, map->unplaced_bytes, count));
	else
		snprintf(detail, sizeof(detail), "in %s segment%s", format_count(map->nr_segments, count),
		         map->nr_segments == 1 ? "" : "s");
	if (!error)
		error = line(ledger, "reserved", SUM, map->unplaced_bytes + map->reserved_bytes, "reserved by PyTorch", detail);
	return error;
}

static int add_libraries(struct ledger *ledger)
{
	int error = 0;

	for (unsigned i = 0; i < ledger->nr_callers && !error; i++) {
		const struct caller *caller = &ledger->callers[i];
		format_buffer count;

		begin_line(ledger, "library", PART, (int64_t)caller->bytes, "taken by others");
		row_text(ledger->rows, "caller", caller->file);
		row_count(ledger->rows, "count", caller->nr);
		row_textf(ledger->rows, "detail", "%s, in %s call%s", map_caller(ledger->report, caller->file),
		          format_count(caller->nr, count), caller->nr == 1 ? "" : "s");
		error = row_end(ledger->rows);
	}
	return error;
}

static int add_drivers(struct ledger *ledger)
{
	const struct driver_said *driver = &ledger->driver;
	const struct memory_map *map = &ledger->map;
	uint64_t seen = map->reserved_bytes + map->unplaced_bytes + map->others_bytes;
	int64_t rest = (int64_t)(driver->used_bytes - seen - driver->context_bytes); /* signed by two's complement */
	format_buffer total;
	char detail[256];
	int error = 0;

	if (driver->has_context)
		error = line(ledger, "context", PART, driver->context_bytes, "context",
		             "in use before the first memory was given, by other programs too");
	if (!error) {
		begin_line(ledger, driver->has_context ? "unexplained" : "context_and_unexplained", PART, rest,
		           driver->has_context ? "unexplained" : "context and unexplained");
		row_text(ledger->rows, "detail",
		         rest ? "seen by nobody: libraries' handles, the driver's pools, code loaded later, other programs"
		              : NULL);
		error = row_end(ledger->rows);
	}
	snprintf(detail, sizeof(detail), "of %s", report_bytes(ledger->report, driver->said.total_bytes, total));
	return error ? error : line(ledger, "used", SUM, driver->used_bytes, "in use, says the driver", detail);
}

static int add_lines(struct ledger *ledger)
{
	const struct memory_map *map = &ledger->map;
	int error;

	ledger->rows = rows_new(ledger->report, &line_kind);
	rows_set_unit(ledger->rows, unit_for_table(ledger->report->arguments->units,
	                                           ledger->driver.known ? ledger->driver.used_bytes : map->reserved_bytes));
	error = map->direct ? line(ledger, "direct", PART, map->reserved_bytes, "taken by PyTorch",
	                           "call by call: its allocator reports no blocks")
	                    : add_pytorchs(ledger);
	if (!error)
		error = add_libraries(ledger);
	if (!error && ledger->driver.known)
		error = add_drivers(ledger);
	return rows_close(ledger->rows, error);
}

/* ---- what else people want to know */

static void print_basis(struct ledger *ledger)
{
	const struct driver_said *driver = &ledger->driver;
	format_buffer count, size, when;

	putc('\n', ledger->report->out);
	if (!driver->known)
		report_say(ledger->report, 0,
		           "The driver was not asked how much is in use: the account ends with what was seen.");
	else if (!driver->exact)
		report_say(ledger->report, 0, "The driver was asked %s after the start, the nearest time, %s this moment%s.",
		           format_duration(driver->said.ns, when), driver->later ? "after" : "before",
		           driver->said.used_bytes == driver->used_bytes ? ""
		                                                         : "; what was taken and given back between is counted");
	if (ledger->nr_pinned)
		report_say(ledger->report, 0, "Besides, %s of the host's memory is pinned, in %s.",
		           report_bytes(ledger->report, ledger->pinned_bytes, size), format_count(ledger->nr_pinned, count));
	if (ledger->nr_managed)
		report_say(ledger->report, 0,
		           "Besides, %s are managed, in %s; what of them lies on a device is part of what is unexplained.",
		           report_bytes(ledger->report, ledger->managed_bytes, size), format_count(ledger->nr_managed, count));
}

static int show_ledger(struct ledger *ledger)
{
	struct report *report = ledger->report;
	int error = read_ledger(ledger);

	if (error)
		return error;
	if (report_is_for_people(report)) {
		report_heading(report, "The memory of %s %s", report->device_name, ledger->instant.words);
		putc('\n', report->out);
	}
	error = add_lines(ledger);
	if (!error && report_is_for_people(report))
		print_basis(ledger);
	return error;
}

static int show(struct report *report)
{
	struct ledger ledger = {.report = report};
	int error = report_is_for_people(report) ? report_losses(report) : 0;

	if (!error && report_has_device_memory(report))
		error = show_ledger(&ledger);
	memory_map_release(&ledger.map);
	return error ? error : report_check(report);
}

const struct report_view ledger_view = {
        .name = "ledger",
        .help = "a GPU's memory, line by line, from what was asked for to what the driver says",
        .filters = FILTER_DEVICE,
        .kinds = kinds,
        .show = show,
        .takes_instant = true,
};
