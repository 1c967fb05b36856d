/*
 * The hook's centre: whether we record, and what a thread is doing.
 *
 * Interposers (wrap_*.c) and the Python adapter (python.c) tell it what happened; it adds what the thread is in the middle
 * of and writes records (emit.h).  State decides whether we record; callers forward always, whatever is returned here.
 *
 * Data model.  One process-wide state (enum hook_state); one struct thread_state a thread, in initial-exec TLS, so that it
 * exists on any thread at any time without allocating.  The ring and the recorder are started by the first record that
 * counts as of interest (process.c): a tensor report, an autograd call, or the adapter's first word.
 *
 * Everything below: thread any, GIL held or not, PyTorch's allocator lock held or not.  Signal: safe; a record that is
 * reported while the hook is already at work on the thread is dropped and counted (LOST_REENTERED).  Keeps errno.
 * Allocates nothing, takes no lock that anybody waits for, never ends the process.  Errors: none; failures are counted.
 */
#ifndef NNMEM_HOOK_HOOK_H
#define NNMEM_HOOK_HOOK_H

#include "nnmem/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Marks what the preloaded library exports; everything else is hidden (checked against hook/exports.txt in the tests). */
#define NNMEM_EXPORT __attribute__((visibility("default")))

enum hook_state {
	HOOK_DOWN = 0, /* before the constructor, switched off, in a forked child, after a failure that was noted */
	HOOK_STARTING, /* one thread makes the ring and starts the recorder; the others wait a moment, then drop and count */
	HOOK_UP,       /* recording */
	HOOK_DRAINING, /* the end was recorded: nothing more is */
};

/* How deep module calls are followed on a thread; deeper ones are counted (LOST_DEEP) and belong to the last one followed. */
#define HOOK_MAX_DEPTH 256

/* ---- reports (wrap_c10.c) */

/*
 * A block was allocated (@size_bytes > 0) or freed (< 0), as c10::reportMemoryUsageToProfiler says it.
 * @shared: PyTorch gives no total for it.
 */
void hook_report(const void *address, int64_t size_bytes, uint64_t total_allocated, uint64_t total_reserved, uint16_t device,
                 bool shared);
/*
 * A call gave the program memory that is no block of PyTorch's, or took it back; wrap_cudart.c.  An address belongs to one such
 * memory at a time, whatever its device.
 */
struct hook_given {
	const void *address; /* or a handle */
	uint64_t size_bytes;
	const void *caller;      /* an address in the code that called; of LEVEL_MAPPING the handle that is mapped */
	uint64_t begin_ns;       /* CLOCK_MONOTONIC, when the call began; 0: CUPTI does not see it */
	enum record_level level; /* not LEVEL_BLOCK */
	uint16_t device;
	bool handle; /* the address is one */
};
void hook_memory_given(const struct hook_given *given);
void hook_memory_taken(const void *address);
/* The device has not as much memory as a call asked for. */
void hook_memory_refused(uint64_t size_bytes, uint16_t device);
/* A call of that kind as CUPTI saw it, whoever made it and whether or not it was told as above; cupti/. */
struct hook_seen {
	uint64_t address;
	uint64_t size_bytes;
	uint64_t caller;         /* an address in the code that called; 0: not known */
	uint64_t time_ns;        /* CLOCK_MONOTONIC, of the call */
	enum record_level level; /* not LEVEL_BLOCK */
	uint16_t device;
	bool given; /* taken back otherwise */
};
void hook_memory_seen(const struct hook_seen *seen);
/* Have @read called where a step or a root module call has ended, and with @all where memory is out. */
void hook_read_with(void (*read)(bool all));
/* The storage of a tensor needs @size_bytes: the thread's next block, if it is a tensor's, is asked for with them. */
void hook_storage(uint64_t size_bytes);
/* The driver says that @used_bytes of the device's @total_bytes are in use.  @first: no memory of it was given yet. */
void hook_used(uint16_t device, uint64_t used_bytes, uint64_t total_bytes, bool first);
void hook_report_oom(int64_t size_bytes, uint64_t total_allocated, uint64_t total_reserved, uint16_t device);

/* ---- autograd (wrap_autograd.c) */

void hook_backward_begin(bool accumulate, bool keep_graph);
void hook_backward_end(void); /* also when an exception leaves the engine */
/* The calling thread is an autograd worker (Engine::thread_init). */
void hook_autograd_worker(void);
/* A backward, or a node of one, runs on this thread. */
bool hook_in_backward(void);
/* A graph task is executed for the calling thread; its nodes may run on workers. */
void hook_graph_task(const void *graph_task);
/* Node number @number was made on this thread: it belongs to the innermost module call. */
void hook_node_made(uint64_t number);
/* @node of @graph_task runs on this thread from _begin to _end. They nest (reentrant backward). */
void hook_node_begin(const void *graph_task, const void *node);
void hook_node_end(void);

/* ---- scopes (python.c).  Ids are the adapter's, from 1. */

void hook_module_enter(uint32_t module, bool root, bool grad, bool training);
void hook_module_leave(void);
bool hook_in_module(void);          /* a module call is open on this thread */
uint32_t hook_current_module(void); /* what a report of this thread would belong to now: in a node, what made it; 0 none */
void hook_optimizer_begin(uint32_t optimizer);
void hook_optimizer_end(void);
void hook_scaler_update(void);
void hook_input(uint64_t storage, uint64_t size_bytes, bool requires_grad);
void hook_gradient(uint32_t number, uint64_t address); /* RECORD_GRADIENT */

/* A definition or fact (RECORD_DEF_*, RECORD_INFO): @text as record.h says, fields joined by NULs. */
void hook_define(const struct record *record, const char *text, uint32_t text_bytes);

/* A degradation, in words, printf-like but for %d %u %s %zu %lu only; at most one per call site and run: @once. */
void hook_note(uint8_t *once, enum record_severity severity, const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * Whether Python stacks are wanted (NNMEM_STACKS), and that they can be had: @layout was checked in this interpreter.
 * @torch, @library: the folders of PyTorch and of Python's own library, whose frames are not the user's; "": not known.
 */
bool hook_wants_stacks(void);
struct frames_layout;
void hook_stacks_start(const struct frames_layout *layout, const char *torch, const char *library);

/* A manual mark of nnmem.h: RECORD_MARK_*. */
void hook_mark(enum record_kind kind, unsigned phase);

/* ---- life (process.c, wrap_libc.c) */

/* The process ends by @how with @status: record it, wait at most 1 s for the last commit, print the closing line. */
void hook_end(enum record_end how, int status);
/* exec failed: the program goes on. */
void hook_exec_failed(void);

enum hook_state hook_current_state(void);

/*
 * Whether records are, or from the first one on will be, written: false when NNMEM_OFF is set, in a forked child, after a
 * failure and once the end was recorded.  Valid after the constructor in process.c, which comes before all others of the
 * library.
 */
bool hook_is_on(void);

#endif
