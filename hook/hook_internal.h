/*
 * What the hook's own files share: the process-wide state and a thread's state.
 *
 * hook.c owns the thread's state and writes records; process.c owns the life of the process (ring, recorder, fork, end).
 */
#ifndef NNMEM_HOOK_INTERNAL_H
#define NNMEM_HOOK_INTERNAL_H

#include "hook/emit.h"
#include "hook/forward.h"
#include "hook/hook.h"
#include "hook/native.h"
#include "hook/nodes.h"
#include "hook/stacks.h"

/*
 * The words that a forked child must not inherit, on a page of their own that the kernel clears in a child
 * (MADV_WIPEONFORK): all zero means HOOK_DOWN and not armed, so a child forwards and records nothing.
 */
struct hook_page {
	uint32_t state; /* enum hook_state; atomic */
	uint32_t armed; /* HOOK_DOWN only until the first record of interest; atomic */
};

/* One for the process.  Zero before the constructor. */
struct hook {
	struct hook_page *page; /* NULL before the constructor, and when it failed or NNMEM_OFF is set */
	struct emitter emitter; /* ring: set before the state becomes HOOK_UP (release) */
	uint32_t nr_threads;    /* threads numbered so far; atomic */
	uint32_t nr_early_lost; /* reports dropped while the ring was being made; atomic */
	uint32_t forced; /* atomic; memoryProfilingEnabled has answered true: forward.h's rule holds from now on, also in a child
	                  */
	bool record_cpu; /* NNMEM_CPU */
	bool python_stacks; /* NNMEM_STACKS */
	bool operations;    /* NNMEM_STACKS is not `off` */
	bool native_stacks; /* NNMEM_STACKS: of all allocations */
	bool native_calls;  /* the same, of calls that are no report of PyTorch's (device memory) */
	uint64_t read;      /* hook_read_with()'s, 0: none; atomic */
	struct forward_table forward;
	void *(*thread_state)(void); /* PyGILState_GetThisThreadState, or NULL: no Python here */
	int (*python_is_up)(void);   /* Py_IsInitialized, or NULL */
};
extern struct hook hook;

/*
 * Where a thread is: module calls and running nodes, innermost last.  Only the thread itself (and signal handlers on it)
 * touches it.
 */
#define HOOK_MAX_OPTIMIZERS 8

struct hook_scope {
	uint32_t module;          /* 0: none */
	uint32_t nr_nodes;        /* thread's nr_nodes when it began */
	uint32_t stack;           /* a node's: the stack that made it; 0: the thread's own counts */
	uint16_t operation_depth; /* thread's when it began, and its base */
	uint16_t operation_base;
	uint32_t operation; /* thread's when it began */
	const void *node;   /* NULL: a module call */
};

struct thread_state {
	uint32_t number; /* from 1; 0: not numbered yet */
	uint32_t busy;   /* the hook is at work on this thread */
	bool defined;    /* DEF_THREAD was sent */
	bool autograd_worker;
	bool forward_told; /* a root forward or RECORD_FORWARD came since the last backward or step() */
	uint32_t backward_depth;
	uint32_t optimizer_depth;
	uint32_t node_depth;        /* autograd nodes running, nested */
	uint32_t depth;             /* open scopes; those from HOOK_MAX_DEPTH on have no entry */
	uint32_t module_depth;      /* module calls among them */
	uint32_t nr_nodes;          /* autograd nodes made; wraps */
	uint64_t storage_bytes;     /* what a storage was last said to need, since the last block; 0: nothing */
	uint32_t nr_nodes_reported; /* nr_nodes at the last report */
	/*
	 * The outermost operator that runs in the innermost scope, as a frame, as far as operators are told, and how many are
	 * open there: it is what the user's code, or the node, called.
	 */
	uint32_t operation;
	uint16_t operation_depth;
	uint16_t operation_base;           /* open below it: what the engine tells around a node for a profiler */
	const void *operation_not_defined; /* the operator itself (at::RecordFunction), while there was no ring for its name */
	uint64_t torch_thread;             /* as PyTorch counts threads, + 1; 0: not asked yet */
	uint64_t works_for;                /* worker: the caller whose nodes it ran last, RECORD_NO_THREAD: nobody's */
	struct nodes_origin last_node;     /* of the node that ended last */
	struct native_thread native;
	uint32_t optimizers[HOOK_MAX_OPTIMIZERS]; /* whose step() is open, innermost last */
	struct hook_scope scopes[HOOK_MAX_DEPTH];
};

static inline enum hook_state hook_state_now(void)
{
	/* Acquire pairs with the release when the state becomes HOOK_UP: the emitter is ready. */
	return hook.page ? (enum hook_state)atomic32_load_acquire(&hook.page->state) : HOOK_DOWN;
}

/* Whether reports are recorded, or will be from the first one on. */
static inline bool hook_is_wanted(void)
{
	enum hook_state state = hook_state_now();

	return state == HOOK_UP || state == HOOK_STARTING ||
	       (state == HOOK_DOWN && hook.page && atomic32_load_relaxed(&hook.page->armed));
}

/*
 * Native stacks are wanted from now on.  Where they cannot be had, that is noted.  Outside hook_enter(); thread: any; signal:
 * not safe; the first call allocates and uses the dynamic loader.
 */
void hook_native_start(void);

/* PyTorch's number for the calling thread, or UINT64_MAX where it cannot be had.  wrap_autograd.c. */
uint64_t hook_torch_thread(void);

#endif
