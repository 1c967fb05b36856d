/*
 * The tagger's way in: records, devices and their audit, births and deaths of allocations, flush and finish.
 *
 * The rules are with what they rule: phases in tagger_scope.c, steps in tagger_step.c, names in tagger_name.c, categories in
 * tagger_category.c.  The recorder and recovery call this, through store/recording.h; tests feed it tables of records.
 */
#include "store/demangle.h"
#include "store/tagger_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Reports of several threads may be told in another order than their totals were taken in, but not for longer than this. */
#define AUDIT_OPEN_NS      UINT64_C(10000000000)
#define AUDIT_OPEN_REPORTS 4096u
/* For so many reports and for AUDIT_OPEN_NS it may turn out that the first to come was not the first whose total was taken. */
#define AUDIT_FIRST_REPORTS 4096u
/*
 * At the end of the run of several threads, fewer may be missing because their thread was stopped between the total and the
 * report.
 */
#define AUDIT_OPEN_AT_END 64u

/* Work that sorting blocks by address may cost: at the start, and earned by each record. */
#define BUDGET_START      (UINT64_C(1) << 20)
#define BUDGET_PER_RECORD 8u
#define BUDGET_MAX        (UINT64_C(1) << 40)

void tagger_fail(struct tagger *tagger, int error)
{
	if (error < 0 && !tagger->error)
		tagger->error = error;
}

bool tagger_reserve(struct tagger *tagger, void *array_pointer, uint32_t nr, uint32_t *size, size_t element_bytes)
{
	void *array;
	uint32_t new_size;

	if (nr < *size)
		return true;
	new_size = *size ? *size * 2 : 8;
	if (new_size > UINT32_MAX / 4) {
		tagger_fail(tagger, -ENOMEM);
		return false;
	}
	memcpy(&array, array_pointer, sizeof(array));
	array = realloc(array, new_size * element_bytes);
	if (!array) {
		tagger_fail(tagger, -ENOMEM);
		return false;
	}
	memcpy(array_pointer, &array, sizeof(array));
	*size = new_size;
	return true;
}

/* ---- life of the tagger */

int tagger_new(const struct tag_sink *sink, struct tagger **ret_tagger)
{
	struct tagger *tagger = calloc(1, sizeof(*tagger));

	if (!tagger)
		return -ENOMEM;
	tagger->sink = *sink;
	live_init(&tagger->live);
	tagger->live.budget = BUDGET_START;
	tagger->key_seed = mix64((uint64_t)(uintptr_t)tagger);
	if (step_init(tagger) < 0) {
		tagger_free(tagger);
		return -ENOMEM;
	}
	*ret_tagger = tagger;
	return 0;
}

void tagger_free(struct tagger *tagger)
{
	if (!tagger)
		return;
	for (uint32_t i = 0; i < tagger->nr_devices; i++)
		free(tagger->devices[i].waters.marks);
	for (uint32_t i = 0; i < tagger->nr_threads; i++) {
		free(tagger->threads[i]->scopes);
		free(tagger->threads[i]);
	}
	free(tagger->threads);
	map_release(&tagger->thread_map);
	live_table_release(&tagger->live);
	free(tagger->episodes.ids);
	seen_release(tagger);
	step_release(tagger);
	name_release(tagger);
	free(tagger);
}

uint64_t tagger_ignored(const struct tagger *tagger)
{
	return tagger->nr_ignored;
}

uint64_t tagger_nr_live(const struct tagger *tagger)
{
	return tagger->live.nr_live;
}

/* ---- devices */

uint32_t tagger_device(struct tagger *tagger, uint16_t id)
{
	for (uint32_t i = 0; i < tagger->nr_devices; i++)
		if (tagger->devices[i].d.device == id)
			return i;
	if (tagger->nr_devices == MAX_DEVICES) {
		tagger->nr_ignored++;
		return NONE;
	}
	/* Told even when there will be no block on it. */
	tagger->devices[tagger->nr_devices] =
	        (struct device){.d = {.device = id, .peak_stretch = tagger->last_stretch}, .changed = true};
	tagger->devices[tagger->nr_devices].waters.prune_at = 4096;
	if (record_is_cuda(id) && !record_is_cuda(tagger->devices[tagger->main].d.device))
		tagger->main = tagger->nr_devices;
	return tagger->nr_devices++;
}

