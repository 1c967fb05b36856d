/*
 * Memory pools of the simulated driver: memory that is given out and taken back in the order of a stream.
 *
 * Work is done at once, so that memory is free when its free was asked for.  A pool keeps what comes back, up to its release
 * threshold, and gives it out again before it takes more from the device.
 */
#include "driver.h"

#include <stdlib.h>

/*
 * reserved_bytes is what the device is charged for: what is given out, in whole granules, and what is kept.
 */
struct CUmemPoolHandle_st {
	int device_id;
	size_t used_bytes, reserved_bytes;
	size_t used_high_bytes, reserved_high_bytes;
	uint64_t threshold_bytes;
};

static struct CUmemPoolHandle_st default_pools[SIM_MAX_DEVICES];
static CUmemoryPool current_pools[SIM_MAX_DEVICES]; /* NULL: the default one */

static CUmemoryPool default_pool(int device_id)
{
	default_pools[device_id].device_id = device_id;
	return &default_pools[device_id];
}

static CUmemoryPool current_pool(int device_id)
{
	return current_pools[device_id] ? current_pools[device_id] : default_pool(device_id);
}

/* What an observer is told of @pool.  Holds driver_lock. */
static struct observed_pool seen(CUmemoryPool pool)
{
	return (struct observed_pool){(uintptr_t)pool, pool->threshold_bytes, pool->reserved_bytes, pool->used_bytes};
}

static void observe_pool_event(const char *what, CUmemoryPool pool, size_t size_bytes)
{
	observe(&(const struct observed){
	        .kind = OBSERVED_POOL,
	        .what = what,
	        .device_id = pool->device_id,
	        .size_bytes = size_bytes,
	        .pool = seen(pool),
	});
}

/* Give back to the device what @pool keeps above @keep_bytes.  Holds driver_lock. */
static void pool_trim(CUmemoryPool pool, uint64_t keep_bytes, const void *caller)
{
	size_t kept_bytes = pool->used_bytes > keep_bytes ? pool->used_bytes : keep_bytes;

	if (pool->reserved_bytes <= kept_bytes)
		return;
	device_of(pool->device_id)->used_bytes -= pool->reserved_bytes - kept_bytes;
	log_event("pool_shrink", pool->device_id, 0, pool->reserved_bytes - kept_bytes, caller);
	pool->reserved_bytes = kept_bytes;
}

static CUresult pool_place(CUmemoryPool pool, size_t size_bytes, const void *caller, uintptr_t *ret_address)
{
	const struct range wanted = {.device_id = pool->device_id, .size_bytes = size_bytes, .kind = MEMORY_POOLED, .pool = pool};
	struct device *device = device_of(pool->device_id);
	size_t granules_bytes = memory_granules(size_bytes);
	size_t spare_bytes = pool->reserved_bytes - pool->used_bytes;
	size_t more_bytes = granules_bytes > spare_bytes ? granules_bytes - spare_bytes : 0;
	CUresult result;

	if (granules_bytes < size_bytes || more_bytes > device->memory_bytes - device->used_bytes)
		return CUDA_ERROR_OUT_OF_MEMORY;
	observe_pool(seen(pool));
	result = memory_place(&wanted, 0, caller, ret_address);
	if (result != CUDA_SUCCESS)
		return result;
	if (more_bytes)
		log_event("pool_grow", pool->device_id, 0, more_bytes, caller);
	device->used_bytes += more_bytes;
	pool->reserved_bytes += more_bytes;
	pool->used_bytes += granules_bytes;
	if (pool->reserved_high_bytes < pool->reserved_bytes)
		pool->reserved_high_bytes = pool->reserved_bytes;
	if (pool->used_high_bytes < pool->used_bytes)
		pool->used_high_bytes = pool->used_bytes;
	return CUDA_SUCCESS;
}

void pool_remove(struct range *range, const void *caller)
{
	CUmemoryPool pool = range->pool;

	observe_pool(seen(pool));
	pool->used_bytes -= range->reserved_bytes;
	memory_remove(range, caller);
	pool_trim(pool, pool->threshold_bytes, caller);
}

