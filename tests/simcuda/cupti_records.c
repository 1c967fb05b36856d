/*
 * Records of the simulated CUPTI: what the driver's observer is told, in the public layouts.
 *
 * A call of the runtime and what it makes the driver do have one correlation, that of the call; calls that another call
 * makes are not recorded, nor told to a subscriber.  Kernels take no time.  Not known, and 0: what a call returned.  What
 * libraries compute, and what a graph does when it is launched, are no kernels here.
 */
#define _GNU_SOURCE /* dladdr */
#include "cupti_internal.h"
#include "cupti_ids.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_DEPTH        64 /* of regions of one external kind */
#define KERNEL_REGISTERS 32 /* as the runtime says of every kernel */

/* The call of the API that a thread is in. */
struct call {
	bool active;
	CUpti_ActivityKind kind; /* RUNTIME or DRIVER */
	CUpti_CallbackId cbid;
	uint32_t correlation_id;
	uint64_t start_ns;
	const void *site;
	const char *name;
	uint64_t correlation_data; /* the subscriber's, from the call's beginning to its end */
	int made_context_of;       /* device, or -1: it made none */
};

/* The regions of external kinds that a thread is in. */
struct external {
	uint64_t ids[MAX_DEPTH];
	size_t depth;
};

static __thread struct call call;
static __thread struct external external[CUPTI_EXTERNAL_CORRELATION_KIND_SIZE];
static _Atomic(uint32_t) nr_calls;
static _Atomic(int64_t) nr_kernels;

size_t cupti_record_bytes(CUpti_ActivityKind kind)
{
	switch (kind) {
	case CUPTI_ACTIVITY_KIND_MEMCPY:
		return sizeof(CUpti_ActivityMemcpy6);
	case CUPTI_ACTIVITY_KIND_MEMSET:
		return sizeof(CUpti_ActivityMemset4);
	case CUPTI_ACTIVITY_KIND_KERNEL:
	case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
		return sizeof(CUpti_ActivityKernel10);
	case CUPTI_ACTIVITY_KIND_DRIVER:
	case CUPTI_ACTIVITY_KIND_RUNTIME:
		return sizeof(CUpti_ActivityAPI);
	case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION:
		return sizeof(CUpti_ActivityExternalCorrelation);
	case CUPTI_ACTIVITY_KIND_MEMORY2:
		return sizeof(CUpti_ActivityMemory4);
	case CUPTI_ACTIVITY_KIND_MEMORY_POOL:
		return sizeof(CUpti_ActivityMemoryPool3);
	default:
		return 0;
	}
}

/* A device has one context. */
static uint32_t context_id(const struct observed *observed)
{
	return observed->context_device_id < 0 ? CUPTI_INVALID_CONTEXT_ID : (uint32_t)observed->context_device_id + 1;
}

static uint32_t device_id(const struct observed *observed)
{
	int id = observed->device_id < 0 ? observed->context_device_id : observed->device_id;

	return id < 0 ? 0 : (uint32_t)id;
}

/* Calls -------------------------------------------------------------------------------------------------------------- */

static int compare_names(const void *name, const void *function)
{
	return strcmp(name, ((const struct cupti_function *)function)->name);
}

/* The subscriber is not told of arguments: the compiler, which tells of calls, does not know them. */
static void tell_call(CUpti_ApiCallbackSite site, int device)
{
	static const int success;
	const CUpti_CallbackData data = {
	        .callbackSite = site,
	        .functionName = call.name,
	        .functionReturnValue = site == CUPTI_API_EXIT ? (void *)&success : NULL,
	        .contextUid = device < 0 ? CUPTI_INVALID_CONTEXT_ID : (uint32_t)device + 1,
	        .correlationData = &call.correlation_data,
	        .correlationId = call.correlation_id,
	};

	cupti_tell_call(call.kind == CUPTI_ACTIVITY_KIND_RUNTIME ? CUPTI_CB_DOMAIN_RUNTIME_API : CUPTI_CB_DOMAIN_DRIVER_API,
	                call.cbid, &data);
}