static void audit_agreed(struct audit *audit, uint64_t total)
{
	audit->total = total;
	audit->delta = audit->balance = audit->nr_open = 0;
	audit->nr_threads = 0;
}

static void audit_failed(struct device *device, uint64_t total)
{
	device->d.audit_checks++;
	device->d.audit_failures++;
	audit_agreed(&device->audit, total);
	device->audit.base = total - device->audit.running; /* one loss is one failure */
	device->audit.nr_first = device->audit.first_delta = device->audit.first_balance = 0;
	device->audit.nr_first_threads = 0;
	device->audit.first_over = false;
}

/* Note the report among those of its thread.  *@nr: one more than there is room when there are too many. */
static void audit_note_thread(struct audit_thread *threads, uint32_t *nr, uint32_t thread, uint64_t before, uint64_t after)
{
	if (*nr > MAX_AUDIT_THREADS)
		return;
	for (uint32_t i = 0; i < *nr; i++) {
		if (threads[i].thread != thread)
			continue;
		threads[i].last_after = after;
		return;
	}
	if (*nr < MAX_AUDIT_THREADS)
		threads[*nr] = (struct audit_thread){.thread = thread, .first_before = before, .last_after = after};
	++*nr;
}

/* Note the report among all since the first. */
static void audit_note_first(struct audit *audit, const struct record *record, uint64_t delta)
{
	if (audit->first_over)
		return;
	if (!audit->nr_first++)
		audit->first_ns = record->time_ns;
	audit->first_over = audit->nr_first > AUDIT_FIRST_REPORTS && record->time_ns > audit->first_ns &&
	                    record->time_ns - audit->first_ns > AUDIT_OPEN_NS;
	audit->first_delta += delta;
	audit->first_balance += mix64(record->a) - mix64(record->a - delta);
	audit_note_thread(audit->first_threads, &audit->nr_first_threads, record->thread, record->a - delta, record->a);
}

/* Whether all reports since the first form a way that begins before some thread's first: then recording began there. */
static bool audit_begins_elsewhere(struct audit *audit)
{
	bool ends = false;
	uint64_t end;

	if (!audit->many_threads || !audit->first_delta || audit->first_over || audit->nr_first_threads > MAX_AUDIT_THREADS)
		return false;
	for (uint32_t i = 0; i < audit->nr_first_threads; i++) {
		end = audit->first_threads[i].first_before + audit->first_delta;
		if (audit->first_balance != mix64(end) - mix64(end - audit->first_delta))
			continue;
		for (uint32_t k = 0; k < audit->nr_first_threads; k++)
			ends |= audit->first_threads[k].last_after == end;
		if (!ends)
			return false;
		audit_agreed(audit, end);
		audit->base = end - audit->running;
		return true;
	}
	return false;
}

/*
 * Whether the way of totals can begin and end where it should: a thread's own reports come in order, so it ends with the
 * last of one.  When it leads to another total it must have left the first one; when it leads back, the reports could all lie
 * elsewhere, and it must begin with the first of one.  (Not otherwise: of reports with equal sizes, agreeing may have taken
 * another thread's step for the one that is still to come.)
 */
static bool audit_way_exists(const struct audit *audit, uint64_t expected)
{
	bool begins = audit->delta != 0, ends = false;

	if (audit->nr_threads > MAX_AUDIT_THREADS)
		return true;
	for (uint32_t i = 0; i < audit->nr_threads; i++) {
		begins |= audit->threads[i].first_before == audit->total;
		ends |= audit->threads[i].last_after == expected;
	}
	return begins && ends;
}

/*
 * Compare PyTorch's total with ours.  @delta is what the report changed, modulo 2^64; audit->running has it already.
 *
 * CUDA's totals are taken and reported under one lock, so each report must say what we expect.  The CPU's are taken under a
 * lock and reported after it: a few reports may come in another order.  Each report is a step from total - delta to total;
 * when no other report is under way, the steps since we last agreed must form a way from the total of then to the one
 * expected now, whatever their order: every total in between is left as often as it is reached.  That is what the sum of
 * hashes checks.  The first report only says what PyTorch's total was when recording began; where threads begin at the same
 * moment, it may have been overtaken by others whose totals were taken before.
 */
