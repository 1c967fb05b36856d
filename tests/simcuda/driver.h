/*
 * The simulated driver's own parts (libcuda.so.1), one header for all of them.
 *
 * Real: addresses, which are mapped while they are allocated and fault when they are not; the order of events; budgets.
 * Simulated: everything else.  Work is done at once, on the calling thread; kernels do nothing.
 * One lock, driver_lock, guards all state; it is held for whole calls, so that the log's order is the order of events.
 */
#ifndef NNMEM_SIMCUDA_DRIVER_H
#define NNMEM_SIMCUDA_DRIVER_H

#include "observe.h"
#include "sim.h"

#include <cuda.h>
#include <pthread.h>
#include <stdbool.h>

#define SIM_MAX_DEVICES   8
#define SIM_GRANULE_BYTES ((size_t)2 << 20) /* what device memory is given out in */

/*
 * A device.  The window is an address range of its own, twice its memory, of which only what is allocated is mapped.
 */
struct device {
	struct range *ranges; /* what is allocated, by address */
	uintptr_t window;     /* address; 0: not reserved yet */
	size_t window_bytes;
	size_t memory_bytes;      /* the budget */
	size_t used_bytes;        /* of the budget; the context is a part of it */
	size_t context_bytes;     /* 0 before the context is made */
	struct CUctx_st *context; /* the primary one, NULL before it is made */
};

/* How a piece of device memory was asked for, and so how it is given back. */
enum memory_kind { MEMORY_LINEAR, MEMORY_MANAGED, MEMORY_POOLED, MEMORY_ARRAY, MEMORY_IMPORTED };

/*
 * A piece of a window, or of the host's memory.
 */
struct range {
	struct range *next;
	uintptr_t address;
	size_t size_bytes;     /* as asked for */
	size_t reserved_bytes; /* in whole granules */
	size_t budget_bytes;   /* what the device is charged for it; a pool's memory is charged to the pool */
	int device_id;
	enum memory_kind kind;
	struct CUmemPoolHandle_st *pool; /* of MEMORY_POOLED */
	bool registered;                 /* host memory that somebody else allocated */
};

struct CUstream_st {
	int device_id;
	int priority;
	uint64_t capture_id; /* the capture that it is, or was, in; 0: none */
};

extern pthread_mutex_t driver_lock;

/* The device @device_id, or NULL when there is none. */
struct device *device_of(int device_id);

/* How many devices there are. */
int device_count(void);

/*
 * The device of the calling thread's context, or -1 when it has none.
 */
int device_current(void);

/*
 * One event of memory, as a line of the log: "event device address size caller", the caller being the file of the library
 * at @caller, a code address.  Holds driver_lock.
 */
void log_event(const char *event, int device_id, uintptr_t address, size_t size_bytes, const void *caller);

/* Tell the observer (driver_observe.c).  observe_memory() adds what the outermost call said of its stream and its pool. */
void observe(const struct observed *observed);
void observe_memory(const char *event, int device_id, uintptr_t address, size_t size_bytes);
void observe_stream(CUstream stream);
void observe_pool(struct observed_pool pool);

/* Whether the allocation of device memory that is about to be made is the one that SIMCUDA_FAIL_AT names. */
bool memory_fails_now(void);

/* Make the context's memory part of what is used. */
void memory_add_context(struct device *device, int device_id, const void *caller);

/* @size_bytes in whole granules; less than @size_bytes when that is too much. */
size_t memory_granules(size_t size_bytes);

/*
 * Place a range as @wanted (device, size, kind, pool) and charge its device @budget_bytes; in the log, @caller did it.
 * CUDA_ERROR_OUT_OF_MEMORY: no room, or no budget.  Holds driver_lock.
 */
CUresult memory_place(const struct range *wanted, size_t budget_bytes, const void *caller, uintptr_t *ret_address);

/* The reverse: @range is gone.  Holds driver_lock. */
void memory_remove(struct range *range, const void *caller);

/* cuMemFree, for @caller. */
CUresult memory_free(uintptr_t address, const void *caller);

/* memory_remove() for a range that came from a pool, which may keep its memory. */
void pool_remove(struct range *range, const void *caller);

/* The allocated range of any device that holds @address, or NULL.  Holds driver_lock. */
struct range *memory_find(uintptr_t address);

/* Whether physical memory is mapped at @address.  Holds driver_lock. */
bool vmm_find(uintptr_t address);

/* The pinned range that holds @address, or NULL.  Holds driver_lock. */
struct range *host_find(uintptr_t address);

/* The capture that @stream is in, NULL: none. */
struct CUgraph_st *capture_of(CUstream stream);

/* Whether a capture forbids the calling thread what could wait for a device, as taking memory does. */
bool capture_forbids(void);

#endif