static void call_begins(const struct observed *observed)
{
	const bool of_runtime = !strncmp(observed->what, "cuda", 4) || !strncmp(observed->what, "__cuda", 6);
	const struct cupti_function *functions = of_runtime ? cupti_runtime_functions : cupti_driver_functions;
	size_t nr_functions = of_runtime ? cupti_nr_runtime_functions : cupti_nr_driver_functions;
	const struct cupti_function *function;

	function = bsearch(observed->what, functions, nr_functions, sizeof(functions[0]), compare_names);
	call = (struct call){
	        .active = true,
	        .kind = of_runtime ? CUPTI_ACTIVITY_KIND_RUNTIME : CUPTI_ACTIVITY_KIND_DRIVER,
	        .cbid = function ? function->cbid : 0,
	        .correlation_id = atomic_fetch_add(&nr_calls, 1) + 1,
	        .start_ns = cupti_now(),
	        .site = observed->site,
	        .name = observed->what,
	        .made_context_of = -1,
	};
	tell_call(CUPTI_API_ENTER, observed->context_device_id);
}

static void deliver_external(void)
{
	for (size_t kind = 0; kind < CUPTI_EXTERNAL_CORRELATION_KIND_SIZE; kind++) {
		const CUpti_ActivityExternalCorrelation record = {
		        .kind = CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION,
		        .externalKind = (CUpti_ExternalCorrelationKind)kind,
		        .externalId = external[kind].depth ? external[kind].ids[external[kind].depth - 1] : 0,
		        .correlationId = call.correlation_id,
		};

		if (external[kind].depth && cupti_wants(CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION))
			cupti_deliver(&record, sizeof(record));
	}
}

static void call_ends(const struct observed *observed)
{
	const CUpti_ActivityAPI record = {
	        .kind = call.kind,
	        .cbid = call.cbid,
	        .start = call.start_ns,
	        .end = cupti_now(),
	        .processId = (uint32_t)getpid(),
	        .threadId = (uint32_t)pthread_self(), /* CUPTI_ACTIVITY_THREAD_ID_TYPE_DEFAULT */
	        .correlationId = call.correlation_id,
	};
	int made_context_of = call.made_context_of;

	if (!call.active)
		return;
	if (cupti_wants_call(call.kind, call.cbid)) {
		deliver_external();
		cupti_deliver(&record, sizeof(record));
	}
	if (strstr(call.name, "Synchronize"))
		cupti_synchronized();
	call.active = false;
	cupti_drain();
	tell_call(CUPTI_API_EXIT, observed->context_device_id);
	if (made_context_of >= 0)
		cupti_tell_context(made_context_of);
}

SIM_EXPORT CUptiResult cuptiActivityPushExternalCorrelationId(CUpti_ExternalCorrelationKind kind, uint64_t id)
{
	if (cupti_without_driver())
		return CUPTI_ERROR_UNKNOWN;
	if (kind <= CUPTI_EXTERNAL_CORRELATION_KIND_INVALID || kind >= CUPTI_EXTERNAL_CORRELATION_KIND_SIZE)
		return CUPTI_ERROR_INVALID_PARAMETER;
	if (external[kind].depth == MAX_DEPTH)
		sim_die("too deep", "external correlation");
	external[kind].ids[external[kind].depth++] = id;
	return CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiActivityPopExternalCorrelationId(CUpti_ExternalCorrelationKind kind, uint64_t *lastId)
{
	if (cupti_without_driver())
		return CUPTI_ERROR_UNKNOWN;
	if (kind <= CUPTI_EXTERNAL_CORRELATION_KIND_INVALID || kind >= CUPTI_EXTERNAL_CORRELATION_KIND_SIZE)
		return CUPTI_ERROR_INVALID_PARAMETER;
	if (!external[kind].depth)
		return CUPTI_ERROR_QUEUE_EMPTY;
	external[kind].depth--;
	if (lastId)
		*lastId = external[kind].ids[external[kind].depth];
	return CUPTI_SUCCESS;
}

/* Memory ------------------------------------------------------------------------------------------------------------- */

/* What the log's words are to CUPTI.  Registered host memory and another process's are no allocations. */
static const struct operation {
	const char *event;
	CUpti_ActivityMemoryOperationType operation;
	CUpti_ActivityMemoryKind kind;
	bool virtual; /* physical memory for virtual addresses: recorded with SIMCUDA_CUPTI_VMM */
} operations[] = {
#define TAKEN CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION
#define GIVEN CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE
        {"alloc", TAKEN, CUPTI_ACTIVITY_MEMORY_KIND_DEVICE, false},
        {"free", GIVEN, CUPTI_ACTIVITY_MEMORY_KIND_DEVICE, false},
        {"pool_alloc", TAKEN, CUPTI_ACTIVITY_MEMORY_KIND_DEVICE, false},
        {"pool_free", GIVEN, CUPTI_ACTIVITY_MEMORY_KIND_DEVICE, false},
        {"managed_alloc", TAKEN, CUPTI_ACTIVITY_MEMORY_KIND_MANAGED, false},
        {"managed_free", GIVEN, CUPTI_ACTIVITY_MEMORY_KIND_MANAGED, false},
        {"array_alloc", TAKEN, CUPTI_ACTIVITY_MEMORY_KIND_ARRAY, false},
        {"array_free", GIVEN, CUPTI_ACTIVITY_MEMORY_KIND_ARRAY, false},
        {"host_alloc", TAKEN, CUPTI_ACTIVITY_MEMORY_KIND_PINNED, false},
        {"host_free", GIVEN, CUPTI_ACTIVITY_MEMORY_KIND_PINNED, false},
        {"create", TAKEN, CUPTI_ACTIVITY_MEMORY_KIND_DEVICE, true},
        {"release", GIVEN, CUPTI_ACTIVITY_MEMORY_KIND_DEVICE, true},
#undef TAKEN
#undef GIVEN
};

static const struct operation *operation_of(const char *event)
{
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		if (!strcmp(operations[i].event, event))
			return &operations[i];
	}
	return NULL;
}

