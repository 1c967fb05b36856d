/*
 * Where steps begin and end, and what each adds up to.
 *
 * The rules, and what they mean where they leave room:
 * - A training forward is a root module's call with gradients on, outside backward and step(), that made autograd nodes, or
 *   RECORD_FORWARD.  That it made any is known when it returns (or when a backward begins inside it), that is late: the
 *   boundary lies where it began.  In step 0 functional code only counts once its backward follows, because stray nodes are
 *   made while a model is built, and a root call with parameters takes its place.
 * - Step 0 ends with the first training forward, or where the step() began whose closure runs it.
 * - A candidate is the first training forward after a step() on the same thread.  When the lead steps again, the open step
 *   ends at its thread's last candidate since the lead's last step(); if there is none, where the outermost backward or
 *   step() that is open began.
 * - The lead is the first optimizer that stepped; one that steps twice without it takes its place.  Then the open step ends also
 *   where the new one's first step began, at its thread's first candidate since the old lead's last step().
 * - GradScaler.update counts as a step of the lead when a backward ran and no optimizer stepped since.
 * - As long as no optimizer stepped, each first training forward after a backward is marked; the marks become boundaries when
 *   the run ends or NO_OPTIMIZER_AFTER of them have passed, and are forgotten when an optimizer steps.
 * - Evaluation begins with the first root call of a module in eval mode with gradients off after step(), and ends at the
 *   boundary that follows: a step of its own if there is one (or the run ends), else a part of the training step.
 * - When the run ends, what follows the last candidate is a step of its own if the step before it is complete; a step without
 *   a step() of the lead, or with fewer steps than the one before when the program was killed, is partial.
 * - Once the program marks steps itself only its marks count.
 *
 * Everything that may still turn out to be a boundary begins a node (and a stretch); see struct node.
 */
#include "store/tagger_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NO_OPTIMIZER_AFTER 256u

/* ---- nodes */

static struct node *current(struct tagger *tagger)
{
	return &tagger->nodes[tagger->nr_nodes - 1];
}

static bool reserve_devices(struct tagger *tagger, struct node *node)
{
	uint32_t nr = tagger->nr_devices;
	struct tag_step_device *devices;

	if (node->nr_devices >= nr)
		return true;
	devices = realloc(node->devices, nr * sizeof(*devices));
	if (!devices) {
		tagger_fail(tagger, -ENOMEM);
		return false;
	}
	memset(devices + node->nr_devices, 0, (nr - node->nr_devices) * sizeof(*devices));
	for (uint32_t i = node->nr_devices; i < nr; i++) {
		devices[i].device = tagger->devices[i].d.device;
		devices[i].peak_phase = node->start_phase;
	}
	node->devices = devices;
	node->nr_devices = nr;
	return true;
}

static void node_release(struct node *node)
{
	free(node->devices);
	free(node->marks.peaks);
	map_release(&node->marks.map);
	*node = (struct node){0};
}

int step_init(struct tagger *tagger)
{
	if (!tagger_reserve(tagger, &tagger->nodes, 0, &tagger->nodes_size, sizeof(struct node)))
		return -ENOMEM;
	tagger->nodes[0] = (struct node){.first = 1, .last = 1, .start_phase = PHASE_STATIC};
	tagger->nr_nodes = 1;
	tagger->last_stretch = 1;
	tagger->setup = tagger->in_static = true;
	return 0;
}

void step_release(struct tagger *tagger)
{
	for (uint32_t i = 0; i < tagger->nr_nodes; i++)
		node_release(&tagger->nodes[i]);
	free(tagger->nodes);
}

static uint32_t node_search(const struct tagger *tagger, uint64_t stretch)
{
	uint32_t low = 0, high = tagger->nr_nodes;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (tagger->nodes[middle].first < stretch)
			low = middle + 1;
		else
			high = middle;
	}
	return low < tagger->nr_nodes && tagger->nodes[low].first == stretch ? low : NONE;
}

/* Whether a thread's pointer still names a node inside the open step. */
static bool is_valid(const struct tagger *tagger, uint64_t stretch)
{
	return stretch > tagger->nodes[0].first;
}

static void fold_phase(struct tag_phase_totals *into, const struct tag_phase_totals *later)
{
	if (!later->seen)
		return;
	into->seen = true;
	into->allocs += later->allocs;
	into->alloc_bytes = add_bytes(into->alloc_bytes, later->alloc_bytes);
	into->peak_bytes = max_u64(into->peak_bytes, later->peak_bytes);
	into->end_bytes = later->end_bytes;
}

