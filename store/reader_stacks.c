/*
 * Blocks added up by the stack that allocated them.
 *
 * SQLite adds up by stack, so that memory follows the distinct stacks; each stack is then read frame by frame up its parents.
 */
#include "store/reader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct stack {
	struct store_frame frames[STORE_FRAMES_MAX]; /* filled from the end */
	unsigned nr_frames;
};

static void clear_stack(struct stack *stack)
{
	for (unsigned i = STORE_FRAMES_MAX - stack->nr_frames; i < STORE_FRAMES_MAX; i++) {
		free(stack->frames[i].file);
		free(stack->frames[i].function);
		free(stack->frames[i].build_id);
	}
	stack->nr_frames = 0;
}

/* Read stack @id with its callers.  A damaged file may have circles: the number of frames bounds them. */
static int read_frames(struct store *store, struct query *query, uint32_t id, struct stack *stack)
{
	while (id && stack->nr_frames < STORE_FRAMES_MAX) {
		query_reset(query);
		query_bind(query, ":id", id);
		if (query_step(query) != 1)
			break;
		struct store_frame frame = {
		        .id = (uint32_t)query_u64_max(query, 1, UINT32_MAX),
		        .kind = query_code(query, 2, NR_FRAME_KINDS),
		        .line = query_u64(query, 5),
		        .internal = query_u64(query, 6) != 0,
		        .offset = query_u64(query, 8),
		};
		const char *file = query_text_required(query, 3), *function = query_text_required(query, 4);
		const char *build_id = query_text(query, 7);

		id = (uint32_t)query_u64_max(query, 0, UINT32_MAX);
		if (!query_ok(query))
			break;
		frame.file = strdup(file);
		frame.function = strdup(function);
		frame.build_id = build_id ? strdup(build_id) : NULL;
		if (!frame.file || !frame.function || (build_id && !frame.build_id)) {
			free(frame.file);
			free(frame.function);
			free(frame.build_id);
			return query->error = store_fail(store, -ENOMEM, "takes more memory to read than there is");
		}
		stack->frames[STORE_FRAMES_MAX - ++stack->nr_frames] = frame;
	}
	return query->error;
}

int store_each_stack(struct store *store, uint16_t device, enum store_stacks_of of, uint64_t seq,
                     const struct store_filter *filter, int (*each)(const struct store_stack *, void *), void *arg)
{
	struct stack *stack = calloc(1, sizeof(*stack));
	struct query query, frames;
	int stopped = 0, r, r_frames;

	if (!stack)
		return store_fail(store, -ENOMEM, "takes more memory to read than there is");
	store_begin_call(store);
	query_open(store, &query, "stacks");
	query_bind(&query, ":device", device);
	query_bind(&query, ":of", of);
	query_bind(&query, ":seq", seq);
	query_bind_filter(&query, filter);
	query_open(store, &frames, "stack");
	while (!stopped && query_ok(&frames) && query_step(&query) == 1) {
		struct store_stack row = {
		        .id = (uint32_t)query_u64_max(&query, 0, UINT32_MAX),
		        .nr_blocks = query_u64(&query, 1),
		        .bytes = query_total(&query, 2),
		};

		if (!query_ok(&query) || read_frames(store, &frames, row.id, stack))
			break;
		row.frames = stack->frames + STORE_FRAMES_MAX - stack->nr_frames;
		row.nr_frames = stack->nr_frames;
		stopped = each(&row, arg);
		clear_stack(stack);
	}
	clear_stack(stack);
	free(stack);
	r = query_close(&query);
	r_frames = query_close(&frames);
	return stopped ? stopped : r ? r : r_frames;
}

int store_has_stacks(struct store *store, bool *ret)
{
	struct query query;
	uint64_t has = 0;

	store_begin_call(store);
	query_open(store, &query, "has_stacks");
	if (query_step(&query) == 1)
		has = query_u64_max(&query, 0, 1);
	int r = query_close(&query);

	if (!r)
		*ret = has != 0;
	return r;
}