static void audit_report(struct device *device, const struct record *record, uint64_t delta)
{
	struct audit *audit = &device->audit;
	bool strict = record_is_cuda(device->d.device);
	uint64_t expected;

	if (!audit->started) {
		audit->started = true;
		audit->thread = record->thread;
		audit->base = record->a - audit->running;
		audit_agreed(audit, record->a);
		audit_note_first(audit, record, delta);
		return;
	}
	audit_note_first(audit, record, delta);
	if (audit->thread != record->thread)
		audit->many_threads = true;
	audit->delta += delta;
	audit->balance += mix64(record->a) - mix64(record->a - delta);
	expected = audit->total + audit->delta;
	audit_note_thread(audit->threads, &audit->nr_threads, record->thread, record->a - delta, record->a);
	if (audit->balance == mix64(expected) - mix64(audit->total) && audit->running + audit->base == expected &&
	    audit_way_exists(audit, expected) && (!strict || record->a == expected)) {
		device->d.audit_checks++;
		audit_agreed(audit, expected);
		return;
	}
	if (!strict && audit_begins_elsewhere(audit)) {
		device->d.audit_checks++;
		return;
	}
	if (!audit->nr_open++)
		audit->open_ns = record->time_ns;
	/* Also where one thread alone has reported: another's first report may be under way. */
	if (strict || (audit->nr_open > AUDIT_OPEN_REPORTS && record->time_ns > audit->open_ns &&
	               record->time_ns - audit->open_ns > AUDIT_OPEN_NS))
		audit_failed(device, record->a);
}

/* The device stood at @high_bytes during this event, after which it stands at live_bytes. */
static void device_moved(struct tagger *tagger, struct device *device, uint64_t high_bytes)
{
	device->changed = true;
	if (device->waters.nr >= device->waters.prune_at)
		high_waters_prune(&device->waters, scope_oldest_epoch(tagger));
	if (high_waters_add(&device->waters, tagger->epoch, high_bytes) < 0)
		tagger_fail(tagger, -ENOMEM);
}

/* ---- births and deaths */

static void count_birth(struct tagger *tagger, uint32_t index, const struct record *record, uint8_t phase)
{
	struct device *device = &tagger->devices[index];
	struct tag_step_device *step = step_device(tagger, index);
	struct tag_phase_totals *totals;
	uint64_t now;

	if (!step)
		return;
	totals = &step->phases[phase];
	device->d.allocs++;
	now = device->d.live_bytes = add_bytes(device->d.live_bytes, record->size);
	if (now > device->d.peak_bytes) {
		device->d.peak_bytes = now;
		device->d.peak_seq = record->seq;
		device->d.peak_stretch = tagger->last_stretch;
		device->d.peak_phase = phase;
	}
	step->allocs++;
	step->alloc_bytes = add_bytes(step->alloc_bytes, record->size);
	step->end_bytes = now;
	if (now > step->peak_bytes) {
		step->peak_bytes = now;
		step->peak_seq = record->seq;
		step->peak_phase = phase;
	}
	totals->seen = true;
	totals->allocs++;
	totals->alloc_bytes = add_bytes(totals->alloc_bytes, record->size);
	totals->peak_bytes = max_u64(totals->peak_bytes, now);
	totals->end_bytes = now;
	device_moved(tagger, device, now);
}

/* @size_bytes left the device; a report said so when @reported. */
static void count_death(struct tagger *tagger, uint32_t index, uint64_t size_bytes, uint8_t phase, bool reported)
{
	struct device *device = &tagger->devices[index];
	struct tag_step_device *step = step_device(tagger, index);
	struct tag_phase_totals *totals;
	uint64_t before = device->d.live_bytes;

	if (!step)
		return;
	totals = &step->phases[phase];
	device->d.live_bytes = sub_bytes(before, size_bytes);
	device->d.frees += reported;
	step->frees += reported;
	step->end_bytes = device->d.live_bytes;
	totals->seen = true;
	totals->peak_bytes = max_u64(totals->peak_bytes, before);
	totals->end_bytes = device->d.live_bytes;
	device_moved(tagger, device, before);
}

/* A call gave a segment, or took it back.  What CUPTI alone saw comes too late to be counted at any moment. */
static void segment_changed(struct tagger *tagger, uint16_t id, uint64_t size_bytes, bool given)
{
	uint32_t index = tagger_device(tagger, id);
	struct device *device;

	if (index == NONE)
		return;
	device = &tagger->devices[index];
	device->segment_bytes =
	        given ? add_bytes(device->segment_bytes, size_bytes) : sub_bytes(device->segment_bytes, size_bytes);
}

