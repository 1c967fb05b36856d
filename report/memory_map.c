/* A device's memory at one instant: see memory_map.h. */
#include "report/memory_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* @array with room for one more than @nr; NULL: no memory, and @array is as it was. */
static void *grown(void *array, size_t nr, size_t *room, size_t element_bytes)
{
	size_t wanted = *room ? 2 * *room : 64;

	if (nr < *room)
		return array;
	array = realloc(array, wanted * element_bytes);
	if (array)
		*room = wanted;
	return array;
}

static int copy(const char *text, char **ret)
{
	*ret = text ? strdup(text) : NULL;
	return text && !*ret ? -ENOMEM : 0;
}

/* Pieces of an expandable segment that lie side by side are one. */
static bool continues(const struct map_region *region, const struct store_segment *segment)
{
	return region->expandable && segment->expandable && region->of_pytorch == segment->of_pytorch && region->address &&
	       region->address + region->size_bytes == segment->address;
}

static int add_segment(const struct store_segment *segment, void *arg)
{
	struct memory_map *map = arg;
	struct map_region *region = map->nr_regions ? &map->regions[map->nr_regions - 1] : NULL, *regions;

	if (region && continues(region, segment)) {
		region->size_bytes += segment->size_bytes;
		region->nr_pieces++;
		return 0;
	}
	regions = grown(map->regions, map->nr_regions, &map->room_regions, sizeof(*regions));
	if (!regions)
		return -ENOMEM;
	map->regions = regions;
	region = &map->regions[map->nr_regions++];
	*region = (struct map_region){
	        .address = segment->address,
	        .size_bytes = segment->size_bytes,
	        .alloc_ns = segment->alloc_ns,
	        .step = segment->step,
	        .phase = segment->phase,
	        .expandable = segment->expandable,
	        .of_pytorch = segment->of_pytorch,
	        .seen = segment->seen,
	        .nr_pieces = 1,
	};
	if (copy(segment->caller, &region->caller) || copy(segment->line, &region->line))
		return -ENOMEM;
	return 0;
}

static int add_block(const struct store_placed *block, void *arg)
{
	struct memory_map *map = arg;
	unsigned category = block->category < NR_CATEGORIES ? block->category : CATEGORY_UNKNOWN;
	struct store_placed *blocks = grown(map->blocks, map->nr_blocks, &map->room_blocks, sizeof(*blocks));

	if (!blocks)
		return -ENOMEM;
	map->blocks = blocks;
	map->blocks[map->nr_blocks++] = *block;
	map->block_bytes += block->size_bytes;
	map->category_bytes[category] += block->size_bytes;
	map->category_blocks[category]++;
	if (block->requested_bytes && block->requested_bytes <= block->size_bytes) {
		map->known_bytes += block->size_bytes;
		map->requested_bytes += block->requested_bytes;
	}
	return 0;
}

/* Regions do not overlap in an honest file; in any, each block is in at most one. */
static bool is_in(const struct map_region *region, const struct store_placed *block)
{
	return block->address >= region->address && block->address - region->address < region->size_bytes &&
	       block->size_bytes <= region->size_bytes - (block->address - region->address);
}

static void place_blocks(struct memory_map *map)
{
	size_t at = 0;

	for (size_t i = 0; i < map->nr_regions; i++) {
		struct map_region *region = &map->regions[i];

		while (at < map->nr_blocks && !is_in(region, &map->blocks[at]) && map->blocks[at].address < region->address) {
			map->unplaced_blocks++;
			map->unplaced_bytes += map->blocks[at++].size_bytes;
		}
		region->first_block = at;
		while (at < map->nr_blocks && is_in(region, &map->blocks[at])) {
			region->allocated_bytes += map->blocks[at++].size_bytes;
			region->nr_blocks++;
		}
	}
	for (; at < map->nr_blocks; at++) {
		map->unplaced_blocks++;
		map->unplaced_bytes += map->blocks[at].size_bytes;
	}
}

static int note_gap(uint64_t address, uint64_t size_bytes, const struct store_placed *before, const struct store_placed *after,
                    void *arg)
{
	struct map_region *region = arg;

	region->nr_gaps++;
	region->free_bytes += size_bytes;
	if (size_bytes > region->largest_free_bytes)
		region->largest_free_bytes = size_bytes;
	return 0;
}

static void add_up(struct memory_map *map)
{
	for (size_t i = 0; i < map->nr_regions; i++) {
		struct map_region *region = &map->regions[i];

		if (!region->of_pytorch) {
			map->nr_others++;
			map->others_bytes += region->size_bytes;
			map->seen_bytes += region->seen ? region->size_bytes : 0;
			continue;
		}
		if (!map->direct)
			memory_map_each_gap(map, region, note_gap, region);
		map->nr_segments++;
		map->reserved_bytes += region->size_bytes;
		map->allocated_bytes += region->allocated_bytes;
		map->free_bytes += region->free_bytes;
		map->nr_gaps += region->nr_gaps;
		map->expandable |= region->expandable;
		if (region->largest_free_bytes > map->largest_free_bytes)
			map->largest_free_bytes = region->largest_free_bytes;
	}
}

struct device_reading {
	uint16_t device;
	struct memory_map *map;
};

static int each_device(const struct store_device *device, void *arg)
{
	struct device_reading *reading = arg;

	if (device->device == reading->device)
		reading->map->direct = !device->allocs && !device->frees;
	return 0;
}

int memory_map_read(struct report *report, uint16_t device, uint64_t seq, struct memory_map *ret)
{
	struct memory_map map = {0};
	struct device_reading reading = {.device = device, .map = &map};
	int error = store_each_device(report->store, each_device, &reading);

	if (!error)
		error = store_each_segment(report->store, device, seq, add_segment, &map);

	if (!error)
		error = store_each_placed(report->store, device, seq, add_block, &map);
	if (error) {
		memory_map_release(&map);
		return error;
	}
	place_blocks(&map);
	add_up(&map);
	*ret = map;
	return 0;
}

void memory_map_release(struct memory_map *map)
{
	for (size_t i = 0; i < map->nr_regions; i++) {
		free(map->regions[i].caller);
		free(map->regions[i].line);
	}
	free(map->regions);
	free(map->blocks);
	*map = (struct memory_map){0};
}

int memory_map_each_gap(const struct memory_map *map, const struct map_region *region,
                        int (*each)(uint64_t address, uint64_t size_bytes, const struct store_placed *before,
                                    const struct store_placed *after, void *arg),
                        void *arg)
{
	const struct store_placed *before = NULL;
	uint64_t at = region->address, end = region->address + region->size_bytes;

	for (size_t i = 0; i < region->nr_blocks; i++) {
		const struct store_placed *block = &map->blocks[region->first_block + i];

		if (block->address > at) {
			int stopped = each(at, block->address - at, before, block, arg);

			if (stopped)
				return stopped;
		}
		if (block->address + block->size_bytes > at)
			at = block->address + block->size_bytes;
		before = block;
	}
	return at < end ? each(at, end - at, before, NULL, arg) : 0;
}

const char *map_caller(struct report *report, const char *caller)
{
	const char *slash = caller ? strrchr(caller, '/') : NULL;

	return caller ? report_safe(report, slash ? slash + 1 : caller) : "code that is not known";
}
