/*
 * Memory of a device below the blocks: what calls gave, where it is mapped, who called, and what the driver says.
 *
 * Expandable segments are physical memory, known by a handle (level segment), and the addresses where it is mapped (level
 * mapping, whose `caller` is the handle).  Blocks lie at addresses, so what is told is the mapping, and the physical memory
 * only while it is mapped nowhere.
 *
 * What CUPTI alone saw is told late, so it is alive by its clock, not by the order of records.
 *
 * A segment is PyTorch's when the code that called for it is libc10_cuda's; where that is not known (the program was killed
 * before the recorder looked), when a block was ever born in it: PyTorch takes a segment to put a block there.
 */
#include "store/reader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PYTORCH_OBJECT "libc10_cuda"

struct object {
	uint64_t start, end;
	char *file;
};

struct range {
	struct store_segment s; /* its caller belongs to an object, its line is not filled */
	uint64_t free_seq;      /* 0 alive */
	uint64_t caller;        /* code; of a mapping: the handle */
	unsigned level;
	bool hidden; /* its mapping is told instead */
};

struct segments {
	struct store *store;
	uint16_t device;
	uint64_t seq, ns;
	struct range *ranges;
	size_t nr, room;
	uint64_t *handles; /* that were ever mapped, ascending */
	size_t nr_handles, room_handles;
	struct object *objects;
	size_t nr_objects, room_objects;
};

static int no_memory(struct store *store)
{
	return store_fail(store, -ENOMEM, "takes more memory to read than there is");
}

/* @array with room for one more than @nr; NULL: there is none, with a sentence, and @array is as it was. */
static void *grown(struct store *store, void *array, size_t nr, size_t *room, size_t element_bytes)
{
	size_t wanted = *room ? 2 * *room : 64;

	if (nr < *room)
		return array;
	if (nr >= READER_MAX_KEPT) {
		store_fail(store, -EBADMSG, "is damaged: no program takes memory so often");
		return NULL;
	}
	array = realloc(array, wanted * element_bytes);
	if (array)
		*room = wanted;
	else
		no_memory(store);
	return array;
}

/* ---- reading */

static int read_instant(struct segments *all)
{
	struct query query;

	query_open(all->store, &query, "instant");
	query_bind(&query, ":seq", all->seq);
	if (query_step(&query) == 1)
		all->ns = query_u64(&query, 0);
	return query_close(&query);
}

static int read_ranges(struct segments *all)
{
	struct query query;
	int r = 0;

	query_open(all->store, &query, "segments");
	query_bind(&query, ":device", all->device);
	query_bind(&query, ":seq", all->seq);
	query_bind(&query, ":ns", all->ns);
	while (!r && query_step(&query) == 1) {
		struct range *ranges, range = {
		                              .s = {.id = query_u64(&query, 0),
		                                    .address = (uint64_t)query_i64(&query, 1),
		                                    .size_bytes = query_u64(&query, 2),
		                                    .alloc_seq = query_u64(&query, 3),
		                                    .alloc_ns = query_u64(&query, 4),
		                                    .step = query_u64(&query, 5),
		                                    .thread = (uint32_t)query_u64_max(&query, 6, UINT32_MAX),
		                                    .phase = query_code(&query, 7, NR_PHASES)},
		                              .level = query_code(&query, 8, NR_LEVELS),
		                              .caller = (uint64_t)query_i64(&query, 9),
		                              .free_seq = query_u64(&query, 10),
		                      };

		range.s.seen = query_u64_max(&query, 11, 1);

		if (!query_ok(&query))
			break;
		ranges = grown(all->store, all->ranges, all->nr, &all->room, sizeof(*ranges));
		if (!ranges) {
			r = -ENOMEM;
			break;
		}
		all->ranges = ranges;
		all->ranges[all->nr++] = range;
	}
	int closed = query_close(&query);

	return r ? r : closed;
}