void life_end(struct tagger *tagger, uint32_t index, uint64_t seq, uint64_t ns, uint32_t thread, uint8_t phase, bool lost)
{
	struct live *live = &tagger->live.pool[index];

	live->a.free_seq = seq;
	live->a.free_ns = ns;
	live->a.free_stretch = tagger->last_stretch;
	live->a.free_thread = thread;
	live->a.free_phase = phase;
	live->a.free_lost = lost;
	category_decide(tagger, live);
	if (live->a.level == LEVEL_SEGMENT && !live->a.seen)
		segment_changed(tagger, live->a.device, live->a.size_bytes, false);
	TELL(tagger, allocation, &live->a);
	live_remove(&tagger->live, index);
}

static void end_life(struct tagger *tagger, uint32_t index, const struct record *record, uint8_t phase, bool lost)
{
	life_end(tagger, index, record->seq, record->time_ns, record->thread, phase, lost);
}

/* A node's layer saw the device at @high_bytes. */
static void mark_node_layer(struct tagger *tagger, uint32_t device, const struct record *record, uint8_t phase,
                            uint64_t high_bytes)
{
	if ((record->flags & RECORD_F_NODE) && phase == PHASE_BACKWARD && record->scope)
		step_layer_mark(tagger, record->scope, device, true, high_bytes);
}

static bool is_report(const struct record *record)
{
	return record->size && record->size <= MAX_SIZE_BYTES;
}

static void feed_memory(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	uint8_t level = (uint8_t)record_level(record->flags);
	struct context context;
	uint32_t device, index;
	struct live *live;

	if (!is_report(record)) {
		tagger->nr_ignored++;
		return;
	}
	device = tagger_device(tagger, record->device);
	if (device == NONE)
		return;
	context = scope_context(tagger, thread, record);
	index = live_find(&tagger->live, record->address, record->device, level);
	if (index != NONE) {
		if (level == LEVEL_BLOCK)
			count_death(tagger, device, tagger->live.pool[index].a.size_bytes, context.phase, false);
		end_life(tagger, index, record, context.phase, true);
	}
	if (live_add(&tagger->live, record->address, record->device, level, &index) < 0) {
		tagger_fail(tagger, -ENOMEM);
		return;
	}
	live = &tagger->live.pool[index];
	live->forwards = tagger->nr_forwards;
	live->a.id = ++tagger->last_allocation;
	live->a.size_bytes = record->size;
	live->a.alloc_seq = record->seq;
	live->a.alloc_ns = record->time_ns;
	live->a.stretch = tagger->last_stretch;
	live->a.thread = record->thread;
	live->a.module = record->scope;
	live->a.stack = record->stack;
	live->a.phase = context.phase;
	live->a.recompute = context.recompute;
	live->a.shared = record->flags & RECORD_F_SHARED;
	live->a.episode = context.episode;
	if (level != LEVEL_BLOCK)
		live->a.caller = record->a <= INT64_MAX ? record->a : 0;
	else if (record->device == RECORD_DEVICE_CPU) /* never rounded */
		live->a.requested_bytes = record->size;
	else
		live->a.requested_bytes = record_requested(record->b, record->size);
	if (live->a.requested_bytes && record_is_cuda(record->device))
		tagger->requests = true;
	live->a.before_step = context.phase == PHASE_OTHER && thread->owes_step;
	if (context.phase != PHASE_BACKWARD || context.recompute)
		live->a.call = scope_call(thread, record->scope);
	thread->seed = 0;
	if (level == LEVEL_BLOCK && !record->scope && !(record->flags & RECORD_F_NEW_NODE) && context.phase != PHASE_BACKWARD &&
	    context.phase != PHASE_OPTIMIZER) {
		thread->seed = live->a.id;
		thread->seed_address = record->address;
		thread->seed_device = record->device;
	}
	scope_count_event(tagger, thread);
	if (tagger->nr_waiting)
		name_block_born(tagger, index);
	if (level == LEVEL_SEGMENT)
		tagger->devices[device].segment_bytes = add_bytes(tagger->devices[device].segment_bytes, record->size);
	if (level != LEVEL_BLOCK) {
		seen_told(tagger, record);
		return;
	}
	count_birth(tagger, device, record, context.phase);
	mark_node_layer(tagger, device, record, context.phase, tagger->devices[device].d.live_bytes);
	tagger->devices[device].reserved_bytes = record_reserved(record->b);
	tagger->devices[device].d.reserved_peak_bytes =
	        max_u64(tagger->devices[device].d.reserved_peak_bytes, record_reserved(record->b));
	if (!(record->flags & RECORD_F_SHARED)) {
		tagger->devices[device].audit.running += record->size;
		audit_report(&tagger->devices[device], record, record->size);
	}
}

