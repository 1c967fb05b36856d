/*
 * What is alive at one instant, added up: by the layer that owns it, and which block made the instant.
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
	void *owners; /* tsearch's, of struct live_owner */
	size_t nr_owners;
	const struct live_owner *biggest; /* the layer that owns most; NULL: no layer owns anything */
	bool several_roots;               /* layers below more than one root own something */
	const char *some_root;

	/* The block whose birth made this instant, where it is still alive then. */
	bool has_last;
	uint64_t last_ns, last_bytes;
	unsigned last_category;
	char *last_root, *last_layer, *last_line, *last_operation; /* or NULL */
};

/* Add up the blocks of @device after event @seq.  On success live_release() is the caller's; also sets several_roots. */
int live_read(struct report *report, uint16_t device, uint64_t seq, struct live *ret);
void live_release(struct live *live);
/* Its owners, those of most bytes first, *@ret_nr of them; the array is the caller's to free.  NULL: no memory. */
const struct live_owner **live_owners(const struct live *live, size_t *ret_nr);
/* "the last 9.8 MiB: saved activations for layer conv1, aten::conv2d at train.py:12 (Net.forward)"; "" when it is not known. */
const char *live_last_words(struct report *report, const struct live *live, char *ret, size_t size);

/* The device that is looked at: its totals.  -ENOENT when the run has none. */
int report_read_device(struct report *report, struct store_device *ret);

/* A category as people say it: "saved activations", "parameters". */
const char *category_words(unsigned category);

#endif
