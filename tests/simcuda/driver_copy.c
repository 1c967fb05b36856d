/*
 * Copies and fills of the simulated driver, and questions about addresses.
 */
#include "driver.h"

#include <string.h>
#include <sys/mman.h>

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