/* A mapping is of the device whose memory is mapped; what others made than this program is not known. */
static void feed_mapping(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	uint32_t index = live_find(&tagger->live, record->a, 0, LEVEL_SEGMENT);
	struct record of_device = *record;

	if (index == NONE)
		return;
	of_device.device = tagger->live.pool[index].a.device;
	feed_memory(tagger, thread, &of_device);
}

static void feed_alloc(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	if (record_level(record->flags) >= NR_LEVELS)
		tagger->nr_ignored++;
	else if (record_level(record->flags) == LEVEL_MAPPING)
		feed_mapping(tagger, thread, record);
	else
		feed_memory(tagger, thread, record);
}

/* A call takes memory back that is no block.  Of what was there before the recording nothing is known. */
static void feed_take(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	struct context context = scope_context(tagger, thread, record);
	uint32_t index = live_find(&tagger->live, record->address, 0, LEVEL_SEGMENT);

	thread->seed = 0;
	scope_count_event(tagger, thread);
	if (index != NONE)
		end_life(tagger, index, record, context.phase, false);
}

static void feed_free(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	struct context context;
	uint32_t device, index;
	uint64_t size_bytes = record->size, before;
	struct audit *audit;

	if (record_level(record->flags) != LEVEL_BLOCK) {
		feed_take(tagger, thread, record);
		return;
	}
	if (!is_report(record)) {
		tagger->nr_ignored++;
		return;
	}
	device = tagger_device(tagger, record->device);
	if (device == NONE)
		return;
	context = scope_context(tagger, thread, record);
	thread->seed = 0;
	scope_count_event(tagger, thread);
	index = live_find(&tagger->live, record->address, record->device, LEVEL_BLOCK);
	if (index != NONE) {
		size_bytes = tagger->live.pool[index].a.size_bytes;
		end_life(tagger, index, record, context.phase, false);
	} else {
		tagger->devices[device].d.unknown_frees++;
		tagger->devices[device].changed = true;
	}
	before = tagger->devices[device].d.live_bytes;
	count_death(tagger, device, index == NONE ? 0 : size_bytes, context.phase, true);
	mark_node_layer(tagger, device, record, context.phase, before);
	tagger->devices[device].reserved_bytes = record->b;
	audit = &tagger->devices[device].audit;
	if (!(record->flags & RECORD_F_SHARED)) {
		audit->running -= size_bytes;
		audit_report(&tagger->devices[device], record, -record->size);
	}
}

static void feed_oom(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	struct context context = scope_context(tagger, thread, record);
	const struct tag_oom oom = {
	        .seq = record->seq,
	        .ns = record->time_ns,
	        .stretch = tagger->last_stretch,
	        .size_bytes = record->size,
	        .allocated_bytes = record->a,
	        .reserved_bytes = record->b,
	        .thread = record->thread,
	        .module = record->scope,
	        .stack = record->stack,
	        .device = record->device,
	        .phase = context.phase,
	};

	TELL(tagger, oom, &oom);
}

static void feed_refused(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	struct context context = scope_context(tagger, thread, record);
	uint32_t device = tagger_device(tagger, record->device);
	struct tag_oom refusal;

	if (device == NONE)
		return;
	refusal = (struct tag_oom){
	        .seq = record->seq,
	        .ns = record->time_ns,
	        .stretch = tagger->last_stretch,
	        .size_bytes = record->size,
	        .allocated_bytes = tagger->devices[device].d.live_bytes,
	        .reserved_bytes = tagger->devices[device].reserved_bytes,
	        .thread = record->thread,
	        .module = record->scope,
	        .stack = record->stack,
	        .device = record->device,
	        .phase = context.phase,
	};
	TELL(tagger, refused, &refusal);
}

