/*
 * What each thread is doing: its stack of scopes, and the phase, episode and span that follow from it.
 *
 * The phase of an event is that of the innermost scope of its thread.  The rules, in order:
 * - A module call in a backward (its own thread's, or the one that a node on this thread runs for) is backward, recompute;
 *   what a checkpoint runs again is told as a call of the module that called checkpoint().
 * - Otherwise a root module's call with gradients on is forward, with gradients off inference; calls inside it are the same.
 * - From the beginning of a forward to the backward that follows it is forward also between and after module calls (the
 *   loss), in the closure of an optimizer's step() as well.  Code without modules begins its forward by RECORD_FORWARD;
 *   that counts only on threads whose forwards are not calls of modules that own parameters, because `total += loss` after
 *   step() would begin a forward otherwise, or after a backward that left something of which a loss may be made:
 *   autograd.grad(), whose results a penalty is made of, or one that kept its graph.
 * - After a backward and before step(), and after step(), is `other`: clipping of gradients is no part of either.
 * - In step 0 what would be `other` is `static` while no thread is in anything else, until a training forward begins or a module
 * in eval mode is called with gradients off: a run that only evaluates has no training before which anything could be.
 * - An autograd worker is in backward.  A thread without a Python state (PyTorch's pool) is in what the one busy thread is
 *   in, if there is just one.
 *
 * An *episode* is one forward (to its backward), one outermost backward, one outermost step(), one inference or one marked
 * phase: what is born and freed in the same one was temporary.  A second call of the root module that began a forward
 * begins another one.
 *
 * Scopes whose end was lost are dropped when an enclosing one ends, or when a root module is called, which says that no
 * other call is open.  Ends without a beginning are ignored.
 */
#include "store/tagger_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- threads */

struct thread *scope_thread(struct tagger *tagger, uint32_t id)
{
	struct thread *thread;
	uint32_t index;

	if (tagger->last_thread && tagger->last_thread->id == id)
		return tagger->last_thread;
	index = map_get(&tagger->thread_map, id);
	if (index != NONE)
		return tagger->last_thread = tagger->threads[index];
	if (!tagger_reserve(tagger, &tagger->threads, tagger->nr_threads, &tagger->threads_size, sizeof(struct thread *)))
		return NULL;
	thread = calloc(1, sizeof(*thread));
	if (!thread || map_put(&tagger->thread_map, id, tagger->nr_threads) < 0) {
		free(thread);
		tagger_fail(tagger, -ENOMEM);
		return NULL;
	}
	thread->id = id;
	thread->rest = true;
	tagger->threads[tagger->nr_threads++] = thread;
	return tagger->last_thread = thread;
}

static const struct thread *thread_known(const struct tagger *tagger, uint32_t id)
{
	uint32_t index = map_get(&tagger->thread_map, id);

	return index == NONE ? NULL : tagger->threads[index];
}

static bool is_worker(const struct thread *thread)
{
	return (thread->flags & RECORD_F_AUTOGRAD) || thread->works_for;
}

/* A thread of a native pool: it works for whoever is busy. */
static bool is_pool(const struct thread *thread)
{
	return thread->defined && !(thread->flags & RECORD_F_PYTHON) && !is_worker(thread) && !thread->scoped;
}

static uint8_t rest_phase(const struct tagger *tagger)
{
	return tagger->in_static && !tagger->nr_busy ? PHASE_STATIC : PHASE_OTHER;
}

static struct scope *top_scope(const struct thread *thread)
{
	return thread->depth ? &thread->scopes[thread->depth - 1] : NULL;
}

static uint32_t top_hard(const struct thread *thread)
{
	return thread->depth ? thread->scopes[thread->depth - 1].hard : NONE;
}

/* The episode of the backward that a worker works for. */
static uint64_t caller_episode(const struct tagger *tagger, const struct thread *worker)
{
	const struct thread *caller = worker->works_for ? thread_known(tagger, worker->works_for) : NULL;

	if (caller && caller->nr_backward)
		for (uint32_t i = caller->depth; i-- > 0;)
			if (caller->scopes[i].kind == SCOPE_BACKWARD)
				return caller->scopes[i].episode;
	return 0;
}

