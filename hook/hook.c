/*
 * The hook's centre: see hook.h for the contract.
 *
 * Every function here follows one shape: keep the thread's state (always, so that it is right whenever recording begins),
 * then, if hook_enter() says so, write a record, then hook_leave().
 */
#define _GNU_SOURCE
#include "hook/hook_internal.h"

#include "hook/operations.h"
#include "hook/process.h"
#include "hook/text.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct hook hook;

static __thread struct thread_state this_thread __attribute__((tls_model("initial-exec")));

static struct nodes nodes;
static struct stacks stacks;

/*
 * Whose backward a graph task is: one word an entry, {address of the task / 16:44 thread:20}, overwritten by what comes
 * later at the same place.  A worker that finds nothing works for nobody that is known.
 */
#define GRAPH_TASKS            1024u
#define GRAPH_TASK_THREAD_BITS 20u
static uint64_t graph_tasks[GRAPH_TASKS];

enum hook_state hook_current_state(void)
{
	return hook_state_now();
}

bool hook_is_on(void)
{
	return hook_is_wanted();
}

/* ---- threads and records */

static void define_thread(struct thread_state *thread)
{
	struct record record = {.kind = RECORD_DEF_THREAD};
	int saved_errno = errno;
	char name[17] = "";

	if (!thread->number) {
		thread->number = atomic32_add_relaxed(&hook.nr_threads, 1) + 1;
		thread->works_for = RECORD_NO_THREAD;
	}
	prctl(PR_GET_NAME, name, 0, 0, 0);
	record.thread = thread->number;
	record.a = (uint64_t)syscall(SYS_gettid);
	if (hook.thread_state && hook.thread_state())
		record.flags |= RECORD_F_PYTHON;
	if (thread->autograd_worker)
		record.flags |= RECORD_F_AUTOGRAD;
	thread->defined = emit_record_text(&hook.emitter, &record, name, (uint32_t)strlen(name));
	errno = saved_errno;
}

/* A report that comes while the hook is at work on this thread, or before the ring is there, is dropped and counted. */
static void drop_reentered(void)
{
	if (hook_state_now() == HOOK_UP)
		atomic64_add_relaxed(&hook.emitter.ring->lost[LOST_REENTERED], 1);
	else
		atomic32_add_relaxed(&hook.nr_early_lost, 1);
}

static bool enter_slowly(struct thread_state *thread)
{
	if (!hook_is_wanted())
		return false;
	if (thread->busy) {
		drop_reentered();
		return false;
	}
	thread->busy = 1;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (hook_state_now() != HOOK_UP && !process_start()) {
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		thread->busy = 0;
		return false;
	}
	if (!thread->defined)
		define_thread(thread);
	return true;
}

/* Returns whether a record may be written; then hook_leave() must follow. */
static inline bool hook_enter(struct thread_state *thread)
{
	if (__builtin_expect(hook_state_now() != HOOK_UP || thread->busy || !thread->defined, 0))
		return enter_slowly(thread);
	thread->busy = 1;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	return true;
}

static inline void hook_leave(struct thread_state *thread)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	thread->busy = 0;
}

static inline uint8_t node_flag(const struct thread_state *thread)
{
	return thread->node_depth ? RECORD_F_NODE : 0;
}

static inline void write_record(struct thread_state *thread, struct record *record)
{
	record->thread = thread->number;
	emit_record(&hook.emitter, record);
}

/* For records that say no more than their kind and one id. */
static void tell(struct thread_state *thread, enum record_kind kind, uint8_t flags, uint32_t scope, uint64_t a)
{
	struct record record = {.kind = (uint8_t)kind, .flags = flags, .scope = scope, .a = a};

	if (!hook_enter(thread))
		return;
	write_record(thread, &record);
	hook_leave(thread);
}

/* ---- scopes of a thread */

static const struct hook_scope *innermost_scope(const struct thread_state *thread)
{
	uint32_t depth = thread->depth;

	return depth ? &thread->scopes[(depth <= HOOK_MAX_DEPTH ? depth : HOOK_MAX_DEPTH) - 1] : NULL;
}

static struct nodes_origin innermost(const struct thread_state *thread)
{
	const struct hook_scope *scope = innermost_scope(thread);

	return scope ? (struct nodes_origin){.module = scope->module, .stack = scope->stack} : (struct nodes_origin){0};
}

/*
 * The scope that is the innermost, and the stack of what the thread does: in a node that of the forward that made it, else
 * its own.  Inside hook_enter() only.
 */