static void fold_device(struct tag_step_device *into, const struct tag_step_device *later)
{
	into->allocs += later->allocs;
	into->frees += later->frees;
	into->alloc_bytes = add_bytes(into->alloc_bytes, later->alloc_bytes);
	into->end_bytes = later->end_bytes;
	if (later->peak_bytes > into->peak_bytes) {
		into->peak_bytes = later->peak_bytes;
		into->peak_seq = later->peak_seq;
		into->peak_phase = later->peak_phase;
	}
	for (unsigned phase = 0; phase < NR_PHASES; phase++)
		fold_phase(&into->phases[phase], &later->phases[phase]);
}

static struct tag_layer_peak *layer_entry(struct tagger *tagger, struct layer_marks *marks, uint32_t module, uint16_t device)
{
	uint64_t key = (uint64_t)module << 16 | device;
	uint32_t index;

	if (marks->nr && marks->last_key == key)
		return &marks->peaks[marks->last_index];
	index = map_get(&marks->map, key);
	if (index == NONE) {
		if (marks->nr == marks->size) {
			size_t size = marks->size ? marks->size * 2 : 64;
			struct tag_layer_peak *peaks = realloc(marks->peaks, size * sizeof(*peaks));

			if (!peaks) {
				tagger_fail(tagger, -ENOMEM);
				return NULL;
			}
			marks->peaks = peaks;
			marks->size = size;
		}
		index = (uint32_t)marks->nr;
		if (map_put(&marks->map, key, index) < 0) {
			tagger_fail(tagger, -ENOMEM);
			return NULL;
		}
		marks->changed = true;
		marks->peaks[marks->nr++] = (struct tag_layer_peak){.module = module, .device = device};
	}
	marks->last_key = key;
	marks->last_index = index;
	return &marks->peaks[index];
}

static void fold_layer(struct tagger *tagger, struct layer_marks *into, uint32_t module, const struct tag_layer_peak *peak)
{
	struct tag_layer_peak *entry = layer_entry(tagger, into, module, peak->device);

	if (!entry)
		return;
	entry->forward_peak_bytes = max_u64(entry->forward_peak_bytes, peak->forward_peak_bytes);
	entry->backward_peak_bytes = max_u64(entry->backward_peak_bytes, peak->backward_peak_bytes);
}

static void node_fold(struct tagger *tagger, struct node *into, const struct node *later)
{
	if (!reserve_devices(tagger, into))
		return;
	for (uint32_t i = 0; i < later->nr_devices; i++)
		fold_device(&into->devices[i], &later->devices[i]);
	for (size_t i = 0; i < later->marks.nr; i++)
		fold_layer(tagger, &into->marks, later->marks.peaks[i].module, &later->marks.peaks[i]);
	into->last = later->last;
	into->end_seq = later->end_seq;
	into->end_ns = later->end_ns;
	into->steps += later->steps;
	into->backwards += later->backwards;
	into->forwards += later->forwards;
	into->evals += later->evals;
}

static void merge(struct tagger *tagger, uint32_t at)
{
	node_fold(tagger, &tagger->nodes[at - 1], &tagger->nodes[at]);
	node_release(&tagger->nodes[at]);
	tagger->nr_nodes--;
	memmove(&tagger->nodes[at], &tagger->nodes[at + 1], (tagger->nr_nodes - at) * sizeof(struct node));
}

/*
 * Begin a node with @record, so that a step can begin there; one that begins there already is taken.
 * Returns its first stretch, 0 when there are too many.
 */
static uint64_t boundary(struct tagger *tagger, const struct record *record)
{
	struct node *last = current(tagger), *node;

	if (last->start_seq == record->seq && tagger->nr_nodes > 1)
		return last->first;
	if (tagger->nr_nodes == MAX_NODES || tagger->last_stretch - tagger->nodes[0].first >= MAX_STRETCHES)
		return 0;
	if (!tagger_reserve(tagger, &tagger->nodes, tagger->nr_nodes, &tagger->nodes_size, sizeof(struct node)))
		return 0;
	node = &tagger->nodes[tagger->nr_nodes];
	*node = (struct node){
	        .first = ++tagger->last_stretch,
	        .last = tagger->last_stretch,
	        .start_seq = record->seq,
	        .end_seq = record->seq,
	        .start_ns = record->time_ns,
	        .end_ns = record->time_ns,
	        .start_phase = PHASE_OTHER,
	};
	if (!reserve_devices(tagger, node))
		return 0;
	tagger->nr_nodes++;
	for (uint32_t i = 0; i < node->nr_devices; i++)
		node->devices[i].start_bytes = node->devices[i].peak_bytes = node->devices[i].end_bytes =
		        tagger->devices[i].d.live_bytes;
	TELL(tagger, stretch, node->first, tagger->step);
	return node->first;
}