/* The file of the library at @code; it lives as long as the library. */
static const char *file_of(const void *code)
{
	Dl_info info;

	return code && dladdr(code, &info) ? info.dli_fname : NULL;
}

static void memory_changes(const struct observed *observed)
{
	const struct operation *operation = operation_of(observed->what);
	const struct observed_pool *pool = &observed->pool;
	CUpti_ActivityMemory4 record = {
	        .kind = CUPTI_ACTIVITY_KIND_MEMORY2,
	        .correlationId = call.correlation_id,
	        .address = observed->address,
	        .bytes = observed->size_bytes,
	        .PC = (uint64_t)(uintptr_t)call.site,
	        .processId = (uint32_t)getpid(),
	        .deviceId = device_id(observed),
	        .contextId = context_id(observed),
	        .streamId = observed->async ? cupti_stream_id(observed->stream) : CUPTI_INVALID_STREAM_ID,
	        .isAsync = observed->async,
	        .source = cupti_wants_source() ? file_of(call.site) : NULL,
	};

	if (!operation || (operation->virtual && !sim_setting("SIMCUDA_CUPTI_VMM", 0)))
		return;
	record.memoryOperationType = operation->operation;
	record.memoryKind = operation->kind;
	record.timestamp = cupti_now();
	if (pool->address) {
		record.memoryPoolConfig.memoryPoolType = CUPTI_ACTIVITY_MEMORY_POOL_TYPE_LOCAL;
		record.memoryPoolConfig.address = pool->address;
		record.memoryPoolConfig.releaseThreshold = pool->threshold_bytes;
		record.memoryPoolConfig.pool.size = pool->size_bytes;
		record.memoryPoolConfig.utilizedSize = pool->used_bytes;
	}
	cupti_deliver(&record, sizeof(record));
}

static void pool_changes(const struct observed *observed)
{
	CUpti_ActivityMemoryPool3 record = {
	        .kind = CUPTI_ACTIVITY_KIND_MEMORY_POOL,
	        .memoryPoolType = CUPTI_ACTIVITY_MEMORY_POOL_TYPE_LOCAL,
	        .correlationId = call.correlation_id,
	        .processId = (uint32_t)getpid(),
	        .deviceId = device_id(observed),
	        .minBytesToKeep = observed->size_bytes,
	        .address = observed->pool.address,
	        .size = observed->pool.size_bytes,
	        .releaseThreshold = observed->pool.threshold_bytes,
	        .timestamp = cupti_now(),
	        .utilizedSize = observed->pool.used_bytes,
	};

	record.memoryPoolOperationType =
	        !strcmp(observed->what, "pool_create")    ? CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_CREATED
	        : !strcmp(observed->what, "pool_destroy") ? CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_DESTROYED
	                                                  : CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_TRIMMED;
	cupti_deliver(&record, sizeof(record));
}

/* Work --------------------------------------------------------------------------------------------------------------- */

static uint8_t kind_of_place(enum observed_place place)
{
	return place == PLACE_DEVICE    ? CUPTI_ACTIVITY_MEMORY_KIND_DEVICE
	       : place == PLACE_MANAGED ? CUPTI_ACTIVITY_MEMORY_KIND_MANAGED
	       : place == PLACE_PINNED  ? CUPTI_ACTIVITY_MEMORY_KIND_PINNED
	                                : CUPTI_ACTIVITY_MEMORY_KIND_PAGEABLE;
}

