/*
 * The moment that a view looks at (--at), and whether there is anything to look at on the device.
 */
#ifndef NNMEM_REPORT_INSTANT_H
#define NNMEM_REPORT_INSTANT_H

#include "report/view.h"

struct instant {
	uint64_t seq;
	char words[96];   /* "at the peak in step 3, backward" */
	const char *name; /* for programs: peak, end, step, oom */
	uint64_t number;  /* of the step, of the refusal; 0 else */
};

/* Find what --at says on the device that is looked at.  -ENOENT, with a sentence in @ret->words: there is no such moment. */
int instant_find(struct report *report, struct instant *ret);

/*
 * Whether the device that is looked at has memory of its own, below the blocks.  Where not, one line says so to people.
 */
bool report_has_device_memory(struct report *report);

#endif