static void tell_used(struct tagger *tagger, struct device *device)
{
	if (device->used_changed)
		TELL(tagger, used, &device->used);
	device->used_changed = false;
}

/* What the driver says; as long as it says the same it is one answer. */
static void feed_used(struct tagger *tagger, const struct record *record)
{
	uint32_t index = record->b <= MAX_SIZE_BYTES && record->a <= record->b ? tagger_device(tagger, record->device) : NONE;
	struct device *device;
	struct tag_used *used;

	if (index == NONE) {
		tagger->nr_ignored++;
		return;
	}
	device = &tagger->devices[index];
	used = &device->used;
	if (used->seq && !used->first && used->used_bytes == record->a && used->total_bytes == record->b &&
	    used->segment_bytes == device->segment_bytes && used->reserved_bytes == device->reserved_bytes) {
		used->last_seq = record->seq;
	} else {
		tell_used(tagger, device);
		*used = (struct tag_used){
		        .seq = record->seq,
		        .last_seq = record->seq,
		        .ns = record->time_ns,
		        .used_bytes = record->a,
		        .total_bytes = record->b,
		        .segment_bytes = device->segment_bytes,
		        .reserved_bytes = device->reserved_bytes,
		        .device = record->device,
		        .first = record->flags & RECORD_F_FIRST,
		};
	}
	device->used_changed = true;
}

/* A stack is told as it is: the tables say which it stands on. */
static void define_stack(struct tagger *tagger, const struct record *record)
{
	const struct tag_stack told = {
	        .id = record->stack,
	        .parent = (uint32_t)record->a,
	        .frame = record->scope,
	        .shown = (uint32_t)record->b,
	        .operation = (uint32_t)record->address,
	};

	if (!told.id || !told.frame || record->a > UINT32_MAX || record->b > UINT32_MAX || record->address > UINT32_MAX) {
		tagger->nr_ignored++;
		return;
	}
	TELL(tagger, stack, &told);
}

static void define_frame(struct tagger *tagger, const struct record *record, const char *const fields[2])
{
	struct tag_frame told = {.id = record->scope, .file = fields[0], .function = fields[1]};
	char class[512];

	if (record->flags & RECORD_F_NATIVE) {
		told.kind = FRAME_NATIVE;
		told.internal = true;
		told.function = "";
		told.build_id = fields[1];
		told.offset = record->a;
	} else if (record->flags & RECORD_F_OPERATION) {
		told.kind = FRAME_OPERATION;
		told.internal = true;
		if (record->flags & RECORD_F_MANGLED) {
			demangle_node(fields[1], class, sizeof(class));
			told.function = class;
		}
	} else {
		told.line = record->a <= INT32_MAX ? (uint32_t)record->a : 0;
		told.internal = record->flags & RECORD_F_INTERNAL;
	}
	TELL(tagger, frame, &told);
}

/* ---- records with text */

/* Split @text of @bytes bytes at its NULs into @nr fields; false when there are fewer. */
static bool split_text(const char *text, uint32_t bytes, const char *fields[], int nr)
{
	const char *end = text + bytes;

	for (int i = 0; i < nr; i++) {
		if (text > end)
			return false;
		fields[i] = text;
		text += strlen(text) + 1;
	}
	return true;
}

static void define_thread(struct tagger *tagger, struct thread *thread, const struct record *record, const char *name)
{
	const struct tag_thread told = {.id = record->thread, .os_id = record->a, .flags = record->flags, .name = name};

	thread->defined = true;
	thread->flags = record->flags;
	TELL(tagger, thread, &told);
	scope_settle(tagger, thread, record);
}