/* Let @pointer no longer hold its node apart. */
static void drop(struct tagger *tagger, uint64_t *pointer)
{
	uint64_t stretch = *pointer;
	uint32_t at;

	*pointer = 0;
	if (!is_valid(tagger, stretch))
		return;
	at = node_search(tagger, stretch);
	if (at == NONE)
		return;
	struct node *node = &tagger->nodes[at];

	if (node->refs)
		node->refs--;
	if (!node->refs && node->mark == NODE_PLAIN)
		merge(tagger, at);
}

static void point(struct tagger *tagger, uint64_t *pointer, uint64_t stretch)
{
	uint32_t at = is_valid(tagger, stretch) ? node_search(tagger, stretch) : NONE;

	if (at != NONE)
		tagger->nodes[at].refs++;
	drop(tagger, pointer);
	*pointer = at == NONE ? 0 : stretch;
}

/* ---- sums */

/* The current node's totals of a device; NULL: no memory. */
struct tag_step_device *step_device(struct tagger *tagger, uint32_t device)
{
	struct node *node = current(tagger);

	return device < node->nr_devices || reserve_devices(tagger, node) ? &node->devices[device] : NULL;
}

/* A thread comes into @phase: the devices stand as they do. */
void step_phase_enter(struct tagger *tagger, uint8_t phase)
{
	struct node *node = current(tagger);

	if (!reserve_devices(tagger, node))
		return;
	for (uint32_t i = 0; i < node->nr_devices; i++) {
		struct tag_phase_totals *totals = &node->devices[i].phases[phase];

		totals->seen = true;
		totals->end_bytes = tagger->devices[i].d.live_bytes;
		totals->peak_bytes = max_u64(totals->peak_bytes, totals->end_bytes);
	}
}

void step_phase_leave(struct tagger *tagger, uint8_t phase)
{
	struct node *node = current(tagger);

	for (uint32_t i = 0; i < node->nr_devices; i++)
		if (node->devices[i].phases[phase].seen)
			node->devices[i].phases[phase].end_bytes = tagger->devices[i].d.live_bytes;
}

void step_layer_mark(struct tagger *tagger, uint32_t module, uint32_t device, bool backward, uint64_t bytes)
{
	struct tag_layer_peak *entry;

	if (!module || !bytes)
		return;
	entry = layer_entry(tagger, &current(tagger)->marks, module, tagger->devices[device].d.device);
	if (!entry)
		return;
	uint64_t *peak_bytes = backward ? &entry->backward_peak_bytes : &entry->forward_peak_bytes;

	if (bytes > *peak_bytes) {
		*peak_bytes = bytes;
		current(tagger)->marks.changed = true;
	}
}

/* Before a record is understood: the first one opens step 0. */
void step_record_begin(struct tagger *tagger, const struct record *record)
{
	struct node *node = &tagger->nodes[0];

	if (node->start_seq)
		return;
	node->start_seq = node->end_seq = record->seq;
	node->start_ns = node->end_ns = record->time_ns;
	TELL(tagger, stretch, node->first, tagger->step);
}

/* After it: the record is part of what it may have begun. */
void step_record_done(struct tagger *tagger, const struct record *record)
{
	struct node *node = current(tagger);

	node->end_seq = record->seq;
	node->end_ns = record->time_ns;
}

/* ---- telling */

static void tell_layers_of(struct tagger *tagger, const struct node *node, uint16_t device)
{
	struct layer_marks sums = {0};

	for (size_t i = 0; i < node->marks.nr; i++) {
		const struct tag_layer_peak *peak = &node->marks.peaks[i];
		const struct module *module;

		if (peak->device != device)
			continue;
		fold_layer(tagger, &sums, peak->module, peak);
		module = name_module_by_id(tagger, peak->module);
		for (unsigned level = 0; module && level < MAX_LEVELS; level++) {
			module = name_parent(tagger, module);
			if (module)
				fold_layer(tagger, &sums, module->id, peak);
		}
	}
	TELL(tagger, layer_peaks, device, sums.peaks, sums.nr);
	free(sums.peaks);
	map_release(&sums.map);
}