/* ---- spans */

static uint64_t main_bytes(const struct tagger *tagger)
{
	return tagger->nr_devices ? tagger->devices[tagger->main].d.live_bytes : 0;
}

static bool has_spans(const struct thread *thread)
{
	return !is_worker(thread) && !is_pool(thread);
}

/* Spans of the phases in which PyTorch says nothing are only worth a row when something happened in them. */
static void name_span(struct tagger *tagger, struct thread *thread)
{
	if (!thread->span.id)
		thread->span.id = ++tagger->last_span;
}

static void begin_span(struct tagger *tagger, struct thread *thread, uint8_t phase, const struct record *record)
{
	thread->in_span = thread->span_changed = true;
	thread->span_epoch = ++tagger->epoch;
	thread->span_episode = thread->episode;
	thread->span_main = tagger->main;
	thread->span = (struct tag_span){
	        .stretch = tagger->last_stretch,
	        .thread = thread->id,
	        .module = thread->root_module,
	        .optimizer = thread->optimizer,
	        .phase = phase,
	        .recompute = thread->recompute,
	        .start_seq = record->seq,
	        .start_ns = record->time_ns,
	        .start_bytes = main_bytes(tagger),
	};
	if (!thread->rest)
		name_span(tagger, thread);
}

static void tell_span(struct tagger *tagger, struct thread *thread, uint64_t end_seq, uint64_t end_ns)
{
	struct tag_span span = thread->span;
	const struct device *device = &tagger->devices[tagger->main];

	if (!span.id)
		return;
	span.end_seq = end_seq;
	span.end_ns = end_ns;
	span.end_bytes = main_bytes(tagger);
	if (thread->span_main != tagger->main)
		span.start_bytes = 0; /* the main device was not used yet */
	span.peak_bytes = tagger->nr_devices ? high_waters_since(&device->waters, thread->span_epoch, span.end_bytes) : 0;
	span.peak_bytes = max_u64(span.peak_bytes, span.start_bytes);
	TELL(tagger, span, &span);
}

static void end_span(struct tagger *tagger, struct thread *thread, uint64_t seq, uint64_t ns)
{
	if (thread->in_span)
		tell_span(tagger, thread, seq, ns);
	thread->in_span = false;
}

/* ---- what the scopes amount to */

static void settle_from_scopes(struct thread *thread)
{
	const struct scope *top = top_scope(thread);
	const struct forward *forward = NULL;

	thread->rest = thread->busy = thread->recompute = false;
	thread->optimizer = thread->root_module = 0;
	thread->episode = 0;
	if (!top) {
		if (is_worker(thread)) {
			thread->phase = PHASE_BACKWARD;
			return;
		}
		forward = &thread->forward;
		thread->rest = !forward->open;
		thread->phase = PHASE_OTHER;
	} else {
		thread->phase = top->phase;
		thread->recompute = top->recompute;
		thread->episode = top->episode;
		thread->root_module = top->root_module;
		if (top->kind == SCOPE_OPTIMIZER) {
			thread->optimizer = top->id;
			forward = &top->forward;
		}
	}
	if (forward && forward->open) {
		thread->phase = PHASE_FORWARD;
		thread->episode = forward->episode;
		thread->root_module = forward->root;
		thread->optimizer = 0;
	}
	thread->busy = thread->phase != PHASE_STATIC && thread->phase != PHASE_OTHER;
}