static void feed_text(struct tagger *tagger, struct thread *thread, const struct record *record, const char *text)
{
	static const int nr_fields[] = {
	        [RECORD_DEF_THREAD] = 1, [RECORD_DEF_MODULE] = 3, [RECORD_DEF_OPTIMIZER] = 1, [RECORD_DEF_TENSOR] = 4,
	        [RECORD_DEF_FRAME] = 2,  [RECORD_INFO] = 2,       [RECORD_NOTE] = 1,
	};
	const char *fields[4] = {NULL};

	if (!text || !nr_fields[record->kind] || !split_text(text, record->stack, fields, nr_fields[record->kind])) {
		tagger->nr_ignored++;
		return;
	}
	switch (record->kind) {
	case RECORD_DEF_THREAD:
		define_thread(tagger, thread, record, fields[0]);
		break;
	case RECORD_DEF_MODULE:
		name_module(tagger, record, fields);
		break;
	case RECORD_DEF_OPTIMIZER: {
		const struct tag_optimizer told = {.id = record->scope, .class_name = fields[0]};

		TELL(tagger, optimizer, &told);
		break;
	}
	case RECORD_DEF_TENSOR:
		name_tensor(tagger, record, fields);
		break;
	case RECORD_DEF_FRAME:
		define_frame(tagger, record, fields);
		break;
	case RECORD_INFO:
		TELL(tagger, info, fields[0], fields[1]);
		break;
	default: {
		const struct tag_note told = {
		        .seq = record->seq,
		        .severity = record->a <= RECORD_SEVERITY_ERROR ? (uint8_t)record->a : RECORD_SEVERITY_ERROR,
		        .text = fields[0],
		};

		TELL(tagger, note, &told);
	}
	}
}

/* ---- feeding */

static void feed_known(struct tagger *tagger, struct thread *thread, const struct record *record, const char *text)
{
	switch (record->kind) {
	case RECORD_ALLOC:
		feed_alloc(tagger, thread, record);
		break;
	case RECORD_FREE:
		feed_free(tagger, thread, record);
		break;
	case RECORD_OOM:
		feed_oom(tagger, thread, record);
		break;
	case RECORD_REFUSED:
		feed_refused(tagger, thread, record);
		break;
	case RECORD_USED:
		feed_used(tagger, record);
		break;
	case RECORD_SEEN_ALLOC:
	case RECORD_SEEN_FREE:
		seen_feed(tagger, record);
		break;
	case RECORD_MODULE_ENTER:
		scope_enter(tagger, thread, record);
		break;
	case RECORD_MODULE_LEAVE:
		scope_leave(tagger, thread, record);
		break;
	case RECORD_BACKWARD_BEGIN:
		scope_backward_begin(tagger, thread, record);
		break;
	case RECORD_BACKWARD_END:
		scope_backward_end(tagger, thread, record);
		break;
	case RECORD_OPTIMIZER_BEGIN:
		scope_optimizer_begin(tagger, thread, record);
		break;
	case RECORD_OPTIMIZER_END:
		scope_optimizer_end(tagger, thread, record);
		break;
	case RECORD_SCALER_UPDATE:
		step_scaler_update(tagger, thread, record);
		break;
	case RECORD_WORKER:
		scope_worker(tagger, thread, record);
		break;
	case RECORD_INPUT:
		name_input(tagger, record);
		break;
	case RECORD_GRADIENT:
		name_gradient(tagger, record);
		break;
	case RECORD_FORWARD:
		scope_forward(tagger, thread, record);
		break;
	case RECORD_MARK_STEP:
		step_mark(tagger, record);
		step_phase_enter(tagger, scope_context(tagger, thread, record).phase);
		break;
	case RECORD_MARK_PHASE_BEGIN:
		scope_mark_begin(tagger, thread, record);
		break;
	case RECORD_MARK_PHASE_END:
		scope_mark_end(tagger, thread, record);
		break;
	case RECORD_DEF_STACK:
		define_stack(tagger, record);
		break;
	case RECORD_DEF_THREAD ... RECORD_NOTE:
		feed_text(tagger, thread, record, text);
		break;
	case RECORD_END:
		tagger->ended = record->a == RECORD_END_EXIT || record->a == RECORD_END_EXEC ? (uint8_t)record->a : 0;
		TELL(tagger, end, (unsigned)record->a, (int64_t)record->b, record->size);
		break;
	default:
		tagger->nr_ignored++;
	}
}

static int take_error(struct tagger *tagger)
{
	int error = tagger->error;

	tagger->error = 0;
	return error;
}

