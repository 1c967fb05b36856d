/*
 * Device memory of the simulated driver, however a program asks for it: linear, managed, pitched, arrays, other processes'.
 * Pools are in driver_pool.c, virtual memory management is in driver_vmm.c.
 *
 * Device memory is first fit in whole granules.  It is host memory that costs nothing until somebody writes to it: only
 * copies and fills do.  A freed range faults.  Small requests do not share granules, as real ones may.  Managed memory is on
 * the device for good, an array is known by its address, and memory of another process has none of its contents.
 */
#include "driver.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PITCH_BYTES ((size_t)512) /* rows begin at its multiples */

/* What the log calls the beginning and the end of each kind. */
static const struct {
	const char *taken, *given_back;
} events[] = {
        [MEMORY_LINEAR] = {"alloc", "free"},           [MEMORY_MANAGED] = {"managed_alloc", "managed_free"},
        [MEMORY_POOLED] = {"pool_alloc", "pool_free"}, [MEMORY_ARRAY] = {"array_alloc", "array_free"},
        [MEMORY_IMPORTED] = {"ipc_open", "ipc_close"},
};

static uint64_t nr_attempts; /* to allocate device memory */

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

size_t memory_granules(size_t size_bytes)
{
	return (size_bytes + SIM_GRANULE_BYTES - 1) & ~(SIM_GRANULE_BYTES - 1);
}

CUresult memory_place(const struct range *wanted, size_t budget_bytes, const void *caller, uintptr_t *ret_address)
{
	struct device *device = device_of(wanted->device_id);
	size_t reserved_bytes = memory_granules(wanted->size_bytes);
	struct range **link, *range;
	uintptr_t address;

	if (reserved_bytes < wanted->size_bytes || budget_bytes > device->memory_bytes - device->used_bytes)
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
	*range = *wanted;
	range->next = *link;
	range->address = address;
	range->reserved_bytes = reserved_bytes;
	range->budget_bytes = budget_bytes;
	*link = range;
	device->used_bytes += budget_bytes;
	log_event(events[range->kind].taken, range->device_id, address, range->size_bytes, caller);
	*ret_address = address;
	return CUDA_SUCCESS;
}

/* Memory of @kind on the current device, charged to it in whole granules. */
static CUresult memory_take(enum memory_kind kind, size_t size_bytes, const void *caller, uintptr_t *ret_address)
{
	const struct range wanted = {.device_id = device_current(), .size_bytes = size_bytes, .kind = kind};
	CUresult result = CUDA_ERROR_OUT_OF_MEMORY;

	if (!size_bytes)
		return CUDA_ERROR_INVALID_VALUE;
	if (wanted.device_id < 0)
		return CUDA_ERROR_INVALID_CONTEXT;
	if (capture_forbids())
		return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	pthread_mutex_lock(&driver_lock);
	if (!memory_fails_now())
		result = memory_place(&wanted, memory_granules(size_bytes), caller, ret_address);
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

void memory_remove(struct range *range, const void *caller)
{
	struct range **link = memory_link(range->address);

	*link = range->next;
	mmap((void *)range->address, range->reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
	     -1, 0);
	device_of(range->device_id)->used_bytes -= range->budget_bytes;
	log_event(events[range->kind].given_back, range->device_id, range->address, range->size_bytes, caller);
	free(range);
}

/* Take back what begins at @address and is of one of @kinds, a set of bits. */
static CUresult memory_give_back(unsigned kinds, uintptr_t address, const void *caller)
{
	CUresult result = CUDA_ERROR_INVALID_VALUE;
	struct range *range;

	pthread_mutex_lock(&driver_lock);
	range = memory_find(address);
	if (range && range->address == address && (kinds & 1u << range->kind)) {
		if (range->kind == MEMORY_POOLED)
			pool_remove(range, caller);
		else
			memory_remove(range, caller);
		result = CUDA_SUCCESS;
	}
	pthread_mutex_unlock(&driver_lock);
	return result;
}

/* Linear memory ------------------------------------------------------------------------------------------------------ */

SIM_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
	uintptr_t address;
	CUresult result;

	if (!dptr)
		return CUDA_ERROR_INVALID_VALUE;
	result = memory_take(MEMORY_LINEAR, bytesize, __builtin_return_address(0), &address);
	if (result == CUDA_SUCCESS)
		*dptr = address;
	return result;
}

SIM_EXPORT CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
	uintptr_t address;
	CUresult result;

	if (!dptr || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
		return CUDA_ERROR_INVALID_VALUE;
	result = memory_take(MEMORY_MANAGED, bytesize, __builtin_return_address(0), &address);
	if (result == CUDA_SUCCESS)
		*dptr = address;
	return result;
}

SIM_EXPORT CUresult cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height,
                                       unsigned int ElementSizeBytes)
{
	size_t pitch = (WidthInBytes + PITCH_BYTES - 1) & ~(PITCH_BYTES - 1), size_bytes;
	uintptr_t address;
	CUresult result;

	if (!dptr || !pPitch || pitch < WidthInBytes || __builtin_mul_overflow(pitch, Height, &size_bytes))
		return CUDA_ERROR_INVALID_VALUE;
	result = memory_take(MEMORY_LINEAR, size_bytes, __builtin_return_address(0), &address);
	if (result == CUDA_SUCCESS) {
		*dptr = address;
		*pPitch = pitch;
	}
	return result;
}