/* Bring the thread's phase, the totals by phase and its span up to date after its scopes changed (or step 0 ended). */
void scope_settle(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	bool was_busy = thread->busy;
	uint8_t phase;

	settle_from_scopes(thread);
	if (thread->busy != was_busy) {
		tagger->nr_busy += thread->busy ? 1 : -1;
		tagger->busy_sum += thread->busy ? thread->id : -(uint64_t)thread->id;
	}
	if (!has_spans(thread)) {
		end_span(tagger, thread, record->seq, record->time_ns);
		return;
	}
	phase = thread->rest ? rest_phase(tagger) : thread->phase;
	if (thread->in_span && thread->span.phase == phase && thread->span_episode == thread->episode &&
	    thread->span.recompute == thread->recompute && thread->span.optimizer == thread->optimizer)
		return;
	if (thread->in_span && thread->span.phase != phase)
		step_phase_leave(tagger, thread->span.phase);
	end_span(tagger, thread, record->seq, record->time_ns);
	begin_span(tagger, thread, phase, record);
	step_phase_enter(tagger, phase);
}

struct context scope_context(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	struct context context = {.phase = thread->phase, .recompute = thread->recompute, .episode = thread->episode};

	if (thread->rest) {
		const struct thread *busy = NULL;

		context.phase = rest_phase(tagger);
		if (tagger->nr_busy == 1 && is_pool(thread))
			busy = thread_known(tagger, (uint32_t)tagger->busy_sum);
		if (busy && busy->busy)
			context = (struct context){.phase = busy->phase, .recompute = busy->recompute, .episode = busy->episode};
		if (has_spans(thread) && (!thread->in_span || thread->span.phase != context.phase))
			scope_settle(tagger, thread, record);
	} else if (!thread->depth && is_worker(thread)) {
		context.episode = caller_episode(tagger, thread);
	}
	/* A node runs, and the record that a backward began was lost. */
	if ((record->flags & RECORD_F_NODE) && !thread->nr_backward && !is_worker(thread))
		context = (struct context){.phase = PHASE_BACKWARD, .recompute = context.recompute};
	return context;
}

void scope_count_event(struct tagger *tagger, struct thread *thread)
{
	if (!thread->in_span)
		return;
	thread->span_changed = true;
	name_span(tagger, thread);
}

/* ---- the stack */

static void open_episode(struct tagger *tagger, uint64_t *ret_episode)
{
	if (episodes_open(&tagger->episodes, ret_episode) < 0) {
		*ret_episode = 0;
		tagger_fail(tagger, -ENOMEM);
	}
}

/* The forward that calls at the top of the stack belong to: the closure's, or the thread's own. */
static struct forward *forward_under(struct thread *thread, uint32_t hard)
{
	if (hard == NONE)
		return &thread->forward;
	return thread->scopes[hard].kind == SCOPE_OPTIMIZER ? &thread->scopes[hard].forward : NULL;
}

static void begin_forward(struct tagger *tagger, struct forward *forward, uint32_t root)
{
	forward->open = true;
	forward->root = root;
	open_episode(tagger, &forward->episode);
}

static void end_forward(struct tagger *tagger, struct forward *forward)
{
	if (forward && forward->open) {
		episodes_close(&tagger->episodes, forward->episode);
		*forward = (struct forward){0};
	}
}

/* Backward or step() ended inside a module's call: what the call does now is another forward. */
static void resume_forward(struct tagger *tagger, struct thread *thread)
{
	uint32_t hard = top_hard(thread);
	struct forward *forward = forward_under(thread, hard);

	for (uint32_t i = thread->depth; i-- > 0 && i != hard;) {
		struct scope *scope = &thread->scopes[i];

		if (scope->kind != SCOPE_MODULE || scope->phase != PHASE_FORWARD || !forward)
			continue;
		if (!forward->open)
			begin_forward(tagger, forward, scope->root_module);
		scope->episode = forward->episode;
	}
}

static struct scope *push_scope(struct tagger *tagger, struct thread *thread, enum scope_kind kind)
{
	uint32_t hard = top_hard(thread);
	struct scope *scope;

