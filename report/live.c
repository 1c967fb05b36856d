/* What is alive at one instant: see live.h. */
#include "report/live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const words[NR_CATEGORIES] = {
        [CATEGORY_UNKNOWN] = "not classified",
        [CATEGORY_PARAMETER] = "parameters",
        [CATEGORY_BUFFER] = "buffers",
        [CATEGORY_GRADIENT] = "parameter gradients",
        [CATEGORY_OPTIMIZER_STATE] = "optimizer state",
        [CATEGORY_ACTIVATION] = "saved activations",
        [CATEGORY_INPUT] = "inputs and targets",
        [CATEGORY_FORWARD_TEMPORARY] = "forward temporaries",
        [CATEGORY_BACKWARD_TEMPORARY] = "activation grads + temps",
        [CATEGORY_OPTIMIZER_TEMPORARY] = "optimizer temporaries",
        [CATEGORY_RECOMPUTE] = "recomputed activations",
        [CATEGORY_WORKSPACE] = "library workspaces",
        [CATEGORY_COMMUNICATION] = "communication buffers",
};

const char *category_words(unsigned category)
{
	return category < NR_CATEGORIES ? words[category] : "not classified";
}

static bool same(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static int copy(const char *text, char **ret)
{
	*ret = text ? strdup(text) : NULL;
	return text && !*ret ? -ENOMEM : 0;
}

static int add_to_owner(struct live *live, const struct store_allocation *allocation)
{
	struct live_owner *owner;
	size_t i;

	/* Neighbours in the order of size are often of one layer, so the last met come first. */
	for (i = live->nr_owners; i > 0; i--) {
		owner = &live->owners[i - 1];
		if (same(owner->layer, allocation->layer) && same(owner->root, allocation->root)) {
			owner->bytes += allocation->size_bytes;
			return 0;
		}
		/* A loss that is called by itself is a root too, but its name tells it from any layer. */
		if (owner->layer && *owner->layer && allocation->layer && *allocation->layer &&
		    !same(owner->root, allocation->root))
			live->several_roots = true;
	}
	if (live->nr_owners == live->room_owners) {
		size_t room = live->room_owners ? live->room_owners * 2 : 64;
		struct live_owner *owners = realloc(live->owners, room * sizeof(*owners));

		if (!owners)
			return -ENOMEM;
		live->owners = owners;
		live->room_owners = room;
	}
	owner = &live->owners[live->nr_owners++];
	*owner = (struct live_owner){.bytes = allocation->size_bytes};
	return copy(allocation->root, &owner->root) ? -ENOMEM : copy(allocation->layer, &owner->layer);
}

struct reading {
	struct live *live;
	uint64_t seq;
};

static int each(const struct store_allocation *allocation, void *arg)
{
	struct reading *reading = arg;
	struct live *live = reading->live;
	unsigned category = allocation->category < NR_CATEGORIES ? allocation->category : CATEGORY_UNKNOWN;

	live->nr_blocks++;
	live->has_lines |= allocation->line != NULL;
	live->bytes += allocation->size_bytes;
	live->category_blocks[category]++;
	live->category_bytes[category] += allocation->size_bytes;
	if (allocation->alloc_seq == reading->seq && !live->has_last) {
		live->has_last = true;
		live->last_ns = allocation->alloc_ns;
		live->last_bytes = allocation->size_bytes;
		live->last_category = category;
		if (copy(allocation->root, &live->last_root) || copy(allocation->layer, &live->last_layer))
			return -ENOMEM;
	}
	return add_to_owner(live, allocation);
}

int live_read(struct report *report, uint16_t device, uint64_t seq, struct live *ret)
{
	struct live live = {0};
	struct reading reading = {.live = &live, .seq = seq};
	int error = store_each_live(report->store, device, seq, NULL, each, &reading);

	if (error) {
		live_release(&live);
		return error;
	}
	report->several_roots = live.several_roots;
	*ret = live;
	return 0;
}

void live_release(struct live *live)
{
	for (size_t i = 0; i < live->nr_owners; i++) {
		free(live->owners[i].root);
		free(live->owners[i].layer);
	}
	free(live->owners);
	free(live->last_root);
	free(live->last_layer);
	*live = (struct live){0};
}

const struct live_owner *live_biggest_owner(const struct live *live)
{
	const struct live_owner *biggest = NULL;

	for (size_t i = 0; i < live->nr_owners; i++)
		if (live->owners[i].layer && (!biggest || live->owners[i].bytes > biggest->bytes))
			biggest = &live->owners[i];
	return biggest;
}

struct device_search {
	uint16_t device;
	struct store_device *ret;
};

static int each_device(const struct store_device *device, void *arg)
{
	struct device_search *search = arg;

	if (device->device != search->device)
		return 0;
	*search->ret = *device;
	search->ret->name = NULL;
	return 1;
}

int report_read_device(struct report *report, struct store_device *ret)
{
	struct device_search search = {.device = report->device, .ret = ret};
	int error = store_each_device(report->store, each_device, &search);

	return error == 1 ? 0 : error == 0 ? -ENOENT : error;
}
