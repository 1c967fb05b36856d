/*
 * The tagger as bytes, and back.
 *
 * One description of every structure serves both directions (xfer_*), so that what is saved is what is loaded.  Numbers are
 * LEB128, an array is its count and its elements, the whole ends with a hash that tells damage.  The hash does not make the
 * bytes trustworthy: a run file comes from anywhere, so counts are checked against the bytes that are left, and
 * load_check() refuses what the other files of the tagger could not have made.
 *
 * Not saved: live allocations (the run file's open rows are they), names' texts, what follows from the rest.
 */
#include "store/tagger_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SAVE_MAGIC UINT64_C(0x6e6e6d7461670001) /* "nnmtag", version 1 */

struct archive {
	bool loading;
	bool damaged;
	bool no_memory;
	unsigned char *bytes; /* saving: grows */
	size_t nr, size;      /* loading: position and end */
};

static void put_byte(struct archive *archive, unsigned char byte)
{
	if (archive->nr == archive->size) {
		size_t size = archive->size ? archive->size * 2 : 4096;
		unsigned char *bytes = realloc(archive->bytes, size);

		if (!bytes) {
			archive->no_memory = true;
			archive->nr = 0;
			return;
		}
		archive->bytes = bytes;
		archive->size = size;
	}
	archive->bytes[archive->nr++] = byte;
}

static void put_number(struct archive *archive, uint64_t value)
{
	if (archive->no_memory)
		return;
	for (; value >= 0x80; value >>= 7)
		put_byte(archive, (unsigned char)value | 0x80);
	put_byte(archive, (unsigned char)value);
}

static uint64_t get_number(struct archive *archive)
{
	uint64_t value = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		unsigned char byte;

		if (archive->nr == archive->size)
			break;
		byte = archive->bytes[archive->nr++];
		if (shift == 63 && byte > 1)
			break;
		value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return value;
	}
	archive->damaged = true;
	archive->nr = archive->size;
	return 0;
}

static void xfer_u64(struct archive *archive, uint64_t *value)
{
	if (archive->loading)
		*value = get_number(archive);
	else
		put_number(archive, *value);
}

/* A number that must not be above @max. */
static uint64_t xfer_bounded(struct archive *archive, uint64_t value, uint64_t max)
{
	xfer_u64(archive, &value);
	if (value > max) {
		archive->damaged = true;
		return 0;
	}
	return value;
}

static void xfer_u32(struct archive *archive, uint32_t *value)
{
	*value = (uint32_t)xfer_bounded(archive, *value, UINT32_MAX);
}

static void xfer_u16(struct archive *archive, uint16_t *value)
{
	*value = (uint16_t)xfer_bounded(archive, *value, UINT16_MAX);
}

static void xfer_u8(struct archive *archive, uint8_t *value)
{
	*value = (uint8_t)xfer_bounded(archive, *value, UINT8_MAX);
}

static void xfer_phase(struct archive *archive, uint8_t *value)
{
	*value = (uint8_t)xfer_bounded(archive, *value, NR_PHASES - 1);
}

static void xfer_bool(struct archive *archive, bool *value)
{
	*value = xfer_bounded(archive, *value, 1);
}

/*
 * An array's count.  Loading: an element has at least @min_bytes bytes, which bounds what a hostile count can make us
 * allocate; the array is made, all zero.  Returns the number of elements to transfer.
 */
static size_t xfer_array(struct archive *archive, void *array_pointer, size_t nr, size_t element_bytes, size_t min_bytes)
{
	void *array;

	nr = (size_t)xfer_bounded(archive, nr, UINT32_MAX / 4);
	if (!archive->loading)
		return nr;
	if (archive->damaged || nr > (archive->size - archive->nr) / min_bytes) {
		archive->damaged = true;
		return 0;
	}
	if (!nr)
		return 0;
	array = calloc(nr, element_bytes);
	if (!array) {
		archive->no_memory = true;
		return 0;
	}
	memcpy(array_pointer, &array, sizeof(array));
	return nr;
}