	if (thread->depth == MAX_DEPTH) {
		thread->overflow++;
		tagger->nr_ignored++;
		return NULL;
	}
	if (!tagger_reserve(tagger, &thread->scopes, thread->depth, &thread->nr_scopes, sizeof(struct scope)))
		return NULL;
	scope = &thread->scopes[thread->depth];
	*scope = (struct scope){.kind = kind, .epoch = ++tagger->epoch};
	scope->hard = kind == SCOPE_BACKWARD || kind == SCOPE_OPTIMIZER ? thread->depth : hard;
	scope->call = kind == SCOPE_MODULE ? ++tagger->nr_calls : 0;
	thread->depth++;
	thread->scoped = true;
	thread->nr_backward += kind == SCOPE_BACKWARD;
	thread->nr_modules += kind == SCOPE_MODULE;
	return scope;
}

/* Whether an end belongs to a scope that was too deep to be kept. */
static bool end_of_overflow(struct thread *thread)
{
	if (!thread->overflow)
		return false;
	thread->overflow--;
	return true;
}

/* How high each device stood while the call ran.  What a checkpoint runs again outside all modules is no module's. */
static void mark_layer(struct tagger *tagger, const struct scope *scope)
{
	for (uint32_t i = 0; scope->id && i < tagger->nr_devices; i++) {
		const struct device *device = &tagger->devices[i];

		step_layer_mark(tagger, scope->id, i, scope->phase == PHASE_BACKWARD,
		                high_waters_since(&device->waters, scope->epoch, device->d.live_bytes));
	}
}

/* Remove the scope at @at, wherever it is in the stack. */
static void remove_scope(struct tagger *tagger, struct thread *thread, uint32_t at)
{
	struct scope scope = thread->scopes[at];
	bool hard = scope.hard == at;

	if (scope.kind == SCOPE_MODULE)
		mark_layer(tagger, &scope);
	if (scope.owns_episode)
		episodes_close(&tagger->episodes, scope.episode);
	end_forward(tagger, &scope.forward);
	thread->nr_backward -= scope.kind == SCOPE_BACKWARD;
	thread->nr_modules -= scope.kind == SCOPE_MODULE;
	thread->depth--;
	memmove(&thread->scopes[at], &thread->scopes[at + 1], (thread->depth - at) * sizeof(scope));
	for (uint32_t i = at; i < thread->depth; i++) {
		struct scope *above = &thread->scopes[i];

		if (above->kind == SCOPE_BACKWARD || above->kind == SCOPE_OPTIMIZER)
			above->hard = i;
		else
			above->hard = i ? thread->scopes[i - 1].hard : NONE;
	}
	if (hard) {
		if (top_hard(thread) == NONE)
			step_hard_end(tagger, thread);
		if (scope.kind == SCOPE_BACKWARD && scope.owns_episode)
			step_backward_end(tagger, thread);
	}
}

/* The topmost scope of @kind (and @id, unless it is NONE); NONE: there is none. */
static uint32_t find_scope(const struct thread *thread, enum scope_kind kind, uint32_t id)
{
	for (uint32_t i = thread->depth; i-- > 0;)
		if (thread->scopes[i].kind == kind && (id == NONE || thread->scopes[i].id == id))
			return i;
	return NONE;
}

/* Remove the scopes from the top down to @at: what is still open above it has lost its end. */
static void pop_scopes(struct tagger *tagger, struct thread *thread, uint32_t at)
{
	while (thread->depth > at) {
		const struct scope *top = top_scope(thread);

		if (top->kind == SCOPE_MODULE && top->root)
			step_root_lost(tagger, thread);
		remove_scope(tagger, thread, thread->depth - 1);
	}
}

/* ---- module calls */

static void drop_stale_modules(struct tagger *tagger, struct thread *thread)
{
	for (uint32_t i = thread->depth; thread->nr_modules && i-- > 0;)
		if (thread->scopes[i].kind == SCOPE_MODULE)
			remove_scope(tagger, thread, i);
	step_root_lost(tagger, thread);
}

/* The call that the next module's call lies in, NULL: none since the innermost backward or step(). */
static const struct scope *enclosing_module(const struct thread *thread)
{
	uint32_t hard = top_hard(thread);

	for (uint32_t i = thread->depth; i-- > 0 && i != hard;)
		if (thread->scopes[i].kind == SCOPE_MODULE)
			return &thread->scopes[i];
	return NULL;
}