int tagger_feed(struct tagger *tagger, const struct record *record, const char *text)
{
	struct thread *thread;

	if (record->seq <= tagger->last_seq || tagger->finished) {
		tagger->nr_ignored++;
		return 0;
	}
	tagger->last_seq = record->seq;
	tagger->last_ns = max_u64(tagger->last_ns, record->time_ns);
	if (tagger->live.budget < BUDGET_MAX)
		tagger->live.budget += BUDGET_PER_RECORD;
	step_record_begin(tagger, record);
	thread = scope_thread(tagger, record->thread);
	if (thread)
		feed_known(tagger, thread, record, text);
	if (tagger->nr_seen)
		seen_settle(tagger, record->time_ns);
	step_record_done(tagger, record);
	return take_error(tagger);
}

/* ---- flush and finish */

static void tell_devices(struct tagger *tagger)
{
	for (uint32_t i = 0; i < tagger->nr_devices; i++) {
		if (tagger->devices[i].changed)
			TELL(tagger, device, &tagger->devices[i].d);
		tagger->devices[i].changed = false;
		tell_used(tagger, &tagger->devices[i]);
	}
}

/* Tell of the open allocation @index when it is new or reads otherwise than it was told last. */
static void tell_open(struct tagger *tagger, uint32_t index)
{
	struct live *live = &tagger->live.pool[index];
	struct tag_allocation before = live->a;

	category_decide(tagger, live);
	if (live->told && before.category == live->a.category && before.rule == live->a.rule &&
	    before.provisional == live->a.provisional && before.seen_forward == live->a.seen_forward && !live->named)
		return;
	live->told = true;
	live->named = false;
	TELL(tagger, allocation, &live->a);
}

/* Where the open allocation goes once it was told. */
static enum live_list list_of(const struct tagger *tagger, const struct live *live)
{
	if (category_is_settled(tagger, live))
		return LIVE_SETTLED;
	return live->a.phase == PHASE_OTHER ? LIVE_IDLE : LIVE_YOUNG;
}

static void tell_list(struct tagger *tagger, enum live_list list)
{
	uint32_t next, last = tagger->live.tail[list];

	for (uint32_t i = tagger->live.head[list]; i != NONE; i = next) {
		next = i == last ? NONE : tagger->live.pool[i].next;
		tell_open(tagger, i);
		live_move(&tagger->live, i, list_of(tagger, &tagger->live.pool[i]));
	}
}

int tagger_flush(struct tagger *tagger)
{
	if (tagger->finished)
		return 0;
	tell_list(tagger, LIVE_YOUNG);
	if (tagger->told_forwards != tagger->nr_forwards)
		tell_list(tagger, LIVE_IDLE);
	tagger->told_forwards = tagger->nr_forwards;
	step_tell_open(tagger);
	scope_tell_spans(tagger);
	tell_devices(tagger);
	return take_error(tagger);
}

/*
 * What is alive when the run ends has its final category, but for what was born in an episode that was cut off: that stays
 * provisional, and is what it was so far.
 */
static void tell_survivors(struct tagger *tagger)
{
	for (uint32_t i = 0; i < tagger->live.nr_pool; i++) {
		struct live *live = &tagger->live.pool[i];

		if (!live->used)
			continue;
		category_decide(tagger, live);
		live->a.provisional = live->a.episode && live->a.phase != PHASE_INFERENCE && live->a.level == LEVEL_BLOCK &&
		                      episodes_is_open(&tagger->episodes, live->a.episode) && !live->a.tensor &&
		                      !live->a.recompute;
		TELL(tagger, allocation, &live->a);
	}
}

/*
 * Whether totals that do not agree yet when nothing more will come never will.  Where several threads report and the program
 * was killed, one of them may have died after PyTorch had counted its block and before it was reported: nobody is to blame.
 */
static bool audit_stays_open(const struct tagger *tagger, const struct audit *audit)
{
	if (!audit->many_threads)
		return audit->nr_open >= 1;
	return tagger->ended && audit->nr_open >= AUDIT_OPEN_AT_END;
}

int tagger_finish(struct tagger *tagger)
{
	if (tagger->finished)
		return 0;
	seen_settle(tagger, UINT64_MAX);
	for (uint32_t i = 0; i < tagger->nr_devices; i++) {
		struct device *device = &tagger->devices[i];

		if (audit_stays_open(tagger, &device->audit)) {
			audit_failed(device, device->audit.total + device->audit.delta);
			device->changed = true;
		}
	}
	step_finish(tagger);
	scope_end_spans(tagger);
	tell_survivors(tagger);
	tell_devices(tagger);
	tagger->finished = true;
	return take_error(tagger);
}
