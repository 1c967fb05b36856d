/*
 * Devices, errors, versions and driver entry points of the simulated runtime.
 */
#include "runtime.h"

#include <cuda_profiler_api.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define RUNTIME_VERSION 13000

static struct runtime_driver driver;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static CUresult init_result;
static __thread int thread_device;
static __thread cudaError_t last_error;

static void bind(void)
{
#define F(name) driver.name = (__typeof__(driver.name))sim_driver_function(#name);
	RUNTIME_DRIVER_FUNCTIONS(F)
#undef F
	init_result = driver.cuInit(0);
}

const struct runtime_driver *runtime_driver(void)
{
	pthread_once(&once, bind);
	return &driver;
}

int runtime_device(void)
{
	return thread_device;
}

cudaError_t runtime_error(cudaError_t error)
{
	if (error != cudaSuccess)
		last_error = error;
	return error;
}

/* The two enumerations have the same numbers for everything that the simulated driver answers. */
_Static_assert((int)cudaErrorMemoryAllocation == (int)CUDA_ERROR_OUT_OF_MEMORY, "the same number");
_Static_assert((int)cudaErrorInvalidValue == (int)CUDA_ERROR_INVALID_VALUE, "the same number");
_Static_assert((int)cudaErrorNotReady == (int)CUDA_ERROR_NOT_READY, "the same number");
_Static_assert((int)cudaErrorNotSupported == (int)CUDA_ERROR_NOT_SUPPORTED, "the same number");
_Static_assert((int)cudaErrorNoDevice == (int)CUDA_ERROR_NO_DEVICE, "the same number");
_Static_assert((int)cudaErrorInvalidDevice == (int)CUDA_ERROR_INVALID_DEVICE, "the same number");

cudaError_t runtime_result(CUresult result)
{
	return runtime_error((cudaError_t)result);
}

cudaError_t runtime_set_device(int device_id)
{
	const struct runtime_driver *d = runtime_driver();
	CUcontext context;
	CUresult result;

	if (init_result != CUDA_SUCCESS)
		return runtime_result(init_result);
	result = d->cuDevicePrimaryCtxRetain(&context, device_id);
	if (result != CUDA_SUCCESS)
		return runtime_result(result);
	thread_device = device_id;
	return runtime_result(d->cuCtxSetCurrent(context));
}

const struct runtime_driver *runtime_enter(void)
{
	const struct runtime_driver *d = runtime_driver();
	CUdevice now;

	if (d->cuCtxGetDevice(&now) != CUDA_SUCCESS || now != thread_device)
		runtime_set_device(thread_device);
	return d;
}

SIM_EXPORT cudaError_t cudaSetDevice(int device)
{
	return runtime_set_device(device);
}

SIM_EXPORT cudaError_t cudaGetDevice(int *device)
{
	*device = thread_device;
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaGetDeviceCount(int *count)
{
	const struct runtime_driver *d = runtime_driver();

	*count = 0;
	return init_result == CUDA_SUCCESS ? runtime_result(d->cuDeviceGetCount(count)) : runtime_result(init_result);
}

SIM_EXPORT cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
	return runtime_result(runtime_driver()->cuDeviceGetAttribute(value, (CUdevice_attribute)attr, device));
}

SIM_EXPORT cudaError_t cudaDeviceGetPCIBusId(char *pciBusId, int len, int device)
{
	return runtime_result(runtime_driver()->cuDeviceGetPCIBusId(pciBusId, len, device));
}

SIM_EXPORT cudaError_t cudaDeviceCanAccessPeer(int *canAccessPeer, int device, int peerDevice)
{
	return runtime_result(runtime_driver()->cuDeviceCanAccessPeer(canAccessPeer, device, peerDevice));
}

