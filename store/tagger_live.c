/*
 * The tagger's tables: small maps, live allocations by address, open episodes, high-water marks.
 *
 * None of them allocates in the steady state: a free gives its pool entry to the next allocation.  All keys come from
 * outside, so both hash tables are seeded.
 */
#include "store/tagger_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* The finaliser of SplitMix64.  Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014. */
uint64_t mix64(uint64_t value)
{
	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

/* Only where entries fall depends on it, never what is reported. */
static uint64_t new_seed(const void *object)
{
	uint64_t seed;

	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != (ssize_t)sizeof(seed))
		seed = mix64((uint64_t)(uintptr_t)object);
	return seed;
}

/* ---- maps */

static size_t map_slot(const struct map *map, uint64_t key)
{
	size_t slot = mix64(key ^ map->seed) & (map->nr_slots - 1);

	while (map->values[slot] && map->keys[slot] != key)
		slot = (slot + 1) & (map->nr_slots - 1);
	return slot;
}

uint32_t map_get(const struct map *map, uint64_t key)
{
	if (!map->nr_used)
		return NONE;
	return map->values[map_slot(map, key)] - 1; /* a free slot's 0 gives NONE */
}

static int map_grow(struct map *map)
{
	struct map grown = {.nr_slots = map->nr_slots ? map->nr_slots * 2 : 16, .nr_used = map->nr_used, .seed = map->seed};

	if (!map->nr_slots)
		grown.seed = new_seed(map);
	grown.keys = calloc(grown.nr_slots, sizeof(*grown.keys));
	grown.values = calloc(grown.nr_slots, sizeof(*grown.values));
	if (!grown.keys || !grown.values) {
		free(grown.keys);
		free(grown.values);
		return -ENOMEM;
	}
	for (size_t i = 0; i < map->nr_slots; i++) {
		if (!map->values[i])
			continue;
		size_t slot = map_slot(&grown, map->keys[i]);

		grown.keys[slot] = map->keys[i];
		grown.values[slot] = map->values[i];
	}
	map_release(map);
	*map = grown;
	return 0;
}

int map_put(struct map *map, uint64_t key, uint32_t value)
{
	if ((map->nr_used + 1) * 2 > map->nr_slots) {
		int r = map_grow(map);

		if (r < 0)
			return r;
	}
	size_t slot = map_slot(map, key);

	if (!map->values[slot])
		map->nr_used++;
	map->keys[slot] = key;
	map->values[slot] = value + 1;
	return 0;
}

void map_release(struct map *map)
{
	free(map->keys);
	free(map->values);
	*map = (struct map){0};
}

/* ---- live allocations */

void live_init(struct live_table *table)
{
	for (unsigned list = 0; list < NR_LIVE_LISTS; list++)
		table->head[list] = table->tail[list] = NONE;
}

static size_t live_home(const struct live_table *table, uint64_t address)
{
	return mix64(address ^ table->seed) & (table->nr_slots - 1);
}

/* A block is known by its device and address; other memory by its address alone: a call that frees it says no more. */
static bool is_key(const struct live_slot *slot, uint64_t address, uint16_t device, uint8_t level)
{
	if (slot->address != address || (slot->level & LIVE_SEEN) != (level & LIVE_SEEN))
		return false;
	return level == LEVEL_BLOCK ? slot->level == LEVEL_BLOCK && slot->device == device : slot->level != LEVEL_BLOCK;
}

/* The slot of the key, or the free one where it would go. */
static size_t live_slot_of(const struct live_table *table, uint64_t address, uint16_t device, uint8_t level)
{
	size_t slot = live_home(table, address);

	for (;; slot = (slot + 1) & (table->nr_slots - 1)) {
		const struct live_slot *s = &table->slots[slot];

		if (!s->index || is_key(s, address, device, level))
			return slot;
	}
}

uint32_t live_find(const struct live_table *table, uint64_t address, uint16_t device, uint8_t level)
{
	if (!table->nr_live)
		return NONE;
	return table->slots[live_slot_of(table, address, device, level)].index - 1;
}

static int live_grow_slots(struct live_table *table)
{
	size_t nr_slots = table->nr_slots ? table->nr_slots * 2 : 1024;
	struct live_slot *old = table->slots, *slots = calloc(nr_slots, sizeof(*slots));
	size_t nr_old = table->nr_slots;

	if (!slots)
		return -ENOMEM;
	if (!nr_old)
		table->seed = new_seed(slots);
	table->slots = slots;
	table->nr_slots = nr_slots;
	for (size_t i = 0; i < nr_old; i++)
		if (old[i].index)
			slots[live_slot_of(table, old[i].address, old[i].device, old[i].level)] = old[i];
	free(old);
	return 0;
}

