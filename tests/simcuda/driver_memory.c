/*
 * Memory of the simulated driver: device memory from cuMemAlloc, pinned memory, copies and fills, and questions about them.
 *
 * Device memory is first fit in whole granules.  It is host memory that costs nothing until somebody writes to it: only
 * copies and fills do.  A freed range faults.  Small requests do not share granules, as real ones may.
 */
#include "driver.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct range *host_ranges; /* pinned memory */
static uint64_t nr_attempts;      /* to allocate device memory */

bool memory_fails_now(void)
{
	return ++nr_attempts == sim_setting("SIMCUDA_FAIL_AT", 0);
}

/* A number that looks like chance and is the same for the same seed (splitmix64's finish). */
static uint64_t scramble(uint64_t value)
{
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
	value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
	return value ^ (value >> 31);
}

void memory_add_context(struct device *device, int device_id, const void *caller)
{
	uint64_t seed = sim_setting("SIMCUDA_SEED", 1);

	if (!seed)
		return;
	device->context_bytes = (64 + scramble(seed + device_id) % 448) << 20;
	if (device->context_bytes > device->memory_bytes / 4)
		device->context_bytes = device->memory_bytes / 4;
	device->used_bytes += device->context_bytes;
	log_event("context", device_id, 0, device->context_bytes, caller);
}

static bool window_reserve(struct device *device)
{
	void *window;

	if (device->window)
		return true;
	device->window_bytes = 2 * device->memory_bytes;
	window = mmap(NULL, device->window_bytes + SIM_GRANULE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
	              0);
	if (window == MAP_FAILED)
		return false;
	device->window = ((uintptr_t)window + SIM_GRANULE_BYTES - 1) & ~(uintptr_t)(SIM_GRANULE_BYTES - 1);
	return true;
}

/* The link after which @reserved_bytes are free, and their address; NULL when the window has no such gap. */
static struct range **window_gap(struct device *device, size_t reserved_bytes, uintptr_t *ret_address)
{
	struct range **link;
	uintptr_t address = device->window;

	for (link = &device->ranges; *link; link = &(*link)->next) {
		if ((*link)->address - address >= reserved_bytes)
			break;
		address = (*link)->address + (*link)->reserved_bytes;
	}
	if (!*link && device->window + device->window_bytes - address < reserved_bytes)
		return NULL;
	*ret_address = address;
	return link;
}