static struct nodes_origin origin_of_now(struct thread_state *thread)
{
	struct nodes_origin origin = innermost(thread);
	const void *python;

	if (origin.stack || !stacks_are_on(&stacks))
		return origin;
	/* After its end the interpreter's key may be another's: then the thread state would be no thread state. */
	python = hook.python_is_up && hook.python_is_up() && hook.thread_state ? hook.thread_state() : NULL;
	if (python)
		origin.stack = stacks_capture(&stacks, &hook.emitter, thread->number, python);
	return origin;
}

/* Inside hook_enter() only. */
static void define_operation(struct thread_state *thread, const void *function)
{
	thread->operation = stacks_operation(&stacks, &hook.emitter, thread->number, operation_name(function), false);
	thread->operation_not_defined = NULL;
}

/*
 * The operation that the innermost scope is at, as a frame; 0: not known.  In a node it is the node's class: that is known
 * in every step, and says which of the forward's operators it belongs to; where the node runs Python, it is the operator that
 * was called there.
 */
static uint32_t operation_of_now(struct thread_state *thread)
{
	const struct hook_scope *scope = innermost_scope(thread);
	struct operation_class class = {0};

	if (scope && scope->node && thread->depth <= HOOK_MAX_DEPTH)
		class = operation_class_of(scope->node);
	if (!class.name || class.is_python) {
		if (__builtin_expect(thread->operation_not_defined != NULL, 0))
			define_operation(thread, thread->operation_not_defined);
		if (thread->operation)
			return thread->operation;
	}
	return class.name ? stacks_operation(&stacks, &hook.emitter, thread->number, class.name, !class.is_python) : 0;
}

/*
 * @stack with the thread's native frames on top, as far as the interpreter that runs its Python frames, where those are had.
 * Inside hook_enter() only.
 */
static uint32_t with_native_frames(struct thread_state *thread, uint32_t stack)
{
	return native_capture(&thread->native, &stacks, &hook.emitter, thread->number, stack, stacks_are_on(&stacks));
}

/* As origin_of_now(), with the operation on top, and on that native frames if @native. */
static struct nodes_origin origin_with_operation(struct thread_state *thread, bool native)
{
	struct nodes_origin origin = origin_of_now(thread);
	uint32_t operation = hook.operations ? operation_of_now(thread) : 0;

	if (operation)
		origin.stack = stacks_on(&stacks, &hook.emitter, thread->number, origin.stack, operation);
	if (native)
		origin.stack = with_native_frames(thread, origin.stack);
	return origin;
}

/* Of what PyTorch reports. */
static struct nodes_origin origin_of_report(struct thread_state *thread)
{
	return origin_with_operation(thread, hook.native_stacks);
}

/* Of a call of the runtime, which need not come from PyTorch. */
static struct nodes_origin origin_of_call(struct thread_state *thread)
{
	return origin_with_operation(thread, hook.native_calls);
}

/* Whether the recorder wants operators named; before it is there, they are. */
static bool operations_are_wanted(void)
{
	enum hook_state state = hook_state_now();

	if (!hook.operations || !hook_is_wanted())
		return false;
	return state != HOOK_UP || !atomic32_load_relaxed(&hook.emitter.ring->operations_known);
}

/* Where something begins of which there may be no names yet.  No operator runs, nothing is locked. */
static void follow_operations(void)
{
	if (operations_are_wanted())
		operations_want();
}

/*
 * While somebody's profiler is on, the engine tells each node as if it were an operator.
 * Source: torch/csrc/autograd/engine.cpp of 2.13.0 and 2.14.1, Engine::evaluate_function().
 */
static bool is_told_by_engine(const struct thread_state *thread, const void *function)
{
	static const char engine[] = "autograd::engine::";
	const struct hook_scope *scope = innermost_scope(thread);

	return scope && scope->node && !strncmp(operation_name(function), engine, sizeof(engine) - 1);
}

/*
 * Its name is kept as a frame, from now on: @function ends with the operator, and that may be told on another thread (a
 * range that Python holds).
 */
static void begin_operation(struct thread_state *thread, const void *function)
{
	if (hook_state_now() != HOOK_UP || thread->busy || !hook_enter(thread)) {
		thread->operation_not_defined = function;
		return;
	}
	define_operation(thread, function);
	hook_leave(thread);
}

static void end_operation(struct thread_state *thread)
{
	thread->operation = 0;
	thread->operation_not_defined = NULL;
}

