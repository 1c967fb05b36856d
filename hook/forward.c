/* The account that PyTorch would have kept for the user's own profiler: see forward.h. */
#include "hook/forward.h"

#include "nnmem/atomic.h"

#include <errno.h>
#include <sys/mman.h>

#define GROUPS (FORWARD_PLACES / FORWARD_GROUP)
/* In a size: this is a shared block.  PyTorch's sizes are signed. */
#define SHARED_MARK (UINT64_C(1) << 63)

struct forward_places {
	uint64_t addresses[FORWARD_PLACES]; /* 0: free */
	uint64_t sizes[FORWARD_PLACES];     /* written by the owner of the address */
};

static struct forward_places *places(const struct forward_table *table)
{
	return (struct forward_places *)(uintptr_t)atomic64_load_acquire(&table->memory);
}

static struct forward_places *places_map(struct forward_table *table)
{
	struct forward_places *mapped = places(table);
	uint64_t expected = 0;
	int saved_errno;

	if (mapped)
		return mapped;
	saved_errno = errno;
	mapped = mmap(NULL, sizeof(*mapped), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mapped != MAP_FAILED && !atomic64_cas_acq_rel(&table->memory, &expected, (uint64_t)(uintptr_t)mapped))
		munmap(mapped, sizeof(*mapped));
	errno = saved_errno;
	return places(table);
}

static uint32_t group_start(uint64_t address)
{
	/* Fibonacci hashing; blocks are aligned to 64 bytes. */
	return (uint32_t)((address >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 40) % GROUPS * FORWARD_GROUP;
}

static bool place_find(const struct forward_places *all, uint64_t address, uint32_t *ret_place)
{
	uint32_t start = group_start(address);

	for (uint32_t i = start; i < start + FORWARD_GROUP; i++) {
		if (atomic64_load_relaxed(&all->addresses[i]) == address) {
			*ret_place = i;
			return true;
		}
	}
	return false;
}

static void remember(struct forward_table *table, uint64_t address, uint64_t size)
{
	struct forward_places *all = places_map(table);
	uint32_t place, start = group_start(address);

	if (!all)
		goto overflow;
	/* PyTorch overwrites what it knows of the address, too. */
	if (place_find(all, address, &place)) {
		atomic64_store_relaxed(&all->sizes[place], size);
		return;
	}
	for (uint32_t i = start; i < start + FORWARD_GROUP; i++) {
		uint64_t expected = 0;

		if (!atomic64_load_relaxed(&all->addresses[i]) && atomic64_cas_acq_rel(&all->addresses[i], &expected, address)) {
			atomic64_store_relaxed(&all->sizes[i], size);
			return;
		}
	}
overflow:
	atomic64_add_relaxed(&table->overflow, 1);
}

/* Forget @address if it is there with (@shared) or without the mark.  Returns whether it was. */
static bool forget(struct forward_table *table, uint64_t address, bool shared, uint64_t *ret_size)
{
	struct forward_places *all = places(table);
	uint64_t size;
	uint32_t place;

	if (!all || !place_find(all, address, &place))
		return false;
	size = atomic64_load_relaxed(&all->sizes[place]);
	if (!!(size & SHARED_MARK) != shared)
		return false;
	atomic64_store_release(&all->addresses[place], 0);
	*ret_size = size & ~SHARED_MARK;
	return true;
}

bool forward_is_shared(struct forward_table *table, struct forward_report *report)
{
	uint64_t size;

	if (report->total_bytes)
		return false;
	if (report->size_bytes > 0) {
		remember(table, report->address, (uint64_t)report->size_bytes | SHARED_MARK);
		report->shared = true;
	} else {
		report->shared = forget(table, report->address, true, &size);
	}
	return report->shared;
}

bool forward_ordinary(struct forward_table *table, struct forward_report *report)
{
	uint64_t size;

	if (report->size_bytes > 0) {
		size = (uint64_t)report->size_bytes;
		remember(table, report->address, size);
		report->total_bytes = atomic64_add_relaxed(&table->total_bytes, size) + size;
		return true;
	}
	if (!forget(table, report->address, false, &size))
		return false;
	report->size_bytes = -(int64_t)size;
	report->total_bytes = atomic64_add_relaxed(&table->total_bytes, -size) - size;
	return true;
}

uint64_t forward_total(const struct forward_table *table)
{
	return atomic64_load_relaxed(&table->total_bytes);
}