/* Report @node, into which everything of the step was folded. */
static void tell_step(struct tagger *tagger, const struct node *node, uint8_t kind, bool closed)
{
	const struct tag_step step = {
	        .step = tagger->step,
	        .kind = kind,
	        .closed = closed,
	        .start_seq = node->start_seq,
	        .end_seq = max_u64(node->end_seq, node->start_seq),
	        .start_ns = node->start_ns,
	        .end_ns = max_u64(node->end_ns, node->start_ns),
	        .devices = node->devices,
	        .nr_devices = node->nr_devices,
	};

	TELL(tagger, step, &step);
	for (uint32_t i = 0; i < tagger->nr_devices && tagger->sink.layer_peaks; i++) {
		struct device *device = &tagger->devices[i];

		if (device->d.peak_stretch < node->first || device->d.peak_stretch > node->last)
			continue;
		if (!closed && !node->marks.changed && device->told_peak_bytes == device->d.peak_bytes)
			continue;
		device->told_peak_bytes = device->d.peak_bytes;
		tell_layers_of(tagger, node, device->d.device);
	}
}

/* Close everything before node @at as a step of @kind; the node opens the next one. */
static void close_step(struct tagger *tagger, uint32_t at, uint8_t kind)
{
	struct node *node;

	while (at > 1)
		merge(tagger, --at);
	node = &tagger->nodes[0];
	tell_step(tagger, node, kind, true);
	if (kind == STEP_TRAIN)
		tagger->steps_before = node->steps;
	node_release(node);
	tagger->nr_nodes--;
	memmove(&tagger->nodes[0], &tagger->nodes[1], tagger->nr_nodes * sizeof(struct node));
	if (tagger->nodes[0].mark == NODE_TRAIN)
		tagger->nr_marked--;
	tagger->nodes[0].mark = NODE_PLAIN;
	tagger->step++;
	if (kind == STEP_SETUP)
		tagger->setup = tagger->in_static = false;
}

/* The stretches of the open step as told so far are wrong: it has another number now. */
static void tell_stretches(struct tagger *tagger, uint64_t first, uint64_t end, uint64_t step)
{
	for (uint64_t stretch = first; stretch < end; stretch++)
		TELL(tagger, stretch, stretch, step);
}

/* End the open step at @stretch; what begins at @eval (0: nothing) before it was evaluation. */
static void split(struct tagger *tagger, uint64_t stretch, uint64_t eval, uint8_t kind)
{
	uint32_t at = is_valid(tagger, stretch) ? node_search(tagger, stretch) : NONE;
	uint32_t eval_at = is_valid(tagger, eval) && eval < stretch ? node_search(tagger, eval) : NONE;

	if (at == NONE)
		return;
	if (eval_at != NONE) {
		close_step(tagger, eval_at, kind);
		tell_stretches(tagger, eval, stretch, tagger->step);
		close_step(tagger, at - eval_at, STEP_EVAL);
	} else {
		close_step(tagger, at, kind);
	}
	tell_stretches(tagger, stretch, tagger->last_stretch + 1, tagger->step);
}

/* ---- boundaries */

/* Whether the next training forward on @thread is the first after a step() (or, without optimizers, a backward). */
static bool is_due(const struct tagger *tagger, const struct thread *thread)
{
	if (tagger->manual || tagger->setup)
		return false;
	return tagger->any_optimizer ? thread->stepped : thread->backed && thread->id == tagger->home;
}

static bool has_candidate(const struct tagger *tagger, const struct thread *thread)
{
	return is_valid(tagger, thread->candidate) && thread->candidate_seq > tagger->lead_seq;
}

static bool lead_stepped(const struct tagger *tagger)
{
	return tagger->lead_seq && tagger->lead_seq >= tagger->nodes[0].start_seq;
}

static void mark_node(struct tagger *tagger, uint64_t stretch, enum node_mark mark)
{
	uint32_t at = is_valid(tagger, stretch) ? node_search(tagger, stretch) : NONE;

	if (at == NONE || tagger->nodes[at].mark != NODE_PLAIN)
		return;
	tagger->nodes[at].mark = mark;
	tagger->nr_marked += mark == NODE_TRAIN;
}

