/* From an autograd node back to what made it: see nodes.h. */
#include "hook/nodes.h"

#include "nnmem/atomic.h"

/* A 64-bit mixer: every bit of the result depends on every bit of the input.  After the finaliser of splitmix64 (public domain).
 */
static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* What AccumulateGrad and others that have no number say. */
#define NO_NUMBER UINT64_MAX

static uint64_t tag_of(uint64_t thread, uint64_t number)
{
	/* Never 0, so that no tag fits an empty entry. */
	return (mix(number + mix(thread + 1)) | UINT64_C(1) << 63) & ~(uint64_t)NODES_MAX_MODULE;
}

/* Numbers that follow each other take entries that follow each other: a thread's last 65 536 nodes never collide. */
static uint32_t index_of(uint64_t thread, uint64_t number)
{
	return (uint32_t)(number + mix(thread + 1)) & (NODES_ENTRIES - 1);
}

static uint64_t value_with(uint64_t tag, uint32_t id)
{
	return tag | (id <= NODES_MAX_MODULE ? id : 0);
}

void nodes_made(struct nodes *nodes, uint64_t thread, uint64_t number, struct nodes_origin origin)
{
	uint32_t index = index_of(thread, number);
	uint64_t tag = tag_of(thread, number);

	atomic64_store_relaxed(&nodes->stacks[index], value_with(tag, origin.stack));
	atomic64_store_relaxed(&nodes->entries[index], value_with(tag, origin.module));
}

bool nodes_find(const struct nodes *nodes, uint64_t thread, uint64_t number, struct nodes_origin *ret_origin)
{
	uint32_t index = index_of(thread, number);
	uint64_t tag = tag_of(thread, number);
	uint64_t module = atomic64_load_relaxed(&nodes->entries[index]);
	uint64_t stack = atomic64_load_relaxed(&nodes->stacks[index]);

	if ((module & ~(uint64_t)NODES_MAX_MODULE) != tag)
		return false;
	ret_origin->module = module & NODES_MAX_MODULE;
	ret_origin->stack = (stack & ~(uint64_t)NODES_MAX_MODULE) == tag ? stack & NODES_MAX_MODULE : 0;
	return true;
}

enum nodes_layout nodes_layout(const struct nodes *nodes)
{
	if (atomic32_load_relaxed(&nodes->layout))
		return NODES_KNOWN;
	return atomic32_load_relaxed(&nodes->nr_tries) >= NODES_MAX_TRIES ? NODES_GIVEN_UP : NODES_LEARNING;
}

static struct nodes_origin learn(struct nodes *nodes, const uint64_t *words)
{
	if (atomic32_add_relaxed(&nodes->nr_tries, 1) >= NODES_MAX_TRIES)
		return (struct nodes_origin){0};
	for (uint32_t layout = 1; layout + NODES_THREAD_DISTANCE < NODES_WORDS; layout++) {
		uint64_t number = words[layout];
		struct nodes_origin origin;

		if (number == NO_NUMBER || !nodes_find(nodes, words[layout + NODES_THREAD_DISTANCE], number, &origin))
			continue;
		if (atomic32_load_relaxed(&nodes->candidate) == layout &&
		    atomic64_load_relaxed(&nodes->candidate_number) != number)
			atomic32_store_relaxed(&nodes->layout, layout);
		atomic64_store_relaxed(&nodes->candidate_number, number);
		atomic32_store_relaxed(&nodes->candidate, layout);
		return origin;
	}
	return (struct nodes_origin){0};
}

bool nodes_is_numbered(const struct nodes *nodes, const void *node)
{
	const uint64_t *words = node;
	uint32_t layout = atomic32_load_relaxed(&nodes->layout);

	return !layout || words[layout] != NO_NUMBER;
}

struct nodes_origin nodes_origin(struct nodes *nodes, const void *node)
{
	const uint64_t *words = node;
	uint32_t layout = atomic32_load_relaxed(&nodes->layout);
	struct nodes_origin origin = {0};

	if (!layout)
		return learn(nodes, words);
	nodes_find(nodes, words[layout + NODES_THREAD_DISTANCE], words[layout], &origin);
	return origin;
}