static void enter_in_backward(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	uint32_t hard = top_hard(thread);
	uint64_t episode = hard == NONE ? caller_episode(tagger, thread) : thread->scopes[hard].episode;
	const struct scope *outer = enclosing_module(thread);
	uint32_t root_module = outer ? outer->root_module : record->scope;
	struct scope *scope = push_scope(tagger, thread, SCOPE_MODULE);

	if (!scope)
		return;
	scope->id = record->scope;
	scope->root_module = root_module;
	scope->phase = PHASE_BACKWARD;
	scope->recompute = true;
	scope->episode = episode;
}

static void enter_forward(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	bool root = record->flags & RECORD_F_ROOT;
	const struct scope *outer = root ? NULL : enclosing_module(thread);
	struct scope inherited = outer ? *outer : (struct scope){0}, *scope;
	struct forward *forward;
	bool gradients = root ? record->flags & RECORD_F_GRAD : thread->phase != PHASE_INFERENCE;

	if (root)
		step_root_enter(tagger, thread, record, top_hard(thread) != NONE);
	scope = push_scope(tagger, thread, SCOPE_MODULE);
	if (!scope)
		return;
	scope->id = record->scope;
	scope->root = root;
	scope->training = record->flags & RECORD_F_TRAINING;
	if (outer) {
		scope->phase = inherited.phase;
		scope->episode = inherited.episode;
		scope->root_module = inherited.root_module;
		return;
	}
	scope->root_module = record->scope;
	tagger->nr_forwards++;
	if (!gradients) {
		scope->phase = PHASE_INFERENCE;
		scope->owns_episode = true;
		open_episode(tagger, &scope->episode);
		return;
	}
	forward = forward_under(thread, scope->hard);
	if (forward->open && (forward->root == record->scope || step_forward_was_stray(tagger, forward->root, record->scope)))
		end_forward(tagger, forward);
	if (!forward->open) {
		begin_forward(tagger, forward, record->scope);
		scope->began_forward = true;
	}
	scope->phase = PHASE_FORWARD;
	scope->episode = forward->episode;
}

void scope_enter(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	uint32_t hard;
	bool in_backward;

	thread->seed = 0;
	if ((record->flags & RECORD_F_ROOT) && thread->nr_modules)
		drop_stale_modules(tagger, thread);
	hard = top_hard(thread);
	if (hard != NONE)
		in_backward = thread->scopes[hard].kind == SCOPE_BACKWARD;
	else
		in_backward = is_worker(thread) || (record->flags & RECORD_F_NODE);
	if (in_backward)
		enter_in_backward(tagger, thread, record);
	else
		enter_forward(tagger, thread, record);
	scope_settle(tagger, thread, record);
}

void scope_leave(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	uint32_t at;
	struct scope scope;
	bool made_nodes = record->a > 0;

	if (end_of_overflow(thread))
		return;
	at = find_scope(thread, SCOPE_MODULE, record->scope);
	if (at == NONE) {
		tagger->nr_ignored++;
		return;
	}
	pop_scopes(tagger, thread, at + 1);
	scope = thread->scopes[at];
	remove_scope(tagger, thread, at);
	if (scope.root) {
		bool hard = top_hard(thread) != NONE;

		if (scope.phase == PHASE_FORWARD && made_nodes) {
			const struct module *module = name_module_by_id(tagger, scope.id);

			thread->modular |= module && module->has_parameters;
			thread->unfinished = false;
		} else if (scope.began_forward) {
			struct forward *forward = forward_under(thread, top_hard(thread));

			if (forward && forward->open && forward->episode == scope.episode)
				end_forward(tagger, forward); /* no nodes: there will be no backward */
		}
		step_root_leave(tagger, thread, record, scope.phase == PHASE_FORWARD && made_nodes, hard);
	}
	scope_settle(tagger, thread, record);
}