/* xfer_array() for an array with a count and a room of type @type. */
#define XFER_ARRAY(archive, array, nr, room, type, min_bytes)                                                                    \
	do {                                                                                                                     \
		(nr) = (type)xfer_array(archive, &(array), nr, sizeof(*(array)), min_bytes);                                     \
		if ((archive)->loading)                                                                                          \
			(room) = (nr);                                                                                           \
	} while (0)

/* ---- what CUPTI saw */

static void xfer_seen(struct archive *archive, struct tagger *tagger)
{
	XFER_ARRAY(archive, tagger->seen, tagger->nr_seen, tagger->seen_size, uint32_t, 10);
	for (uint32_t i = 0; i < tagger->nr_seen; i++) {
		struct seen *seen = &tagger->seen[i];

		xfer_u64(archive, &seen->seq);
		xfer_u64(archive, &seen->come_ns);
		xfer_u64(archive, &seen->ns);
		xfer_u64(archive, &seen->address);
		xfer_u64(archive, &seen->size_bytes);
		xfer_u64(archive, &seen->caller);
		xfer_u32(archive, &seen->thread);
		xfer_u16(archive, &seen->device);
		seen->level = (uint8_t)xfer_bounded(archive, seen->level, NR_LEVELS - 1);
		xfer_bool(archive, &seen->given);
	}
	XFER_ARRAY(archive, tagger->seen_calls, tagger->nr_seen_calls, tagger->seen_calls_size, uint32_t, 6);
	for (uint32_t i = 0; i < tagger->nr_seen_calls; i++) {
		struct seen_call *call = &tagger->seen_calls[i];

		xfer_u64(archive, &call->address);
		xfer_u64(archive, &call->size_bytes);
		xfer_u64(archive, &call->begin_ns);
		xfer_u64(archive, &call->end_ns);
		xfer_bool(archive, &call->handle);
		xfer_bool(archive, &call->seen);
	}
}

/* ---- devices */

static void xfer_device(struct archive *archive, struct device *device)
{
	struct tag_device *d = &device->d;
	struct audit *audit = &device->audit;

	xfer_u16(archive, &d->device);
	xfer_u64(archive, &d->allocs);
	xfer_u64(archive, &d->frees);
	xfer_u64(archive, &d->live_bytes);
	xfer_u64(archive, &d->peak_bytes);
	xfer_u64(archive, &d->peak_seq);
	xfer_u64(archive, &d->peak_stretch);
	xfer_phase(archive, &d->peak_phase);
	xfer_u64(archive, &d->reserved_peak_bytes);
	xfer_u64(archive, &d->audit_checks);
	xfer_u64(archive, &d->audit_failures);
	xfer_u64(archive, &d->unknown_frees);
	xfer_bool(archive, &device->changed);
	xfer_bool(archive, &audit->started);
	xfer_bool(archive, &audit->many_threads);
	xfer_u32(archive, &audit->thread);
	xfer_u64(archive, &audit->total);
	xfer_u64(archive, &audit->delta);
	xfer_u64(archive, &audit->balance);
	xfer_u64(archive, &audit->nr_open);
	xfer_u64(archive, &audit->open_ns);
	xfer_u64(archive, &audit->running);
	xfer_u64(archive, &audit->base);
	audit->nr_threads = (uint32_t)xfer_bounded(archive, audit->nr_threads, MAX_AUDIT_THREADS + 1);
	for (uint32_t i = 0; i < audit->nr_threads && i < MAX_AUDIT_THREADS; i++) {
		xfer_u32(archive, &audit->threads[i].thread);
		xfer_u64(archive, &audit->threads[i].first_before);
		xfer_u64(archive, &audit->threads[i].last_after);
	}
	xfer_bool(archive, &audit->first_over);
	xfer_u64(archive, &audit->first_ns);
	xfer_u64(archive, &audit->nr_first);
	xfer_u64(archive, &audit->first_delta);
	xfer_u64(archive, &audit->first_balance);
	audit->nr_first_threads = (uint32_t)xfer_bounded(archive, audit->nr_first_threads, MAX_AUDIT_THREADS + 1);
	for (uint32_t i = 0; i < audit->nr_first_threads && i < MAX_AUDIT_THREADS; i++) {
		xfer_u32(archive, &audit->first_threads[i].thread);
		xfer_u64(archive, &audit->first_threads[i].first_before);
		xfer_u64(archive, &audit->first_threads[i].last_after);
	}
	xfer_u64(archive, &device->segment_bytes);
	xfer_u64(archive, &device->reserved_bytes);
	xfer_u64(archive, &device->used.seq);
	xfer_u64(archive, &device->used.last_seq);
	xfer_u64(archive, &device->used.ns);
	xfer_u64(archive, &device->used.used_bytes);
	xfer_u64(archive, &device->used.total_bytes);
	xfer_u64(archive, &device->used.segment_bytes);
	xfer_u64(archive, &device->used.reserved_bytes);
	xfer_bool(archive, &device->used.first);
	xfer_bool(archive, &device->used_changed);
	device->used.device = d->device;
	device->waters.prune_at = 4096;
	XFER_ARRAY(archive, device->waters.marks, device->waters.nr, device->waters.size, size_t, 2);
	for (size_t i = 0; i < device->waters.nr; i++) {
		struct high_water *mark = &device->waters.marks[i];

		xfer_u64(archive, &mark->epoch);
		xfer_u64(archive, &mark->bytes);
		if (i && (mark->epoch <= mark[-1].epoch || mark->bytes >= mark[-1].bytes))
			archive->damaged = true;
	}
}

