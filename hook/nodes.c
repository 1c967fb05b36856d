/* From an autograd node back to the module that made it: see nodes.h. */
#include "hook/nodes.h"

#include "nnmem/atomic.h"

#define MODULE_BITS 24u

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

void nodes_made(struct nodes *nodes, uint64_t thread, uint64_t number, uint32_t module)
{
	if (module > NODES_MAX_MODULE)
		module = 0;
	atomic64_store_relaxed(&nodes->entries[index_of(thread, number)], tag_of(thread, number) | module);
}

bool nodes_find(const struct nodes *nodes, uint64_t thread, uint64_t number, uint32_t *ret_module)
{
	uint64_t entry = atomic64_load_relaxed(&nodes->entries[index_of(thread, number)]);

	if ((entry & ~(uint64_t)NODES_MAX_MODULE) != tag_of(thread, number))
		return false;
	*ret_module = entry & NODES_MAX_MODULE;
	return true;
}

enum nodes_layout nodes_layout(const struct nodes *nodes)
{
	if (atomic32_load_relaxed(&nodes->layout))
		return NODES_KNOWN;
	return atomic32_load_relaxed(&nodes->nr_tries) >= NODES_MAX_TRIES ? NODES_GIVEN_UP : NODES_LEARNING;
}

static uint32_t learn(struct nodes *nodes, const uint64_t *words)
{
	if (atomic32_add_relaxed(&nodes->nr_tries, 1) >= NODES_MAX_TRIES)
		return 0;
	for (uint32_t layout = 1; layout + NODES_THREAD_DISTANCE < NODES_WORDS; layout++) {
		uint64_t number = words[layout];
		uint32_t module;

		/* AccumulateGrad and others that have no number say UINT64_MAX. */
		if (number == UINT64_MAX || !nodes_find(nodes, words[layout + NODES_THREAD_DISTANCE], number, &module))
			continue;
		if (atomic32_load_relaxed(&nodes->candidate) == layout &&
		    atomic64_load_relaxed(&nodes->candidate_number) != number)
			atomic32_store_relaxed(&nodes->layout, layout);
		atomic64_store_relaxed(&nodes->candidate_number, number);
		atomic32_store_relaxed(&nodes->candidate, layout);
		return module;
	}
	return 0;
}

uint32_t nodes_module(struct nodes *nodes, const void *node)
{
	const uint64_t *words = node;
	uint32_t layout = atomic32_load_relaxed(&nodes->layout);
	uint32_t module = 0;

	if (!layout)
		return learn(nodes, words);
	return nodes_find(nodes, words[layout + NODES_THREAD_DISTANCE], words[layout], &module) ? module : 0;
}
