/*
 * The driver's side of observe.h: who observes, and how deep in calls of the API each thread is.
 */
#include "driver.h"

#include <stdatomic.h>

static _Atomic(observer *) current;
static __thread unsigned depth;       /* in calls: of the runtime, of the driver, of the one by the other */
static __thread struct observed call; /* what is known of the outermost call's memory */

SIM_EXPORT void simcudaObserve(observer *function)
{
	atomic_store(&current, function);
}

void observe(const struct observed *observed)
{
	observer *function = atomic_load(&current);
	struct observed complete;

	if (!function)
		return;
	complete = *observed;
	complete.context_device_id = device_current();
	function(&complete);
}

SIM_EXPORT void simcudaCall(const char *name, const void *site)
{
	if (depth++)
		return;
	call = (struct observed){0};
	observe(&(const struct observed){.kind = OBSERVED_CALL, .what = name, .site = site});
}

SIM_EXPORT void simcudaReturn(const char *name)
{
	if (!--depth)
		observe(&(const struct observed){.kind = OBSERVED_RETURN, .what = name});
}

void observe_stream(CUstream stream)
{
	call.async = true;
	call.stream = stream;
}

void observe_pool(struct observed_pool pool)
{
	call.pool = pool;
}

void observe_memory(const char *event, int device_id, uintptr_t address, size_t size_bytes)
{
	struct observed observed = call;

	observed.kind = OBSERVED_MEMORY;
	observed.what = event;
	observed.device_id = device_id;
	observed.address = address;
	observed.size_bytes = size_bytes;
	observe(&observed);
}
