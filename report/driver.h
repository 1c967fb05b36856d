/*
 * What the driver says of a device's memory at an instant.
 */
#ifndef NNMEM_REPORT_DRIVER_H
#define NNMEM_REPORT_DRIVER_H

#include "report/view.h"

struct driver_said {
	bool known;               /* it was asked */
	struct store_driver said; /* the answer that is used: the nearest */
	bool exact;               /* it was the same before and after the instant */
	bool later;               /* it was given after the instant, else before */
	uint64_t used_bytes;      /* at the instant: the answer, and what the program was seen to take and give back since */
	bool has_context;
	uint64_t context_bytes; /* in use before the program was given any memory of the device */
};

struct memory_map;

/*
 * @map: the device's memory after event @seq.  Of answers those are preferred that were given while the program had as much by
 * calls that were told.
 */
int driver_read(struct report *report, uint16_t device, uint64_t seq, const struct memory_map *map, struct driver_said *ret);

#endif
