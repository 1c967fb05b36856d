/* What is alive at one instant: see live.h. */
#include "report/live.h"

#include "report/groups.h"

#include <errno.h>
#include <search.h>
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

static int copy(const char *text, char **ret)
{
	*ret = text ? strdup(text) : NULL;
	return text && !*ret ? -ENOMEM : 0;
}

static int compare_texts(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) : (a != NULL) - (b != NULL);
}

static int compare_owners(const void *a, const void *b)
{
	const struct live_owner *x = a, *y = b;
	int order = compare_texts(x->layer, y->layer);

	return order ? order : compare_texts(x->root, y->root);
}

static void owner_free(void *arg)
{
	struct live_owner *owner = arg;

	free(owner->root);
	free(owner->layer);
	free(owner);
}

/* A loss that is called by itself is a root too, but its name tells it from any layer. */
static void look_at_root(struct live *live, const struct live_owner *owner)
{
	if (!owner->layer || !*owner->layer)
		return;
	if (live->some_root && compare_texts(live->some_root, owner->root) != 0)
		live->several_roots = true;
	live->some_root = owner->root;
}

/* More owners than this are not kept: no model has so many layers, a hostile file may. */
#define OWNERS_MAX 65536u

static int add_to_owner(struct live *live, const struct store_allocation *allocation)
{
	const struct live_owner wanted = {.root = (char *)(uintptr_t)allocation->root,
	                                  .layer = (char *)(uintptr_t)allocation->layer};
	struct live_owner *const *found = tfind(&wanted, &live->owners, compare_owners);
	struct live_owner *owner = found ? *found : NULL;

	if (!owner) {
		if (live->nr_owners == OWNERS_MAX)
			return 0;
		owner = calloc(1, sizeof(*owner));
		if (!owner || copy(allocation->root, &owner->root) || copy(allocation->layer, &owner->layer) ||
		    !tsearch(owner, &live->owners, compare_owners)) {
			if (owner)
				owner_free(owner);
			return -ENOMEM;
		}
		live->nr_owners++;
		look_at_root(live, owner);
	}
	owner->bytes += allocation->size_bytes;
	if (owner->layer && (!live->biggest || owner->bytes > live->biggest->bytes))
		live->biggest = owner;
	return 0;
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
	live->bytes += allocation->size_bytes;
	if (allocation->alloc_seq == reading->seq && !live->has_last) {
		live->has_last = true;
		live->last_ns = allocation->alloc_ns;
		live->last_bytes = allocation->size_bytes;
		live->last_category = category;
		if (copy(allocation->root, &live->last_root) || copy(allocation->layer, &live->last_layer) ||
		    copy(allocation->line, &live->last_line) || copy(allocation->operation, &live->last_operation))
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

struct owner_list {
	const struct live_owner **owners;
	size_t nr;
};

static void list_owner(const void *node, VISIT visit, void *arg)
{
	struct owner_list *list = arg;

	if (visit == postorder || visit == leaf)
		list->owners[list->nr++] = *(const struct live_owner *const *)node;
}

static int more_bytes(const void *a, const void *b)
{
	const struct live_owner *x = *(const struct live_owner *const *)a, *y = *(const struct live_owner *const *)b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return compare_owners(x, y);
}

const struct live_owner **live_owners(const struct live *live, size_t *ret_nr)
{
	struct owner_list list = {.owners = calloc(live->nr_owners + 1, sizeof(*list.owners))};

	if (!list.owners)
		return NULL;
	twalk_r(live->owners, list_owner, &list);
	qsort(list.owners, list.nr, sizeof(*list.owners), more_bytes);
	*ret_nr = list.nr;
	return list.owners;
}

void live_release(struct live *live)
{
	tdestroy(live->owners, owner_free);
	free(live->last_root);
	free(live->last_layer);
	free(live->last_line);
	free(live->last_operation);
	*live = (struct live){0};
}

/* "aten::conv2d in train.py:12 (Net.forward)", what is known of it, with a blank before it. */
static void print_cause(struct report *report, const struct live *live, char *ret, size_t size)
{
	const char *line = short_line(report, live->last_line, true);
	const char *operation = live->last_operation ? report_safe(report, live->last_operation) : "";

	snprintf(ret, size, "%s%s%s%s%s", *operation ? ", " : "", operation, *line ? (*operation ? "" : ",") : "",
	         *line ? " at " : "", line);
}

const char *live_last_words(struct report *report, const struct live *live, char *ret, size_t size)
{
	format_buffer number;
	char cause[2 * SAFE_TEXT_MAX + 16];

	*ret = '\0';
	if (!live->has_last)
		return ret;
	print_cause(report, live, cause, sizeof(cause));
	snprintf(ret, size, "the last %s: %s%s%s%s", report_bytes(report, live->last_bytes, number),
	         category_words(live->last_category), live->last_layer ? " for layer " : "",
	         live->last_layer ? report_layer(report, live->last_root, live->last_layer) : "", cause);
	return ret;
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
