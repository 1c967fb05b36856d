/*
 * Names: modules, optimizers and tensors as the program's adapter defines them, and the blocks that named tensors lie in.
 *
 * Texts are handed to the sink and not kept; what has to be recognised again (a module's path, a tensor's identity) is kept
 * as a 64-bit hash.  A tensor is known by kind, module, optimizer, name and state key: defined again elsewhere it has moved.
 * The block that it leaves stays what it was for as long as it lives (the program still holds the old weights), but any
 * tensor may take it over; the one that it lies in now gets the name, unless a more telling kind named it before
 * (a parameter before a buffer before optimizer state before a gradient) or another tensor of the kind (tied weights).
 * A tensor of no bytes is a name that is taken back: the block goes by another.
 * A tensor whose block is not alive is external; for a few records it waits, because a block's report and its definition may
 * come from two threads.
 */
#include "store/tagger_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHARED_HEADER_BYTES 64u

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
	const unsigned char *p = bytes;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
	return hash;
}

static uint64_t hash_text(uint64_t hash, const char *text)
{
	return hash_bytes(hash, text, strlen(text) + 1);
}

/* What was born before training and has no name is not taken for a parameter any more. */
static void adapter_came(struct tagger *tagger)
{
	if (tagger->adapter)
		return;
	tagger->adapter = true;
	for (uint32_t i = 0; i < tagger->live.nr_pool; i++)
		if (tagger->live.pool[i].used && tagger->live.pool[i].a.phase == PHASE_STATIC)
			live_move(&tagger->live, i, LIVE_YOUNG);
}

/* ---- modules */

const struct module *name_module_by_id(const struct tagger *tagger, uint32_t id)
{
	uint32_t index = map_get(&tagger->module_map, id);

	return index == NONE ? NULL : &tagger->modules[index];
}

/* The module one level up, NULL: none.  Following it ends: the paths get shorter. */
const struct module *name_parent(const struct tagger *tagger, const struct module *module)
{
	const struct module *parent = module->parent ? name_module_by_id(tagger, module->parent) : NULL;

	return parent && parent->root == module->root && parent->fqn_bytes < module->fqn_bytes ? parent : NULL;
}

static uint64_t path_key(const struct tagger *tagger, uint32_t root)
{
	return mix64(tagger->key_seed ^ root);
}

/* Index of the module at the path of @key; NONE: there is none (any more). */
static uint32_t module_at(const struct tagger *tagger, uint64_t key)
{
	uint32_t index = map_get(&tagger->path_map, key);

	return index != NONE && tagger->modules[index].key == key ? index : NONE;
}

/* The nearest module above the path @fqn that is defined; its root has the path "". */
static uint32_t find_parent(const struct tagger *tagger, uint32_t root, const char *fqn, size_t fqn_bytes)
{
	uint64_t hash = path_key(tagger, root);
	uint32_t parent = module_at(tagger, mix64(hash));

	for (size_t i = 0; i < fqn_bytes; i++) {
		if (fqn[i] == '.') {
			uint32_t index = module_at(tagger, mix64(hash));

			if (index != NONE)
				parent = index;
		}
		hash = hash_bytes(hash, &fqn[i], 1);
	}
	return parent;
}

void name_module(struct tagger *tagger, const struct record *record, const char *const fields[])
{
	uint32_t id = record->scope, root = (uint32_t)record->a, index, parent = NONE;
	size_t fqn_bytes = strlen(fields[0]);
	uint64_t key = mix64(hash_bytes(path_key(tagger, root), fields[0], fqn_bytes));
	struct module *module;

	if (!id || record->a > UINT32_MAX) {
		tagger->nr_ignored++;
		return;
	}
	adapter_came(tagger);
	index = map_get(&tagger->module_map, id);
	if (index == NONE) {
		if (!tagger_reserve(tagger, &tagger->modules, tagger->nr_modules, &tagger->modules_size, sizeof(*module)))
			return;
		index = tagger->nr_modules;
		if (map_put(&tagger->module_map, id, index) < 0) {
			tagger_fail(tagger, -ENOMEM);
			return;
		}
		tagger->nr_modules++;
		tagger->modules[index] = (struct module){.id = id};
	}
	if (module_at(tagger, key) != NONE)
		tagger->modules[module_at(tagger, key)].key = 0; /* this one has the path now */
	if (id != root)
		parent = find_parent(tagger, root, fields[0], fqn_bytes);
	if (map_put(&tagger->path_map, key, index) < 0) {
		tagger_fail(tagger, -ENOMEM);
		return;
	}
	module = &tagger->modules[index];
	module->root = root;
	module->parent = parent == NONE || parent == index ? 0 : tagger->modules[parent].id;
	module->fqn_bytes = (uint32_t)fqn_bytes;
	module->key = key;

	const struct tag_module told = {
	        .id = id,
	        .root = root,
	        .parent = module->parent,
	        .fqn = fields[0],
	        .class_name = fields[1],
	        .root_name = fields[2],
	};

	TELL(tagger, module, &told);
}