static void xfer_devices(struct archive *archive, struct tagger *tagger)
{
	tagger->nr_devices = (uint32_t)xfer_bounded(archive, tagger->nr_devices, MAX_DEVICES);
	for (uint32_t i = 0; i < tagger->nr_devices; i++)
		xfer_device(archive, &tagger->devices[i]);
	xfer_u32(archive, &tagger->main);
}

/* ---- threads */

static void xfer_forward(struct archive *archive, struct forward *forward)
{
	xfer_bool(archive, &forward->open);
	xfer_u32(archive, &forward->root);
	xfer_u64(archive, &forward->episode);
}

static void xfer_scope(struct archive *archive, struct scope *scope)
{
	xfer_u8(archive, &scope->kind);
	xfer_phase(archive, &scope->phase);
	xfer_bool(archive, &scope->recompute);
	xfer_bool(archive, &scope->root);
	xfer_bool(archive, &scope->training);
	xfer_bool(archive, &scope->began_forward);
	xfer_bool(archive, &scope->owns_episode);
	xfer_u32(archive, &scope->id);
	xfer_u32(archive, &scope->root_module);
	xfer_u64(archive, &scope->call);
	xfer_u64(archive, &scope->episode);
	xfer_u64(archive, &scope->epoch);
	xfer_forward(archive, &scope->forward);
}

static void xfer_span(struct archive *archive, struct thread *thread)
{
	struct tag_span *span = &thread->span;

	xfer_u64(archive, &span->id);
	xfer_u64(archive, &span->stretch);
	xfer_u32(archive, &span->module);
	xfer_u32(archive, &span->optimizer);
	xfer_phase(archive, &span->phase);
	xfer_bool(archive, &span->recompute);
	xfer_u64(archive, &span->start_seq);
	xfer_u64(archive, &span->start_ns);
	xfer_u64(archive, &span->start_bytes);
	xfer_u32(archive, &thread->span_main);
	xfer_u64(archive, &thread->span_epoch);
	xfer_u64(archive, &thread->span_episode);
	span->thread = thread->id;
	thread->span_changed = true;
}

/* What points at a node that is gone is saved as pointing at none. */
static void xfer_pointer(struct archive *archive, const struct tagger *tagger, uint64_t *pointer)
{
	uint64_t stretch = archive->loading ? 0 : step_pointer(tagger, *pointer);

	xfer_u64(archive, &stretch);
	if (archive->loading)
		*pointer = stretch;
}

