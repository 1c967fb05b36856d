/*
 * growth: leaks as trainers mean them: what grows from one training step to the next, where it was born, how fast, and why.
 *
 * The reader finds what grows (store_each_growth()).  Here it is put into words: by its phase, its category and the size of its
 * blocks, every row has a likely cause, and rows of one cause are told in one sentence, since a list that keeps each step's loss
 * keeps a little of every layer.
 */
#include "report/groups.h"
#include "report/live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_TEXT   20u
#define SCALAR_BYTES 64u /* a loss, a metric */

enum cause {
	CAUSE_GRAPH = 0, /* what forward saved, and what is kept with it */
	CAUSE_OUTPUTS,
	CAUSE_SCALARS,
	CAUSE_INFERENCE,
	CAUSE_GRADIENTS,
	CAUSE_OPTIMIZER,
	CAUSE_OUTSIDE,
	CAUSE_REPLACED,
	CAUSE_WITH_STEPS,
	NR_CAUSES,
};

struct cause_words {
	const char *name; /* for programs */
	const char *words;
};

static const struct cause_words causes[NR_CAUSES] = {
        [CAUSE_GRAPH] =
                {"graph",
                 "something holds the graph of each step's forward: a list of losses (losses.append(loss): append "
                 "loss.item(), or loss.detach()), a sum of them, backward(retain_graph=True), outputs kept without detach()"},
        [CAUSE_OUTPUTS] = {"outputs",
                           "something keeps a result of each step's forward: a list of outputs, a hook that collects them "
                           "(keep x.detach().cpu() of what is needed, or only the last)"},
        [CAUSE_SCALARS] = {"scalars", "something keeps a number of each step as a tensor: a list of losses or metrics "
                                      "(losses.append(loss): append loss.item(), which keeps neither tensor nor graph)"},
        [CAUSE_INFERENCE] = {"inference", "something keeps results of evaluation: a list of predictions "
                                          "(add up what is needed, or move it off the device)"},
        [CAUSE_GRADIENTS] = {"gradients", "something keeps what each backward made: a list of gradients (p.grad.clone()), "
                                          "retain_grad(), backward(create_graph=True)"},
        [CAUSE_OPTIMIZER] = {"optimizer", "the optimizer keeps more after each step(): a history (LBFGS), or parameters that "
                                          "are added to it again and again"},
        [CAUSE_OUTSIDE] = {"outside", "something keeps what each step makes outside of its forward: a list of batches, a cache, "
                                      "copies of gradients or weights (clone())"},
        [CAUSE_REPLACED] = {"replaced", "a tensor is replaced by a larger one from step to step: a buffer or a KV cache that "
                                        "torch.cat makes longer"},
        [CAUSE_WITH_STEPS] = {"with_steps",
                              "the steps as a whole allocate more from step to step, and what they leave to the "
                              "next grows with them: inputs that become longer, or a cache that all is attended to"},
};

struct found {
	struct store_growth row; /* its strings are ours */
	char *texts[4];
	enum cause cause;
};

struct growth {
	struct report *report;
	struct store_growth_steps steps;
	struct found *found;
	size_t nr, room;
};

static int add_found(const struct store_growth *row, void *arg)
{
	struct growth *growth = arg;
	const char *texts[4] = {row->root, row->layer, row->line, row->operation};

	if (growth->nr == growth->room) {
		size_t room = growth->room ? 2 * growth->room : 64;
		struct found *found = realloc(growth->found, room * sizeof(*found));

		if (!found)
			return -ENOMEM;
		growth->found = found;
		growth->room = room;
	}
	struct found *found = &growth->found[growth->nr++];

	*found = (struct found){.row = *row};
	for (unsigned i = 0; i < 4; i++) {
		found->texts[i] = texts[i] ? strdup(texts[i]) : NULL;
		if (texts[i] && !found->texts[i])
			return -ENOMEM;
	}
	found->row.root = found->texts[0];
	found->row.layer = found->texts[1];
	found->row.line = found->texts[2];
	found->row.operation = found->texts[3];
	return 0;
}

static bool is_scalar(const struct store_growth *row)
{
	return row->nr_blocks && row->bytes / row->nr_blocks <= SCALAR_BYTES;
}