static CUresult pool_take(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream stream, const void *caller)
{
	CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
	uintptr_t address;

	if (!dptr || !bytesize || !pool)
		return CUDA_ERROR_INVALID_VALUE;
	if (capture_of(stream)) {
		sim_unimplemented("memory that a graph allocates");
		return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	}
	observe_stream(stream);
	pthread_mutex_lock(&driver_lock);
	if (!memory_fails_now())
		result = pool_place(pool, bytesize, caller, &address);
	if (result == CUDA_SUCCESS)
		*dptr = address;
	pthread_mutex_unlock(&driver_lock);
	return result;
}

SIM_EXPORT CUresult cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	int device_id = device_current();

	if (device_id < 0)
		return CUDA_ERROR_INVALID_CONTEXT;
	return pool_take(dptr, bytesize, current_pool(device_id), hStream, __builtin_return_address(0));
}

SIM_EXPORT CUresult cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream)
{
	return pool_take(dptr, bytesize, pool, hStream, __builtin_return_address(0));
}

SIM_EXPORT CUresult cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
	observe_stream(hStream);
	return memory_free(dptr, __builtin_return_address(0));
}

SIM_EXPORT CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev)
{
	if (!pool_out || !device_of(dev))
		return CUDA_ERROR_INVALID_VALUE;
	*pool_out = default_pool(dev);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev)
{
	if (!pool || !device_of(dev))
		return CUDA_ERROR_INVALID_VALUE;
	*pool = current_pool(dev);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool)
{
	if (!pool || !device_of(dev) || pool->device_id != dev)
		return CUDA_ERROR_INVALID_VALUE;
	current_pools[dev] = pool;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
	CUmemoryPool made;

	if (!pool || !poolProps || poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE || !device_of(poolProps->location.id))
		return CUDA_ERROR_INVALID_VALUE;
	made = calloc(1, sizeof(*made));
	if (!made)
		return CUDA_ERROR_OUT_OF_MEMORY;
	made->device_id = poolProps->location.id;
	observe_pool_event("pool_create", made, 0);
	*pool = made;
	return CUDA_SUCCESS;
}

/* What is still given out stays so: a pool with memory in use is never freed. */
SIM_EXPORT CUresult cuMemPoolDestroy(CUmemoryPool pool)
{
	bool unused;

	if (!pool || pool == default_pool(pool->device_id))
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&driver_lock);
	observe_pool_event("pool_destroy", pool, 0);
	pool->threshold_bytes = 0;
	pool_trim(pool, 0, __builtin_return_address(0));
	if (current_pools[pool->device_id] == pool)
		current_pools[pool->device_id] = NULL;
	unused = !pool->used_bytes;
	pthread_mutex_unlock(&driver_lock);
	if (unused)
		free(pool);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep)
{
	pthread_mutex_lock(&driver_lock);
	observe_pool_event("pool_trim", pool, minBytesToKeep);
	pool_trim(pool, minBytesToKeep, __builtin_return_address(0));
	pthread_mutex_unlock(&driver_lock);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count)
{
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
	CUresult result = CUDA_SUCCESS;

	pthread_mutex_lock(&driver_lock);
	switch (attr) {
	case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
		pool->threshold_bytes = *(const uint64_t *)value;
		break;
	case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
		pool->used_high_bytes = pool->used_bytes;
		break;
	case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
		pool->reserved_high_bytes = pool->reserved_bytes;
		break;
	case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
	case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
	case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
		break;
	default:
		sim_unimplemented("this attribute of cuMemPoolSetAttribute");
		result = CUDA_ERROR_NOT_SUPPORTED;
	}
	pthread_mutex_unlock(&driver_lock);
	return result;
}

SIM_EXPORT CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
	CUresult result = CUDA_SUCCESS;

	pthread_mutex_lock(&driver_lock);
	switch (attr) {
	case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
		*(uint64_t *)value = pool->threshold_bytes;
		break;
	case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
		*(uint64_t *)value = pool->used_bytes;
		break;
	case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
		*(uint64_t *)value = pool->used_high_bytes;
		break;
	case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
		*(uint64_t *)value = pool->reserved_bytes;
		break;
	case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
		*(uint64_t *)value = pool->reserved_high_bytes;
		break;
	default:
		sim_unimplemented("this attribute of cuMemPoolGetAttribute");
		result = CUDA_ERROR_NOT_SUPPORTED;
	}
	pthread_mutex_unlock(&driver_lock);
	return result;
}

/* Graphs allocate nothing. */
SIM_EXPORT CUresult cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
	*(uint64_t *)value = 0;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
	return CUDA_SUCCESS;
}