/* No optimizer will come: every mark is a boundary. */
static void split_at_marks(struct tagger *tagger)
{
	uint64_t eval = 0;

	for (uint32_t i = 1; i < tagger->nr_nodes;) {
		struct node *node = &tagger->nodes[i];

		if (node->mark == NODE_EVAL)
			eval = node->first;
		if (node->mark != NODE_TRAIN) {
			i++;
			continue;
		}
		split(tagger, node->first, eval, STEP_TRAIN);
		eval = 0;
		i = 1;
	}
}

static void forget_marks(struct tagger *tagger)
{
	for (uint32_t i = tagger->nr_nodes; i-- > 1;) {
		struct node *node = &tagger->nodes[i];

		if (node->mark == NODE_PLAIN)
			continue;
		node->mark = NODE_PLAIN;
		if (!node->refs)
			merge(tagger, i);
	}
	tagger->nr_marked = 0;
}

/* A training forward began at @stretch (0: unknown). */
static void training_forward(struct tagger *tagger, struct thread *thread, uint64_t stretch)
{
	current(tagger)->forwards++;
	if (tagger->manual)
		return;
	if (tagger->setup) {
		if (!is_valid(tagger, stretch))
			return;
		split(tagger, stretch, 0, STEP_SETUP);
		tagger->home = thread->id;
		thread->stepped &= lead_stepped(tagger); /* a closure's forward: step() began before it, in step 1 */
		thread->backed = false;
		return;
	}
	if (!is_due(tagger, thread) || !is_valid(tagger, stretch))
		return;
	thread->stepped = thread->backed = false;
	if (tagger->any_optimizer) {
		uint32_t at = node_search(tagger, stretch);

		point(tagger, &thread->candidate, stretch);
		thread->candidate_seq = at == NONE ? 0 : tagger->nodes[at].start_seq;
		point(tagger, &thread->candidate_eval, thread->eval);
		if (!is_valid(tagger, thread->early) || thread->early_seq <= tagger->lead_seq) {
			point(tagger, &thread->early, thread->candidate);
			thread->early_seq = thread->candidate_seq;
			point(tagger, &thread->early_eval, thread->candidate_eval);
		}
	} else {
		mark_node(tagger, thread->eval, NODE_EVAL);
		mark_node(tagger, stretch, NODE_TRAIN);
		if (tagger->no_optimizer || tagger->nr_marked >= NO_OPTIMIZER_AFTER) {
			tagger->no_optimizer = true;
			split_at_marks(tagger);
		}
	}
	drop(tagger, &thread->eval);
}

/* Functional code was taken to begin its forward in step 0, but a root module that owns parameters does. */
bool step_forward_was_stray(const struct tagger *tagger, uint32_t began_by, uint32_t root)
{
	const struct module *module = name_module_by_id(tagger, root);

	return tagger->setup && !began_by && module && module->has_parameters;
}

void step_root_enter(struct tagger *tagger, struct thread *thread, const struct record *record, bool hard)
{
	bool evaluates = !(record->flags & (RECORD_F_GRAD | RECORD_F_TRAINING));

	if (evaluates) {
		if (!hard && !tagger->manual && (tagger->setup || is_due(tagger, thread)) && !is_valid(tagger, thread->eval))
			point(tagger, &thread->eval, boundary(tagger, record));
		tagger->in_static = false;
		current(tagger)->evals++;
	}
	if (hard || tagger->manual || !(record->flags & RECORD_F_GRAD) || !(tagger->setup || is_due(tagger, thread)))
		return;
	if (is_valid(tagger, thread->pending) && thread->pending_functional && !step_forward_was_stray(tagger, 0, record->scope))
		return; /* the module is part of a functional forward that began before */
	point(tagger, &thread->pending, boundary(tagger, record));
	thread->pending_functional = false;
}

void step_root_leave(struct tagger *tagger, struct thread *thread, const struct record *record, bool made_nodes, bool hard)
{
	if (made_nodes && !hard)
		training_forward(tagger, thread, thread->pending);
	else if (made_nodes && tagger->setup)
		training_forward(tagger, thread, thread->outer);
	if (made_nodes || !thread->pending_functional)
		drop(tagger, &thread->pending);
}

void step_root_lost(struct tagger *tagger, struct thread *thread)
{
	if (!thread->pending_functional)
		drop(tagger, &thread->pending);
}

