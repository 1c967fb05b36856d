/*
 * lifetimes: what is held while nothing uses it: allocated early, freed late, idle between.
 *
 * What reads a tensor is not recorded.  But what a block is for says in which phases it cannot be in use (unused_in()): a
 * gradient in a forward, optimizer state outside step(), a temporary after its phase.  The time of these phases in a block's
 * life is its idle time; a saved activation waits all its life for the backward that frees it.  All within one step: that of the
 * device's peak, or --step.
 */
#include "report/block_row.h"
#include "report/groups.h"
#include "report/live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_TEXT       20u
#define STAYS_MAX        (1u << 20) /* of one phase in one step that are looked at: no run has so many, a hostile file may */

#define HINT_FROM        1024u /* bytes that are worth a sentence */

#define PHASE_BIT(phase) (1u << (phase))

/* The phases that cannot use a block of @category; saved activations are apart. */
static unsigned unused_in(unsigned category)
{
	const unsigned all = PHASE_BIT(NR_PHASES) - 1;

	switch (category) {
	case CATEGORY_GRADIENT:
		return PHASE_BIT(PHASE_FORWARD) | PHASE_BIT(PHASE_INFERENCE);
	case CATEGORY_OPTIMIZER_STATE:
	case CATEGORY_OPTIMIZER_TEMPORARY:
		return all & ~PHASE_BIT(PHASE_OPTIMIZER);
	case CATEGORY_FORWARD_TEMPORARY:
		return PHASE_BIT(PHASE_BACKWARD) | PHASE_BIT(PHASE_OPTIMIZER) | PHASE_BIT(PHASE_OTHER);
	case CATEGORY_BACKWARD_TEMPORARY:
	case CATEGORY_RECOMPUTE:
		return all & ~PHASE_BIT(PHASE_BACKWARD);
	case CATEGORY_INPUT:
		return PHASE_BIT(PHASE_OPTIMIZER) | PHASE_BIT(PHASE_OTHER);
	case CATEGORY_ACTIVATION:
		return all;
	default:
		return 0;
	}
}

/* ---- the time of each phase */

/* A stay of the program in a phase; of those before it in the step @before_ns together. */
struct stay {
	uint64_t start_ns, end_ns, before_ns;
};

struct clock {
	struct stay *stays; /* ascending, apart from each other */
	size_t nr, room;
};

/* Bytes that something keeps, and the biggest block of them: its layer and line. */
struct keeper {
	uint64_t bytes, most_bytes;
	char most[2 * SAFE_TEXT_MAX];
};

struct lifetimes {
	struct report *report;
	struct store_device device;
	struct store_step step;
	bool found;
	uint64_t peak_seq;
	struct clock clocks[NR_PHASES];

	/* For people. */
	struct groups groups;
	uint64_t nr_blocks, bytes; /* of all that live in the step, idle or not */
	/* For hints: gradients of the step before, what the script holds, activations at the peak. */
	uint64_t old_gradient_bytes, old_gradient_ns;
	uint64_t state_bytes, waiting_bytes, longest_wait_ns;
	char longest_wait[SAFE_TEXT_MAX];
	struct keeper held, long_lived;

	/* For programs. */
	struct rows *rows;
	uint64_t limit, listed;
};

static int each_span(const struct store_span *span, void *arg)
{
	struct lifetimes *lifetimes = arg;
	const struct store_step *step = &lifetimes->step;
	uint64_t end_ns = span->end_seq && span->end_ns < step->end_ns ? span->end_ns : step->end_ns;
	uint64_t start_ns = span->start_ns > step->start_ns ? span->start_ns : step->start_ns;
	struct clock *clock = &lifetimes->clocks[span->phase];

	if (end_ns <= start_ns || clock->nr == STAYS_MAX)
		return 0;
	if (clock->nr == clock->room) {
		size_t room = clock->room ? clock->room * 2 : 64;
		struct stay *stays = realloc(clock->stays, room * sizeof(*stays));

		if (!stays)
			return -ENOMEM;
		clock->stays = stays;
		clock->room = room;
	}
	clock->stays[clock->nr++] = (struct stay){.start_ns = start_ns, .end_ns = end_ns};
	return 0;
}

