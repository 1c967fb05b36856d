/*
 * Devices, contexts, errors and entry points of the simulated driver.
 *
 * One profile: compute capability 8.0 with 108 multiprocessors.  A thread's context is a thread-local pointer; a device has
 * its primary context and no other.  cuGetExportTable, the way to the real driver's private interfaces, is refused, always.
 */
#include "driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRIVER_VERSION 13000

struct CUctx_st {
	int device_id;
};

pthread_mutex_t driver_lock = PTHREAD_MUTEX_INITIALIZER;
static struct device devices[SIM_MAX_DEVICES];
static int nr_devices = -1; /* before cuInit */
static __thread CUcontext current;

struct device *device_of(int device_id)
{
	return device_id >= 0 && device_id < nr_devices ? &devices[device_id] : NULL;
}

int device_count(void)
{
	return nr_devices < 0 ? 0 : nr_devices;
}

int device_current(void)
{
	return current ? current->device_id : -1;
}

SIM_EXPORT CUresult cuInit(unsigned int Flags)
{
	uint64_t wanted = sim_setting("SIMCUDA_DEVICES", 1);

	pthread_mutex_lock(&driver_lock);
	if (nr_devices < 0) {
		if (wanted > SIM_MAX_DEVICES)
			sim_die("too many", "SIMCUDA_DEVICES");
		nr_devices = (int)wanted;
		for (int i = 0; i < nr_devices; i++)
			devices[i].memory_bytes = sim_setting("SIMCUDA_MEMORY", (uint64_t)8 << 30);
	}
	pthread_mutex_unlock(&driver_lock);
	return nr_devices ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

SIM_EXPORT CUresult cuDriverGetVersion(int *driverVersion)
{
	*driverVersion = DRIVER_VERSION;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuDeviceGetCount(int *count)
{
	if (nr_devices < 0)
		return CUDA_ERROR_NOT_INITIALIZED;
	*count = nr_devices;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
	if (!device_of(ordinal))
		return CUDA_ERROR_INVALID_DEVICE;
	*device = ordinal;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuDeviceGetName(char *name, int len, CUdevice dev)
{
	if (!device_of(dev))
		return CUDA_ERROR_INVALID_DEVICE;
	snprintf(name, len, "simcuda (simulated, no GPU)");
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev)
{
	if (!device_of(dev))
		return CUDA_ERROR_INVALID_DEVICE;
	*bytes = devices[dev].memory_bytes;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev)
{
	if (!device_of(dev))
		return CUDA_ERROR_INVALID_DEVICE;
	memset(uuid, 0, sizeof(*uuid));
	memcpy(uuid->bytes, "simcuda", 7);
	uuid->bytes[15] = (char)dev;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev)
{
	if (!device_of(dev))
		return CUDA_ERROR_INVALID_DEVICE;
	snprintf(pciBusId, len, "0000:%02x:00.0", dev + 1);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuDeviceCanAccessPeer(int *canAccessPeer, CUdevice dev, CUdevice peerDev)
{
	if (!device_of(dev) || !device_of(peerDev))
		return CUDA_ERROR_INVALID_DEVICE;
	*canAccessPeer = dev != peerDev;
	return CUDA_SUCCESS;
}

/* What the profile says of each attribute that somebody asks for. */
static const struct attribute {
	CUdevice_attribute attribute;
	int value;
} attributes[] = {
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 0x7fffffff},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 166912},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 167936},
        {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1410000},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 108},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 8},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
        {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 40 << 20},
        {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120},
        {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1215000},
        {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
        {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
        {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
        {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
        {CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512},
        {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
        /* Absent on the simulated device. */
        {CU_DEVICE_ATTRIBUTE_INTEGRATED, 0},
        {CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED, 0},
        {CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED, 0},
        {CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 0},
        {CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED, 0},
        {CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED, 0},
        {CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 0},
        {CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS, 0},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, 0},
};

SIM_EXPORT CUresult cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
{
	char what[64];

	if (!device_of(dev))
		return CUDA_ERROR_INVALID_DEVICE;
	for (size_t i = 0; i < sizeof(attributes) / sizeof(attributes[0]); i++) {
		if (attributes[i].attribute == attrib) {
			*pi = attributes[i].value;
			return CUDA_SUCCESS;
		}
	}
	snprintf(what, sizeof(what), "attribute %d of cuDeviceGetAttribute", (int)attrib);
	sim_unimplemented(what);
	return CUDA_ERROR_NOT_SUPPORTED;
}

/* Contexts ----------------------------------------------------------------------------------------------------------- */

SIM_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
	struct device *device = device_of(dev);

	if (!device)
		return CUDA_ERROR_INVALID_DEVICE;
	pthread_mutex_lock(&driver_lock);
	if (!device->context) {
		device->context = calloc(1, sizeof(*device->context));
		if (!device->context)
			sim_die("no memory for", "a context");
		device->context->device_id = dev;
		memory_add_context(device, dev, __builtin_return_address(0));
		observe(&(const struct observed){.kind = OBSERVED_CONTEXT, .device_id = dev});
	}
	pthread_mutex_unlock(&driver_lock);
	*pctx = device->context;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
	if (!device_of(dev))
		return CUDA_ERROR_INVALID_DEVICE;
	*flags = 0;
	*active = device_of(dev)->context != NULL;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuCtxGetCurrent(CUcontext *pctx)
{
	*pctx = current;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuCtxSetCurrent(CUcontext ctx)
{
	current = ctx;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuCtxGetDevice(CUdevice *device)
{
	if (!current)
		return CUDA_ERROR_INVALID_CONTEXT;
	*device = current->device_id;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuCtxSynchronize(void)
{
	return current ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

/* Errors and entry points -------------------------------------------------------------------------------------------- */

SIM_EXPORT CUresult cuGetErrorName(CUresult error, const char **pStr)
{
	*pStr = error == CUDA_SUCCESS               ? "CUDA_SUCCESS"
	        : error == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
	                                            : "CUDA_ERROR";
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuGetErrorString(CUresult error, const char **pStr)
{
	*pStr = error == CUDA_SUCCESS               ? "no error"
	        : error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory"
	                                            : "error of the simulated driver";
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId)
{
	return CUDA_ERROR_NOT_SUPPORTED;
}

SIM_EXPORT CUresult cuLogsRegisterCallback(CUlogsCallback callbackFunc, void *userData, CUlogsCallbackHandle *callback_out)
{
	if (callback_out)
		*callback_out = NULL;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuLogsUnregisterCallback(CUlogsCallbackHandle callback)
{
	return CUDA_SUCCESS;
}

/* The newest form of a function is what a program that knows this driver's version means by its plain name. */
SIM_EXPORT CUresult cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                                        CUdriverProcAddressQueryResult *symbolStatus)
{
	static const char *const suffixes[] = {"_v3", "_v2", ""};
	void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
	char name[128];

	*pfn = NULL;
	for (size_t i = 0; self && !*pfn && i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		snprintf(name, sizeof(name), "%s%s", symbol, suffixes[i]);
		*pfn = dlsym(self, name);
	}
	if (symbolStatus)
		*symbolStatus = *pfn ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
	if (!*pfn)
		sim_unimplemented(symbol);
	return *pfn ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