CUresult memory_free(uintptr_t address, const void *caller)
{
	const unsigned kinds = 1u << MEMORY_LINEAR | 1u << MEMORY_MANAGED | 1u << MEMORY_POOLED;

	return address ? memory_give_back(kinds, address, caller) : CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemFree_v2(CUdeviceptr dptr)
{
	return memory_free(dptr, __builtin_return_address(0));
}

/* Arrays: as large as their elements --------------------------------------------------------------------------------- */

static size_t element_bytes(CUarray_format format, unsigned nr_channels)
{
	switch (format) {
	case CU_AD_FORMAT_UNSIGNED_INT8:
	case CU_AD_FORMAT_SIGNED_INT8:
		return nr_channels;
	case CU_AD_FORMAT_UNSIGNED_INT16:
	case CU_AD_FORMAT_SIGNED_INT16:
	case CU_AD_FORMAT_HALF:
		return (size_t)2 * nr_channels;
	case CU_AD_FORMAT_UNSIGNED_INT32:
	case CU_AD_FORMAT_SIGNED_INT32:
	case CU_AD_FORMAT_FLOAT:
		return (size_t)4 * nr_channels;
	default:
		sim_unimplemented("arrays of this format");
		return 0;
	}
}

static size_t at_least_1(size_t value)
{
	return value ? value : 1;
}

/* An array of @levels, each half as wide, high and deep as the one before. */
static CUresult array_create(void **ret_array, const CUDA_ARRAY3D_DESCRIPTOR *descriptor, unsigned levels, const void *caller)
{
	size_t size_bytes = 0;
	uintptr_t address;
	CUresult result;

	for (unsigned level = 0; level < levels; level++) {
		size_bytes += at_least_1(descriptor->Width >> level) * at_least_1(descriptor->Height >> level) *
		              at_least_1(descriptor->Depth >> level) * element_bytes(descriptor->Format, descriptor->NumChannels);
	}
	result = memory_take(MEMORY_ARRAY, descriptor->Width ? size_bytes : 0, caller, &address);
	if (result == CUDA_SUCCESS)
		*ret_array = (void *)address;
	return result;
}

SIM_EXPORT CUresult cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray)
{
	CUDA_ARRAY3D_DESCRIPTOR descriptor;

	if (!pHandle || !pAllocateArray)
		return CUDA_ERROR_INVALID_VALUE;
	descriptor = (CUDA_ARRAY3D_DESCRIPTOR){
	        .Width = pAllocateArray->Width,
	        .Height = pAllocateArray->Height,
	        .Format = pAllocateArray->Format,
	        .NumChannels = pAllocateArray->NumChannels,
	};
	return array_create((void **)pHandle, &descriptor, 1, __builtin_return_address(0));
}

SIM_EXPORT CUresult cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray)
{
	if (!pHandle || !pAllocateArray)
		return CUDA_ERROR_INVALID_VALUE;
	return array_create((void **)pHandle, pAllocateArray, 1, __builtin_return_address(0));
}

SIM_EXPORT CUresult cuMipmappedArrayCreate(CUmipmappedArray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
                                           unsigned int numMipmapLevels)
{
	if (!pHandle || !pMipmappedArrayDesc || !numMipmapLevels || numMipmapLevels > 32)
		return CUDA_ERROR_INVALID_VALUE;
	return array_create((void **)pHandle, pMipmappedArrayDesc, numMipmapLevels, __builtin_return_address(0));
}

SIM_EXPORT CUresult cuArrayDestroy(CUarray hArray)
{
	return memory_give_back(1u << MEMORY_ARRAY, (uintptr_t)hArray, __builtin_return_address(0));
}

SIM_EXPORT CUresult cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray)
{
	return memory_give_back(1u << MEMORY_ARRAY, (uintptr_t)hMipmappedArray, __builtin_return_address(0));
}

/* Memory of another process ------------------------------------------------------------------------------------------ */

/* What a handle holds. */
struct ipc_handle {
	int64_t pid; /* of the owner */
	uint64_t size_bytes;
	int device_id;
};
_Static_assert(sizeof(struct ipc_handle) <= sizeof(CUipcMemHandle), "a handle has room for it");

SIM_EXPORT CUresult cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr)
{
	struct ipc_handle handle = {.pid = getpid()};
	struct range *range;

	pthread_mutex_lock(&driver_lock);
	range = memory_find(dptr);
	if (range) {
		handle.size_bytes = range->size_bytes;
		handle.device_id = range->device_id;
	}
	pthread_mutex_unlock(&driver_lock);
	if (!pHandle || !range || range->kind != MEMORY_LINEAR)
		return CUDA_ERROR_INVALID_VALUE;
	memset(pHandle, 0, sizeof(*pHandle));
	memcpy(pHandle, &handle, sizeof(handle));
	return CUDA_SUCCESS;
}

/* The memory is charged to its owner alone. */
SIM_EXPORT CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
	struct ipc_handle known;
	struct range wanted = {.kind = MEMORY_IMPORTED};
	uintptr_t address;
	CUresult result;

	memcpy(&known, &handle, sizeof(known));
	if (!pdptr || !known.size_bytes || !device_of(known.device_id))
		return CUDA_ERROR_INVALID_VALUE;
	if (known.pid == getpid())
		return CUDA_ERROR_INVALID_CONTEXT;
	wanted.device_id = known.device_id;
	wanted.size_bytes = known.size_bytes;
	pthread_mutex_lock(&driver_lock);
	result = memory_place(&wanted, 0, __builtin_return_address(0), &address);
	pthread_mutex_unlock(&driver_lock);
	if (result == CUDA_SUCCESS)
		*pdptr = address;
	return result;
}

SIM_EXPORT CUresult cuIpcCloseMemHandle(CUdeviceptr dptr)
{
	return memory_give_back(1u << MEMORY_IMPORTED, dptr, __builtin_return_address(0));
}

/* Questions ---------------------------------------------------------------------------------------------------------- */

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