static int read_handles(struct segments *all)
{
	struct query query;
	int r = 0;

	query_open(all->store, &query, "handles");
	query_bind(&query, ":device", all->device);
	while (!r && query_step(&query) == 1) {
		uint64_t *handles = grown(all->store, all->handles, all->nr_handles, &all->room_handles, sizeof(*handles));

		if (!handles) {
			r = -ENOMEM;
			break;
		}
		all->handles = handles;
		all->handles[all->nr_handles++] = (uint64_t)query_i64(&query, 0);
	}
	int closed = query_close(&query);

	return r ? r : closed;
}

static int read_objects(struct segments *all)
{
	struct query query;
	int r = 0;

	query_open(all->store, &query, "objects");
	while (!r && query_step(&query) == 1) {
		struct object *objects, object = {.start = (uint64_t)query_i64(&query, 0), .end = (uint64_t)query_i64(&query, 1)};
		const char *file = query_text_required(&query, 2);

		if (!query_ok(&query))
			break;
		objects = grown(all->store, all->objects, all->nr_objects, &all->room_objects, sizeof(*objects));
		if (!objects) {
			r = -ENOMEM;
			break;
		}
		all->objects = objects;
		object.file = strdup(file);
		if (!object.file) {
			r = no_memory(all->store);
			break;
		}
		all->objects[all->nr_objects++] = object;
	}
	int closed = query_close(&query);

	return r ? r : closed;
}

/* ---- whose they are */

static int compare_u64(uint64_t x, uint64_t y)
{
	return (x > y) - (x < y);
}

static int by_address(const void *a, const void *b)
{
	const struct range *x = a, *y = b;
	int order = compare_u64(x->s.address, y->s.address);

	return order ? order : compare_u64(x->s.id, y->s.id);
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return compare_u64(*x, *y);
}