static uint8_t kind_of_copy(enum observed_place from, enum observed_place to)
{
	if (from >= PLACE_DEVICE)
		return to >= PLACE_DEVICE ? CUPTI_ACTIVITY_MEMCPY_KIND_DTOD : CUPTI_ACTIVITY_MEMCPY_KIND_DTOH;
	return to >= PLACE_DEVICE ? CUPTI_ACTIVITY_MEMCPY_KIND_HTOD : CUPTI_ACTIVITY_MEMCPY_KIND_HTOH;
}

static void copies(const struct observed *observed)
{
	CUpti_ActivityMemcpy6 record = {
	        .kind = CUPTI_ACTIVITY_KIND_MEMCPY,
	        .copyKind = kind_of_copy(observed->source_place, observed->address_place),
	        .srcKind = kind_of_place(observed->source_place),
	        .dstKind = kind_of_place(observed->address_place),
	        .flags = observed->async ? CUPTI_ACTIVITY_FLAG_MEMCPY_ASYNC : 0,
	        .bytes = observed->size_bytes,
	        .start = cupti_now(),
	        .deviceId = device_id(observed),
	        .contextId = context_id(observed),
	        .streamId = cupti_stream_id(observed->stream),
	        .correlationId = call.correlation_id,
	        .runtimeCorrelationId = call.correlation_id,
	        .channelType = CUPTI_CHANNEL_TYPE_ASYNC_MEMCPY,
	        .copyCount = 1,
	};

	record.end = cupti_now();
	cupti_deliver(&record, sizeof(record));
}

static void fills(const struct observed *observed)
{
	CUpti_ActivityMemset4 record = {
	        .kind = CUPTI_ACTIVITY_KIND_MEMSET,
	        .value = observed->value,
	        .bytes = observed->size_bytes,
	        .start = cupti_now(),
	        .deviceId = device_id(observed),
	        .contextId = context_id(observed),
	        .streamId = cupti_stream_id(observed->stream),
	        .correlationId = call.correlation_id,
	        .flags = observed->async ? CUPTI_ACTIVITY_FLAG_MEMSET_ASYNC : 0,
	        .memoryKind = kind_of_place(observed->address_place),
	        .channelType = CUPTI_CHANNEL_TYPE_COMPUTE,
	};

	record.end = cupti_now();
	cupti_deliver(&record, sizeof(record));
}

static void kernel_runs(const struct observed *observed)
{
	CUpti_ActivityKernel10 record = {
	        .kind = cupti_wants(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) ? CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL
	                                                                   : CUPTI_ACTIVITY_KIND_KERNEL,
	        .registersPerThread = KERNEL_REGISTERS,
	        .start = cupti_now(),
	        .deviceId = device_id(observed),
	        .contextId = context_id(observed),
	        .streamId = cupti_stream_id(observed->stream),
	        .gridX = (int32_t)observed->grid[0],
	        .gridY = (int32_t)observed->grid[1],
	        .gridZ = (int32_t)observed->grid[2],
	        .blockX = (int32_t)observed->block[0],
	        .blockY = (int32_t)observed->block[1],
	        .blockZ = (int32_t)observed->block[2],
	        .dynamicSharedMemory = (int32_t)observed->shared_bytes,
	        .correlationId = call.correlation_id,
	        .gridId = atomic_fetch_add(&nr_kernels, 1) + 1,
	        .name = observed->what,
	        .channelType = CUPTI_CHANNEL_TYPE_COMPUTE,
	};

	record.end = cupti_now();
	record.completed = record.end;
	cupti_deliver(&record, sizeof(record));
}

void cupti_observe(const struct observed *observed)
{
	switch (observed->kind) {
	case OBSERVED_CALL:
		call_begins(observed);
		break;
	case OBSERVED_RETURN:
		call_ends(observed);
		break;
	case OBSERVED_CONTEXT:
		call.made_context_of = observed->device_id;
		break;
	case OBSERVED_MEMORY:
		if (cupti_wants(CUPTI_ACTIVITY_KIND_MEMORY2))
			memory_changes(observed);
		break;
	case OBSERVED_POOL:
		if (cupti_wants(CUPTI_ACTIVITY_KIND_MEMORY_POOL))
			pool_changes(observed);
		break;
	case OBSERVED_COPY:
		if (cupti_wants(CUPTI_ACTIVITY_KIND_MEMCPY))
			copies(observed);
		break;
	case OBSERVED_FILL:
		if (cupti_wants(CUPTI_ACTIVITY_KIND_MEMSET))
			fills(observed);
		break;
	case OBSERVED_KERNEL:
		if (cupti_wants(CUPTI_ACTIVITY_KIND_KERNEL) || cupti_wants(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL))
			kernel_runs(observed);
		break;
	}
}