static int compare_stays(const void *a, const void *b)
{
	const struct stay *x = a, *y = b;

	return x->start_ns < y->start_ns ? -1 : x->start_ns > y->start_ns;
}

/* Bring stays into order; what several threads do at one time counts once. */
static void settle_clock(struct clock *clock)
{
	uint64_t before_ns = 0;
	size_t nr = 0;

	if (clock->nr)
		qsort(clock->stays, clock->nr, sizeof(*clock->stays), compare_stays);
	for (size_t i = 0; i < clock->nr; i++) {
		struct stay stay = clock->stays[i];

		if (nr && stay.start_ns < clock->stays[nr - 1].end_ns)
			stay.start_ns = clock->stays[nr - 1].end_ns;
		if (stay.start_ns >= stay.end_ns)
			continue;
		stay.before_ns = before_ns;
		before_ns += stay.end_ns - stay.start_ns;
		clock->stays[nr++] = stay;
	}
	clock->nr = nr;
}

/* How much of the phase has passed at @ns. */
static uint64_t clock_at(const struct clock *clock, uint64_t ns)
{
	size_t low = 0, high = clock->nr;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (clock->stays[middle].start_ns <= ns)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low)
		return 0;
	const struct stay *last = &clock->stays[low - 1];

	return last->before_ns + ((ns < last->end_ns ? ns : last->end_ns) - last->start_ns);
}

/* ---- a life */

struct life {
	uint64_t life_ns; /* whole, to the end of the run where it was never freed */
	uint64_t idle_ns; /* in the step */
	bool at_peak;
};

static struct life life_of(const struct lifetimes *lifetimes, const struct store_allocation *allocation)
{
	const struct store_step *step = &lifetimes->step;
	uint64_t end_ns = allocation->free_seq ? allocation->free_ns : lifetimes->report->run.duration_ns;
	uint64_t from = allocation->alloc_ns > step->start_ns ? allocation->alloc_ns : step->start_ns;
	uint64_t to = end_ns < step->end_ns ? end_ns : step->end_ns;
	unsigned unused = unused_in(allocation->category);
	struct life life = {
	        .life_ns = end_ns > allocation->alloc_ns ? end_ns - allocation->alloc_ns : 0,
	        .at_peak = allocation->alloc_seq <= lifetimes->peak_seq &&
	                   (!allocation->free_seq || allocation->free_seq > lifetimes->peak_seq),
	};

	if (to <= from)
		return life;
	if (allocation->category == CATEGORY_ACTIVATION) {
		life.idle_ns = to - from;
		return life;
	}
	for (unsigned phase = 0; phase < NR_PHASES; phase++)
		if (unused & PHASE_BIT(phase))
			life.idle_ns += clock_at(&lifetimes->clocks[phase], to) - clock_at(&lifetimes->clocks[phase], from);
	return life;
}

/* ---- text */

/* Made in a forward for the backward, or for nothing, and still there when the backward is over: a variable holds it. */
static bool is_held(const struct store_allocation *allocation)
{
	if (allocation->category != CATEGORY_ACTIVATION && allocation->category != CATEGORY_FORWARD_TEMPORARY)
		return false;
	if (allocation->phase != PHASE_FORWARD)
		return false;
	return !allocation->free_seq || allocation->free_step != allocation->step ||
	       (allocation->free_phase != PHASE_BACKWARD && allocation->free_phase != PHASE_FORWARD);
}

static void add_kept(struct report *report, struct keeper *keeper, const struct store_allocation *allocation)
{
	keeper->bytes += allocation->size_bytes;
	if (allocation->size_bytes <= keeper->most_bytes)
		return;
	keeper->most_bytes = allocation->size_bytes;
	snprintf(keeper->most, sizeof(keeper->most), "%s%s%s%s", allocation->layer ? "layer " : "no layer",
	         allocation->layer ? report_layer(report, allocation->root, allocation->layer) : "",
	         allocation->line ? " at " : "", short_line(report, allocation->line, true));
}