static void xfer_thread(struct archive *archive, const struct tagger *tagger, struct thread *thread)
{
	xfer_u32(archive, &thread->id);
	xfer_u8(archive, &thread->flags);
	xfer_bool(archive, &thread->defined);
	xfer_bool(archive, &thread->scoped);
	xfer_u32(archive, &thread->works_for);
	xfer_u32(archive, &thread->overflow);
	XFER_ARRAY(archive, thread->scopes, thread->depth, thread->nr_scopes, uint32_t, 14);
	for (uint32_t i = 0; i < thread->depth; i++)
		xfer_scope(archive, &thread->scopes[i]);
	xfer_forward(archive, &thread->forward);
	xfer_bool(archive, &thread->modular);
	xfer_bool(archive, &thread->unfinished);
	xfer_u64(archive, &thread->seed);
	xfer_u64(archive, &thread->seed_address);
	xfer_u16(archive, &thread->seed_device);
	xfer_bool(archive, &thread->in_span);
	if (thread->in_span)
		xfer_span(archive, thread);
	xfer_bool(archive, &thread->stepped);
	xfer_bool(archive, &thread->backed);
	xfer_bool(archive, &thread->owes_step);
	xfer_pointer(archive, tagger, &thread->candidate);
	xfer_pointer(archive, tagger, &thread->candidate_eval);
	xfer_u64(archive, &thread->candidate_seq);
	xfer_pointer(archive, tagger, &thread->early);
	xfer_pointer(archive, tagger, &thread->early_eval);
	xfer_u64(archive, &thread->early_seq);
	xfer_pointer(archive, tagger, &thread->eval);
	xfer_pointer(archive, tagger, &thread->pending);
	xfer_bool(archive, &thread->pending_functional);
	xfer_pointer(archive, tagger, &thread->outer);
}

static void xfer_threads(struct archive *archive, struct tagger *tagger)
{
	XFER_ARRAY(archive, tagger->threads, tagger->nr_threads, tagger->threads_size, uint32_t, 20);
	for (uint32_t i = 0; i < tagger->nr_threads; i++) {
		if (archive->loading && archive->damaged) {
			tagger->nr_threads = i;
			return;
		}
		if (archive->loading) {
			tagger->threads[i] = calloc(1, sizeof(struct thread));
			if (!tagger->threads[i]) {
				archive->no_memory = true;
				tagger->nr_threads = i;
				return;
			}
		}
		xfer_thread(archive, tagger, tagger->threads[i]);
		if (!archive->loading)
			continue;
		if (map_get(&tagger->thread_map, tagger->threads[i]->id) != NONE)
			archive->damaged = true;
		if (map_put(&tagger->thread_map, tagger->threads[i]->id, i) < 0)
			archive->no_memory = true;
	}
}

/* ---- steps */

static void xfer_phase_totals(struct archive *archive, struct tag_phase_totals *totals)
{
	xfer_bool(archive, &totals->seen);
	if (!totals->seen)
		return;
	xfer_u64(archive, &totals->allocs);
	xfer_u64(archive, &totals->alloc_bytes);
	xfer_u64(archive, &totals->peak_bytes);
	xfer_u64(archive, &totals->end_bytes);
}

static void xfer_step_device(struct archive *archive, struct tag_step_device *device)
{
	xfer_phase(archive, &device->peak_phase);
	xfer_u64(archive, &device->allocs);
	xfer_u64(archive, &device->frees);
	xfer_u64(archive, &device->alloc_bytes);
	xfer_u64(archive, &device->start_bytes);
	xfer_u64(archive, &device->peak_bytes);
	xfer_u64(archive, &device->end_bytes);
	xfer_u64(archive, &device->peak_seq);
	for (unsigned phase = 0; phase < NR_PHASES; phase++)
		xfer_phase_totals(archive, &device->phases[phase]);
}

