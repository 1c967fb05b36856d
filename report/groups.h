/*
 * Blocks added up by who they belong to, so that hundreds of equal ones are one line.
 *
 * Blocks are of one group when all that can be said of them is equal but for the numbers in the layer's path: the same
 * tensor of `encoder.layers.0` to `encoder.layers.11` is one group, shown as `encoder.layers.[0-11]`.
 * Memory: by groups.  Time: by blocks times the logarithm of groups, whatever the file says.
 */
#ifndef NNMEM_REPORT_GROUPS_H
#define NNMEM_REPORT_GROUPS_H

#include "report/view.h"

#define GROUP_NUMBERS 8u /* in a layer's path that may differ */

struct group {
	char *key;
	uint64_t nr_blocks, bytes;
	struct store_allocation first; /* the block met first; its strings are the group's */
	uint64_t first_step, last_step;
	/* For who adds: of all its blocks. */
	double idle_byte_ns; /* bytes times nanoseconds */
	uint64_t longest_life_ns, longest_idle_ns, at_peak_bytes;
	bool of_all_layers; /* by lives: optimizer state is used in step() whatever layer it belongs to */
	unsigned nr_numbers;
	uint32_t least[GROUP_NUMBERS], most[GROUP_NUMBERS];
};

/* More groups than this are not kept, only counted in the totals: no run has so many, a hostile file may. */
#define GROUPS_MAX 65536u

struct groups {
	void *tree; /* tsearch's */
	struct group **all;
	size_t nr, room;
	uint64_t nr_blocks, bytes;
};

enum group_by {
	GROUP_EQUAL, /* all but the layer's numbers */
	GROUP_LIVES, /* whatever their size, but of the same end: phase, and steps after their birth */
};

/*
 * Add a block to its group, which *@ret_group then is (NULL where there are too many).
 * Zero-initialised is empty; groups_release() is the caller's.  Errors: -ENOMEM.
 */
int groups_add(struct groups *groups, const struct store_allocation *allocation, enum group_by by, struct group **ret_group);
/* Biggest first, or that which is idle most; equal ones in the order met. */
void groups_sort(struct groups *groups, enum group_by by);
void groups_release(struct groups *groups);

/* The layers of a group: "encoder.layers.[0-11].linear1", "-"; as report_layer(). */
const char *group_layer(struct report *report, const struct group *group);
/* "weight", "weight momentum_buffer": the tensor without what the layer says already; "" for none.  Clean. */
const char *group_tensor(struct report *report, const struct store_allocation *allocation);
/* "train.py:12 (Net.forward)", or without the function: the folder is mostly the same for all.  "" for none.  Clean. */
const char *short_line(struct report *report, const char *line, bool function);

#endif