/* A temporary that is there for more than half of the time of its phase, and at the peak. */
static bool is_long_lived(const struct lifetimes *lifetimes, const struct store_allocation *allocation, const struct life *life)
{
	const struct clock *clock = &lifetimes->clocks[allocation->phase];
	uint64_t whole = clock_at(clock, lifetimes->step.end_ns);
	uint64_t end_ns = allocation->free_seq ? allocation->free_ns : lifetimes->step.end_ns;

	if (allocation->category != CATEGORY_FORWARD_TEMPORARY && allocation->category != CATEGORY_BACKWARD_TEMPORARY)
		return false;
	return life->at_peak && clock_at(clock, end_ns) - clock_at(clock, allocation->alloc_ns) > whole / 2;
}

static void look_for_hints(struct lifetimes *lifetimes, const struct store_allocation *allocation, const struct life *life)
{
	struct report *report = lifetimes->report;

	if (allocation->category == CATEGORY_GRADIENT && allocation->alloc_seq < lifetimes->step.start_seq && life->idle_ns) {
		lifetimes->old_gradient_bytes += allocation->size_bytes;
		if (life->idle_ns > lifetimes->old_gradient_ns)
			lifetimes->old_gradient_ns = life->idle_ns;
	}
	if (allocation->category == CATEGORY_OPTIMIZER_STATE)
		lifetimes->state_bytes += allocation->size_bytes;
	if (is_held(allocation)) {
		add_kept(report, &lifetimes->held, allocation);
		return;
	}
	if (is_long_lived(lifetimes, allocation, life))
		add_kept(report, &lifetimes->long_lived, allocation);
	if (allocation->category == CATEGORY_ACTIVATION && life->at_peak) {
		lifetimes->waiting_bytes += allocation->size_bytes;
		if (life->life_ns > lifetimes->longest_wait_ns) {
			lifetimes->longest_wait_ns = life->life_ns;
			snprintf(lifetimes->longest_wait, sizeof(lifetimes->longest_wait), "%s",
			         report_layer(report, allocation->root, allocation->layer));
		}
	}
}

static int add_life(const struct store_allocation *allocation, void *arg)
{
	struct lifetimes *lifetimes = arg;
	struct life life = life_of(lifetimes, allocation);
	struct group *group;
	int error;

	lifetimes->nr_blocks++;
	lifetimes->bytes += allocation->size_bytes;
	look_for_hints(lifetimes, allocation, &life);
	if (!life.idle_ns)
		return 0;
	error = groups_add(&lifetimes->groups, allocation, GROUP_LIVES, &group);
	if (error || !group)
		return error;
	group->idle_byte_ns += (double)allocation->size_bytes * (double)life.idle_ns;
	group->at_peak_bytes += life.at_peak ? allocation->size_bytes : 0;
	group->longest_life_ns = life.life_ns > group->longest_life_ns ? life.life_ns : group->longest_life_ns;
	group->longest_idle_ns = life.idle_ns > group->longest_idle_ns ? life.idle_ns : group->longest_idle_ns;
	return 0;
}

static uint64_t step_ns(const struct lifetimes *lifetimes)
{
	return lifetimes->step.end_ns > lifetimes->step.start_ns ? lifetimes->step.end_ns - lifetimes->step.start_ns : 0;
}

