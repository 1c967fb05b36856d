/*
 * The seam for an observer of the simulated device, which is the simulated CUPTI: what it is told, and how it is set.
 *
 * The driver owns the seam (driver_observe.c); the runtime and the observer reach it through sim_driver_function(), so that
 * nobody between sees it.  Calls of the API are told by the compiler's own hooks (trace.c), not by their authors.
 */
#ifndef NNMEM_SIMCUDA_OBSERVE_H
#define NNMEM_SIMCUDA_OBSERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum observed_kind {
	OBSERVED_CALL,    /* a call of the API begins that is not made by another: @what is its name */
	OBSERVED_RETURN,  /* it ends, on the same thread; no lock is held */
	OBSERVED_MEMORY,  /* @what is the log's word; the driver's lock is held */
	OBSERVED_POOL,    /* @what is pool_create, pool_destroy or pool_trim (to @size_bytes) */
	OBSERVED_COPY,    /* from @source to @address */
	OBSERVED_FILL,    /* of @address with @value */
	OBSERVED_KERNEL,  /* @what is its name, which outlives the program's libraries */
	OBSERVED_CONTEXT, /* the primary one of @device_id was made; the driver's lock is held */
};

/* Where a copied or filled address lies. */
enum observed_place { PLACE_PAGEABLE, PLACE_PINNED, PLACE_DEVICE, PLACE_MANAGED };

/* A pool as it was just before the event. */
struct observed_pool {
	uint64_t address; /* its handle; 0: none */
	uint64_t threshold_bytes;
	uint64_t size_bytes;
	uint64_t used_bytes;
};

/*
 * One event.  What a kind has no use for is 0.
 */
struct observed {
	enum observed_kind kind;
	const char *what;
	const void *site;      /* OBSERVED_CALL: where it was called from */
	int device_id;         /* -1: the host's memory */
	int context_device_id; /* of the calling thread, -1: it has no context */
	uint64_t address;
	uint64_t source;
	uint64_t size_bytes;
	uint32_t value;
	enum observed_place address_place, source_place;
	bool async; /* asked for in the order of a stream */
	void *stream;
	struct observed_pool pool;
	uint32_t grid[3], block[3], shared_bytes;
};

typedef void observer(const struct observed *observed);

/* Exported by the driver.  @function gets every event from now on, on the thread that causes it; NULL: nobody does. */
void simcudaObserve(observer *function);

/* A call of the API begins and ends: for trace.c.  They nest. */
void simcudaCall(const char *name, const void *site);
void simcudaReturn(const char *name);

#endif