/* ---- optimizers */

struct optimizer *name_optimizer(struct tagger *tagger, uint32_t id)
{
	uint32_t index = map_get(&tagger->optimizer_map, id);

	if (index != NONE)
		return &tagger->optimizers[index];
	if (!tagger_reserve(tagger, &tagger->optimizers, tagger->nr_optimizers, &tagger->optimizers_size,
	                    sizeof(struct optimizer)))
		return NULL;
	if (map_put(&tagger->optimizer_map, id, tagger->nr_optimizers) < 0) {
		tagger_fail(tagger, -ENOMEM);
		return NULL;
	}
	tagger->optimizers[tagger->nr_optimizers] = (struct optimizer){.id = id};
	return &tagger->optimizers[tagger->nr_optimizers++];
}

/* ---- tensors */

static void tell_tensor(struct tagger *tagger, uint32_t index, const char *const fields[])
{
	const struct tensor *tensor = &tagger->tensors[index];
	const struct tag_tensor told = {
	        .id = index + 1,
	        .module = tensor->module,
	        .optimizer = tensor->optimizer,
	        .kind = tensor->kind,
	        .address = tensor->address,
	        .size_bytes = tensor->size_bytes,
	        .allocation = tensor->allocation,
	        .name = fields[0],
	        .dtype = fields[1],
	        .shape = fields[2],
	        .state_key = fields[3],
	};

	TELL(tagger, tensor, &told);
}

/* The tensor lies no more in the block that it named so far, or, @taken_back, was never meant. */
static void leave_block(struct tagger *tagger, uint32_t tensor_index, bool taken_back)
{
	struct tensor *tensor = &tagger->tensors[tensor_index];
	uint32_t index = tensor->live - 1;

	if (!tensor->live)
		return;
	tensor->live = 0;
	if (index >= tagger->live.nr_pool || !taken_back)
		return;
	struct live *live = &tagger->live.pool[index];

	if (live->used && live->a.id == tensor->allocation && live->a.tensor == tensor_index + 1) {
		live->a.tensor = 0;
		live->named = true;
		live_move(&tagger->live, index, LIVE_YOUNG);
	}
}

static void name_block(struct tagger *tagger, uint32_t tensor_index, uint32_t live_index)
{
	struct tensor *tensor = &tagger->tensors[tensor_index];
	struct live *live = &tagger->live.pool[live_index];
	const struct tensor *other = live->a.tensor ? &tagger->tensors[live->a.tensor - 1] : NULL;

	tensor->allocation = live->a.id;
	if (other && other != tensor && other->kind <= tensor->kind && other->allocation == live->a.id)
		return;
	live->a.tensor = tensor_index + 1;
	if (tensor->module)
		live->a.module = tensor->module;
	tensor->live = live_index + 1;
	live->named = true;
	live_move(&tagger->live, live_index, LIVE_YOUNG);
}

static void forget_waiting(struct tagger *tagger, uint32_t at)
{
	free(tagger->waiting[at].text);
	tagger->nr_waiting--;
	memmove(&tagger->waiting[at], &tagger->waiting[at + 1], (tagger->nr_waiting - at) * sizeof(struct waiting));
}

