/*
 * Pinned host memory of the simulated driver: memory of the host that it allocated, or that somebody registered.
 */
#include "driver.h"

#include <stdlib.h>
#include <sys/mman.h>

static struct range *host_ranges;
static uint64_t nr_attempts; /* to allocate */

static bool host_fails_now(void)
{
	bool fails;

	pthread_mutex_lock(&driver_lock);
	fails = ++nr_attempts == sim_setting("SIMCUDA_FAIL_HOST_AT", 0);
	pthread_mutex_unlock(&driver_lock);
	return fails;
}

static CUresult host_add(void *address, size_t size_bytes, bool registered, const void *caller)
{
	struct range *range = malloc(sizeof(*range));

	if (!range)
		return CUDA_ERROR_OUT_OF_MEMORY;
	pthread_mutex_lock(&driver_lock);
	*range = (struct range){
	        .next = host_ranges,
	        .address = (uintptr_t)address,
	        .size_bytes = size_bytes,
	        .reserved_bytes = size_bytes,
	        .device_id = -1,
	        .registered = registered,
	};
	host_ranges = range;
	log_event(registered ? "host_register" : "host_alloc", -1, (uintptr_t)address, size_bytes, caller);
	pthread_mutex_unlock(&driver_lock);
	return CUDA_SUCCESS;
}

static CUresult host_remove(void *address, bool registered, const void *caller)
{
	struct range *range = NULL;

	pthread_mutex_lock(&driver_lock);
	for (struct range **link = &host_ranges; *link; link = &(*link)->next) {
		if ((*link)->address == (uintptr_t)address && (*link)->registered == registered) {
			range = *link;
			*link = range->next;
			break;
		}
	}
	if (range)
		log_event(registered ? "host_unregister" : "host_free", -1, range->address, range->size_bytes, caller);
	pthread_mutex_unlock(&driver_lock);
	if (!range)
		return CUDA_ERROR_INVALID_VALUE;
	if (!registered)
		munmap(address, range->size_bytes);
	free(range);
	return CUDA_SUCCESS;
}

struct range *host_find(uintptr_t address)
{
	for (struct range *range = host_ranges; range; range = range->next) {
		if (address >= range->address && address - range->address < range->size_bytes)
			return range;
	}
	return NULL;
}

static CUresult host_take(void **ret_address, size_t size_bytes, const void *caller)
{
	void *address;
	CUresult result;

	if (!ret_address || !size_bytes)
		return CUDA_ERROR_INVALID_VALUE;
	if (host_fails_now())
		return CUDA_ERROR_OUT_OF_MEMORY;
	address = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (address == MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = host_add(address, size_bytes, false, caller);
	if (result == CUDA_SUCCESS)
		*ret_address = address;
	else
		munmap(address, size_bytes);
	return result;
}

SIM_EXPORT CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
	return host_take(pp, bytesize, __builtin_return_address(0));
}

SIM_EXPORT CUresult cuMemAllocHost_v2(void **pp, size_t bytesize)
{
	return host_take(pp, bytesize, __builtin_return_address(0));
}

SIM_EXPORT CUresult cuMemFreeHost(void *p)
{
	return host_remove(p, false, __builtin_return_address(0));
}

SIM_EXPORT CUresult cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
	return p && bytesize ? host_add(p, bytesize, true, __builtin_return_address(0)) : CUDA_ERROR_INVALID_VALUE;
}

SIM_EXPORT CUresult cuMemHostUnregister(void *p)
{
	return host_remove(p, true, __builtin_return_address(0));
}
