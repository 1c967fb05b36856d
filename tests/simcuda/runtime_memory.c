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

SIM_EXPORT cudaError_t cudaMallocManaged(void **devPtr, size_t size, unsigned int flags)
{
	return runtime_result(runtime_enter()->cuMemAllocManaged((CUdeviceptr *)devPtr, size, flags));
}

SIM_EXPORT cudaError_t cudaMallocPitch(void **devPtr, size_t *pitch, size_t width, size_t height)
{
	return runtime_result(runtime_enter()->cuMemAllocPitch_v2((CUdeviceptr *)devPtr, pitch, width, height, 4));
}

SIM_EXPORT cudaError_t cudaMalloc3D(struct cudaPitchedPtr *pitchedDevPtr, struct cudaExtent extent)
{
	CUdeviceptr address;
	size_t pitch;
	CUresult result;

	if (!pitchedDevPtr)
		return runtime_error(cudaErrorInvalidValue);
	result = runtime_enter()->cuMemAllocPitch_v2(&address, &pitch, extent.width, extent.height * extent.depth, 4);
	if (result == CUDA_SUCCESS)
		*pitchedDevPtr = (struct cudaPitchedPtr){(void *)address, pitch, extent.width, extent.height};
	return runtime_result(result);
}

/* Arrays ------------------------------------------------------------------------------------------------------------- */

/* Of channels of one size, 8, 16 or 32 bits, as all are that there are. */
static CUDA_ARRAY3D_DESCRIPTOR array_descriptor(const struct cudaChannelFormatDesc *desc, struct cudaExtent extent)
{
	const int bits[] = {desc->x, desc->y, desc->z, desc->w};
	CUDA_ARRAY3D_DESCRIPTOR descriptor = {.Width = extent.width, .Height = extent.height, .Depth = extent.depth};

	descriptor.Format = desc->x == 8    ? CU_AD_FORMAT_UNSIGNED_INT8
	                    : desc->x == 16 ? CU_AD_FORMAT_UNSIGNED_INT16
	                                    : CU_AD_FORMAT_FLOAT;
	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
		descriptor.NumChannels += bits[i] != 0;
	return descriptor;
}

SIM_EXPORT cudaError_t cudaMalloc3DArray(cudaArray_t *array, const struct cudaChannelFormatDesc *desc, struct cudaExtent extent,
                                         unsigned int flags)
{
	CUDA_ARRAY3D_DESCRIPTOR descriptor;

	if (!array || !desc)
		return runtime_error(cudaErrorInvalidValue);
	descriptor = array_descriptor(desc, extent);
	return runtime_result(runtime_enter()->cuArray3DCreate_v2((CUarray *)array, &descriptor));
}

SIM_EXPORT cudaError_t cudaMallocArray(cudaArray_t *array, const struct cudaChannelFormatDesc *desc, size_t width, size_t height,
                                       unsigned int flags)
{
	return cudaMalloc3DArray(array, desc, (struct cudaExtent){width, height, 0}, flags);
}

SIM_EXPORT cudaError_t cudaMallocMipmappedArray(cudaMipmappedArray_t *mipmappedArray, const struct cudaChannelFormatDesc *desc,
                                                struct cudaExtent extent, unsigned int numLevels, unsigned int flags)
{
	CUDA_ARRAY3D_DESCRIPTOR descriptor;

	if (!mipmappedArray || !desc)
		return runtime_error(cudaErrorInvalidValue);
	descriptor = array_descriptor(desc, extent);
	return runtime_result(
	        runtime_enter()->cuMipmappedArrayCreate((CUmipmappedArray *)mipmappedArray, &descriptor, numLevels));
}

SIM_EXPORT cudaError_t cudaFreeArray(cudaArray_t array)
{
	return array ? runtime_result(runtime_enter()->cuArrayDestroy((CUarray)array)) : cudaSuccess;
}

SIM_EXPORT cudaError_t cudaFreeMipmappedArray(cudaMipmappedArray_t mipmappedArray)
{
	const struct runtime_driver *d = runtime_enter();

	return mipmappedArray ? runtime_result(d->cuMipmappedArrayDestroy((CUmipmappedArray)mipmappedArray)) : cudaSuccess;
}

/* Pools -------------------------------------------------------------------------------------------------------------- */

SIM_EXPORT cudaError_t cudaMallocAsync(void **devPtr, size_t size, cudaStream_t hStream)
{
	return runtime_result(runtime_enter()->cuMemAllocAsync((CUdeviceptr *)devPtr, size, hStream));
}

SIM_EXPORT cudaError_t cudaMallocFromPoolAsync(void **ptr, size_t size, cudaMemPool_t memPool, cudaStream_t stream)
{
	return runtime_result(runtime_enter()->cuMemAllocFromPoolAsync((CUdeviceptr *)ptr, size, memPool, stream));
}

SIM_EXPORT cudaError_t cudaFreeAsync(void *devPtr, cudaStream_t hStream)
{
	return runtime_result(runtime_enter()->cuMemFreeAsync((CUdeviceptr)devPtr, hStream));
}