/* Functional code begins its forward. */
void scope_forward(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	if (top_hard(thread) != NONE || is_worker(thread) || thread->nr_modules)
		return;
	if (thread->modular && !thread->unfinished)
		return;
	if (!thread->modular)
		step_forward(tagger, thread, record);
	if (!thread->forward.open) {
		begin_forward(tagger, &thread->forward, 0);
		tagger->nr_forwards++;
	}
	thread->unfinished = false;
	thread->scoped = true;
	scope_settle(tagger, thread, record);
}

/* ---- backward, step(), marks */

/*
 * What `.backward()` hands to the engine is made just before: torch.autograd.backward() allocates ones like the loss and
 * makes no node for it (torch/autograd/__init__.py, _make_grads; 1.13 to 2.14).
 */
static void mark_seed(struct tagger *tagger, struct thread *thread)
{
	uint32_t index = thread->seed ? live_find(&tagger->live, thread->seed_address, thread->seed_device, LEVEL_BLOCK) : NONE;

	if (index != NONE && tagger->live.pool[index].a.id == thread->seed) {
		tagger->live.pool[index].a.seed = tagger->live.pool[index].named = true;
		live_move(&tagger->live, index, LIVE_YOUNG);
	}
	thread->seed = 0;
}

void scope_backward_begin(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	uint32_t hard = top_hard(thread);
	bool shared = hard == NONE ? is_worker(thread) : thread->scopes[hard].kind == SCOPE_BACKWARD;
	uint64_t episode = !shared ? 0 : hard == NONE ? caller_episode(tagger, thread) : thread->scopes[hard].episode;
	struct scope *scope;

	if (!shared) {
		mark_seed(tagger, thread);
		end_forward(tagger, forward_under(thread, hard));
		step_backward_begin(tagger, thread, record, hard == NONE);
	}
	scope = push_scope(tagger, thread, SCOPE_BACKWARD);
	if (!scope)
		return;
	scope->phase = PHASE_BACKWARD;
	scope->episode = episode;
	scope->owns_episode = !shared;
	if (!shared) {
		open_episode(tagger, &scope->episode);
		thread->unfinished = !(record->flags & RECORD_F_ACCUMULATE) || (record->flags & RECORD_F_KEEP);
	}
	scope_settle(tagger, thread, record);
}

static void end_hard(struct tagger *tagger, struct thread *thread, enum scope_kind kind, uint32_t id, const struct record *record)
{
	uint32_t at;

	if (end_of_overflow(thread))
		return;
	at = find_scope(thread, kind, id);
	if (at == NONE) {
		tagger->nr_ignored++;
		return;
	}
	pop_scopes(tagger, thread, at);
	resume_forward(tagger, thread);
	scope_settle(tagger, thread, record);
}

void scope_backward_end(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	end_hard(tagger, thread, SCOPE_BACKWARD, NONE, record);
}

void scope_optimizer_begin(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	uint32_t hard = top_hard(thread);
	bool shared = hard != NONE && thread->scopes[hard].kind == SCOPE_OPTIMIZER;
	uint64_t episode = shared ? thread->scopes[hard].episode : 0;
	struct scope *scope;

	end_forward(tagger, forward_under(thread, hard));
	step_optimizer_begin(tagger, thread, record, hard == NONE && !is_worker(thread));
	scope = push_scope(tagger, thread, SCOPE_OPTIMIZER);
	if (!scope)
		return;
	scope->id = record->scope;
	scope->phase = PHASE_OPTIMIZER;
	scope->episode = episode;
	scope->owns_episode = !shared;
	if (!shared)
		open_episode(tagger, &scope->episode);
	scope_settle(tagger, thread, record);
}

void scope_optimizer_end(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	end_hard(tagger, thread, SCOPE_OPTIMIZER, record->scope, record);
}

