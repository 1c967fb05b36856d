/*
 * What the user's own profiler would have seen: which CPU reports are passed on, with which size and total.
 *
 * We make PyTorch report all CPU memory (c10::memoryProfilingEnabled() answers true), so it also keeps account of blocks
 * that it would have ignored while no profiler was on.  This is the account that it would have kept: a table of address and
 * size and a running total, touched only while the user's profiler is on: an allocation enters both and is passed on with
 * that total; a free is passed on only if its address is there, with the size from there.
 * Source: c10/core/CPUAllocator.cpp (ProfiledCPUMemoryReporter); profiles of 2.13.0 and 2.14.1 with and
 * without us are equal to the byte.
 *
 * Shared and mapped memory (at::MapAllocator) is reported whether a profiler is on or not, with a total of 0; what is
 * reported so is always passed on as it is.  Its blocks are remembered, because a free with a total of 0 can also be that of
 * the last ordinary block.
 *
 * Data model.  2^20 places in groups of FORWARD_GROUP; an address lives in one group, found by its hash, at any place.
 * A group that is full loses what comes (overflow, noted by the caller).  The memory is mapped when first needed.
 * An address belongs to one block at a time and PyTorch reports a free before it gives the block back, so two threads never
 * work on the same address at once.
 *
 * Thread: any, lock-free.  Signal: safe.
 */
#ifndef NNMEM_HOOK_FORWARD_H
#define NNMEM_HOOK_FORWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FORWARD_PLACES (1u << 20)
#define FORWARD_GROUP  64u

struct forward_table {
	uint64_t memory;      /* struct forward_places *, 0: not mapped yet; atomic */
	uint64_t total_bytes; /* atomic */
	uint64_t overflow;    /* blocks that found no place; atomic */
};

/* One report of CPU memory, changed in place into the one to pass on. */
struct forward_report {
	uint64_t address;
	int64_t size_bytes; /* > 0 allocated, < 0 freed */
	uint64_t total_bytes;
	bool shared; /* set by the functions here: memory without a total */
};

/*
 * Whether @report is about memory without a total (a shared or mapped block), which is passed on as it is.  Remembers such
 * a block when it is allocated and forgets it when it is freed; sets report->shared.
 */
bool forward_is_shared(struct forward_table *table, struct forward_report *report);

/* The user's profiler is on: returns whether @report (ordinary memory) is passed on, and makes it what PyTorch would say. */
bool forward_ordinary(struct forward_table *table, struct forward_report *report);

/* The total that PyTorch would have now. */
uint64_t forward_total(const struct forward_table *table);

#endif