static int live_grow_pool(struct live_table *table)
{
	uint32_t size = table->pool_size ? table->pool_size * 2 : 512;
	struct live *pool;

	if (size > UINT32_MAX / 4)
		return -ENOMEM;
	pool = realloc(table->pool, size * sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	table->pool = pool;
	table->pool_size = size;
	return 0;
}

/* The key must not be there.  The new entry is zero but for what the key says, and young. */
int live_add(struct live_table *table, uint64_t address, uint16_t device, uint8_t level, uint32_t *ret_index)
{
	uint32_t index;
	int r;

	if ((size_t)(table->nr_live + 1) * 2 > table->nr_slots) {
		r = live_grow_slots(table);
		if (r < 0)
			return r;
	}
	if (table->free_head) {
		index = table->free_head - 1;
		table->free_head = table->pool[index].next;
	} else {
		if (table->nr_pool == table->pool_size) {
			r = live_grow_pool(table);
			if (r < 0)
				return r;
		}
		index = table->nr_pool++;
	}
	table->pool[index] = (struct live){
	        .a = {.address = address, .device = device, .level = level & (uint8_t)~LIVE_SEEN, .seen = level & LIVE_SEEN},
	        .used = true,
	};
	table->slots[live_slot_of(table, address, device, level)] =
	        (struct live_slot){.address = address, .index = index + 1, .device = device, .level = level};
	table->nr_live++;
	table->sorted_valid = false;
	live_move(table, index, LIVE_YOUNG);
	*ret_index = index;
	return 0;
}

/* Close the gap at @slot by moving back what was pushed past it, so that searches need no tombstones. */
static void live_remove_slot(struct live_table *table, size_t slot)
{
	size_t mask = table->nr_slots - 1, next = slot;

	for (;;) {
		next = (next + 1) & mask;
		if (!table->slots[next].index)
			break;
		size_t home = live_home(table, table->slots[next].address);

		if (((next - home) & mask) >= ((next - slot) & mask)) {
			table->slots[slot] = table->slots[next];
			slot = next;
		}
	}
	table->slots[slot].index = 0;
}

void live_remove(struct live_table *table, uint32_t index)
{
	struct live *live = &table->pool[index];

	live_move(table, index, LIVE_SETTLED);
	live_remove_slot(table,
	                 live_slot_of(table, live->a.address, live->a.device, live->a.level | (live->a.seen ? LIVE_SEEN : 0)));
	live->used = false;
	live->next = table->free_head;
	table->free_head = index + 1;
	table->nr_live--;
}

/* Move the entry to the end of @list. */
void live_move(struct live_table *table, uint32_t index, enum live_list list)
{
	struct live *live = &table->pool[index];

	if (live->list == list)
		return;
	if (live->list != LIVE_SETTLED) {
		if (live->prev == NONE)
			table->head[live->list] = live->next;
		else
			table->pool[live->prev].next = live->next;
		if (live->next == NONE)
			table->tail[live->list] = live->prev;
		else
			table->pool[live->next].prev = live->prev;
	}
	live->list = (uint8_t)list;
	if (list == LIVE_SETTLED)
		return;
	live->next = NONE;
	live->prev = table->tail[list];
	if (live->prev == NONE)
		table->head[list] = index;
	else
		table->pool[live->prev].next = index;
	table->tail[list] = index;
}

struct sorted_block {
	uint64_t address;
	uint32_t index;
};

static int compare_blocks(const void *a, const void *b)
{
	const struct sorted_block *x = a, *y = b;

	return (x->address > y->address) - (x->address < y->address);
}

static bool live_sort(struct live_table *table)
{
	struct sorted_block *blocks;
	uint32_t *sorted, nr = 0;

	if (table->sorted_valid)
		return true;
	if (table->budget < table->nr_pool)
		return false;
	table->budget -= table->nr_pool;
	blocks = malloc((table->nr_live + 1) * sizeof(*blocks));
	sorted = realloc(table->sorted, (table->nr_live + 1) * sizeof(*sorted));
	if (sorted)
		table->sorted = sorted;
	if (!blocks || !sorted) {
		free(blocks);
		return false;
	}
	for (uint32_t i = 0; i < table->nr_pool; i++)
		if (table->pool[i].used && table->pool[i].a.level == LEVEL_BLOCK)
			blocks[nr++] = (struct sorted_block){table->pool[i].a.address, i};
	qsort(blocks, nr, sizeof(*blocks), compare_blocks);
	for (uint32_t i = 0; i < nr; i++)
		sorted[i] = blocks[i].index;
	free(blocks);
	table->nr_sorted = nr;
	table->sorted_valid = true;
	return true;
}

/* The live block that begins at @address, whatever its device: devices share one address space.  NONE: there is none. */
uint32_t live_find_block(const struct live_table *table, uint64_t address)
{
	if (!table->nr_live)
		return NONE;
	for (size_t slot = live_home(table, address); table->slots[slot].index; slot = (slot + 1) & (table->nr_slots - 1))
		if (table->slots[slot].address == address && table->slots[slot].level == LEVEL_BLOCK)
			return table->slots[slot].index - 1;
	return NONE;
}

/*
 * The live block that @address begins or lies in, as live_find_block().  A storage may begin inside its block: shared memory has
 * a header.  NONE: there is none, or sorting would cost too much now.
 */
uint32_t live_find_containing(struct live_table *table, uint64_t address)
{
	uint32_t low = 0, high, found = live_find_block(table, address);

	if (found != NONE || !table->nr_live)
		return found;
	if (!live_sort(table))
		return NONE;
	/* Entries of blocks that died since are still in order: their pool entries were not used again (no birth since). */
	for (high = table->nr_sorted; low < high;) {
		uint32_t middle = low + (high - low) / 2;

		if (table->pool[table->sorted[middle]].a.address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low)
		return NONE;
	const struct live *live = &table->pool[table->sorted[low - 1]];

	if (!live->used || address - live->a.address >= live->a.size_bytes)
		return NONE;
	return table->sorted[low - 1];
}

void live_table_release(struct live_table *table)
{
	free(table->pool);
	free(table->slots);
	free(table->sorted);
	*table = (struct live_table){0};
}

/* ---- episodes */

int episodes_open(struct episodes *episodes, uint64_t *ret_id)
{
	if (episodes->nr == episodes->size) {
		size_t size = episodes->size ? episodes->size * 2 : 16;
		uint64_t *ids = realloc(episodes->ids, size * sizeof(*ids));

		if (!ids)
			return -ENOMEM;
		episodes->ids = ids;
		episodes->size = size;
	}
	*ret_id = ++episodes->last;
	episodes->ids[episodes->nr++] = *ret_id;
	return 0;
}

static size_t episodes_search(const struct episodes *episodes, uint64_t id)
{
	size_t low = 0, high = episodes->nr;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (episodes->ids[middle] < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

void episodes_close(struct episodes *episodes, uint64_t id)
{
	size_t at = episodes_search(episodes, id);

	if (at == episodes->nr || episodes->ids[at] != id)
		return;
	memmove(&episodes->ids[at], &episodes->ids[at + 1], (episodes->nr - at - 1) * sizeof(*episodes->ids));
	episodes->nr--;
}

bool episodes_is_open(const struct episodes *episodes, uint64_t id)
{
	size_t at = episodes_search(episodes, id);

	return at < episodes->nr && episodes->ids[at] == id;
}

/* ---- high-water marks */

/* The device stood at @bytes at some moment of @epoch, which is now. */
int high_waters_add(struct high_waters *waters, uint64_t epoch, uint64_t bytes)
{
	struct high_water *marks = waters->marks;

	if (waters->nr && marks[waters->nr - 1].epoch == epoch && marks[waters->nr - 1].bytes >= bytes)
		return 0;
	while (waters->nr && marks[waters->nr - 1].bytes <= bytes)
		waters->nr--;
	if (waters->nr == waters->size) {
		size_t size = waters->size ? waters->size * 2 : 64;

		marks = realloc(marks, size * sizeof(*marks));
		if (!marks)
			return -ENOMEM;
		waters->marks = marks;
		waters->size = size;
	}
	waters->marks[waters->nr++] = (struct high_water){epoch, bytes};
	return 0;
}

static size_t high_waters_search(const struct high_waters *waters, uint64_t epoch)
{
	size_t low = 0, high = waters->nr;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (waters->marks[middle].epoch < epoch)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The highest that the device stood since @epoch began; it stands at @now_bytes. */
uint64_t high_waters_since(const struct high_waters *waters, uint64_t epoch, uint64_t now_bytes)
{
	size_t at = high_waters_search(waters, epoch);

	return at < waters->nr ? max_u64(waters->marks[at].bytes, now_bytes) : now_bytes;
}

/* Forget what nothing that is still open will ask for. */
void high_waters_prune(struct high_waters *waters, uint64_t oldest_epoch)
{
	size_t at = high_waters_search(waters, oldest_epoch);

	if (at) {
		memmove(waters->marks, waters->marks + at, (waters->nr - at) * sizeof(*waters->marks));
		waters->nr -= at;
	}
	waters->prune_at = waters->nr * 2 > 4096 ? waters->nr * 2 : 4096;
}