static enum cause cause_of(const struct store_growth *row)
{
	if (row->kind != GROWTH_KEPT)
		return row->kind == GROWTH_REPLACED ? CAUSE_REPLACED : CAUSE_WITH_STEPS;
	if (row->category == CATEGORY_OPTIMIZER_STATE || row->phase == PHASE_OPTIMIZER)
		return CAUSE_OPTIMIZER;
	if (row->category == CATEGORY_GRADIENT || (row->phase == PHASE_BACKWARD && row->category != CATEGORY_RECOMPUTE))
		return CAUSE_GRADIENTS;
	if (row->phase == PHASE_INFERENCE)
		return CAUSE_INFERENCE;
	if (is_scalar(row))
		return CAUSE_SCALARS;
	return row->phase == PHASE_FORWARD ? CAUSE_OUTPUTS : CAUSE_OUTSIDE;
}

/*
 * A kept output is one block a step.  More than that, saved for backward, is a graph.  It keeps the numbers of the forward
 * and its inputs too, whatever else may.
 */
static void find_causes(struct growth *growth)
{
	uint64_t saved_blocks = 0, nr_steps = 1;
	size_t nr_saved = 0;

	for (size_t i = 0; i < growth->nr; i++) {
		struct found *found = &growth->found[i];

		found->cause = cause_of(&found->row);
		if (found->cause == CAUSE_OUTPUTS) {
			nr_saved++;
			saved_blocks += found->row.nr_blocks;
			nr_steps = found->row.nr_steps > nr_steps ? found->row.nr_steps : nr_steps;
		}
	}
	if (nr_saved < 2 && saved_blocks < 2 * nr_steps)
		return;
	for (size_t i = 0; i < growth->nr; i++)
		if (growth->found[i].cause == CAUSE_OUTPUTS || growth->found[i].cause == CAUSE_SCALARS ||
		    growth->found[i].row.category == CATEGORY_INPUT)
			growth->found[i].cause = CAUSE_GRAPH;
}

/* ---- for people */

/* "born in forward at train.py:31 (layer fc1, aten::relu)" */
static void say_where(struct report *report, const struct store_growth *row, char *ret, size_t ret_size)
{
	const char *line = short_line(report, row->line, false);

	snprintf(ret, ret_size, "born in %s%s%s%s%s%s%s%s", phase_name(row->phase), *line ? " at " : "", line,
	         row->layer || row->operation ? " (" : "", row->layer ? "layer " : "",
	         row->layer ? report_layer(report, row->root, row->layer) : "", row->layer && row->operation ? ", " : "",
	         row->operation ? report_safe(report, row->operation) : "");
	if (row->layer || row->operation)
		snprintf(ret + strlen(ret), ret_size - strlen(ret), ")");
}

static void say_cause(const struct growth *growth, enum cause cause, unsigned *nr)
{
	struct report *report = growth->report;
	const struct store_growth *most = NULL;
	uint64_t bytes = 0, blocks = 0, since = UINT64_MAX;
	char size[2 * FORMAT_MAX], where[4 * SAFE_TEXT_MAX];
	format_buffer number;
	size_t nr_rows = 0;

	for (size_t i = 0; i < growth->nr; i++) {
		const struct store_growth *row = &growth->found[i].row;

		if (growth->found[i].cause != cause)
			continue;
		nr_rows++;
		bytes += row->bytes_per_step;
		blocks += row->nr_blocks;
		since = row->since_step < since ? row->since_step : since;
		if (!most || row->bytes_per_step > most->bytes_per_step)
			most = row;
	}
	if (!most)
		return;
	say_where(report, most, where, sizeof(where));
	report_size(report, bytes, size);
	if (most->kind == GROWTH_KEPT)
		report_say(report, 3, "%u. each step since step %" PRIu64 " keeps %s%s in %s block%s, %s%s: %s", ++*nr, since,
		           blocks % most->nr_steps ? "about " : "", size,
		           format_count((blocks + most->nr_steps / 2) / most->nr_steps, number),
		           (blocks + most->nr_steps / 2) / most->nr_steps == 1 ? "" : "s", nr_rows > 1 ? "most " : "", where,
		           causes[cause].words);
	else
		report_say(report, 3, "%u. since step %" PRIu64 ", %s more a step, %s%s: %s", ++*nr, since, size,
		           nr_rows > 1 ? "most " : "", where, causes[cause].words);
}

static const struct row_column found_columns[] = {
        {"bytes_per_step", "bytes/step", COLUMN_EXACT, 0, 0},
        {"blocks", "blocks", COLUMN_COUNT, 0, 90},
        {"bytes", "%", COLUMN_BYTES, 0, 70},
        {"since", "since step", COLUMN_NUMBER, 0, 80},
        {"fit", "fit", COLUMN_TEXT, COLUMN_RIGHT, 110},
        {"what", "what", COLUMN_TEXT, COLUMN_CUT_END, 100},
        {"born", "born in", COLUMN_TEXT, 0, 0},
        {"layer", "layer", COLUMN_TEXT, COLUMN_CUT_START, 0},
        {"line", "line", COLUMN_TEXT, COLUMN_CUT_START | COLUMN_IF_ANY, 0},
        {"operation", "operation", COLUMN_TEXT, COLUMN_CUT_END | COLUMN_IF_ANY, 120},
};
static const struct row_kind found_kind = ROW_KIND("growing", found_columns);

