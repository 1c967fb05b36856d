/* Names of operators for what happens again: see repeats.h. */
#include "store/repeats.h"

#include <errno.h>
#include <stdlib.h>

#define NR_ENTRIES (1u << 18)
#define NR_THREADS 256u
#define MAX_STACKS (1u << 24)

/* So many boundaries in a row without anything new, and everything counts as known: two or three training steps. */
#define QUIET_BOUNDARIES 8u
/*
 * A program that never repeats itself (every batch of another length) would have to tell for ever.  After so many
 * allocations it has a rest that is REST times as long.
 */
#define PATIENCE UINT64_C(100000)
#define REST     15u

struct entry {
	uint64_t hash; /* 0: empty */
	uint32_t stack;
};

struct thread_place {
	uint32_t thread;         /* the last that used this place */
	bool new_things;         /* since its last boundary: allocations that were not known before */
	uint64_t sized, unsized; /* hashes of its allocations since then */
};

struct repeats {
	struct entry entries[NR_ENTRIES];
	struct thread_place threads[NR_THREADS];
	uint64_t *keys; /* by stack: of its frames but the operation, so with and without one it is the same; 0: not defined */
	size_t nr_keys;
	bool known;
	uint32_t nr_quiet;   /* boundaries without anything new */
	uint64_t nr_told;    /* allocations since the program was asked to tell */
	uint64_t nr_resting; /* allocations still to come before it may be asked again */
};

int repeats_new(struct repeats **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

void repeats_free(struct repeats *repeats)
{
	if (!repeats)
		return;
	free(repeats->keys);
	free(repeats);
}

bool repeats_all_known(const struct repeats *repeats)
{
	return repeats->known;
}

/* After the finaliser of splitmix64 (public domain). */
static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* Never 0: that is an empty entry. */
static uint64_t add_to(uint64_t hash, uint64_t value)
{
	return mix(hash + mix(value)) | 1;
}

/* ---- stacks but for their operations */

static uint64_t key_of(const struct repeats *repeats, uint32_t stack)
{
	return stack < repeats->nr_keys && repeats->keys[stack] ? repeats->keys[stack] : add_to(1, stack);
}

static bool make_room(struct repeats *repeats, uint32_t stack)
{
	size_t nr = repeats->nr_keys ? repeats->nr_keys : 1024;
	uint64_t *keys;

	if (stack >= MAX_STACKS)
		return false;
	while (nr <= stack)
		nr *= 2;
	if (nr == repeats->nr_keys)
		return true;
	keys = realloc(repeats->keys, nr * sizeof(*keys));
	if (!keys)
		return false;
	for (size_t i = repeats->nr_keys; i < nr; i++)
		keys[i] = 0;
	repeats->keys = keys;
	repeats->nr_keys = nr;
	return true;
}

static void learn_stack(struct repeats *repeats, const struct record *record)
{
	bool is_operation = record->address && record->address == record->scope;
	uint64_t below;

	if (record->a > UINT32_MAX || !make_room(repeats, record->stack))
		return;
	below = key_of(repeats, (uint32_t)record->a);
	repeats->keys[record->stack] = is_operation ? below : add_to(below, record->scope);
}

/* ---- whether to tell */

static void settle(struct repeats *repeats, bool known)
{
	repeats->known = known;
	repeats->nr_quiet = 0;
	repeats->nr_told = 0;
}

static void count_allocation(struct repeats *repeats)
{
	if (repeats->nr_resting)
		repeats->nr_resting--;
	if (repeats->known || ++repeats->nr_told < PATIENCE)
		return;
	settle(repeats, true);
	repeats->nr_resting = REST * PATIENCE;
}

static void end_stretch(struct repeats *repeats, struct thread_place *place, uint8_t kind)
{
	place->sized = place->unsized = kind;
	repeats->nr_quiet = place->new_things ? 0 : repeats->nr_quiet + 1;
	if (!repeats->known && repeats->nr_quiet >= QUIET_BOUNDARIES)
		settle(repeats, true);
	else if (repeats->known && place->new_things && !repeats->nr_resting)
		settle(repeats, false);
	place->new_things = false;
}

/* ---- allocations */

static struct entry *entry_of(struct repeats *repeats, uint64_t hash)
{
	return &repeats->entries[hash & (NR_ENTRIES - 1)];
}

static bool is_of(const struct entry *entry, uint64_t hash)
{
	return entry->hash == hash;
}

static void name_allocation(struct repeats *repeats, struct thread_place *place, struct record *record)
{
	uint64_t below = key_of(repeats, record->stack);
	struct entry *sized, *unsized;

	place->unsized = add_to(place->unsized, ~below);
	place->sized = add_to(place->sized, record->size ^ below);
	sized = entry_of(repeats, place->sized >> 1);
	unsized = entry_of(repeats, place->unsized >> 1);
	if (!is_of(sized, place->sized) && !is_of(unsized, place->unsized))
		place->new_things = true;
	if (record->flags & RECORD_F_TOLD) {
		*unsized = (struct entry){.hash = place->unsized, .stack = record->stack};
		*sized = (struct entry){.hash = place->sized, .stack = record->stack};
	} else if (is_of(sized, place->sized)) {
		record->stack = sized->stack;
	} else if (is_of(unsized, place->unsized)) {
		record->stack = unsized->stack;
	}
	count_allocation(repeats);
}

void repeats_feed(struct repeats *repeats, struct record *record)
{
	struct thread_place *place = &repeats->threads[record->thread % NR_THREADS];

	if (place->thread != record->thread)
		*place = (struct thread_place){.thread = record->thread};
	switch (record->kind) {
	case RECORD_DEF_STACK:
		learn_stack(repeats, record);
		break;
	case RECORD_ALLOC:
		name_allocation(repeats, place, record);
		break;
	case RECORD_MODULE_LEAVE:
		if (record->flags & RECORD_F_ROOT)
			end_stretch(repeats, place, record->kind);
		break;
	case RECORD_BACKWARD_END:
	case RECORD_OPTIMIZER_END:
		end_stretch(repeats, place, record->kind);
		break;
	default:
		break;
	}
}
