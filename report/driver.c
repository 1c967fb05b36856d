/* What the driver says: see driver.h. */
#include "report/driver.h"

#include "report/memory_map.h"

struct search {
	uint64_t seq, segment_bytes;
	struct driver_said *ret;
	bool same; /* the best answer so far is of as many bytes of segments */
	uint64_t distance;
};

static int each_answer(const struct store_driver *said, void *arg)
{
	struct search *search = arg;
	bool later = said->seq > search->seq, same = said->segment_bytes == search->segment_bytes;
	uint64_t distance = later ? said->seq - search->seq : search->seq > said->last_seq ? search->seq - said->last_seq : 0;

	if (said->first) {
		search->ret->has_context = true;
		search->ret->context_bytes = said->used_bytes;
	}
	if (search->ret->known && (search->same != same ? search->same : distance >= search->distance))
		return 0;
	search->ret->known = true;
	search->ret->said = *said;
	search->ret->exact = distance == 0;
	search->ret->later = later;
	search->same = same;
	search->distance = distance;
	return 0;
}

int driver_read(struct report *report, uint16_t device, uint64_t seq, const struct memory_map *map, struct driver_said *ret)
{
	uint64_t told = map->reserved_bytes + map->others_bytes - map->seen_bytes;
	struct search search = {.seq = seq, .segment_bytes = told, .ret = ret};
	int error;

	*ret = (struct driver_said){.known = false};
	error = store_each_driver(report->store, device, each_answer, &search);
	if (!error && ret->known) {
		const struct store_driver *said = &ret->said;
		uint64_t more = told + map->seen_bytes, less = said->segment_bytes + said->seen_bytes;

		/* Between two equal answers nothing that counts has changed. */
		if (ret->exact)
			more = less;
		ret->used_bytes = said->used_bytes + more > less ? said->used_bytes + more - less : 0;
	}
	return error;
}
