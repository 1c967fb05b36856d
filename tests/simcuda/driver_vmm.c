/*
 * Virtual memory management of the simulated driver: physical memory by handle, addresses, and the mapping of one to the other.
 *
 * All physical memory of a process is one sparse file in memory, in which a handle is a place that is never used twice.  It is
 * given back when nobody holds the handle and nothing maps it.
 */
#define _GNU_SOURCE /* memfd_create, fallocate */
#include "driver.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct physical {
	off_t offset; /* in the file */
	size_t size_bytes;
	int device_id;
	int nr_users; /* the handle, and each mapping */
};

/* A piece of addresses that is mapped; a piece is unmapped as a whole. */
struct mapping {
	struct mapping *next;
	struct physical *physical;
	uintptr_t address;
	size_t size_bytes;
};

static int file = -1;
static off_t file_end;
static struct mapping *mappings;

static bool whole_granules(uintptr_t value)
{
	return value && value % SIM_GRANULE_BYTES == 0;
}

static void physical_drop(struct physical *physical, const void *caller)
{
	if (--physical->nr_users)
		return;
	if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, physical->offset, (off_t)physical->size_bytes))
		sim_die("cannot give memory back", "fallocate");
	device_of(physical->device_id)->used_bytes -= physical->size_bytes;
	log_event("release", physical->device_id, (uintptr_t)physical, physical->size_bytes, caller);
	free(physical);
}

bool vmm_find(uintptr_t address)
{
	for (struct mapping *mapping = mappings; mapping; mapping = mapping->next) {
		if (address >= mapping->address && address - mapping->address < mapping->size_bytes)
			return true;
	}
	return false;
}

static CUresult physical_create(struct device *device, int device_id, size_t size_bytes, struct physical **ret_physical)
{
	struct physical *physical;

	if (memory_fails_now() || size_bytes > device->memory_bytes - device->used_bytes)
		return CUDA_ERROR_OUT_OF_MEMORY;
	if (file < 0)
		file = memfd_create("simcuda", MFD_CLOEXEC);
	if (file < 0 || ftruncate(file, file_end + (off_t)size_bytes))
		return CUDA_ERROR_OUT_OF_MEMORY;
	physical = malloc(sizeof(*physical));
	if (!physical)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*physical = (struct physical){file_end, size_bytes, device_id, 1};
	file_end += (off_t)size_bytes;
	device->used_bytes += size_bytes;
	*ret_physical = physical;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                                  CUmemAllocationGranularity_flags option)
{
	*granularity = SIM_GRANULE_BYTES;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
                                unsigned long long flags)
{
	struct physical *physical;
	struct device *device;
	CUresult result;

	if (!handle || !prop || !whole_granules(size))
		return CUDA_ERROR_INVALID_VALUE;
	device = prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE ? device_of(prop->location.id) : NULL;
	/* Memory that may be exported later is made; the export itself is not simulated. */
	if (!device || (prop->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)) {
		sim_unimplemented("cuMemCreate on the host or for a fabric");
		return CUDA_ERROR_NOT_SUPPORTED;
	}
	pthread_mutex_lock(&driver_lock);
	result = physical_create(device, prop->location.id, size, &physical);
	if (result == CUDA_SUCCESS) {
		*handle = (uintptr_t)physical;
		log_event("create", prop->location.id, (uintptr_t)physical, size, __builtin_return_address(0));
	}
	pthread_mutex_unlock(&driver_lock);
	return result;
}

SIM_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
	pthread_mutex_lock(&driver_lock);
	physical_drop((struct physical *)(uintptr_t)handle, __builtin_return_address(0));
	pthread_mutex_unlock(&driver_lock);
	return CUDA_SUCCESS;
}

/* Addresses fault until something is mapped there. */
static void *fault(void *address, size_t size_bytes, int flags)
{
	return mmap(address, size_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

SIM_EXPORT CUresult cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr,
                                        unsigned long long flags)
{
	uintptr_t address, start;

	if (!ptr || !whole_granules(size) || alignment > SIM_GRANULE_BYTES)
		return CUDA_ERROR_INVALID_VALUE;
	address = (uintptr_t)fault(NULL, size + SIM_GRANULE_BYTES, 0);
	if (address == (uintptr_t)MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	start = (address + SIM_GRANULE_BYTES - 1) & ~(uintptr_t)(SIM_GRANULE_BYTES - 1);
	if (start > address)
		munmap((void *)address, start - address);
	munmap((void *)(start + size), address + SIM_GRANULE_BYTES - start);
	*ptr = start;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
	return munmap((void *)(uintptr_t)ptr, size) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                             unsigned long long flags)
{
	struct physical *physical = (struct physical *)(uintptr_t)handle;
	struct mapping *mapping;

	if (!whole_granules(ptr) || !whole_granules(size) || offset || size != physical->size_bytes)
		return CUDA_ERROR_INVALID_VALUE;
	mapping = malloc(sizeof(*mapping));
	if (!mapping)
		return CUDA_ERROR_OUT_OF_MEMORY;
	if (mmap((void *)(uintptr_t)ptr, size, PROT_NONE, MAP_SHARED | MAP_FIXED, file, physical->offset) == MAP_FAILED) {
		free(mapping);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	pthread_mutex_lock(&driver_lock);
	physical->nr_users++;
	*mapping = (struct mapping){mappings, physical, ptr, size};
	mappings = mapping;
	log_event("map", physical->device_id, ptr, size, __builtin_return_address(0));
	pthread_mutex_unlock(&driver_lock);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
	return mprotect((void *)(uintptr_t)ptr, size, PROT_READ | PROT_WRITE) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemUnmap(CUdeviceptr ptr, size_t size)
{
	struct mapping **link = &mappings, *mapping;
	size_t unmapped_bytes = 0;

	pthread_mutex_lock(&driver_lock);
	while ((mapping = *link)) {
		if (mapping->address < ptr || mapping->address - ptr >= size) {
			link = &mapping->next;
			continue;
		}
		*link = mapping->next;
		unmapped_bytes += mapping->size_bytes;
		fault((void *)mapping->address, mapping->size_bytes, MAP_FIXED);
		log_event("unmap", mapping->physical->device_id, mapping->address, mapping->size_bytes,
		          __builtin_return_address(0));
		physical_drop(mapping->physical, __builtin_return_address(0));
		free(mapping);
	}
	pthread_mutex_unlock(&driver_lock);
	return unmapped_bytes == size ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