SIM_EXPORT cudaError_t cudaDeviceEnablePeerAccess(int peerDevice, unsigned int flags)
{
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
	if (leastPriority)
		*leastPriority = 0;
	if (greatestPriority)
		*greatestPriority = -5;
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaDeviceSynchronize(void)
{
	runtime_enter();
	return cudaSuccess;
}

static int attribute(CUdevice_attribute attribute, int device)
{
	int value = 0;

	runtime_driver()->cuDeviceGetAttribute(&value, attribute, device);
	return value;
}

SIM_EXPORT cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
	const struct runtime_driver *d = runtime_driver();
	CUuuid uuid;
	CUresult result = d->cuDeviceGetUuid_v2(&uuid, device);

	if (result != CUDA_SUCCESS)
		return runtime_result(result);
	memset(prop, 0, sizeof(*prop));
	d->cuDeviceGetName(prop->name, sizeof(prop->name), device);
	d->cuDeviceTotalMem_v2(&prop->totalGlobalMem, device);
	memcpy(&prop->uuid, &uuid, sizeof(uuid));
	prop->major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
	prop->minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
	prop->multiProcessorCount = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
	prop->warpSize = attribute(CU_DEVICE_ATTRIBUTE_WARP_SIZE, device);
	prop->maxThreadsPerBlock = attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, device);
	prop->maxThreadsPerMultiProcessor = attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, device);
	prop->maxBlocksPerMultiProcessor = attribute(CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, device);
	prop->maxThreadsDim[0] = attribute(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, device);
	prop->maxThreadsDim[1] = attribute(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, device);
	prop->maxThreadsDim[2] = attribute(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, device);
	prop->maxGridSize[0] = attribute(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, device);
	prop->maxGridSize[1] = attribute(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, device);
	prop->maxGridSize[2] = attribute(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, device);
	prop->regsPerBlock = attribute(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, device);
	prop->regsPerMultiprocessor = attribute(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, device);
	prop->sharedMemPerBlock = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, device);
	prop->sharedMemPerBlockOptin = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device);
	prop->sharedMemPerMultiprocessor = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, device);
	prop->reservedSharedMemPerBlock = attribute(CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, device);
	prop->l2CacheSize = attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, device);
	prop->memoryBusWidth = attribute(CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, device);
	prop->textureAlignment = attribute(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, device);
	prop->concurrentKernels = attribute(CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, device);
	prop->unifiedAddressing = attribute(CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, device);
	prop->cooperativeLaunch = attribute(CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, device);
	prop->memoryPoolsSupported = attribute(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, device);
	prop->streamPrioritiesSupported = attribute(CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, device);
	prop->canMapHostMemory = attribute(CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, device);
	prop->pciBusID = device + 1;
	prop->totalConstMem = 65536;
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaDriverGetVersion(int *driverVersion)
{
	return runtime_result(runtime_driver()->cuDriverGetVersion(driverVersion));
}

SIM_EXPORT cudaError_t cudaRuntimeGetVersion(int *runtimeVersion)
{
	*runtimeVersion = RUNTIME_VERSION;
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaGetLastError(void)
{
	cudaError_t error = last_error;

	last_error = cudaSuccess;
	return error;
}

SIM_EXPORT cudaError_t cudaPeekAtLastError(void)
{
	return last_error;
}

SIM_EXPORT const char *cudaGetErrorName(cudaError_t error)
{
	switch (error) {
	case cudaSuccess:
		return "cudaSuccess";
	case cudaErrorInvalidValue:
		return "cudaErrorInvalidValue";
	case cudaErrorMemoryAllocation:
		return "cudaErrorMemoryAllocation";
	case cudaErrorNoDevice:
		return "cudaErrorNoDevice";
	case cudaErrorInvalidDevice:
		return "cudaErrorInvalidDevice";
	case cudaErrorNotReady:
		return "cudaErrorNotReady";
	case cudaErrorNotSupported:
		return "cudaErrorNotSupported";
	default:
		return "cudaErrorUnknown";
	}
}

SIM_EXPORT const char *cudaGetErrorString(cudaError_t error)
{
	switch (error) {
	case cudaSuccess:
		return "no error";
	case cudaErrorMemoryAllocation:
		return "out of memory";
	case cudaErrorNoDevice:
		return "no CUDA-capable device is detected";
	default:
		return cudaGetErrorName(error);
	}
}

SIM_EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **funcPtr, unsigned int cudaVersion,
                                                        unsigned long long flags,
                                                        enum cudaDriverEntryPointQueryResult *driverStatus)
{
	CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SUCCESS;

	runtime_driver()->cuGetProcAddress_v2(symbol, funcPtr, (int)cudaVersion, flags, &status);
	if (driverStatus)
		*driverStatus = (enum cudaDriverEntryPointQueryResult)status;
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaProfilerStart(void)
{
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaProfilerStop(void)
{
	return cudaSuccess;
}
