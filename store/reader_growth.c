/*
 * What grows from one training step to the next.
 *
 * The instants at which training steps end are marks; what is alive at a mark outlived its step.  Blocks of one line, layer,
 * category and phase are a group.  (Not operation: it is recorded of some steps only.)  One pass over the blocks gives each group
 * how much it has alive at every mark, and how much of what was born between two marks is still alive at the last.  Two things
 * are growth:
 * - kept: blocks are born all along the steps and stay (a list that is appended to).  Judged by the *number* of blocks, which
 *   does not follow the lengths of sequences; a queue of bounded length frees as many as it takes.
 * - replaced: the number stays, the bytes rise from mark to mark (a tensor that torch.cat makes longer).  Where the steps as a
 *   whole allocate much more from step to step, longer inputs explain it: with_steps.
 * The last step is left out, since programs free everything in it when they end, and so are the first steps.
 *
 * Memory: at most GROUPS_MAX groups of MARKS_MAX marks, however long the run; of longer ones a mark is several steps.
 */
#include "store/reader_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define MARKS_MAX     128u
#define GROUPS_MAX    8192u
#define SLOTS         16384u /* a power of 2, above GROUPS_MAX */
#define STEPS_MIN     5u     /* the first and the last two say nothing; two remain */
#define WARM_UP_FROM  10u    /* steps of a run from which on the second step counts as warm-up, too */
#define RISES_MIN     5u     /* one in 720 of random lengths rises five times in a row */
#define STEPS_EXPLAIN 4.0    /* as many times as what is kept must the allocations of steps rise to explain it */
#define SPAN_PART     8u     /* of the run, that growth must go on for */

struct key {
	uint32_t line, module;
	unsigned phase, category;
};

/* Of one mark: alive at it, and born since the mark before and alive at the last. */
struct level {
	uint64_t live_bytes, kept_bytes;
	int64_t live_blocks, kept_blocks;
};

/* The operation that made blocks, as far as it is known. */
struct operation {
	uint32_t frame; /* 0 not known of any so far */
	bool several;
};

struct growing {
	struct key key;
	struct operation live, kept; /* of what was alive at any mark, and of what stayed until the last */
	struct level *levels;        /* nr_marks */
	struct store_growth found;
};

struct growth {
	uint64_t marks[MARKS_MAX];      /* [0]: before the first training step; ascending */
	uint64_t step_at[MARKS_MAX];    /* training steps up to the mark */
	uint64_t first_step[MARKS_MAX]; /* number of the first step since the mark before */
	double born_bytes[MARKS_MAX];   /* allocated since the mark before, by everyone */
	unsigned nr_marks, warm_up;     /* marks up to index warm_up are not looked at */
	uint64_t stride;
	uint64_t first_start_seq;
	struct growing *groups[GROUPS_MAX];
	uint32_t nr_groups;
	uint32_t slots[SLOTS]; /* index + 1, 0 free */
	struct store_growth_steps steps;
};

/* ---- marks */

static int count_steps(struct store *store, struct growth *growth)
{
	struct query query;

	query_open(store, &query, "growth_nr_steps");
	if (query_step(&query) == 1)
		growth->steps.nr_training = query_u64(&query, 0);
	return query_close(&query);
}

static void add_mark(struct growth *growth, uint64_t seq, uint64_t nr_steps, uint64_t first_step)
{
	if (growth->nr_marks == MARKS_MAX || (growth->nr_marks && seq <= growth->marks[growth->nr_marks - 1]))
		return;
	growth->marks[growth->nr_marks] = seq;
	growth->step_at[growth->nr_marks] = nr_steps;
	growth->first_step[growth->nr_marks++] = first_step;
}

static int read_marks(struct store *store, struct growth *growth)
{
	uint64_t last = growth->steps.nr_training - 1, nr = 0, first_step = 0, in_mark = 0, last_step = 0;
	struct query query;

	growth->stride = (last + MARKS_MAX - 2) / (MARKS_MAX - 1);
	query_open(store, &query, "growth_steps");
	while (nr < last && query_step(&query) == 1) {
		uint64_t step = query_u64(&query, 0), start_seq = query_u64(&query, 1), end_seq = query_u64(&query, 2);

		if (!query_ok(&query))
			break;
		if (nr == 0)
			add_mark(growth, start_seq ? start_seq - 1 : 0, 0, step);
		nr++;
		/* Evaluation between two training steps is a step of its own. */
		if (in_mark++ == 0)
			first_step = nr == 1 ? step : last_step + 1;
		last_step = step;
		if (in_mark == growth->stride || nr == last) {
			add_mark(growth, end_seq, nr, first_step);
			in_mark = 0;
			growth->steps.last_step = step;
		}
	}
	growth->warm_up = growth->stride == 1 && growth->steps.nr_training >= WARM_UP_FROM ? 2 : 1;
	return query_close(&query);
}