void hook_operation_begin(const void *function)
{
	struct thread_state *thread = &this_thread;

	if (thread->operation_depth == thread->operation_base) {
		if (thread->operation_base == 0 && is_told_by_engine(thread, function))
			thread->operation_base = 1;
		else
			begin_operation(thread, function);
	}
	thread->operation_depth++;
	/* A forked child leaves it: the lock that this takes may be held by a thread that it does not have. */
	if (__builtin_expect(hook_state_now() == HOOK_UP && !operations_are_wanted(), 0))
		operations_unwant();
}

void hook_operation_end(void)
{
	struct thread_state *thread = &this_thread;

	if (thread->operation_depth)
		thread->operation_depth--;
	if (thread->operation_depth <= thread->operation_base)
		end_operation(thread);
	if (!thread->operation_depth)
		thread->operation_base = 0;
}

/* Returns false when the scope is too deep to be followed. */
static bool push(struct thread_state *thread, uint32_t module, uint32_t stack, const void *node)
{
	uint32_t depth = thread->depth;

	if (depth < HOOK_MAX_DEPTH) {
		thread->scopes[depth] = (struct hook_scope){
		        .module = module,
		        .nr_nodes = thread->nr_nodes,
		        .stack = stack,
		        .operation_depth = thread->operation_depth,
		        .operation_base = thread->operation_base,
		        .node = node,
		        .operation = thread->operation,
		};
		end_operation(thread);
		thread->operation_depth = thread->operation_base = 0;
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
	}
	thread->depth = depth + 1;
	return depth < HOOK_MAX_DEPTH;
}

/* Returns the scope that ends, or NULL when there is none or it was too deep. */
static const struct hook_scope *pop(struct thread_state *thread)
{
	if (!thread->depth)
		return NULL;
	thread->depth--;
	if (thread->depth >= HOOK_MAX_DEPTH)
		return NULL;
	thread->operation_not_defined = NULL;
	thread->operation = thread->scopes[thread->depth].operation;
	thread->operation_depth = thread->scopes[thread->depth].operation_depth;
	thread->operation_base = thread->scopes[thread->depth].operation_base;
	return &thread->scopes[thread->depth];
}

/* ---- reports */

void hook_report(const void *address, int64_t size_bytes, uint64_t total_allocated, uint64_t total_reserved, uint16_t device,
                 bool shared)
{
	struct thread_state *thread = &this_thread;
	struct nodes_origin origin;
	struct record record;

	if (!size_bytes || !hook_enter(thread))
		return;
	origin = size_bytes > 0 ? origin_of_report(thread) : innermost(thread);
	record = (struct record){
	        .kind = size_bytes > 0 ? RECORD_ALLOC : RECORD_FREE,
	        .flags = (shared ? RECORD_F_SHARED : 0) | node_flag(thread) |
	                 (size_bytes > 0 && operations_are_told() ? RECORD_F_TOLD : 0) |
	                 (thread->nr_nodes != thread->nr_nodes_reported ? RECORD_F_NEW_NODE : 0),
	        .device = device,
	        .stack = size_bytes > 0 ? origin.stack : 0,
	        .scope = origin.module,
	        .address = (uint64_t)(uintptr_t)address,
	        .size = size_bytes > 0 ? (uint64_t)size_bytes : -(uint64_t)size_bytes,
	        .a = total_allocated,
	        .b = size_bytes > 0 ? record_pack_reserved(total_reserved, (uint64_t)size_bytes, thread->storage_bytes)
	                            : total_reserved,
	};
	if (size_bytes > 0)
		thread->storage_bytes = 0;
	thread->nr_nodes_reported = thread->nr_nodes;
	write_record(thread, &record);
	hook_leave(thread);
	if (__builtin_expect(atomic32_load_relaxed(&stacks.is_full), 0)) {
		static uint8_t once;

		hook_note(&once, RECORD_SEVERITY_DEGRADED,
		          "no room for more different stacks: what came later has none, or is without its line or operation");
	}
}

void hook_storage(uint64_t size_bytes)
{
	this_thread.storage_bytes = size_bytes;
}