static int print_found(const struct growth *growth)
{
	struct report *report = growth->report;
	uint64_t limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_TEXT : report->arguments->limit;
	struct rows *rows = rows_new(report, &found_kind);
	size_t listed = 0;
	int error = 0;

	for (; listed < growth->nr && (limit == LIMIT_ALL || listed < limit) && !error; listed++) {
		const struct store_growth *row = &growth->found[listed].row;

		row_begin(rows);
		row_count(rows, "bytes_per_step", row->bytes_per_step);
		row_count(rows, "blocks", row->nr_blocks);
		row_count(rows, "bytes", row->bytes);
		row_count(rows, "since", row->since_step);
		row_textf(rows, "fit", "%u %%", row->fit_percent);
		row_text(rows, "what", category_words(row->category));
		row_text(rows, "born", phase_name(row->phase));
		row_text(rows, "layer", report_layer(report, row->root, row->layer));
		row_text(rows, "line", short_line(report, row->line, true));
		row_text(rows, "operation", row->operation);
		error = row_end(rows);
	}
	error = rows_close(rows, error);
	if (!error && listed < growth->nr)
		report_say(report, 0, "(%zu more; --limit all lists them)", growth->nr - listed);
	return error;
}

static int show_text(const struct growth *growth)
{
	struct report *report = growth->report;
	const struct store_growth_steps *steps = &growth->steps;
	format_buffer number;
	unsigned nr = 0;

	if (!steps->enough) {
		report_say(report, 0,
		           "Too few training steps to tell what grows: the run has %s, and %" PRIu64
		           " are needed (the first and the last say nothing).",
		           format_count(steps->nr_training, number), steps->nr_needed);
		return 0;
	}
	report_heading(report, "What grows on %s from one training step to the next: steps %" PRIu64 " to %" PRIu64,
	               report->device_name, steps->first_step, steps->last_step);
	if (!growth->nr) {
		report_say(report, 0,
		           "Nothing grows.  Checked: what outlives its step, by line, layer, category and phase (%s "
		           "group%s); no group has more blocks from step to step, and none a block that becomes larger.",
		           format_count(steps->nr_groups, number), steps->nr_groups == 1 ? "" : "s");
	} else {
		report_say(report, 0, "fit: how much of it a constant rate explains; blocks: left behind in the steps looked at");
		putc('\n', report->out);
		for (unsigned cause = 0; cause < NR_CAUSES; cause++)
			say_cause(growth, cause, &nr);
		putc('\n', report->out);
	}
	if (steps->nr_left_out)
		report_warning(report, "%s blocks of more lines and layers than can be followed were left out",
		               format_count(steps->nr_left_out, number));
	return growth->nr ? print_found(growth) : 0;
}

/* ---- for programs */

static const struct row_column growth_columns[] = {
        {"device", NULL, COLUMN_TEXT, 0, 0},
        {"training_steps", NULL, COLUMN_COUNT, 0, 0},
        {"enough_steps", NULL, COLUMN_BOOL, 0, 0},
        {"first_step", NULL, COLUMN_NUMBER, 0, 0},
        {"last_step", NULL, COLUMN_NUMBER, 0, 0},
        {"groups", NULL, COLUMN_COUNT, 0, 0},
        {"growing", NULL, COLUMN_COUNT, 0, 0},
        {"kept_bytes_per_step", NULL, COLUMN_BYTES, 0, 0},
        {"replaced_bytes_per_step", NULL, COLUMN_BYTES, 0, 0},
        {"left_out_blocks", NULL, COLUMN_COUNT, 0, 0},
};
static const struct row_kind growth_kind = ROW_KIND("growth", growth_columns);

static const struct row_column group_columns[] = {
        {"device", NULL, COLUMN_TEXT, 0, 0},        {"kind", NULL, COLUMN_TEXT, 0, 0},
        {"cause", NULL, COLUMN_TEXT, 0, 0},         {"bytes_per_step", NULL, COLUMN_BYTES, 0, 0},
        {"blocks", NULL, COLUMN_COUNT, 0, 0},       {"bytes", NULL, COLUMN_BYTES, 0, 0},
        {"steps", NULL, COLUMN_COUNT, 0, 0},        {"since_step", NULL, COLUMN_NUMBER, 0, 0},
        {"fit_percent", NULL, COLUMN_NUMBER, 0, 0}, {"category", NULL, COLUMN_TEXT, 0, 0},
        {"phase", NULL, COLUMN_TEXT, 0, 0},         {"root", NULL, COLUMN_TEXT, 0, 0},
        {"layer", NULL, COLUMN_TEXT, 0, 0},         {"operation", NULL, COLUMN_TEXT, 0, 0},
        {"line", NULL, COLUMN_TEXT, 0, 0},
};
static const struct row_kind group_kind = ROW_KIND("group", group_columns);
static const struct row_kind *const kinds[] = {&growth_kind, &group_kind, NULL};

