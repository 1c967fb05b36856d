/*
 * What PyTorch's expandable segments would have reserved for the blocks of a run: an estimate.
 */
#ifndef NNMEM_REPORT_EXPANDABLE_H
#define NNMEM_REPORT_EXPANDABLE_H

#include "report/view.h"

struct expandable {
	bool known; /* false: the run is too long to replay */
	uint64_t reserved_bytes;
};

/*
 * Replay every block of @device, in order, into two segments that grow: one for small blocks and one for large ones, as PyTorch
 * does with expandable_segments:True.  A block goes into the smallest gap that fits, else the segment grows by whole pages.
 * Left out: streams and private pools (more segments), memory that is given back when there is no more.
 * Source: c10/cuda/CUDACachingAllocator.cpp of 2.14 (kSmallSize, kSmallBuffer, kLargeBuffer, ExpandableSegment, should_split).
 */
int expandable_estimate(struct report *report, uint16_t device, struct expandable *ret);

#endif