static CUresult memory_allocate(struct device *device, int device_id, size_t size_bytes, uintptr_t *ret_address)
{
	size_t reserved_bytes = (size_bytes + SIM_GRANULE_BYTES - 1) & ~(SIM_GRANULE_BYTES - 1);
	struct range **link, *range;
	uintptr_t address;

	if (memory_fails_now() || reserved_bytes < size_bytes || reserved_bytes > device->memory_bytes - device->used_bytes)
		return CUDA_ERROR_OUT_OF_MEMORY;
	if (!window_reserve(device))
		return CUDA_ERROR_OUT_OF_MEMORY;
	link = window_gap(device, reserved_bytes, &address);
	range = link ? malloc(sizeof(*range)) : NULL;
	if (!range)
		return CUDA_ERROR_OUT_OF_MEMORY;
	if (mmap((void *)address, reserved_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
	         -1, 0) == MAP_FAILED) {
		free(range);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	*range = (struct range){*link, address, size_bytes, reserved_bytes, device_id, false};
	*link = range;
	device->used_bytes += reserved_bytes;
	*ret_address = address;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
	int device_id = device_current();
	uintptr_t address;
	CUresult result;

	if (!dptr || !bytesize)
		return CUDA_ERROR_INVALID_VALUE;
	if (device_id < 0)
		return CUDA_ERROR_INVALID_CONTEXT;
	pthread_mutex_lock(&driver_lock);
	result = memory_allocate(device_of(device_id), device_id, bytesize, &address);
	if (result == CUDA_SUCCESS) {
		*dptr = address;
		log_event("alloc", device_id, address, bytesize, __builtin_return_address(0));
	}
	pthread_mutex_unlock(&driver_lock);
	return result;
}

static struct range **memory_link(uintptr_t address)
{
	for (int i = 0; i < device_count(); i++) {
		struct device *device = device_of(i);

		if (address < device->window || address - device->window >= device->window_bytes)
			continue;
		for (struct range **link = &device->ranges; *link; link = &(*link)->next) {
			if (address >= (*link)->address && address - (*link)->address < (*link)->reserved_bytes)
				return link;
		}
	}
	return NULL;
}

struct range *memory_find(uintptr_t address)
{
	struct range **link = memory_link(address);

	return link ? *link : NULL;
}

SIM_EXPORT CUresult cuMemFree_v2(CUdeviceptr dptr)
{
	struct range **link, *range;
	CUresult result = CUDA_ERROR_INVALID_VALUE;

	if (!dptr)
		return CUDA_SUCCESS;
	pthread_mutex_lock(&driver_lock);
	link = memory_link(dptr);
	if (link && (*link)->address == dptr) {
		range = *link;
		*link = range->next;
		mmap((void *)range->address, range->reserved_bytes, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
		device_of(range->device_id)->used_bytes -= range->reserved_bytes;
		log_event("free", range->device_id, range->address, range->size_bytes, __builtin_return_address(0));
		free(range);
		result = CUDA_SUCCESS;
	}
	pthread_mutex_unlock(&driver_lock);
	return result;
}

SIM_EXPORT CUresult cuMemGetInfo_v2(size_t *ret_free, size_t *total)
{
	struct device *device = device_of(device_current());

	if (!device)
		return CUDA_ERROR_INVALID_CONTEXT;
	pthread_mutex_lock(&driver_lock);
	*ret_free = device->memory_bytes - device->used_bytes;
	*total = device->memory_bytes;
	pthread_mutex_unlock(&driver_lock);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
	struct range *range;

	pthread_mutex_lock(&driver_lock);
	range = memory_find(dptr);
	if (range && pbase)
		*pbase = range->address;
	if (range && psize)
		*psize = range->size_bytes;
	pthread_mutex_unlock(&driver_lock);
	return range ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* Pinned memory ------------------------------------------------------------------------------------------------------ */

static CUresult host_add(void *address, size_t size_bytes, bool registered, const void *caller)
{
	struct range *range = malloc(sizeof(*range));

	if (!range)
		return CUDA_ERROR_OUT_OF_MEMORY;
	pthread_mutex_lock(&driver_lock);
	*range = (struct range){host_ranges, (uintptr_t)address, size_bytes, size_bytes, -1, registered};
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

SIM_EXPORT CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
	void *address;
	CUresult result;

	if (!pp || !bytesize)
		return CUDA_ERROR_INVALID_VALUE;
	address = mmap(NULL, bytesize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (address == MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = host_add(address, bytesize, false, __builtin_return_address(0));
	if (result == CUDA_SUCCESS)
		*pp = address;
	else
		munmap(address, bytesize);
	return result;
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

/* Copies and fills --------------------------------------------------------------------------------------------------- */

/*
 * A small copy from a device to the host gives zeros: it is a number that a kernel would have computed, and programs act on
 * such numbers.  Copies between devices are of memory that no kernel wrote, so that only what was copied in arrives.
 */
SIM_EXPORT CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
	bool from_device, to_device;

	pthread_mutex_lock(&driver_lock);
	from_device = memory_find(src) || vmm_find(src);
	to_device = memory_find(dst) || vmm_find(dst);
	pthread_mutex_unlock(&driver_lock);
	if (from_device && !to_device && ByteCount <= 8)
		memset((void *)dst, 0, ByteCount);
	else
		memmove((void *)dst, (const void *)src, ByteCount);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
	return cuMemcpy(dst, src, ByteCount);
}

/* Filling with zeros gives whole pages back instead: what costs nothing can be as large as a real device. */
SIM_EXPORT CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream)
{
	const uintptr_t page = 4096;
	uintptr_t first = (dstDevice + page - 1) & ~(page - 1);
	uintptr_t end = (dstDevice + N) & ~(page - 1);
	bool mapped;

	pthread_mutex_lock(&driver_lock);
	mapped = vmm_find(dstDevice);
	pthread_mutex_unlock(&driver_lock);
	if (uc || end <= first || madvise((void *)first, end - first, mapped ? MADV_REMOVE : MADV_DONTNEED)) {
		memset((void *)dstDevice, uc, N);
		return CUDA_SUCCESS;
	}
	memset((void *)dstDevice, 0, first - dstDevice);
	memset((void *)end, 0, dstDevice + N - end);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream)
{
	unsigned int *words = (unsigned int *)dstDevice;

	for (size_t i = 0; i < N; i++)
		words[i] = ui;
	return CUDA_SUCCESS;
}

/* Questions ---------------------------------------------------------------------------------------------------------- */

SIM_EXPORT CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
	struct range *range;
	bool on_device;
	int device_id;

	pthread_mutex_lock(&driver_lock);
	range = memory_find(ptr);
	on_device = range != NULL;
	if (!range)
		range = host_find(ptr);
	device_id = range ? range->device_id : -1;
	pthread_mutex_unlock(&driver_lock);
	if (!range)
		return CUDA_ERROR_INVALID_VALUE;
	switch (attribute) {
	case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
		*(unsigned int *)data = on_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
		*(int *)data = on_device ? device_id : 0;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
		*(CUdeviceptr *)data = ptr;
		return CUDA_SUCCESS;
	default:
		sim_unimplemented("this attribute of cuPointerGetAttribute");
		return CUDA_ERROR_NOT_SUPPORTED;
	}
}