static uint64_t bytes_per_step(const struct growth *growth, enum store_growth_kind kind)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < growth->nr; i++)
		if (growth->found[i].row.kind == kind)
			bytes += growth->found[i].row.bytes_per_step;
	return bytes;
}

static int steps_row(const struct growth *growth)
{
	const struct store_growth_steps *steps = &growth->steps;
	struct rows *rows = rows_new(growth->report, &growth_kind);

	row_begin(rows);
	row_text(rows, "device", growth->report->device_name);
	row_count(rows, "training_steps", steps->nr_training);
	row_bool(rows, "enough_steps", steps->enough);
	if (steps->enough) {
		row_count(rows, "first_step", steps->first_step);
		row_count(rows, "last_step", steps->last_step);
		row_count(rows, "groups", steps->nr_groups);
		row_count(rows, "growing", steps->nr_growing);
		row_count(rows, "kept_bytes_per_step", bytes_per_step(growth, GROWTH_KEPT));
		row_count(rows, "replaced_bytes_per_step", bytes_per_step(growth, GROWTH_REPLACED));
		row_count(rows, "left_out_blocks", steps->nr_left_out);
	}
	return rows_close(rows, row_end(rows));
}

static int group_rows(const struct growth *growth)
{
	static const char *const kind_names[] = {
	        [GROWTH_KEPT] = "kept", [GROWTH_REPLACED] = "replaced", [GROWTH_WITH_STEPS] = "with_steps"};
	uint64_t limit = growth->report->arguments->limit == LIMIT_DEFAULT ? LIMIT_ALL : growth->report->arguments->limit;
	struct rows *rows = rows_new(growth->report, &group_kind);
	int error = 0;

	for (size_t i = 0; i < growth->nr && (limit == LIMIT_ALL || i < limit) && !error; i++) {
		const struct store_growth *row = &growth->found[i].row;

		row_begin(rows);
		row_text(rows, "device", growth->report->device_name);
		row_text(rows, "kind", kind_names[row->kind]);
		row_text(rows, "cause", causes[growth->found[i].cause].name);
		row_count(rows, "bytes_per_step", row->bytes_per_step);
		row_count(rows, "blocks", row->nr_blocks);
		row_count(rows, "bytes", row->bytes);
		row_count(rows, "steps", row->nr_steps);
		row_count(rows, "since_step", row->since_step);
		row_count(rows, "fit_percent", row->fit_percent);
		row_text(rows, "category", category_name(row->category));
		row_text(rows, "phase", phase_name(row->phase));
		row_text(rows, "root", row->root);
		row_text(rows, "layer", row->layer);
		row_text(rows, "operation", row->operation);
		row_text(rows, "line", row->line);
		error = row_end(rows);
	}
	return rows_close(rows, error);
}

/* ---- the view */

static int show_growth(struct growth *growth)
{
	struct report *report = growth->report;
	int error =
	        store_each_growth(report->store, report->device, &report->arguments->filter, &growth->steps, add_found, growth);

	if (error)
		return error;
	find_causes(growth);
	if (report_is_for_people(report))
		return show_text(growth);
	error = steps_row(growth);
	return error ? error : group_rows(growth);
}

static int show(struct report *report)
{
	struct growth growth = {.report = report};
	int error = report_is_for_people(report) ? report_losses(report) : 0;

	if (error)
		return error;
	if (!report->has_device) {
		if (report_is_for_people(report))
			fprintf(report->out, "No tensor was allocated in this run.\n");
		return 0;
	}
	error = show_growth(&growth);
	for (size_t i = 0; i < growth.nr; i++)
		for (unsigned text = 0; text < 4; text++)
			free(growth.found[i].texts[text]);
	free(growth.found);
	return error ? error : report_check(report);
}

const struct report_view growth_view = {
        .name = "growth",
        .help = "what grows from one training step to the next: where it was born, how fast, the likely cause",
        .filters = FILTERS_ALL & ~(unsigned)FILTER_STEP,
        .kinds = kinds,
        .show = show,
};
