/*
 * A device's memory at one instant: the ranges that the program was given, and the blocks and gaps in them.
 *
 * Regions and blocks are in the order of addresses.  Neighbouring pieces of one expandable segment are one region.  A gap is
 * what no block holds; PyTorch may still keep a piece of it back (for another stream, for a captured graph).
 * Memory: by regions and live blocks.
 */
#ifndef NNMEM_REPORT_MEMORY_MAP_H
#define NNMEM_REPORT_MEMORY_MAP_H

#include "report/view.h"

struct map_region {
	uint64_t address, size_bytes, alloc_ns, step;
	unsigned phase;
	bool expandable, of_pytorch, seen;
	char *caller, *line; /* or NULL */
	uint64_t nr_pieces;
	size_t first_block, nr_blocks; /* in memory_map.blocks */
	uint64_t allocated_bytes, free_bytes, largest_free_bytes, nr_gaps;
};

struct memory_map {
	struct map_region *regions;
	size_t nr_regions, room_regions;
	struct store_placed *blocks;
	size_t nr_blocks, room_blocks;

	/* Of PyTorch's regions. */
	size_t nr_segments;
	uint64_t reserved_bytes, allocated_bytes, free_bytes, largest_free_bytes, nr_gaps;
	bool expandable; /* some are */
	/*
	 * PyTorch reported no block of the device in the whole run: its allocator has none to report (backend cudaMallocAsync, a
	 * pluggable one, no caching).  What it took, call by call, are the tensors; nothing in them is free.
	 */
	bool direct;
	/* Of the others. */
	size_t nr_others;
	uint64_t others_bytes;
	uint64_t seen_bytes; /* of these: what CUPTI alone saw */
	/* Of all blocks. */
	uint64_t block_bytes, category_bytes[NR_CATEGORIES], category_blocks[NR_CATEGORIES];
	uint64_t known_bytes, requested_bytes; /* of those of which it is known how much was asked for: their bytes, and that */
	uint64_t unplaced_blocks, unplaced_bytes; /* in no region */
};

/* Read @device's memory after event @seq.  On success memory_map_release() is the caller's. */
int memory_map_read(struct report *report, uint16_t device, uint64_t seq, struct memory_map *ret);
void memory_map_release(struct memory_map *map);

/*
 * Gaps of @region, in the order of addresses: @before and @after are the blocks beside it in the region, NULL: its border.
 */
int memory_map_each_gap(const struct memory_map *map, const struct map_region *region,
                        int (*each)(uint64_t address, uint64_t size_bytes, const struct store_placed *before,
                                    const struct store_placed *after, void *arg),
                        void *arg);

/* "libnccl.so.2": the last part of a file's name; "code that is not known" for NULL.  Clean. */
const char *map_caller(struct report *report, const char *caller);

#endif