static void xfer_node(struct archive *archive, struct tagger *tagger, struct node *node)
{
	xfer_u64(archive, &node->first);
	xfer_u64(archive, &node->last);
	xfer_u64(archive, &node->start_seq);
	xfer_u64(archive, &node->end_seq);
	xfer_u64(archive, &node->start_ns);
	xfer_u64(archive, &node->end_ns);
	xfer_u8(archive, &node->mark);
	xfer_phase(archive, &node->start_phase);
	xfer_u64(archive, &node->steps);
	xfer_u64(archive, &node->backwards);
	xfer_u64(archive, &node->forwards);
	xfer_u64(archive, &node->evals);
	node->nr_devices = (uint32_t)xfer_array(archive, &node->devices, node->nr_devices, sizeof(*node->devices), 14);
	for (uint32_t i = 0; i < node->nr_devices; i++) {
		xfer_step_device(archive, &node->devices[i]);
		if (i < tagger->nr_devices)
			node->devices[i].device = tagger->devices[i].d.device;
	}
	XFER_ARRAY(archive, node->marks.peaks, node->marks.nr, node->marks.size, size_t, 4);
	for (size_t i = 0; i < node->marks.nr; i++) {
		struct tag_layer_peak *peak = &node->marks.peaks[i];
		uint64_t key;

		xfer_u32(archive, &peak->module);
		xfer_u16(archive, &peak->device);
		xfer_u64(archive, &peak->forward_peak_bytes);
		xfer_u64(archive, &peak->backward_peak_bytes);
		if (!archive->loading)
			continue;
		key = (uint64_t)peak->module << 16 | peak->device;
		if (map_get(&node->marks.map, key) != NONE)
			archive->damaged = true;
		if (map_put(&node->marks.map, key, (uint32_t)i) < 0)
			archive->no_memory = true;
		node->marks.changed = true;
		node->marks.last_key = key;
		node->marks.last_index = i;
	}
}

static void xfer_steps(struct archive *archive, struct tagger *tagger)
{
	XFER_ARRAY(archive, tagger->nodes, tagger->nr_nodes, tagger->nodes_size, uint32_t, 14);
	for (uint32_t i = 0; i < tagger->nr_nodes; i++)
		xfer_node(archive, tagger, &tagger->nodes[i]);
	xfer_u64(archive, &tagger->step);
	xfer_u64(archive, &tagger->last_stretch);
	xfer_bool(archive, &tagger->setup);
	xfer_bool(archive, &tagger->in_static);
	xfer_bool(archive, &tagger->manual);
	xfer_bool(archive, &tagger->any_optimizer);
	xfer_bool(archive, &tagger->no_optimizer);
	xfer_u32(archive, &tagger->home);
	xfer_u32(archive, &tagger->rival);
	xfer_u32(archive, &tagger->lead);
	xfer_bool(archive, &tagger->has_lead);
	xfer_u64(archive, &tagger->lead_number);
	xfer_u64(archive, &tagger->lead_seq);
	xfer_u64(archive, &tagger->update_seq);
	xfer_u32(archive, &tagger->lead_thread);
	xfer_u64(archive, &tagger->steps_before);
	xfer_u8(archive, &tagger->ended);
}

/* ---- names */

static void xfer_modules(struct archive *archive, struct tagger *tagger)
{
	XFER_ARRAY(archive, tagger->modules, tagger->nr_modules, tagger->modules_size, uint32_t, 6);
	for (uint32_t i = 0; i < tagger->nr_modules; i++) {
		struct module *module = &tagger->modules[i];

		xfer_u32(archive, &module->id);
		xfer_u32(archive, &module->root);
		xfer_u32(archive, &module->parent);
		xfer_u32(archive, &module->fqn_bytes);
		xfer_u64(archive, &module->key);
		xfer_bool(archive, &module->has_parameters);
		if (!archive->loading)
			continue;
		if (map_put(&tagger->module_map, module->id, i) < 0 ||
		    (module->key && map_put(&tagger->path_map, module->key, i) < 0))
			archive->no_memory = true;
	}
}

static void xfer_tensors(struct archive *archive, struct tagger *tagger)
{
	XFER_ARRAY(archive, tagger->tensors, tagger->nr_tensors, tagger->tensors_size, uint32_t, 8);
	for (uint32_t i = 0; i < tagger->nr_tensors; i++) {
		struct tensor *tensor = &tagger->tensors[i];

		xfer_u64(archive, &tensor->key);
		xfer_u64(archive, &tensor->address);
		xfer_u64(archive, &tensor->size_bytes);
		xfer_u64(archive, &tensor->allocation);
		xfer_u32(archive, &tensor->module);
		xfer_u32(archive, &tensor->optimizer);
		xfer_u32(archive, &tensor->number);
		xfer_u8(archive, &tensor->kind);
		if (tensor->kind < RECORD_TENSOR_PARAMETER || tensor->kind > RECORD_TENSOR_GRADIENT)
			archive->damaged = true;
		if (archive->loading && (map_put(&tagger->tensor_map, tensor->key, i) < 0 ||
		                         (tensor->number && map_put(&tagger->gradient_map, tensor->number, i) < 0)))
			archive->no_memory = true;
	}
}