static void prune_waiting(struct tagger *tagger, uint64_t seq)
{
	while (tagger->nr_waiting && tagger->waiting[0].until_seq < seq)
		forget_waiting(tagger, 0);
}

static void wait_for_block(struct tagger *tagger, uint32_t tensor_index, const struct record *record, const char *const fields[])
{
	struct waiting *waiting;
	size_t bytes = 0;

	prune_waiting(tagger, record->seq);
	if (tagger->nr_waiting == MAX_WAITING)
		forget_waiting(tagger, 0);
	for (int i = 0; i < 4; i++)
		bytes += strlen(fields[i]) + 1;
	waiting = &tagger->waiting[tagger->nr_waiting];
	*waiting = (struct waiting){
	        .tensor = tensor_index,
	        .until_seq = record->seq > UINT64_MAX - WAITING_RECORDS ? UINT64_MAX : record->seq + WAITING_RECORDS,
	        .address = record->address,
	        .size_bytes = record->size,
	        .text = malloc(bytes),
	        .text_bytes = (uint32_t)bytes,
	};
	if (!waiting->text) {
		tagger_fail(tagger, -ENOMEM);
		return;
	}
	char *end = waiting->text;

	for (int i = 0; i < 4; i++)
		end = stpcpy(end, fields[i]) + 1;
	tagger->nr_waiting++;
}

/* A block was born: a tensor may have been waiting for it. */
void name_block_born(struct tagger *tagger, uint32_t live_index)
{
	const struct live *live = &tagger->live.pool[live_index];

	prune_waiting(tagger, live->a.alloc_seq);
	for (uint32_t i = 0; i < tagger->nr_waiting; i++) {
		struct waiting *waiting = &tagger->waiting[i];
		const char *fields[4] = {waiting->text};

		if (waiting->address != live->a.address || waiting->size_bytes > live->a.size_bytes ||
		    live->a.level != LEVEL_BLOCK)
			continue;
		for (int f = 1; f < 4; f++)
			fields[f] = fields[f - 1] + strlen(fields[f - 1]) + 1;
		name_block(tagger, waiting->tensor, live_index);
		tell_tensor(tagger, waiting->tensor, fields);
		forget_waiting(tagger, i);
		return;
	}
}

/* The tensor of this identity, made if it is new; NONE: no memory. */
static uint32_t find_tensor(struct tagger *tagger, const struct record *record, const char *const fields[])
{
	uint32_t optimizer = record->a == RECORD_TENSOR_STATE ? (uint32_t)record->b : 0;
	const uint32_t owners[3] = {(uint32_t)record->a, record->scope, optimizer};
	uint64_t key = hash_text(hash_text(hash_bytes(tagger->key_seed, owners, sizeof(owners)), fields[0]), fields[3]);
	uint32_t index;

	key = mix64(key);
	index = map_get(&tagger->tensor_map, key);
	if (index != NONE)
		return index;
	if (!tagger_reserve(tagger, &tagger->tensors, tagger->nr_tensors, &tagger->tensors_size, sizeof(struct tensor)))
		return NONE;
	index = tagger->nr_tensors;
	if (map_put(&tagger->tensor_map, key, index) < 0) {
		tagger_fail(tagger, -ENOMEM);
		return NONE;
	}
	tagger->nr_tensors++;
	tagger->tensors[index] = (struct tensor){
	        .key = key,
	        .module = record->scope,
	        .optimizer = optimizer,
	        .kind = (uint8_t)record->a,
	};
	return index;
}

/* RECORD_GRADIENT calls the tensor @number from now on. */
static void number_gradient(struct tagger *tagger, uint32_t index, uint32_t number)
{
	uint32_t before = map_get(&tagger->gradient_map, number);

	if (before == index)
		return;
	if (before != NONE && tagger->tensors[before].number == number)
		tagger->tensors[before].number = 0;
	tagger->tensors[index].number = number;
	if (map_put(&tagger->gradient_map, number, index) < 0)
		tagger_fail(tagger, -ENOMEM);
}