/* One thing to look at, and how much of it there is. */
static void say_first(struct lifetimes *lifetimes, unsigned *nr, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void say_first(struct lifetimes *lifetimes, unsigned *nr, const char *format, ...)
{
	char text[4 * SAFE_TEXT_MAX];
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	if (!(*nr)++)
		report_heading(lifetimes->report, "Look first at");
	report_say(lifetimes->report, 3, "%u. %s", *nr, text);
}

/* What to look at first, if anything: what a change of the script can do something about comes first. */
static void print_hints(struct lifetimes *lifetimes)
{
	struct report *report = lifetimes->report;
	uint64_t optimizer_ns = clock_at(&lifetimes->clocks[PHASE_OPTIMIZER], lifetimes->step.end_ns);
	format_buffer bytes, time, share;
	unsigned nr = 0;

	if (lifetimes->old_gradient_bytes)
		say_first(lifetimes, &nr,
		          "%s of gradients of the step before stay alive through the forward (%s): unless they are accumulated, "
		          "zero_grad(set_to_none=True) right after step() frees them before it",
		          report_bytes(report, lifetimes->old_gradient_bytes, bytes),
		          format_duration(lifetimes->old_gradient_ns, time));
	if (lifetimes->held.bytes >= HINT_FROM)
		say_first(lifetimes, &nr,
		          "%s made in the forward are still held after the backward, most by %s: a variable keeps them",
		          report_bytes(report, lifetimes->held.bytes, bytes), lifetimes->held.most);
	if (lifetimes->long_lived.bytes >= HINT_FROM)
		say_first(lifetimes, &nr,
		          "%s of temporaries alive at the peak live for more than half of their phase, most by %s",
		          report_bytes(report, lifetimes->long_lived.bytes, bytes), lifetimes->long_lived.most);
	if (lifetimes->waiting_bytes)
		say_first(lifetimes, &nr,
		          "%s of saved activations wait for their backward at the peak, the longest those of layer %s (%s)",
		          report_bytes(report, lifetimes->waiting_bytes, bytes), lifetimes->longest_wait,
		          format_duration(lifetimes->longest_wait_ns, time));
	if (lifetimes->state_bytes && optimizer_ns)
		say_first(lifetimes, &nr, "%s of optimizer state are used in step() only, %s of the step's time",
		          report_bytes(report, lifetimes->state_bytes, bytes),
		          format_share(optimizer_ns, step_ns(lifetimes), share));
	if (nr)
		putc('\n', report->out);
}

static const struct row_column group_columns[] = {
        {"size_bytes", "%", COLUMN_BYTES, 0, 0},
        {"at_peak_bytes", "at peak", COLUMN_BYTES, 0, 70},
        {"blocks", "blocks", COLUMN_COUNT, 0, 80},
        {"what", "what", COLUMN_TEXT, COLUMN_CUT_END, 0},
        {"layer", "layer", COLUMN_TEXT, COLUMN_CUT_START, 0},
        {"born", "born in", COLUMN_TEXT, 0, 100},
        {"freed", "freed in", COLUMN_TEXT, 0, 0},
        {"life_ns", "life", COLUMN_DURATION, 0, 120},
        {"idle_ns", "idle", COLUMN_DURATION, 0, 0},
        {"share", "of step", COLUMN_TEXT, COLUMN_RIGHT, 130},
        {"detail", "tensor, op", COLUMN_TEXT, COLUMN_FLEXIBLE | COLUMN_IF_ANY, 140},
        {"line", "line", COLUMN_TEXT, COLUMN_CUT_END | COLUMN_IF_ANY, 80},
};
static const struct row_kind group_kind = ROW_KIND("group", group_columns);

/* "backward", "+1 forward": a step later; "never". */
static void add_end(struct rows *rows, const struct store_allocation *first)
{
	if (!first->free_seq)
		row_text(rows, "freed", "never");
	else if (first->free_step > first->step)
		row_textf(rows, "freed", "+%" PRIu64 " %s", first->free_step - first->step, phase_name(first->free_phase));
	else
		row_text(rows, "freed", phase_name(first->free_phase));
}

static int add_group(struct rows *rows, const struct lifetimes *lifetimes, const struct group *group)
{
	const struct store_allocation *first = &group->first;
	struct report *report = lifetimes->report;

	row_begin(rows);
	row_count(rows, "size_bytes", group->bytes);
	row_count(rows, "at_peak_bytes", group->at_peak_bytes);
	row_count(rows, "blocks", group->nr_blocks);
	row_text(rows, "what", category_words(first->category));
	row_text(rows, "layer", group_layer(report, group));
	row_text(rows, "born", phase_name(first->phase));
	add_end(rows, first);
	row_count(rows, "life_ns", group->longest_life_ns);
	row_count(rows, "idle_ns", group->longest_idle_ns);
	row_share(rows, "share", group->longest_idle_ns, step_ns(lifetimes));
	if (group->of_all_layers)
		row_text(rows, "detail", first->state_key);
	else
		row_text(rows, "detail", first->parameter ? group_tensor(report, first) : first->operation);
	row_text(rows, "line", short_line(report, first->line, false));
	return row_end(rows);
}

static int print_groups(struct lifetimes *lifetimes)
{
	struct report *report = lifetimes->report;
	struct groups *groups = &lifetimes->groups;
	struct rows *rows = rows_new(report, &group_kind);
	uint64_t limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_TEXT : report->arguments->limit;
	uint64_t listed_blocks = 0, listed_bytes = 0;
	format_buffer number;
	int error = 0;

	groups_sort(groups, GROUP_LIVES);
	if (limit != LIMIT_ALL && limit + 1 == groups->nr)
		limit++;
	for (size_t i = 0; i < groups->nr && (limit == LIMIT_ALL || i < limit) && !error; i++) {
		listed_blocks += groups->all[i]->nr_blocks;
		listed_bytes += groups->all[i]->bytes;
		error = add_group(rows, lifetimes, groups->all[i]);
	}
	if (!error && listed_blocks < groups->nr_blocks) {
		row_begin_for_people(rows, STYLE_FAINT);
		row_count(rows, "size_bytes", groups->bytes - listed_bytes);
		row_count(rows, "blocks", groups->nr_blocks - listed_blocks);
		row_text(rows, "what", "idle for less");
		error = row_end(rows);
	}
	error = rows_close(rows, error);
	if (!error && listed_blocks < groups->nr_blocks)
		report_say(report, 0, "(--limit all lists them)");
	if (!error && groups->nr_blocks < lifetimes->nr_blocks)
		report_say(report, 0, "(%s more block%s of this step not shown: nothing says that they were idle)",
		           format_count(lifetimes->nr_blocks - groups->nr_blocks, number),
		           lifetimes->nr_blocks - groups->nr_blocks == 1 ? "" : "s");
	return error;
}

static int show_text(struct lifetimes *lifetimes)
{
	struct report *report = lifetimes->report;
	bool at_run_peak = lifetimes->step.step == lifetimes->device.peak_step;
	format_buffer time;

	report_heading(report, "Held while nothing uses it, on %s in step %" PRIu64 "%s, which took %s", report->device_name,
	               lifetimes->step.step, at_run_peak ? ", the one with the peak" : "",
	               format_duration(step_ns(lifetimes), time));
	report_say(report, 0,
	           "idle: time in phases that cannot use a block of its kind; saved activations wait all their life for the "
	           "backward "
	           "that frees them.  The most bytes for the longest time come first");
	putc('\n', report->out);
	print_hints(lifetimes);
	return print_groups(lifetimes);
}

/* ---- rows */

static const struct row_column life_columns[] = {
        BLOCK_COLUMNS,
        {"free_step", NULL, COLUMN_NUMBER, 0, 0},
        {"life_ns", NULL, COLUMN_DURATION, 0, 0},
        {"idle_ns", NULL, COLUMN_DURATION, 0, 0},
        {"live_at_peak", NULL, COLUMN_BOOL, 0, 0},
};
static const struct row_kind life_kind = ROW_KIND("life", life_columns);
static const struct row_kind *const kinds[] = {&life_kind, NULL};

static int life_row(const struct store_allocation *allocation, void *arg)
{
	struct lifetimes *lifetimes = arg;
	struct life life = life_of(lifetimes, allocation);
	struct rows *rows = lifetimes->rows;

	if (lifetimes->limit != LIMIT_ALL && lifetimes->listed == lifetimes->limit)
		return 1;
	lifetimes->listed++;
	row_begin(rows);
	block_row(rows, allocation);
	if (allocation->free_seq)
		row_count(rows, "free_step", allocation->free_step);
	row_count(rows, "life_ns", life.life_ns);
	row_count(rows, "idle_ns", life.idle_ns);
	row_bool(rows, "live_at_peak", life.at_peak);
	return row_end(rows);
}

/* ---- the view */

static int find_step(const struct store_step *step, void *arg)
{
	struct lifetimes *lifetimes = arg;

	if (step->step != lifetimes->step.step)
		return 0;
	lifetimes->step = *step;
	lifetimes->found = true;
	return 1;
}

/* The step, its time by phases and the instant of its peak. */
static int read_step(struct lifetimes *lifetimes)
{
	const struct report *report = lifetimes->report;
	uint64_t wanted = report->arguments->filter.step;
	int error;

	lifetimes->step.step = wanted == UINT64_MAX ? lifetimes->device.peak_step : wanted;
	error = store_each_step(report->store, report->device, find_step, lifetimes);
	if (error != 1)
		return error;
	if (lifetimes->step.step == lifetimes->device.peak_step)
		lifetimes->peak_seq = lifetimes->device.peak_seq;
	else if (lifetimes->step.peak_seq)
		lifetimes->peak_seq = lifetimes->step.peak_seq;
	else
		lifetimes->peak_seq = lifetimes->step.start_seq ? lifetimes->step.start_seq - 1 : 0;
	error = store_each_span(report->store, lifetimes->step.start_seq, lifetimes->step.end_seq + 1, each_span, lifetimes);
	for (unsigned phase = 0; phase < NR_PHASES; phase++)
		settle_clock(&lifetimes->clocks[phase]);
	return error;
}

/* --step says which step is looked at, not where a block was born. */
static int each_life(struct lifetimes *lifetimes, int (*each)(const struct store_allocation *, void *))
{
	struct report *report = lifetimes->report;
	struct store_filter filter = report->arguments->filter;

	filter.step = UINT64_MAX;
	return store_each_life(report->store, report->device, lifetimes->step.start_seq, lifetimes->step.end_seq, &filter, each,
	                       lifetimes);
}

static int show_step(struct lifetimes *lifetimes)
{
	struct report *report = lifetimes->report;
	struct live live = {0};
	int error = read_step(lifetimes);

	if (error)
		return error;
	if (!lifetimes->found) {
		if (report_is_for_people(report))
			fprintf(report->out, "Nothing was allocated on %s in step %" PRIu64 ".\n", report->device_name,
			        lifetimes->step.step);
		return 0;
	}
	if (report_is_for_people(report)) {
		error = live_read(report, report->device, lifetimes->peak_seq, &live);
		live_release(&live);
		if (!error)
			error = each_life(lifetimes, add_life);
		return error ? error : show_text(lifetimes);
	}
	lifetimes->limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_ALL : report->arguments->limit;
	lifetimes->rows = rows_new(report, &life_kind);
	error = each_life(lifetimes, life_row);
	return rows_close(lifetimes->rows, error == 1 ? 0 : error);
}

static int show(struct report *report)
{
	struct lifetimes *lifetimes;
	int error = report_is_for_people(report) ? report_losses(report) : 0;

	if (error)
		return error;
	if (!report->has_device) {
		if (report_is_for_people(report))
			fprintf(report->out, "No tensor was allocated in this run.\n");
		return 0;
	}
	lifetimes = calloc(1, sizeof(*lifetimes));
	if (!lifetimes)
		return -ENOMEM;
	lifetimes->report = report;
	error = report_read_device(report, &lifetimes->device);
	if (!error)
		error = show_step(lifetimes);
	groups_release(&lifetimes->groups);
	for (unsigned phase = 0; phase < NR_PHASES; phase++)
		free(lifetimes->clocks[phase].stays);
	free(lifetimes);
	return error ? error : report_check(report);
}

const struct report_view lifetimes_view = {
        .name = "lifetimes",
        .help = "what is held while nothing uses it: allocated early, freed late",
        .filters = FILTERS_ALL,
        .kinds = kinds,
        .show = show,
};