/* Of ranges in the order of addresses the last that begins at or before @address; NULL: none. */
static struct range *range_at(const struct segments *all, uint64_t address)
{
	size_t low = 0, high = all->nr;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (all->ranges[middle].s.address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &all->ranges[low - 1] : NULL;
}

static const char *object_file(const struct segments *all, uint64_t code)
{
	for (size_t i = 0; code && i < all->nr_objects; i++)
		if (code >= all->objects[i].start && code < all->objects[i].end)
			return *all->objects[i].file ? all->objects[i].file : NULL;
	return NULL;
}

static bool is_pytorchs(const char *file)
{
	const char *name = strrchr(file, '/');

	return !strncmp(name ? name + 1 : file, PYTORCH_OBJECT, sizeof(PYTORCH_OBJECT) - 1);
}

static void name_caller(const struct segments *all, struct range *range, uint64_t code)
{
	range->s.caller = object_file(all, code);
	range->s.of_pytorch = range->s.caller && is_pytorchs(range->s.caller);
}

/* Join mappings with the physical memory that is mapped, and name callers.  Leaves the ranges in the order of addresses. */
static void resolve(struct segments *all)
{
	if (all->nr)
		qsort(all->ranges, all->nr, sizeof(*all->ranges), by_address);
	for (size_t i = 0; i < all->nr; i++) {
		struct range *range = &all->ranges[i], *physical;

		if (range->level == LEVEL_SEGMENT) {
			range->s.expandable = all->nr_handles && bsearch(&range->s.address, all->handles, all->nr_handles,
			                                                 sizeof(*all->handles), by_value);
			name_caller(all, range, range->caller);
			continue;
		}
		range->s.expandable = true;
		physical = range_at(all, range->caller);
		if (physical && physical->s.address == range->caller && physical->level == LEVEL_SEGMENT) {
			physical->hidden = true;
			name_caller(all, range, physical->caller);
		}
	}
}

/* Of segments whose caller is not known: whether a block was born in it. */
static int look_for_blocks(struct segments *all)
{
	struct query query;
	bool unknown = false;

	for (size_t i = 0; i < all->nr; i++)
		unknown |= !all->ranges[i].s.caller;
	if (!unknown)
		return 0;
	query_open(all->store, &query, "births");
	query_bind(&query, ":device", all->device);
	while (query_step(&query) == 1) {
		uint64_t address = (uint64_t)query_i64(&query, 0), seq = query_u64(&query, 1);
		struct range *range = range_at(all, address);

		if (range && !range->s.caller && !range->s.seen && address - range->s.address < range->s.size_bytes &&
		    seq > range->s.alloc_seq && (!range->free_seq || seq < range->free_seq))
			range->s.of_pytorch = true;
	}
	return query_close(&query);
}

/* ---- telling */

struct line_reading {
	struct store_segment *segment;
	int (*each)(const struct store_segment *, void *);
	void *arg;
};

static int tell_with_line(const struct store_allocation *allocation, void *arg)
{
	struct line_reading *reading = arg;
	struct store_segment segment = *reading->segment;

	segment.line = allocation->line;
	return reading->each(&segment, reading->arg);
}

int store_each_segment(struct store *store, uint16_t device, uint64_t seq, int (*each)(const struct store_segment *, void *),
                       void *arg)
{
	struct segments all = {.store = store, .device = device, .seq = seq};
	struct line_reading reading = {.each = each, .arg = arg};
	int r;

	store_begin_call(store);
	r = read_instant(&all);
	if (!r)
		r = read_ranges(&all);
	if (!r)
		r = read_handles(&all);
	if (!r)
		r = read_objects(&all);
	if (!r) {
		resolve(&all);
		r = look_for_blocks(&all);
	}
	for (size_t i = 0; i < all.nr && !r; i++) {
		struct store_segment *segment = &all.ranges[i].s;

		if (all.ranges[i].hidden)
			continue;
		if (segment->expandable && all.ranges[i].level == LEVEL_SEGMENT)
			segment->address = 0;
		reading.segment = segment;
		r = store_one_allocation(store, segment->id, tell_with_line, &reading);
	}
	for (size_t i = 0; i < all.nr_objects; i++)
		free(all.objects[i].file);
	free(all.objects);
	free(all.handles);
	free(all.ranges);
	return r;
}

int store_each_placed(struct store *store, uint16_t device, uint64_t seq, int (*each)(const struct store_placed *, void *),
                      void *arg)
{
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	query_open(store, &query, "placed");
	query_bind(&query, ":device", device);
	query_bind(&query, ":seq", seq);
	while (!stopped && query_step(&query) == 1) {
		const struct store_placed placed = {
		        .id = query_u64(&query, 0),
		        .address = (uint64_t)query_i64(&query, 1),
		        .size_bytes = query_u64(&query, 2),
		        .requested_bytes = query_u64(&query, 3),
		        .category = query_code(&query, 4, NR_CATEGORIES),
		};

		if (query_ok(&query))
			stopped = each(&placed, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

int store_each_change(struct store *store, uint16_t device, uint64_t limit, bool *ret_more,
                      int (*each)(const struct store_change *, void *), void *arg)
{
	struct query query;
	uint64_t nr = 0;
	int stopped = 0;

	*ret_more = false;
	store_begin_call(store);
	query_open(store, &query, "changes");
	query_bind(&query, ":device", device);
	query_bind(&query, ":limit", limit + 1);
	while (!stopped && query_step(&query) == 1) {
		const struct store_change change = {
		        .id = query_u64(&query, 0),
		        .seq = query_u64(&query, 1),
		        .size_bytes = query_u64(&query, 2),
		        .requested_bytes = query_u64(&query, 3),
		        .birth = query_u64_max(&query, 4, 1),
		};

		if (!query_ok(&query))
			break;
		if (nr++ == limit) {
			*ret_more = true;
			break;
		}
		stopped = each(&change, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

int store_each_driver(struct store *store, uint16_t device, int (*each)(const struct store_driver *, void *), void *arg)
{
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	query_open(store, &query, "driver");
	query_bind(&query, ":device", device);
	while (!stopped && query_step(&query) == 1) {
		const struct store_driver said = {
		        .seq = query_u64(&query, 0),
		        .last_seq = query_u64(&query, 1),
		        .ns = query_u64(&query, 2),
		        .used_bytes = query_u64(&query, 3),
		        .total_bytes = query_u64(&query, 4),
		        .segment_bytes = query_u64(&query, 5),
		        .reserved_bytes = query_u64(&query, 6),
		        .first = query_u64_max(&query, 7, 1),
		        .seen_bytes = query_total(&query, 8),
		};

		if (query_ok(&query))
			stopped = each(&said, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

int store_read_level(struct store *store, unsigned level, uint64_t seq, uint64_t *ret_nr, uint64_t *ret_bytes)
{
	struct query query;
	uint64_t nr = 0, bytes = 0;

	store_begin_call(store);
	query_open(store, &query, "level_bytes");
	query_bind(&query, ":level", level);
	query_bind(&query, ":seq", seq);
	if (query_step(&query) == 1) {
		nr = query_u64(&query, 0);
		bytes = query_total(&query, 1);
	}
	int r = query_close(&query);

	if (!r) {
		*ret_nr = nr;
		*ret_bytes = bytes;
	}
	return r;
}

/* ---- refusals */

/* A refusal, until the next OOM of its thread. */
struct refusal {
	uint64_t seq, oom_seq; /* oom_seq 0: there is none */
	uint32_t thread;
	uint16_t device;
	bool got; /* a block before it */
};

struct refusals {
	struct refusal *all;
	size_t nr, room;
};

/* Refusals before a birth that are looked at: more of them wait for no OOM in an honest file. */
#define MAX_WAITING 64u

static int list_refusals(struct store *store, struct refusals *list)
{
	struct query query;
	int r = 0;

	query_open(store, &query, "refusals");
	while (!r && query_step(&query) == 1) {
		struct refusal *all = grown(store, list->all, list->nr, &list->room, sizeof(*all));

		if (!all) {
			r = -ENOMEM;
			break;
		}
		list->all = all;
		all[list->nr++] = (struct refusal){
		        .seq = query_u64(&query, 0),
		        .thread = (uint32_t)query_u64_max(&query, 3, UINT32_MAX),
		        .device = (uint16_t)query_u64_max(&query, 4, UINT16_MAX),
		        .oom_seq = query_u64(&query, 13),
		};
	}
	int closed = query_close(&query);

	return r ? r : closed;
}

/* How many refusals came before @seq. */
static size_t refusals_before(const struct refusals *list, uint64_t seq)
{
	size_t low = 0, high = list->nr;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (list->all[middle].seq < seq)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Which threads got a block between a refusal and their next OOM: in one pass over all births. */
static int follow_threads(struct store *store, struct refusals *list)
{
	struct query query;

	if (!list->nr)
		return 0;
	query_open(store, &query, "threads_births");
	query_bind(&query, ":seq", list->all[0].seq);
	while (query_step(&query) == 1) {
		uint64_t seq = query_u64(&query, 0);
		uint32_t thread = (uint32_t)query_u64_max(&query, 1, UINT32_MAX);
		uint16_t device = (uint16_t)query_u64_max(&query, 2, UINT16_MAX);
		size_t end = refusals_before(list, seq);

		for (size_t i = end; i > 0 && end - i < MAX_WAITING; i--) {
			struct refusal *refusal = &list->all[i - 1];

			if (refusal->thread == thread && refusal->device == device && seq < refusal->oom_seq)
				refusal->got = true;
		}
	}
	return query_close(&query);
}

int store_each_refusal(struct store *store, int (*each)(const struct store_oom *, bool near_miss, void *), void *arg)
{
	struct refusals list = {NULL};
	struct query query;
	int stopped = 0;
	int r;

	store_begin_call(store);
	r = list_refusals(store, &list);
	if (!r)
		r = follow_threads(store, &list);
	if (!r) {
		query_open(store, &query, "refusals");
		for (size_t i = 0; !stopped && i < list.nr && query_step(&query) == 1; i++) {
			struct store_oom refusal;

			query_read_oom(&query, &refusal);
			if (query_ok(&query))
				stopped = each(&refusal, !list.all[i].oom_seq || list.all[i].got, arg);
		}
		r = query_close(&query);
	}
	free(list.all);
	return stopped ? stopped : r;
}