void name_tensor(struct tagger *tagger, const struct record *record, const char *const fields[])
{
	uint32_t index, live_index, module_index;
	struct tensor *tensor;

	if (record->a < RECORD_TENSOR_PARAMETER || record->a > RECORD_TENSOR_GRADIENT || record->b > UINT32_MAX ||
	    record->size > MAX_SIZE_BYTES) {
		tagger->nr_ignored++;
		return;
	}
	adapter_came(tagger);
	index = find_tensor(tagger, record, fields);
	if (index == NONE)
		return;
	tensor = &tagger->tensors[index];
	if (tensor->kind == RECORD_TENSOR_GRADIENT && record->b)
		number_gradient(tagger, index, (uint32_t)record->b);
	live_index = record->size ? live_find_containing(&tagger->live, record->address) : NONE;
	if (tensor->live && (live_index == NONE || tagger->live.pool[live_index].a.id != tensor->allocation))
		leave_block(tagger, index, !record->size);
	tensor->address = record->address;
	tensor->size_bytes = record->size;
	tensor->allocation = 0;
	if (live_index != NONE)
		name_block(tagger, index, live_index);
	else if (record->size)
		wait_for_block(tagger, index, record, fields);
	tell_tensor(tagger, index, fields);
	if (tensor->kind != RECORD_TENSOR_PARAMETER)
		return;
	module_index = map_get(&tagger->module_map, record->scope);
	if (module_index != NONE)
		module_index = map_get(&tagger->module_map, tagger->modules[module_index].root);
	if (module_index != NONE)
		tagger->modules[module_index].has_parameters = true;
}

/*
 * A gradient that is known by number is at this address.  This comes for every one in every step, so no search inside of
 * blocks, and the tensor is not told again: what the row of the block says is enough.
 */
void name_gradient(struct tagger *tagger, const struct record *record)
{
	uint32_t index = record->a <= UINT32_MAX ? map_get(&tagger->gradient_map, record->a) : NONE;
	uint32_t live_index = live_find_block(&tagger->live, record->address);
	struct tensor *tensor;

	if (index == NONE) {
		tagger->nr_ignored++;
		return;
	}
	tensor = &tagger->tensors[index];
	if (live_index == NONE || tagger->live.pool[live_index].a.id == tensor->allocation)
		return;
	leave_block(tagger, index, false);
	tensor->address = record->address;
	tensor->size_bytes = tagger->live.pool[live_index].a.size_bytes;
	name_block(tagger, index, live_index);
}

/*
 * A tensor in this storage was given to a root module's call.  It is input if the block was born outside all phases; in
 * forward (noise that is made between the calls of two networks) only if no module made it and it requires no gradients: the
 * output of one network that is given to another (GAN) is an activation.
 * This comes at every call, so no search inside of blocks, but for the header of reference-counted shared memory.
 * Source: RefcountedMapAllocator, map_alloc_alignment in aten/src/ATen/MapAllocator.cpp, 2.13.
 */
void name_input(struct tagger *tagger, const struct record *record)
{
	uint32_t index = live_find_block(&tagger->live, record->address);
	struct live *live;

	if (index == NONE && record->address >= SHARED_HEADER_BYTES) {
		index = live_find_block(&tagger->live, record->address - SHARED_HEADER_BYTES);
		if (index != NONE && !tagger->live.pool[index].a.shared)
			index = NONE;
	}
	if (index == NONE)
		return;
	live = &tagger->live.pool[index];
	if (live->a.phase == PHASE_FORWARD ? live->a.module || record->flags & RECORD_F_GRAD
	                                   : live->a.phase != PHASE_STATIC && live->a.phase != PHASE_OTHER)
		return;
	if (live->a.named_input)
		return;
	live->a.named_input = live->named = true;
	live_move(&tagger->live, index, LIVE_YOUNG);
}

void name_release(struct tagger *tagger)
{
	while (tagger->nr_waiting)
		forget_waiting(tagger, tagger->nr_waiting - 1);
	free(tagger->modules);
	free(tagger->tensors);
	free(tagger->optimizers);
	map_release(&tagger->module_map);
	map_release(&tagger->path_map);
	map_release(&tagger->tensor_map);
	map_release(&tagger->gradient_map);
	map_release(&tagger->optimizer_map);
}