void hook_memory_given(const struct hook_given *given)
{
	struct thread_state *thread = &this_thread;
	struct nodes_origin origin;
	struct record record;

	if (hook.native_calls && hook_is_wanted())
		hook_native_start();
	if (!hook_enter(thread))
		return;
	origin = origin_of_call(thread);
	record = (struct record){
	        .kind = RECORD_ALLOC,
	        .flags = record_level_flags(given->level) | node_flag(thread) | (given->handle ? RECORD_F_HANDLE : 0),
	        .device = given->device,
	        .stack = origin.stack,
	        .scope = origin.module,
	        .address = (uint64_t)(uintptr_t)given->address,
	        .size = given->size_bytes,
	        .a = (uint64_t)(uintptr_t)given->caller,
	        .b = given->begin_ns,
	};
	write_record(thread, &record);
	hook_leave(thread);
}

void hook_memory_seen(const struct hook_seen *seen)
{
	struct thread_state *thread = &this_thread;
	struct record record = {
	        .kind = seen->given ? RECORD_SEEN_ALLOC : RECORD_SEEN_FREE,
	        .flags = record_level_flags(seen->level),
	        .device = seen->device,
	        .address = seen->address,
	        .size = seen->size_bytes,
	        .a = seen->caller,
	        .b = seen->time_ns,
	};

	if (!hook_enter(thread))
		return;
	write_record(thread, &record);
	hook_leave(thread);
}

void hook_memory_taken(const void *address)
{
	struct thread_state *thread = &this_thread;
	struct record record;

	if (!hook_enter(thread))
		return;
	record = (struct record){
	        .kind = RECORD_FREE,
	        .flags = record_level_flags(LEVEL_SEGMENT) | node_flag(thread),
	        .scope = innermost(thread).module,
	        .address = (uint64_t)(uintptr_t)address,
	};
	write_record(thread, &record);
	hook_leave(thread);
}

void hook_memory_refused(uint64_t size_bytes, uint16_t device)
{
	struct thread_state *thread = &this_thread;
	struct nodes_origin origin;
	struct record record;

	if (hook.native_calls && hook_is_wanted())
		hook_native_start();
	if (!hook_enter(thread))
		return;
	origin = origin_of_call(thread);
	record = (struct record){
	        .kind = RECORD_REFUSED,
	        .flags = node_flag(thread),
	        .device = device,
	        .stack = origin.stack,
	        .scope = origin.module,
	        .size = size_bytes,
	};
	write_record(thread, &record);
	hook_leave(thread);
}

void hook_used(uint16_t device, uint64_t used_bytes, uint64_t total_bytes, bool first)
{
	struct thread_state *thread = &this_thread;
	struct record record = {
	        .kind = RECORD_USED,
	        .flags = first ? RECORD_F_FIRST : 0,
	        .device = device,
	        .a = used_bytes,
	        .b = total_bytes,
	};

	if (!hook_enter(thread))
		return;
	write_record(thread, &record);
	hook_leave(thread);
}

void hook_read_with(void (*read)(bool all))
{
	atomic64_store_release(&hook.read, (uint64_t)(uintptr_t)read);
}

static void read_late(bool all)
{
	void (*read)(bool) = (void (*)(bool))(uintptr_t)atomic64_load_acquire(&hook.read);

	if (read)
		read(all);
}

void hook_report_oom(int64_t size_bytes, uint64_t total_allocated, uint64_t total_reserved, uint16_t device)
{
	struct thread_state *thread = &this_thread;
	struct nodes_origin origin;
	struct record record;

	if (!hook_enter(thread))
		return;
	origin = origin_of_report(thread);
	record = (struct record){
	        .kind = RECORD_OOM,
	        .flags = node_flag(thread),
	        .device = device,
	        .stack = origin.stack,
	        .scope = origin.module,
	        .size = (uint64_t)size_bytes,
	        .a = total_allocated,
	        .b = total_reserved,
	};
	write_record(thread, &record);
	hook_leave(thread);
	read_late(true);
}

/* ---- autograd */

void hook_backward_begin(bool accumulate, bool keep_graph)
{
	struct thread_state *thread = &this_thread;

	follow_operations();
	thread->backward_depth++;
	tell(thread, RECORD_BACKWARD_BEGIN, (accumulate ? RECORD_F_ACCUMULATE : 0) | (keep_graph ? RECORD_F_KEEP : 0), 0, 0);
}

void hook_backward_end(void)
{
	struct thread_state *thread = &this_thread;

	thread->backward_depth--;
	thread->forward_told = false;
	tell(thread, RECORD_BACKWARD_END, 0, 0, 0);
}

bool hook_in_backward(void)
{
	return this_thread.backward_depth || this_thread.node_depth;
}

void hook_autograd_worker(void)
{
	this_thread.autograd_worker = true;
	this_thread.defined = false; /* said once more, now with what it is */
}