void step_forward(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	uint64_t stretch;

	if (tagger->manual || !(tagger->setup || is_due(tagger, thread)) || is_valid(tagger, thread->pending))
		return;
	stretch = boundary(tagger, record);
	point(tagger, &thread->pending, stretch);
	thread->pending_functional = true;
	if (tagger->setup)
		return; /* until its backward begins */
	training_forward(tagger, thread, stretch);
	drop(tagger, &thread->pending);
}

/* Where to end a step in which no forward comes between two steps of the lead: not inside what begins now. */
static void point_outer(struct tagger *tagger, struct thread *thread, const struct record *record, bool may_end_setup)
{
	if (tagger->manual)
		return;
	if (tagger->setup ? may_end_setup : lead_stepped(tagger) && !has_candidate(tagger, thread))
		point(tagger, &thread->outer, boundary(tagger, record));
}

void step_backward_begin(struct tagger *tagger, struct thread *thread, const struct record *record, bool outermost)
{
	if (outermost && is_valid(tagger, thread->pending)) {
		training_forward(tagger, thread, thread->pending);
		drop(tagger, &thread->pending);
	}
	if (outermost)
		point_outer(tagger, thread, record, false);
	if (!thread->owes_step)
		thread->owes_step_seq = record->seq;
	thread->owes_step = true;
}

void step_backward_end(struct tagger *tagger, struct thread *thread)
{
	current(tagger)->backwards++;
	thread->backed = true;
	if (thread->id == tagger->home) {
		tagger->rival = 0;
	} else if (thread->id == tagger->rival) {
		tagger->home = thread->id;
		tagger->rival = 0;
	} else {
		tagger->rival = thread->id;
	}
}

void step_hard_end(struct tagger *tagger, struct thread *thread)
{
	drop(tagger, &thread->outer);
}

/* The lead steps: the open step ends at the last candidate, if it stepped in it before. */
static void lead_steps(struct tagger *tagger, struct thread *thread, uint64_t seq, bool again)
{
	if (again && !tagger->manual && !tagger->setup) {
		if (has_candidate(tagger, thread))
			split(tagger, thread->candidate, thread->candidate_eval, STEP_TRAIN);
		else
			split(tagger, thread->outer, thread->eval, STEP_TRAIN);
	}
	tagger->lead_seq = seq;
	tagger->lead_number++;
	tagger->lead_thread = thread->id;
}

/* @optimizer has stepped twice without the lead: from its first step on it is the lead. */
static void take_over(struct tagger *tagger, struct thread *thread, const struct optimizer *optimizer)
{
	if (!tagger->manual && lead_stepped(tagger) && is_valid(tagger, thread->early) && thread->early_seq > tagger->lead_seq &&
	    thread->early_seq < optimizer->last_seq)
		split(tagger, thread->early, thread->early_eval, STEP_TRAIN);
	tagger->lead = optimizer->id;
	tagger->lead_seq = optimizer->last_seq;
}

static void count_step(struct tagger *tagger, struct thread *thread)
{
	current(tagger)->steps++;
	thread->stepped = true;
	if (thread->owes_step)
		category_step(tagger, thread);
	thread->owes_step = false;
	if (!tagger->any_optimizer) {
		tagger->any_optimizer = true;
		tagger->no_optimizer = false;
		forget_marks(tagger);
		drop(tagger, &thread->eval);
	}
}

/* The thread for whose graph an autograd worker runs an optimizer in a gradient's hook. */
static struct thread *owner_of(struct tagger *tagger, struct thread *thread)
{
	uint32_t index = thread->works_for ? map_get(&tagger->thread_map, thread->works_for) : NONE;

	return index == NONE ? thread : tagger->threads[index];
}

void step_optimizer_begin(struct tagger *tagger, struct thread *thread, const struct record *record, bool outermost)
{
	struct thread *owner = owner_of(tagger, thread);
	struct optimizer *optimizer = name_optimizer(tagger, record->scope);

	if (!optimizer)
		return;
	if (outermost)
		point_outer(tagger, thread, record, true);
	if (!tagger->has_lead) {
		tagger->has_lead = true;
		tagger->lead = optimizer->id;
	}
	if (optimizer->id == tagger->lead) {
		lead_steps(tagger, owner, record->seq, lead_stepped(tagger));
	} else {
		if (optimizer->lead_number != tagger->lead_number)
			optimizer->steps = 0;
		optimizer->lead_number = tagger->lead_number;
		if (++optimizer->steps == 2) {
			take_over(tagger, owner, optimizer);
			lead_steps(tagger, owner, record->seq, lead_stepped(tagger));
		}
	}
	optimizer->last_seq = record->seq;
	count_step(tagger, owner);
}