static void xfer_waiting(struct archive *archive, struct tagger *tagger)
{
	uint32_t nr = (uint32_t)xfer_bounded(archive, tagger->nr_waiting, MAX_WAITING);

	if (archive->loading)
		tagger->nr_waiting = 0;
	for (uint32_t i = 0; i < nr && !archive->damaged && !archive->no_memory; i++) {
		struct waiting *waiting = &tagger->waiting[i];
		uint32_t nr_fields = 0;

		xfer_u32(archive, &waiting->tensor);
		xfer_u64(archive, &waiting->until_seq);
		xfer_u64(archive, &waiting->address);
		xfer_u64(archive, &waiting->size_bytes);
		waiting->text_bytes = (uint32_t)xfer_array(archive, &waiting->text, waiting->text_bytes, 1, 1);
		if (archive->loading)
			tagger->nr_waiting = i + (waiting->text_bytes > 0);
		for (uint32_t b = 0; b < waiting->text_bytes; b++) {
			xfer_u8(archive, (uint8_t *)&waiting->text[b]);
			nr_fields += !waiting->text[b];
		}
		if (nr_fields != 4 || waiting->text[waiting->text_bytes - 1] || waiting->tensor >= tagger->nr_tensors)
			archive->damaged = true;
	}
}

static void xfer_optimizers(struct archive *archive, struct tagger *tagger)
{
	XFER_ARRAY(archive, tagger->optimizers, tagger->nr_optimizers, tagger->optimizers_size, uint32_t, 4);
	for (uint32_t i = 0; i < tagger->nr_optimizers; i++) {
		struct optimizer *optimizer = &tagger->optimizers[i];

		xfer_u32(archive, &optimizer->id);
		xfer_u64(archive, &optimizer->lead_number);
		xfer_u64(archive, &optimizer->steps);
		xfer_u64(archive, &optimizer->last_seq);
		if (archive->loading && map_put(&tagger->optimizer_map, optimizer->id, i) < 0)
			archive->no_memory = true;
	}
}

/* ---- the whole */

static void xfer_episodes(struct archive *archive, struct episodes *episodes)
{
	XFER_ARRAY(archive, episodes->ids, episodes->nr, episodes->size, size_t, 1);
	for (size_t i = 0; i < episodes->nr; i++) {
		xfer_u64(archive, &episodes->ids[i]);
		if (i && episodes->ids[i] <= episodes->ids[i - 1])
			archive->damaged = true;
	}
	xfer_u64(archive, &episodes->last);
	if (episodes->nr && episodes->ids[episodes->nr - 1] > episodes->last)
		archive->damaged = true;
}

static void xfer_tagger(struct archive *archive, struct tagger *tagger)
{
	uint64_t magic = SAVE_MAGIC;

	xfer_u64(archive, &magic);
	if (magic != SAVE_MAGIC) {
		archive->damaged = true;
		return;
	}
	xfer_u64(archive, &tagger->last_seq);
	xfer_u64(archive, &tagger->last_ns);
	xfer_u64(archive, &tagger->nr_ignored);
	xfer_u64(archive, &tagger->key_seed);
	xfer_u64(archive, &tagger->live.budget);
	xfer_u64(archive, &tagger->last_allocation);
	xfer_u64(archive, &tagger->nr_calls);
	xfer_u64(archive, &tagger->nr_forwards);
	xfer_u64(archive, &tagger->epoch);
	xfer_u64(archive, &tagger->last_span);
	xfer_bool(archive, &tagger->adapter);
	xfer_bool(archive, &tagger->requests);
	xfer_bool(archive, &tagger->finished);
	xfer_episodes(archive, &tagger->episodes);
	xfer_devices(archive, tagger);
	xfer_seen(archive, tagger);
	xfer_threads(archive, tagger);
	xfer_steps(archive, tagger);
	xfer_modules(archive, tagger);
	xfer_tensors(archive, tagger);
	xfer_waiting(archive, tagger);
	xfer_optimizers(archive, tagger);
}