static uint64_t *graph_task_entry(const void *graph_task)
{
	return &graph_tasks[((uintptr_t)graph_task >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 54];
}

void hook_graph_task(const void *graph_task)
{
	struct thread_state *thread = &this_thread;
	uint64_t key = (uint64_t)(uintptr_t)graph_task >> 4 << GRAPH_TASK_THREAD_BITS;

	if (!thread->number) {
		if (!hook_enter(thread))
			return;
		hook_leave(thread);
	}
	if (thread->number >> GRAPH_TASK_THREAD_BITS == 0)
		atomic64_store_relaxed(graph_task_entry(graph_task), key | thread->number);
}

static uint64_t graph_task_thread(const void *graph_task)
{
	uint64_t key = (uint64_t)(uintptr_t)graph_task >> 4 << GRAPH_TASK_THREAD_BITS;
	uint64_t entry = atomic64_load_relaxed(graph_task_entry(graph_task));

	if ((entry ^ key) >> GRAPH_TASK_THREAD_BITS)
		return RECORD_NO_THREAD;
	return entry & ((1u << GRAPH_TASK_THREAD_BITS) - 1);
}

/* Asked once in vain, never again: the search for the function walks all libraries. */
static void ask_torch_thread(struct thread_state *thread)
{
	static uint8_t once;

	if (__atomic_load_n(&once, __ATOMIC_RELAXED))
		return;
	thread->torch_thread = hook_torch_thread() + 1;
	if (!thread->torch_thread)
		hook_note(&once, RECORD_SEVERITY_DEGRADED,
		          "backward has no layers: this PyTorch does not say how it numbers threads");
}

/* As origin_of_now(), from outside hook_enter(); before recording begins without a stack. */
static struct nodes_origin origin_of_node(struct thread_state *thread)
{
	struct nodes_origin origin = innermost(thread);

	if (origin.stack || !stacks_are_on(&stacks) || hook_state_now() != HOOK_UP || !hook_enter(thread))
		return origin;
	origin = origin_of_now(thread);
	hook_leave(thread);
	return origin;
}

void hook_node_made(uint64_t number)
{
	struct thread_state *thread = &this_thread;

	if (!hook_is_wanted())
		return;
	thread->nr_nodes++;
	if (__builtin_expect(!thread->torch_thread, 0))
		ask_torch_thread(thread);
	if (thread->torch_thread)
		nodes_made(&nodes, thread->torch_thread - 1, number, origin_of_node(thread));
	if (!thread->forward_told && !thread->depth && !thread->backward_depth && !thread->optimizer_depth) {
		thread->forward_told = true;
		tell(thread, RECORD_FORWARD, 0, 0, 0);
	}
}

void hook_node_begin(const void *graph_task, const void *node)
{
	struct thread_state *thread = &this_thread;
	struct nodes_origin origin = {0};

	/*
	 * AccumulateGrad has no number.  It runs right after the node that gave its parameter's last gradient, before any other.
	 * Source: torch/csrc/autograd/engine.cpp, CompareNodeTaskTime: the highest number first; 2.13.0 and 2.14.1.
	 */
	if (hook_is_wanted())
		origin = nodes_is_numbered(&nodes, node) ? nodes_origin(&nodes, node) : thread->last_node;
	push(thread, origin.module, origin.stack, node);
	thread->node_depth++;
	if (__builtin_expect(nodes_layout(&nodes) == NODES_GIVEN_UP, 0)) {
		static uint8_t once;

		hook_note(&once, RECORD_SEVERITY_DEGRADED,
		          "backward has no layers: where this PyTorch keeps a node's number was not found");
	}
	if (!thread->backward_depth) { /* A node that runs on a thread that did not call backward: a worker's. */
		uint64_t caller = graph_task_thread(graph_task);

		if (!thread->number || caller != thread->works_for) {
			tell(thread, RECORD_WORKER, 0, 0, caller);
			thread->works_for = caller;
		}
	}
}

void hook_node_end(void)
{
	struct thread_state *thread = &this_thread;
	const struct hook_scope *scope = pop(thread);

	if (scope)
		thread->last_node = (struct nodes_origin){.module = scope->module, .stack = scope->stack};
	thread->node_depth--;
}

/* ---- scopes that the adapter tells */

void hook_module_enter(uint32_t module, bool root, bool grad, bool training)
{
	struct thread_state *thread = &this_thread;
	uint8_t flags = node_flag(thread);

	if (root)
		flags |= RECORD_F_ROOT | (grad ? RECORD_F_GRAD : 0) | (training ? RECORD_F_TRAINING : 0);
	if (root && grad)
		thread->forward_told = true;
	if (root)
		follow_operations();
	thread->module_depth++;
	if (push(thread, module, 0, NULL))
		tell(thread, RECORD_MODULE_ENTER, flags, module, 0);
	else if (hook_state_now() == HOOK_UP)
		atomic64_add_relaxed(&hook.emitter.ring->lost[LOST_DEEP], 1);
}

void hook_module_leave(void)
{
	struct thread_state *thread = &this_thread;
	const struct hook_scope *scope = pop(thread);

	if (thread->module_depth)
		thread->module_depth--;
	if (scope)
		tell(thread, RECORD_MODULE_LEAVE, thread->module_depth ? 0 : RECORD_F_ROOT, scope->module,
		     thread->nr_nodes - scope->nr_nodes);
	if (!thread->module_depth)
		read_late(false);
}

bool hook_in_module(void)
{
	return this_thread.module_depth > 0;
}

uint32_t hook_current_module(void)
{
	return innermost(&this_thread).module;
}

void hook_optimizer_begin(uint32_t optimizer)
{
	struct thread_state *thread = &this_thread;

	follow_operations();
	if (thread->optimizer_depth < HOOK_MAX_OPTIMIZERS)
		thread->optimizers[thread->optimizer_depth] = optimizer;
	thread->optimizer_depth++;
	tell(thread, RECORD_OPTIMIZER_BEGIN, 0, optimizer, 0);
}

void hook_optimizer_end(void)
{
	struct thread_state *thread = &this_thread;

	if (!thread->optimizer_depth)
		return;
	thread->optimizer_depth--;
	thread->forward_told = false;
	tell(thread, RECORD_OPTIMIZER_END, 0,
	     thread->optimizer_depth < HOOK_MAX_OPTIMIZERS ? thread->optimizers[thread->optimizer_depth] : 0, 0);
	read_late(false);
}

void hook_scaler_update(void)
{
	tell(&this_thread, RECORD_SCALER_UPDATE, 0, 0, 0);
}

static void tell_where(struct record *record)
{
	struct thread_state *thread = &this_thread;

	if (!hook_enter(thread))
		return;
	write_record(thread, record);
	hook_leave(thread);
}

void hook_input(uint64_t storage, uint64_t size_bytes, bool requires_grad)
{
	struct record record = {
	        .kind = RECORD_INPUT, .flags = requires_grad ? RECORD_F_GRAD : 0, .address = storage, .size = size_bytes};

	tell_where(&record);
}

void hook_gradient(uint32_t number, uint64_t address)
{
	struct record record = {.kind = RECORD_GRADIENT, .address = address, .a = number};

	tell_where(&record);
}

/* ---- words */

void hook_define(const struct record *record, const char *text, uint32_t text_bytes)
{
	struct thread_state *thread = &this_thread;
	struct record filled = *record;

	if (!hook_enter(thread))
		return;
	filled.thread = thread->number;
	emit_record_text(&hook.emitter, &filled, text, text_bytes);
	hook_leave(thread);
}

void hook_note(uint8_t *once, enum record_severity severity, const char *format, ...)
{
	struct record record = {.kind = RECORD_NOTE, .a = severity};
	char text[512];
	va_list arguments;
	size_t used;

	if (__atomic_exchange_n(once, 1, __ATOMIC_RELAXED))
		return;
	va_start(arguments, format);
	used = text_vformat(text, sizeof(text), format, arguments);
	va_end(arguments);
	hook_define(&record, text, (uint32_t)used);
}

/* ---- stacks */

bool hook_wants_stacks(void)
{
	return hook.python_stacks;
}

void hook_stacks_start(const struct frames_layout *layout, const char *torch, const char *library)
{
	stacks_start(&stacks, layout, torch, library);
	follow_operations();
}

void hook_native_start(void)
{
	const char *why = native_start((const void *)(uintptr_t)hook_native_start);
	static uint8_t once;

	if (why)
		hook_note(&once, hook.native_stacks ? RECORD_SEVERITY_DEGRADED : RECORD_SEVERITY_INFO, "no native stacks: %s",
		          why);
}

/* ---- manual marks (nnmem.h) */

void hook_mark(enum record_kind kind, unsigned phase)
{
	tell(&this_thread, kind, 0, 0, phase);
}