/* The first mark at or after @seq, nr_marks when there is none. */
static unsigned mark_of(const struct growth *growth, uint64_t seq)
{
	unsigned low = 0, high = growth->nr_marks;

	while (low < high) {
		unsigned middle = low + (high - low) / 2;

		if (growth->marks[middle] < seq)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* ---- groups */

static uint32_t hash_of(const struct key *key)
{
	uint64_t hash = key->line;

	hash = hash * UINT64_C(0x9e3779b97f4a7c15) + key->module;
	hash = hash * UINT64_C(0x9e3779b97f4a7c15) + key->phase * NR_CATEGORIES + key->category;
	return (uint32_t)((hash * UINT64_C(0x9e3779b97f4a7c15)) >> 32);
}

static bool same_key(const struct key *a, const struct key *b)
{
	return a->line == b->line && a->module == b->module && a->phase == b->phase && a->category == b->category;
}

/* Returns the group of @key, or NULL: too many (counted), or no memory (*@ret_error). */
static struct growing *find_group(struct growth *growth, const struct key *key, int *ret_error)
{
	uint32_t slot = hash_of(key) & (SLOTS - 1);

	for (; growth->slots[slot]; slot = (slot + 1) & (SLOTS - 1))
		if (same_key(&growth->groups[growth->slots[slot] - 1]->key, key))
			return growth->groups[growth->slots[slot] - 1];
	if (growth->nr_groups == GROUPS_MAX) {
		growth->steps.nr_left_out++;
		return NULL;
	}
	struct growing *group = calloc(1, sizeof(*group));

	if (group)
		group->levels = calloc(growth->nr_marks, sizeof(*group->levels));
	if (!group || !group->levels) {
		free(group);
		*ret_error = -ENOMEM;
		return NULL;
	}
	group->key = *key;
	growth->groups[growth->nr_groups++] = group;
	growth->slots[slot] = growth->nr_groups;
	return group;
}

static void add_operation(struct operation *operation, uint32_t frame)
{
	operation->several |= frame && operation->frame && operation->frame != frame;
	operation->frame = operation->frame ? operation->frame : frame;
}

/* Levels hold changes until settle_levels(). */
static int add_block(struct growth *growth, const struct key *key, uint32_t operation, uint64_t size_bytes, uint64_t alloc_seq,
                     uint64_t free_seq)
{
	unsigned born = mark_of(growth, alloc_seq), freed = free_seq ? mark_of(growth, free_seq) : growth->nr_marks;
	int error = 0;

	if (born >= growth->nr_marks || !size_bytes)
		return 0;
	growth->born_bytes[born] += (double)size_bytes;
	if (freed <= born)
		return 0;
	struct growing *group = find_group(growth, key, &error);

	if (!group)
		return error;
	if (born > growth->warm_up)
		add_operation(&group->live, operation);
	group->levels[born].live_bytes += size_bytes;
	group->levels[born].live_blocks++;
	if (freed < growth->nr_marks) {
		group->levels[freed].live_bytes -= size_bytes;
		group->levels[freed].live_blocks--;
	} else {
		if (born > growth->warm_up)
			add_operation(&group->kept, operation);
		group->levels[born].kept_bytes += size_bytes;
		group->levels[born].kept_blocks++;
	}
	return 0;
}

static int read_blocks(struct store *store, uint16_t device, const struct store_filter *filter, struct growth *growth)
{
	struct query query;

	query_open(store, &query, "growth_blocks");
	query_bind(&query, ":device", device);
	query_bind(&query, ":end", growth->marks[growth->nr_marks - 1]);
	query_bind_filter(&query, filter);
	while (query_step(&query) == 1) {
		uint64_t size_bytes = query_u64(&query, 0), alloc_seq = query_u64(&query, 1), free_seq = query_u64(&query, 2);
		struct key key = {
		        .phase = query_code(&query, 3, NR_PHASES),
		        .category = query_code(&query, 4, NR_CATEGORIES),
		        .module = (uint32_t)query_u64_max(&query, 5, UINT32_MAX),
		        .line = (uint32_t)query_u64_max(&query, 6, UINT32_MAX),
		};
		uint32_t operation = (uint32_t)query_u64_max(&query, 7, UINT32_MAX);

		if (query_ok(&query) && add_block(growth, &key, operation, size_bytes, alloc_seq, free_seq))
			query.error = store_fail(store, -ENOMEM, "takes more memory to read than there is");
	}
	return query_close(&query);
}

static void settle_levels(const struct growth *growth, struct growing *group)
{
	for (unsigned i = 1; i < growth->nr_marks; i++) {
		group->levels[i].live_bytes += group->levels[i - 1].live_bytes;
		group->levels[i].live_blocks += group->levels[i - 1].live_blocks;
	}
}

/* ---- what grows */

/* A straight line through points that come in order of x. */
struct line {
	double n, x, y, xx, xy, yy;
};

static void line_add(struct line *line, double x, double y)
{
	line->n++;
	line->x += x;
	line->y += y;
	line->xx += x * x;
	line->xy += x * y;
	line->yy += y * y;
}

static double line_slope(const struct line *line)
{
	double spread = line->n * line->xx - line->x * line->x;

	return spread > 0 ? (line->n * line->xy - line->x * line->y) / spread : 0;
}

/* How much of the points' spread the line explains, in percent. */
static unsigned line_fit(const struct line *line)
{
	double over = line->n * line->xy - line->x * line->y;
	double spread = (line->n * line->xx - line->x * line->x) * (line->n * line->yy - line->y * line->y);

	return spread > 0 ? (unsigned)lrint(fmin(100, fmax(0, 100 * over * over / spread))) : 100;
}

static uint64_t to_bytes(double bytes)
{
	return bytes <= 0 ? 0 : bytes >= 9e18 ? INT64_MAX : (uint64_t)(bytes + 0.5);
}

/* Whether each third of the marks from @since to before @end has something that stayed. */
static bool is_kept_all_along(const struct growing *group, unsigned since, unsigned end)
{
	unsigned span = end - since, parts = span < 3 ? span : 3;

	for (unsigned part = 0; part < parts; part++) {
		int64_t blocks = 0;

		for (unsigned i = since + span * part / parts; i < since + span * (part + 1) / parts; i++)
			blocks += group->levels[i].kept_blocks;
		if (!blocks)
			return false;
	}
	return true;
}

/* What is born in the last step before the last mark is alive at it in any program: it is not looked at. */
static bool find_kept(const struct growth *growth, struct growing *group)
{
	unsigned end = growth->nr_marks - 1, first = growth->warm_up + 1, since = first;
	struct line line = {0};
	uint64_t bytes = 0;
	int64_t blocks = 0;

	while (since < end && !group->levels[since].kept_blocks)
		since++;
	unsigned range = end - first, span = end - since, least = range < 3 ? range : 3;

	if (span < least || span * SPAN_PART < range || !is_kept_all_along(group, since, end))
		return false;
	line_add(&line, (double)growth->step_at[since - 1], 0);
	for (unsigned i = since; i < end; i++) {
		blocks += group->levels[i].kept_blocks;
		bytes += group->levels[i].kept_bytes;
		line_add(&line, (double)growth->step_at[i], (double)bytes);
	}
	/* A queue frees as many as it takes. */
	if (2 * (group->levels[end - 1].live_blocks - group->levels[since - 1].live_blocks) < blocks)
		return false;
	uint64_t nr_steps = growth->step_at[end - 1] - growth->step_at[since - 1];

	/* Whether it began in the first steps already; evaluation may come every other step. */
	if (since <= first + 1)
		for (since = 1; !group->levels[since].kept_blocks;)
			since++;
	group->found = (struct store_growth){
	        .kind = GROWTH_KEPT,
	        .since_step = growth->first_step[since],
	        .nr_steps = nr_steps,
	        .nr_blocks = (uint64_t)blocks,
	        .bytes = bytes > INT64_MAX ? INT64_MAX : bytes,
	        .bytes_per_step = to_bytes((double)bytes / (double)nr_steps),
	        .fit_percent = line_fit(&line),
	};
	return true;
}

static bool find_replaced(const struct growth *growth, struct growing *group)
{
	const struct level *levels = group->levels;
	unsigned end = growth->nr_marks - 1, start = end, rises = 0;
	struct line line = {0};

	while (start > growth->warm_up && levels[start].live_bytes >= levels[start - 1].live_bytes &&
	       levels[start - 1].live_blocks > 0) {
		rises += levels[start].live_bytes > levels[start - 1].live_bytes;
		start--;
	}
	if (rises < RISES_MIN || 2 * (end - start) < end - growth->warm_up || levels[end].live_blocks > levels[start].live_blocks)
		return false;
	for (unsigned i = start; i <= end; i++)
		line_add(&line, (double)growth->step_at[i], (double)levels[i].live_bytes);
	group->found = (struct store_growth){
	        .kind = GROWTH_REPLACED,
	        .since_step = growth->first_step[start + 1],
	        .nr_steps = growth->step_at[end] - growth->step_at[start],
	        .nr_blocks = (uint64_t)levels[end].live_blocks,
	        .bytes = to_bytes((double)(levels[end].live_bytes - levels[start].live_bytes)),
	        .bytes_per_step = to_bytes(line_slope(&line)),
	        .fit_percent = line_fit(&line),
	};
	return true;
}

static int compare_groups(const void *a, const void *b)
{
	const struct growing *x = *(struct growing *const *)a, *y = *(struct growing *const *)b;

	if (x->found.kind != y->found.kind)
		return x->found.kind < y->found.kind ? -1 : 1;
	if (x->found.bytes_per_step != y->found.bytes_per_step)
		return x->found.bytes_per_step > y->found.bytes_per_step ? -1 : 1;
	return x->key.module != y->key.module ? (x->key.module < y->key.module ? -1 : 1) : 0;
}

/* Longer inputs explain what is replaced by larger ones, where the steps as a whole allocate much more from step to step. */
static bool steps_explain(const struct growth *growth, double replaced)
{
	struct line line = {0};

	for (unsigned i = growth->warm_up + 1; i < growth->nr_marks; i++)
		line_add(&line, (double)growth->step_at[i],
		         growth->born_bytes[i] / (double)(growth->step_at[i] - growth->step_at[i - 1]));
	return line_slope(&line) > STEPS_EXPLAIN * replaced;
}

/* Keep the groups that grow, most first. */
static void judge(struct growth *growth)
{
	uint32_t nr = 0;
	double replaced = 0;

	for (uint32_t i = 0; i < growth->nr_groups; i++) {
		struct growing *group = growth->groups[i];

		settle_levels(growth, group);
		if (find_kept(growth, group) || find_replaced(growth, group)) {
			if (group->found.kind == GROWTH_REPLACED)
				replaced += (double)group->found.bytes_per_step;
			growth->groups[i] = growth->groups[nr];
			growth->groups[nr++] = group;
		}
	}
	if (replaced > 0 && steps_explain(growth, replaced))
		for (uint32_t i = 0; i < nr; i++)
			if (growth->groups[i]->found.kind == GROWTH_REPLACED)
				growth->groups[i]->found.kind = GROWTH_WITH_STEPS;
	qsort(growth->groups, nr, sizeof(struct growing *), compare_groups);
	growth->steps.nr_groups = growth->nr_groups;
	growth->steps.nr_growing = nr;
}

/* ---- the answer */

static int show_groups(struct store *store, const struct growth *growth, int (*each)(const struct store_growth *, void *),
                       void *arg)
{
	struct query query;
	int stopped = 0;

	query_open(store, &query, "growth_names");
	for (uint64_t i = 0; i < growth->steps.nr_growing && !stopped && query_ok(&query); i++) {
		const struct key *key = &growth->groups[i]->key;
		struct store_growth row = growth->groups[i]->found;
		const struct operation *operation = row.kind == GROWTH_KEPT ? &growth->groups[i]->kept : &growth->groups[i]->live;

		query_reset(&query);
		query_bind(&query, ":module", key->module);
		query_bind(&query, ":line", key->line);
		query_bind(&query, ":operation", operation->several ? 0 : operation->frame);
		if (query_step(&query) != 1)
			break;
		row.root = query_text(&query, 0);
		row.layer = query_text(&query, 1);
		row.line = query_text(&query, 2);
		row.operation = query_text(&query, 3);
		row.phase = key->phase;
		row.category = key->category;
		if (query_ok(&query))
			stopped = each(&row, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

int store_each_growth(struct store *store, uint16_t device, const struct store_filter *filter,
                      struct store_growth_steps *ret_steps, int (*each)(const struct store_growth *, void *), void *arg)
{
	struct growth *growth = calloc(1, sizeof(*growth));

	if (!growth)
		return store_fail(store, -ENOMEM, "takes more memory to read than there is");
	store_begin_call(store);
	int r = count_steps(store, growth);

	growth->steps.nr_needed = STEPS_MIN;
	if (!r && growth->steps.nr_training >= STEPS_MIN)
		r = read_marks(store, growth);
	/* Damaged steps may leave fewer marks. */
	growth->steps.enough = growth->nr_marks >= STEPS_MIN && growth->nr_marks > growth->warm_up + 3;
	if (!r && growth->steps.enough) {
		growth->steps.first_step = growth->first_step[growth->warm_up + 1];
		growth->steps.nr_steps = growth->step_at[growth->nr_marks - 1] - growth->step_at[growth->warm_up];
		r = read_blocks(store, device, filter, growth);
		if (!r)
			judge(growth);
	}
	*ret_steps = growth->steps;
	if (!r && growth->steps.enough)
		r = show_groups(store, growth, each, arg);
	for (uint32_t i = 0; i < growth->nr_groups; i++) {
		free(growth->groups[i]->levels);
		free(growth->groups[i]);
	}
	free(growth);
	return r;
}