/* Refuse what no tagger could have saved, and derive the rest. */
static bool load_check(struct tagger *tagger)
{
	if (tagger->nr_devices ? tagger->main >= tagger->nr_devices : tagger->main)
		return false;
	if (tagger->live.budget > (UINT64_C(1) << 48))
		return false;
	for (uint32_t i = 0; i < tagger->nr_threads; i++)
		if (!scope_load_check(tagger, tagger->threads[i]))
			return false;
	return step_load_check(tagger);
}

static uint64_t hash_saved(const unsigned char *bytes, size_t size)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
	return hash;
}

#define HASH_BYTES 8u

int tagger_save(const struct tagger *tagger, unsigned char **ret_bytes, size_t *ret_size)
{
	struct archive archive = {0};
	uint64_t hash;

	xfer_tagger(&archive, (struct tagger *)tagger); /* saving only reads */
	hash = hash_saved(archive.bytes, archive.nr);
	for (unsigned i = 0; i < HASH_BYTES && !archive.no_memory; i++)
		put_byte(&archive, (unsigned char)(hash >> (8 * i)));
	if (archive.no_memory) {
		free(archive.bytes);
		return -ENOMEM;
	}
	*ret_bytes = archive.bytes;
	*ret_size = archive.nr;
	return 0;
}

int tagger_load(const struct tag_sink *sink, const unsigned char *bytes, size_t size, struct tagger **ret_tagger)
{
	struct archive archive = {.loading = true, .bytes = (unsigned char *)bytes};
	struct tagger *tagger;
	uint64_t hash = 0;

	if (size < HASH_BYTES)
		return -EINVAL;
	archive.size = size - HASH_BYTES;
	for (unsigned i = 0; i < HASH_BYTES; i++)
		hash |= (uint64_t)bytes[archive.size + i] << (8 * i);
	if (hash != hash_saved(bytes, archive.size))
		return -EINVAL;
	tagger = calloc(1, sizeof(*tagger));
	if (!tagger)
		return -ENOMEM;
	tagger->sink = *sink;
	live_init(&tagger->live);
	xfer_tagger(&archive, tagger);
	if (!archive.no_memory && (archive.damaged || archive.nr != archive.size || !load_check(tagger)))
		archive.damaged = true;
	if (archive.no_memory || archive.damaged) {
		tagger_free(tagger);
		return archive.no_memory ? -ENOMEM : -EINVAL;
	}
	*ret_tagger = tagger;
	return 0;
}

int tagger_load_allocation(struct tagger *tagger, const struct tag_allocation *allocation)
{
	struct live *live;
	uint32_t index;
	uint8_t level;
	int r;

	if (allocation->free_seq || !allocation->id || allocation->id > tagger->last_allocation ||
	    allocation->level >= NR_LEVELS || allocation->phase >= NR_PHASES || allocation->category >= NR_CATEGORIES ||
	    allocation->rule >= NR_CATEGORY_RULES || allocation->tensor > tagger->nr_tensors ||
	    allocation->size_bytes > MAX_SIZE_BYTES || !allocation->size_bytes)
		return -EINVAL;
	level = allocation->level | (allocation->seen ? LIVE_SEEN : 0);
	if ((allocation->seen && allocation->level == LEVEL_BLOCK) ||
	    live_find(&tagger->live, allocation->address, allocation->device, level) != NONE)
		return -EINVAL;
	r = live_add(&tagger->live, allocation->address, allocation->device, level, &index);
	if (r < 0)
		return r;
	live = &tagger->live.pool[index];
	live->a = *allocation;
	live->told = true;
	/* No forward began since its birth, or one did: nothing else is asked of the count. */
	live->forwards = allocation->seen_forward ? 0 : tagger->nr_forwards;
	if (allocation->tensor && tagger->tensors[allocation->tensor - 1].allocation == allocation->id)
		tagger->tensors[allocation->tensor - 1].live = index + 1;
	return 0;
}