/* What programs call that are compiled with a default stream for each thread. */
cudaError_t cudaMallocAsync_ptsz(void **devPtr, size_t size, cudaStream_t hStream);
cudaError_t cudaMallocFromPoolAsync_ptsz(void **ptr, size_t size, cudaMemPool_t memPool, cudaStream_t stream);
cudaError_t cudaFreeAsync_ptsz(void *devPtr, cudaStream_t hStream);

SIM_EXPORT cudaError_t cudaMallocAsync_ptsz(void **devPtr, size_t size, cudaStream_t hStream)
{
	return cudaMallocAsync(devPtr, size, hStream);
}

SIM_EXPORT cudaError_t cudaMallocFromPoolAsync_ptsz(void **ptr, size_t size, cudaMemPool_t memPool, cudaStream_t stream)
{
	return cudaMallocFromPoolAsync(ptr, size, memPool, stream);
}

SIM_EXPORT cudaError_t cudaFreeAsync_ptsz(void *devPtr, cudaStream_t hStream)
{
	return cudaFreeAsync(devPtr, hStream);
}

SIM_EXPORT cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *memPool, int device)
{
	return runtime_result(runtime_enter()->cuDeviceGetDefaultMemPool(memPool, device));
}

/* The two structures have one layout. */
_Static_assert(sizeof(struct cudaMemPoolProps) == sizeof(CUmemPoolProps), "the same layout");

SIM_EXPORT cudaError_t cudaMemPoolCreate(cudaMemPool_t *memPool, const struct cudaMemPoolProps *poolProps)
{
	return runtime_result(runtime_enter()->cuMemPoolCreate(memPool, (const CUmemPoolProps *)poolProps));
}

SIM_EXPORT cudaError_t cudaMemPoolDestroy(cudaMemPool_t memPool)
{
	return runtime_result(runtime_enter()->cuMemPoolDestroy(memPool));
}

SIM_EXPORT cudaError_t cudaMemPoolTrimTo(cudaMemPool_t memPool, size_t minBytesToKeep)
{
	return runtime_result(runtime_enter()->cuMemPoolTrimTo(memPool, minBytesToKeep));
}

SIM_EXPORT cudaError_t cudaMemPoolSetAccess(cudaMemPool_t memPool, const struct cudaMemAccessDesc *descList, size_t count)
{
	return runtime_result(runtime_enter()->cuMemPoolSetAccess(memPool, (const CUmemAccessDesc *)descList, count));
}

SIM_EXPORT cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t memPool, enum cudaMemPoolAttr attr, void *value)
{
	return runtime_result(runtime_enter()->cuMemPoolSetAttribute(memPool, (CUmemPool_attribute)attr, value));
}

SIM_EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t memPool, enum cudaMemPoolAttr attr, void *value)
{
	return runtime_result(runtime_enter()->cuMemPoolGetAttribute(memPool, (CUmemPool_attribute)attr, value));
}

SIM_EXPORT cudaError_t cudaDeviceGetGraphMemAttribute(int device, enum cudaGraphMemAttributeType attr, void *value)
{
	return runtime_result(runtime_enter()->cuDeviceGetGraphMemAttribute(device, (CUgraphMem_attribute)attr, value));
}

SIM_EXPORT cudaError_t cudaDeviceSetGraphMemAttribute(int device, enum cudaGraphMemAttributeType attr, void *value)
{
	return runtime_result(runtime_enter()->cuDeviceSetGraphMemAttribute(device, (CUgraphMem_attribute)attr, value));
}

/* Memory of another process ------------------------------------------------------------------------------------------ */

SIM_EXPORT cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *devPtr)
{
	return runtime_result(runtime_enter()->cuIpcGetMemHandle((CUipcMemHandle *)handle, (CUdeviceptr)devPtr));
}

SIM_EXPORT cudaError_t cudaIpcOpenMemHandle(void **devPtr, cudaIpcMemHandle_t handle, unsigned int flags)
{
	CUipcMemHandle same;

	memcpy(&same, &handle, sizeof(same));
	return runtime_result(runtime_enter()->cuIpcOpenMemHandle_v2((CUdeviceptr *)devPtr, same, flags));
}

SIM_EXPORT cudaError_t cudaIpcCloseMemHandle(void *devPtr)
{
	return runtime_result(runtime_enter()->cuIpcCloseMemHandle((CUdeviceptr)devPtr));
}

/* Pinned memory, copies, fills and questions ------------------------------------------------------------------------- */

SIM_EXPORT cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
	return runtime_result(runtime_enter()->cuMemGetInfo_v2(free, total));
}

SIM_EXPORT cudaError_t cudaHostAlloc(void **pHost, size_t size, unsigned int flags)
{
	return runtime_result(runtime_enter()->cuMemHostAlloc(pHost, size, flags));
}

SIM_EXPORT cudaError_t cudaMallocHost(void **ptr, size_t size)
{
	return runtime_result(runtime_enter()->cuMemAllocHost_v2(ptr, size));
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
	return runtime_result(runtime_enter()->cuMemcpyAsync((CUdeviceptr)dst, (CUdeviceptr)src, count, stream));
}

SIM_EXPORT cudaError_t cudaMemcpyPeerAsync(void *dst, int dstDevice, const void *src, int srcDevice, size_t count,
                                           cudaStream_t stream)
{
	return cudaMemcpyAsync(dst, src, count, cudaMemcpyDeviceToDevice, stream);
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
