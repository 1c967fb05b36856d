/* What expandable segments would have reserved: see expandable.h. */
#include "report/expandable.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ROUND_BYTES       UINT64_C(512)
#define SMALL_MAX         (UINT64_C(1) << 20)
#define SMALL_PAGE        (UINT64_C(2) << 20)
#define LARGE_PAGE        (UINT64_C(20) << 20)
#define MAX_CHANGES       UINT64_C(4000000)
#define MAX_WORK          UINT64_C(4000000000) /* gaps looked at */
#define SIZE_MAX_SENSIBLE (UINT64_C(1) << 46)

struct gap {
	uint64_t address, size_bytes;
};

/* One segment: [0, mapped_bytes) is reserved, gaps in it are free, in the order of addresses; what lies between is in use. */
struct arena {
	uint64_t page_bytes, mapped_bytes;
	struct gap *gaps;
	size_t nr, room;
};

struct placed {
	uint64_t address, size_bytes; /* size 0: not alive */
	struct arena *arena;
};

struct replay {
	struct arena small, large;
	struct placed *blocks; /* by id */
	size_t nr_blocks;
	uint64_t work;
	bool given_up;
};

/* The first gap that begins behind @address. */
static size_t gap_behind(const struct arena *arena, uint64_t address)
{
	size_t low = 0, high = arena->nr;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (arena->gaps[middle].address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void remove_gap(struct arena *arena, size_t at)
{
	memmove(&arena->gaps[at], &arena->gaps[at + 1], (arena->nr - at - 1) * sizeof(*arena->gaps));
	arena->nr--;
}

/* Make a range free, in one with the gaps beside it. */
static int give_back(struct arena *arena, uint64_t address, uint64_t size_bytes)
{
	size_t at = gap_behind(arena, address);

	if (at > 0 && arena->gaps[at - 1].address + arena->gaps[at - 1].size_bytes == address) {
		at--;
		arena->gaps[at].size_bytes += size_bytes;
	} else {
		if (arena->nr == arena->room) {
			size_t room = arena->room ? 2 * arena->room : 64;
			struct gap *gaps = realloc(arena->gaps, room * sizeof(*gaps));

			if (!gaps)
				return -ENOMEM;
			arena->gaps = gaps;
			arena->room = room;
		}
		memmove(&arena->gaps[at + 1], &arena->gaps[at], (arena->nr - at) * sizeof(*arena->gaps));
		arena->gaps[at] = (struct gap){address, size_bytes};
		arena->nr++;
	}
	if (at + 1 < arena->nr && arena->gaps[at].address + arena->gaps[at].size_bytes == arena->gaps[at + 1].address) {
		arena->gaps[at].size_bytes += arena->gaps[at + 1].size_bytes;
		remove_gap(arena, at + 1);
	}
	return 0;
}

/* Map so many pages more that a block of @size_bytes fits at the end. */
static int extend(struct arena *arena, uint64_t size_bytes)
{
	const struct gap *last = arena->nr ? &arena->gaps[arena->nr - 1] : NULL;
	uint64_t start = last && last->address + last->size_bytes == arena->mapped_bytes ? last->address : arena->mapped_bytes;
	uint64_t end = (start + size_bytes + arena->page_bytes - 1) / arena->page_bytes * arena->page_bytes;
	uint64_t before = arena->mapped_bytes;

	arena->mapped_bytes = end;
	return give_back(arena, before, end - before);
}

/* The smallest gap that fits, the first of equal ones; arena->nr: none does. */
static size_t best_fit(struct replay *replay, const struct arena *arena, uint64_t size_bytes)
{
	size_t best = arena->nr;

	replay->work += arena->nr;
	for (size_t i = 0; i < arena->nr; i++)
		if (arena->gaps[i].size_bytes >= size_bytes &&
		    (best == arena->nr || arena->gaps[i].size_bytes < arena->gaps[best].size_bytes))
			best = i;
	return best;
}

static int take(struct replay *replay, struct arena *arena, uint64_t size_bytes, uint64_t *ret_address)
{
	size_t at = best_fit(replay, arena, size_bytes);

	if (at == arena->nr) {
		int error = extend(arena, size_bytes);

		if (error)
			return error;
		at = arena->nr - 1;
	}
	*ret_address = arena->gaps[at].address;
	arena->gaps[at].address += size_bytes;
	arena->gaps[at].size_bytes -= size_bytes;
	if (!arena->gaps[at].size_bytes)
		remove_gap(arena, at);
	return 0;
}

static int grow_blocks(struct replay *replay, uint64_t id)
{
	size_t room = replay->nr_blocks ? 2 * replay->nr_blocks : 1024;
	struct placed *blocks;

	if (id < replay->nr_blocks)
		return 0;
	if (id >= 8 * MAX_CHANGES) {
		replay->given_up = true;
		return 1;
	}
	while (room <= id)
		room *= 2;
	blocks = realloc(replay->blocks, room * sizeof(*blocks));
	if (!blocks)
		return -ENOMEM;
	memset(blocks + replay->nr_blocks, 0, (room - replay->nr_blocks) * sizeof(*blocks));
	replay->blocks = blocks;
	replay->nr_blocks = room;
	return 0;
}

static int each_change(const struct store_change *change, void *arg)
{
	struct replay *replay = arg;
	uint64_t wanted = change->requested_bytes ? change->requested_bytes : change->size_bytes;
	uint64_t size_bytes = (wanted + ROUND_BYTES - 1) / ROUND_BYTES * ROUND_BYTES;
	struct placed *block;
	int error = grow_blocks(replay, change->id);

	if (error)
		return error;
	block = &replay->blocks[change->id];
	if (!change->birth) {
		error = block->size_bytes ? give_back(block->arena, block->address, block->size_bytes) : 0;
		block->size_bytes = 0;
		return error;
	}
	if (block->size_bytes || !size_bytes || size_bytes > SIZE_MAX_SENSIBLE || replay->work > MAX_WORK ||
	    replay->large.mapped_bytes > SIZE_MAX_SENSIBLE) {
		replay->given_up = true;
		return 1;
	}
	block->arena = size_bytes <= SMALL_MAX ? &replay->small : &replay->large;
	block->size_bytes = size_bytes;
	return take(replay, block->arena, size_bytes, &block->address);
}

int expandable_estimate(struct report *report, uint16_t device, struct expandable *ret)
{
	struct replay replay = {.small = {.page_bytes = SMALL_PAGE}, .large = {.page_bytes = LARGE_PAGE}};
	bool more = false;
	int error = store_each_change(report->store, device, MAX_CHANGES, &more, each_change, &replay);

	*ret = (struct expandable){
	        .known = !more && !replay.given_up,
	        .reserved_bytes = replay.small.mapped_bytes + replay.large.mapped_bytes,
	};
	free(replay.small.gaps);
	free(replay.large.gaps);
	free(replay.blocks);
	return error == 1 ? 0 : error;
}
