/*
 * Copies and fills of the simulated driver, and questions about addresses.
 */
#include "driver.h"

#include <string.h>
#include <sys/mman.h>

/* Holds driver_lock. */
static enum observed_place place_of(CUdeviceptr address)
{
	const struct range *range = memory_find(address);

	if (range)
		return range->kind == MEMORY_MANAGED ? PLACE_MANAGED : PLACE_DEVICE;
	if (vmm_find(address))
		return PLACE_DEVICE;
	return host_find(address) ? PLACE_PINNED : PLACE_PAGEABLE;
}

/*
 * A small copy from a device to the host gives zeros: it is a number that a kernel would have computed, and programs act on
 * such numbers.  Copies between devices are of memory that no kernel wrote, so that only what was copied in arrives.
 */
static CUresult copy(CUdeviceptr dst, CUdeviceptr src, size_t size_bytes, bool async, CUstream stream)
{
	enum observed_place from, to;

	pthread_mutex_lock(&driver_lock);
	from = place_of(src);
	to = place_of(dst);
	pthread_mutex_unlock(&driver_lock);
	if (from >= PLACE_DEVICE && to < PLACE_DEVICE && size_bytes <= 8)
		memset((void *)dst, 0, size_bytes);
	else
		memmove((void *)dst, (const void *)src, size_bytes);
	observe(&(const struct observed){
	        .kind = OBSERVED_COPY,
	        .device_id = device_current(),
	        .address = dst,
	        .source = src,
	        .size_bytes = size_bytes,
	        .address_place = to,
	        .source_place = from,
	        .async = async,
	        .stream = stream,
	});
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
	return copy(dst, src, ByteCount, false, NULL);
}

SIM_EXPORT CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
	return copy(dst, src, ByteCount, true, hStream);
}

/* Holds driver_lock. */
static void observe_fill(CUdeviceptr address, uint32_t value, size_t size_bytes, CUstream stream)
{
	observe(&(const struct observed){
	        .kind = OBSERVED_FILL,
	        .device_id = device_current(),
	        .address = address,
	        .size_bytes = size_bytes,
	        .value = value,
	        .address_place = place_of(address),
	        .async = true,
	        .stream = stream,
	});
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
	observe_fill(dstDevice, uc, N, hStream);
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

	pthread_mutex_lock(&driver_lock);
	observe_fill(dstDevice, ui, N * sizeof(words[0]), hStream);
	pthread_mutex_unlock(&driver_lock);
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