void step_scaler_update(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	/* The lead has stepped since the last update: one that now steps twice without it may do so because a step of it is
	 * skipped. */
	if (tagger->lead_seq > tagger->update_seq) {
		drop(tagger, &thread->early);
		drop(tagger, &thread->early_eval);
	}
	tagger->update_seq = record->seq;
	if (!thread->owes_step)
		return;
	lead_steps(tagger, thread, record->seq, lead_stepped(tagger));
	count_step(tagger, thread);
}

/* ---- marks of the program */

static uint8_t manual_kind(const struct node *node)
{
	return !node->forwards && !node->backwards && !node->steps && node->evals ? STEP_EVAL : STEP_TRAIN;
}

static void fold_all(struct tagger *tagger, uint32_t end)
{
	forget_marks(tagger);
	while (end > 1)
		merge(tagger, --end);
}

void step_mark(struct tagger *tagger, const struct record *record)
{
	uint64_t stretch;

	fold_all(tagger, tagger->nr_nodes);
	stretch = boundary(tagger, record);
	if (stretch)
		split(tagger, stretch, 0, tagger->setup ? STEP_SETUP : manual_kind(&tagger->nodes[0]));
	tagger->manual = true;
}

/* ---- flush and finish */

/* Whether the open step, if nothing more comes, did what a training step does. */
static bool is_complete(const struct tagger *tagger, uint64_t steps, uint64_t backwards)
{
	if (!tagger->any_optimizer)
		return backwards > 0;
	if (!lead_stepped(tagger) && !(tagger->manual && steps))
		return false;
	return tagger->ended == RECORD_END_EXIT || steps >= tagger->steps_before;
}

static struct thread *training_thread(const struct tagger *tagger)
{
	uint32_t index = map_get(&tagger->thread_map, tagger->any_optimizer ? tagger->lead_thread : tagger->home);

	return index == NONE ? NULL : tagger->threads[index];
}

static uint8_t open_kind(const struct tagger *tagger, const struct node *node)
{
	const struct thread *thread = training_thread(tagger);

	if (tagger->setup)
		return STEP_SETUP;
	if (tagger->manual && manual_kind(node) == STEP_EVAL)
		return STEP_EVAL;
	if (thread && thread->depth && thread->scopes[thread->depth - 1].hard != NONE)
		return STEP_PARTIAL; /* in backward or step() */
	return is_complete(tagger, node->steps, node->backwards) ? STEP_TRAIN : STEP_PARTIAL;
}

/* The open step as it stands; what may become another one counts as part of it. */
void step_tell_open(struct tagger *tagger)
{
	struct node sum = {0};

	if (!tagger->nodes[0].start_seq)
		return;
	if (tagger->nr_nodes == 1) {
		tell_step(tagger, &tagger->nodes[0], open_kind(tagger, &tagger->nodes[0]), false);
		tagger->nodes[0].marks.changed = false;
		return;
	}
	sum.first = tagger->nodes[0].first;
	sum.start_seq = tagger->nodes[0].start_seq;
	sum.start_ns = tagger->nodes[0].start_ns;
	sum.start_phase = tagger->nodes[0].start_phase;
	for (uint32_t i = 0; i < tagger->nr_nodes; i++) {
		node_fold(tagger, &sum, &tagger->nodes[i]);
		for (uint32_t d = 0; !i && d < tagger->nodes[0].nr_devices; d++) {
			sum.devices[d].start_bytes = tagger->nodes[0].devices[d].start_bytes;
			sum.devices[d].peak_phase = tagger->nodes[0].devices[d].peak_phase;
		}
	}
	sum.marks.changed = false;
	for (uint32_t i = 0; i < tagger->nr_nodes; i++) {
		sum.marks.changed |= tagger->nodes[i].marks.changed;
		tagger->nodes[i].marks.changed = false;
	}
	if (!tagger->error)
		tell_step(tagger, &sum, open_kind(tagger, &sum), false);
	node_release(&sum);
}

/* The first evaluation of a run that never trained. */
static uint64_t first_eval(const struct tagger *tagger)
{
	uint64_t first = 0;

	for (uint32_t i = 0; i < tagger->nr_threads; i++) {
		uint64_t eval = tagger->threads[i]->eval;

		if (is_valid(tagger, eval) && (!first || eval < first))
			first = eval;
	}
	return first;
}