void scope_mark_begin(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	struct scope *scope;

	if (record->a >= NR_PHASES) {
		tagger->nr_ignored++;
		return;
	}
	scope = push_scope(tagger, thread, SCOPE_MARK);
	if (!scope)
		return;
	scope->phase = (uint8_t)record->a;
	scope->owns_episode = true;
	open_episode(tagger, &scope->episode);
	if (scope->phase == PHASE_FORWARD || scope->phase == PHASE_INFERENCE)
		tagger->nr_forwards++;
	scope_settle(tagger, thread, record);
}

/* Marks come from the program and need not nest with what it calls: only the mark itself ends. */
void scope_mark_end(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	uint32_t at;

	if (end_of_overflow(thread))
		return;
	at = find_scope(thread, SCOPE_MARK, NONE);
	if (at == NONE) {
		tagger->nr_ignored++;
		return;
	}
	remove_scope(tagger, thread, at);
	scope_settle(tagger, thread, record);
}

void scope_worker(struct tagger *tagger, struct thread *thread, const struct record *record)
{
	thread->flags |= RECORD_F_AUTOGRAD;
	thread->works_for = record->a > UINT32_MAX || record->a == thread->id ? 0 : (uint32_t)record->a;
	scope_settle(tagger, thread, record);
}

/* ---- for others */

uint64_t scope_call(const struct thread *thread, uint32_t module)
{
	uint32_t at = module && thread->nr_modules ? find_scope(thread, SCOPE_MODULE, module) : NONE;

	return at == NONE ? 0 : thread->scopes[at].call;
}

bool scope_module_is_open(const struct tagger *tagger, uint32_t thread_id, uint32_t module)
{
	const struct thread *thread = thread_known(tagger, thread_id);

	return thread && thread->nr_modules && find_scope(thread, SCOPE_MODULE, module) != NONE;
}

/* The oldest moment that anything open will ask about. */
uint64_t scope_oldest_epoch(const struct tagger *tagger)
{
	uint64_t oldest = tagger->epoch;

	for (uint32_t i = 0; i < tagger->nr_threads; i++) {
		const struct thread *thread = tagger->threads[i];

		if (thread->depth && thread->scopes[0].epoch < oldest)
			oldest = thread->scopes[0].epoch;
		if (thread->in_span && thread->span_epoch < oldest)
			oldest = thread->span_epoch;
	}
	return oldest;
}

/* Open spans; of threads that rest, only those in which something happened. */
void scope_tell_spans(struct tagger *tagger)
{
	for (uint32_t i = 0; i < tagger->nr_threads; i++) {
		struct thread *thread = tagger->threads[i];

		if (!thread->in_span || (thread->rest && !thread->span_changed))
			continue;
		tell_span(tagger, thread, 0, 0);
		thread->span_changed = false;
	}
}

void scope_end_spans(struct tagger *tagger)
{
	for (uint32_t i = 0; i < tagger->nr_threads; i++)
		end_span(tagger, tagger->threads[i], tagger->last_seq, tagger->last_ns);
}

/* Derive what is not saved, and check what is.  The map of threads is complete. */
bool scope_load_check(struct tagger *tagger, struct thread *thread)
{
	if (thread->depth > MAX_DEPTH || thread->span.phase >= NR_PHASES || thread->span_main >= MAX_DEVICES)
		return false;
	thread->nr_backward = thread->nr_modules = 0;
	for (uint32_t i = 0; i < thread->depth; i++) {
		struct scope *scope = &thread->scopes[i];

		if (scope->kind >= NR_SCOPE_KINDS || scope->phase >= NR_PHASES)
			return false;
		thread->nr_backward += scope->kind == SCOPE_BACKWARD;
		thread->nr_modules += scope->kind == SCOPE_MODULE;
		if (scope->kind == SCOPE_BACKWARD || scope->kind == SCOPE_OPTIMIZER)
			scope->hard = i;
		else
			scope->hard = i ? thread->scopes[i - 1].hard : NONE;
	}
	settle_from_scopes(thread);
	if (thread->busy) {
		tagger->nr_busy++;
		tagger->busy_sum += thread->id;
	}
	return true;
}
