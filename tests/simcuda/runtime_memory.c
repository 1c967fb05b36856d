/*
 * Memory of the simulated runtime.
 */
#include "runtime.h"

#include <string.h>

SIM_EXPORT cudaError_t cudaMalloc(void **devPtr, size_t size)
{
	CUdeviceptr address = 0;
	CUresult result;

	if (!devPtr)
		return runtime_error(cudaErrorInvalidValue);
	result = size ? runtime_enter()->cuMemAlloc_v2(&address, size) : CUDA_SUCCESS;
	if (result == CUDA_SUCCESS)
		*devPtr = (void *)address;
	return runtime_result(result);
}

SIM_EXPORT cudaError_t cudaFree(void *devPtr)
{
	return runtime_result(runtime_enter()->cuMemFree_v2((CUdeviceptr)devPtr));
}

SIM_EXPORT cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
	return runtime_result(runtime_enter()->cuMemGetInfo_v2(free, total));
}

SIM_EXPORT cudaError_t cudaHostAlloc(void **pHost, size_t size, unsigned int flags)
{
	return runtime_result(runtime_enter()->cuMemHostAlloc(pHost, size, flags));
}

SIM_EXPORT cudaError_t cudaFreeHost(void *ptr)
{
	return ptr ? runtime_result(runtime_enter()->cuMemFreeHost(ptr)) : cudaSuccess;
}

SIM_EXPORT cudaError_t cudaHostRegister(void *ptr, size_t size, unsigned int flags)
{
	return runtime_result(runtime_enter()->cuMemHostRegister_v2(ptr, size, flags));
}

SIM_EXPORT cudaError_t cudaHostUnregister(void *ptr)
{
	return runtime_result(runtime_enter()->cuMemHostUnregister(ptr));
}

SIM_EXPORT cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *ptr)
{
	const struct runtime_driver *d = runtime_enter();
	unsigned int type;
	int device_id = 0;

	memset(attributes, 0, sizeof(*attributes));
	if (d->cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)ptr) != CUDA_SUCCESS) {
		attributes->type = cudaMemoryTypeUnregistered;
		attributes->device = -2; /* as the real one says of memory that it does not know */
		attributes->hostPointer = (void *)ptr;
		return cudaSuccess;
	}
	d->cuPointerGetAttribute(&device_id, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, (CUdeviceptr)ptr);
	attributes->type = type == CU_MEMORYTYPE_DEVICE ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
	attributes->device = device_id;
	attributes->devicePointer = (void *)ptr;
	attributes->hostPointer = type == CU_MEMORYTYPE_DEVICE ? NULL : (void *)ptr;
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaMemcpy(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind)
{
	return runtime_result(runtime_enter()->cuMemcpy((CUdeviceptr)dst, (CUdeviceptr)src, count));
}

SIM_EXPORT cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind, cudaStream_t stream)
{
	return cudaMemcpy(dst, src, count, kind);
}

SIM_EXPORT cudaError_t cudaMemcpyPeerAsync(void *dst, int dstDevice, const void *src, int srcDevice, size_t count,
                                           cudaStream_t stream)
{
	return cudaMemcpy(dst, src, count, cudaMemcpyDeviceToDevice);
}

SIM_EXPORT cudaError_t cudaMemcpy2DAsync(void *dst, size_t dpitch, const void *src, size_t spitch, size_t width, size_t height,
                                         enum cudaMemcpyKind kind, cudaStream_t stream)
{
	for (size_t row = 0; row < height; row++)
		cudaMemcpy((char *)dst + row * dpitch, (const char *)src + row * spitch, width, kind);
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaMemsetAsync(void *devPtr, int value, size_t count, cudaStream_t stream)
{
	return runtime_result(runtime_enter()->cuMemsetD8Async((CUdeviceptr)devPtr, (unsigned char)value, count, stream));
}

SIM_EXPORT cudaError_t cudaMemset(void *devPtr, int value, size_t count)
{
	return cudaMemsetAsync(devPtr, value, count, NULL);
}

/* A symbol's memory is its shadow in the host's: memory of modules is not simulated. */
SIM_EXPORT cudaError_t cudaGetSymbolAddress(void **devPtr, const void *symbol)
{
	*devPtr = (void *)symbol;
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *src, size_t count, size_t offset,
                                          enum cudaMemcpyKind kind)
{
	memcpy((char *)symbol + offset, src, count);
	return cudaSuccess;
}
