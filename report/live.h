/*
 * What is alive at one instant, added up: by category and by the layer that owns it.
 */
#ifndef NNMEM_REPORT_LIVE_H
#define NNMEM_REPORT_LIVE_H

#include "report/view.h"

struct live_owner {
	char *root, *layer; /* NULL: no layer */
	uint64_t bytes;
};

struct live {
	uint64_t nr_blocks, bytes;
	uint64_t category_blocks[NR_CATEGORIES], category_bytes[NR_CATEGORIES];
	struct live_owner *owners; /* in the order met */
	size_t nr_owners, room_owners;
	bool several_roots; /* layers below more than one root own something */
	bool has_lines;     /* the line of some is known */

	/* The block whose birth made this instant, where it is still alive then. */
	bool has_last;
	uint64_t last_ns, last_bytes;
	unsigned last_category;
	char *last_root, *last_layer; /* or NULL */
};

/* Add up the blocks of @device after event @seq.  On success live_release() is the caller's; also sets several_roots. */
int live_read(struct report *report, uint16_t device, uint64_t seq, struct live *ret);
void live_release(struct live *live);
/* The layer that owns most, or NULL when no layer owns anything. */
const struct live_owner *live_biggest_owner(const struct live *live);

/* The device that is looked at: its totals.  -ENOENT when the run has none. */
int report_read_device(struct report *report, struct store_device *ret);

/* A category as people say it: "saved activations", "parameters". */
const char *category_words(unsigned category);

#endif