/* A root module's call in training is under way: it would have been a training forward. */
static void take_pending(struct tagger *tagger)
{
	for (uint32_t i = 0; i < tagger->nr_threads; i++) {
		struct thread *thread = tagger->threads[i];

		for (uint32_t at = 0; at < thread->depth && !tagger->manual; at++) {
			const struct scope *scope = &thread->scopes[at];

			if (!scope->root || !scope->training || scope->phase != PHASE_FORWARD)
				continue;
			training_forward(tagger, thread, scope->hard == NONE ? thread->pending : thread->outer);
			break;
		}
	}
}

/* The steps that end with the run.  The open one stays open when it has nothing to close it. */
void step_finish(struct tagger *tagger)
{
	struct thread *thread;
	uint8_t last_kind;

	if (!tagger->nodes[0].start_seq)
		return;
	take_pending(tagger);
	if (!tagger->any_optimizer)
		split_at_marks(tagger);
	thread = training_thread(tagger);
	last_kind = STEP_PARTIAL;
	if (tagger->setup) {
		uint64_t eval = first_eval(tagger);

		if (eval) {
			split(tagger, eval, 0, STEP_SETUP);
			last_kind = STEP_EVAL;
		}
	} else if (thread && has_candidate(tagger, thread)) {
		uint32_t at = node_search(tagger, thread->candidate);
		uint64_t before = 0, after = 0;

		for (uint32_t i = 0; at != NONE && i < tagger->nr_nodes; i++)
			*(i < at ? &before : &after) += tagger->nodes[i].steps;
		if (!after && is_complete(tagger, before, 0))
			split(tagger, thread->candidate, thread->candidate_eval, STEP_TRAIN);
	}
	if (!tagger->setup && !tagger->manual && last_kind != STEP_EVAL && thread && is_valid(tagger, thread->eval)) {
		uint32_t at = node_search(tagger, thread->eval);
		uint64_t steps = 0, backwards = 0;

		for (uint32_t i = 0; i < at && i < tagger->nr_nodes; i++) {
			steps += tagger->nodes[i].steps;
			backwards += tagger->nodes[i].backwards;
		}
		if (is_complete(tagger, steps, backwards)) {
			split(tagger, thread->eval, 0, STEP_TRAIN);
			last_kind = STEP_EVAL;
		}
	}
	fold_all(tagger, tagger->nr_nodes);
	if (last_kind != STEP_EVAL)
		last_kind = open_kind(tagger, &tagger->nodes[0]);
	tell_step(tagger, &tagger->nodes[0], last_kind, true);
}

/* ---- loading */

/* @stretch if it still begins a node that could begin a step, else 0. */
uint64_t step_pointer(const struct tagger *tagger, uint64_t stretch)
{
	return is_valid(tagger, stretch) && node_search(tagger, stretch) != NONE ? stretch : 0;
}

/* Check what was loaded, and derive the nodes' counts of pointers from the threads. */
bool step_load_check(struct tagger *tagger)
{
	uint64_t next;

	if (!tagger->nr_nodes || tagger->nr_nodes > MAX_NODES || !tagger->nodes[0].first)
		return false;
	next = tagger->nodes[0].first;
	tagger->nr_marked = 0;
	for (uint32_t i = 0; i < tagger->nr_nodes; i++) {
		struct node *node = &tagger->nodes[i];

		if (node->first != next || node->last < node->first || node->last > tagger->last_stretch ||
		    node->nr_devices > tagger->nr_devices || node->mark > NODE_EVAL || node->start_phase >= NR_PHASES)
			return false;
		next = node->last + 1;
		node->refs = 0;
		tagger->nr_marked += i && node->mark == NODE_TRAIN;
	}
	if (next != tagger->last_stretch + 1 || tagger->last_stretch - tagger->nodes[0].first > MAX_STRETCHES)
		return false;
	for (uint32_t i = 0; i < tagger->nr_threads; i++) {
		struct thread *thread = tagger->threads[i];
		uint64_t *const pointers[] = {&thread->candidate, &thread->candidate_eval, &thread->early, &thread->early_eval,
		                              &thread->eval,      &thread->pending,        &thread->outer};

		for (size_t p = 0; p < sizeof(pointers) / sizeof(pointers[0]); p++) {
			*pointers[p] = step_pointer(tagger, *pointers[p]);
			if (*pointers[p])
				tagger->nodes[node_search(tagger, *pointers[p])].refs++;
		}
	}
	return true;
}
