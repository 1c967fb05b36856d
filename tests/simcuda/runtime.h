/*
 * The simulated runtime's own parts (libcudart.so.13): thin over the driver, as the real one is.
 *
 * Real: which driver call a runtime call makes, the thread's device, the last error.  Simulated: what lies under it.
 * The driver is bound at run time (sim_driver_function), never through imported names.
 */
#ifndef NNMEM_SIMCUDA_RUNTIME_H
#define NNMEM_SIMCUDA_RUNTIME_H

#include "sim.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

/* Every function of the driver that the runtime calls, by the name that the driver exports. */
#define RUNTIME_DRIVER_FUNCTIONS(F)                                                                                              \
	F(cuInit)                                                                                                                \
	F(cuDriverGetVersion)                                                                                                    \
	F(cuDeviceGetCount)                                                                                                      \
	F(cuDeviceGetName)                                                                                                       \
	F(cuDeviceTotalMem_v2)                                                                                                   \
	F(cuDeviceGetUuid_v2)                                                                                                    \
	F(cuDeviceGetPCIBusId)                                                                                                   \
	F(cuDeviceGetAttribute)                                                                                                  \
	F(cuDeviceCanAccessPeer)                                                                                                 \
	F(cuDevicePrimaryCtxRetain)                                                                                              \
	F(cuCtxSetCurrent)                                                                                                       \
	F(cuCtxGetDevice)                                                                                                        \
	F(cuGetProcAddress_v2)                                                                                                   \
	F(cuMemAlloc_v2)                                                                                                         \
	F(cuMemAllocManaged)                                                                                                     \
	F(cuMemAllocPitch_v2)                                                                                                    \
	F(cuMemAllocHost_v2)                                                                                                     \
	F(cuArray3DCreate_v2)                                                                                                    \
	F(cuArrayDestroy)                                                                                                        \
	F(cuMipmappedArrayCreate)                                                                                                \
	F(cuMipmappedArrayDestroy)                                                                                               \
	F(cuIpcGetMemHandle)                                                                                                     \
	F(cuIpcOpenMemHandle_v2)                                                                                                 \
	F(cuIpcCloseMemHandle)                                                                                                   \
	F(cuMemAllocAsync)                                                                                                       \
	F(cuMemAllocFromPoolAsync)                                                                                               \
	F(cuMemFreeAsync)                                                                                                        \
	F(cuDeviceGetDefaultMemPool)                                                                                             \
	F(cuDeviceGetGraphMemAttribute)                                                                                          \
	F(cuDeviceSetGraphMemAttribute)                                                                                          \
	F(cuMemPoolCreate)                                                                                                       \
	F(cuMemPoolDestroy)                                                                                                      \
	F(cuMemPoolTrimTo)                                                                                                       \
	F(cuMemPoolSetAccess)                                                                                                    \
	F(cuMemPoolSetAttribute)                                                                                                 \
	F(cuMemPoolGetAttribute)                                                                                                 \
	F(cuMemFree_v2)                                                                                                          \
	F(cuMemGetInfo_v2)                                                                                                       \
	F(cuMemHostAlloc)                                                                                                        \
	F(cuMemFreeHost)                                                                                                         \
	F(cuMemHostRegister_v2)                                                                                                  \
	F(cuMemHostUnregister)                                                                                                   \
	F(cuMemcpyAsync)                                                                                                         \
	F(cuMemcpy)                                                                                                              \
	F(cuMemsetD8Async)                                                                                                       \
	F(cuPointerGetAttribute)                                                                                                 \
	F(cuThreadExchangeStreamCaptureMode)                                                                                     \
	F(cuStreamBeginCapture_v2)                                                                                               \
	F(cuStreamEndCapture)                                                                                                    \
	F(cuStreamIsCapturing)                                                                                                   \
	F(cuStreamGetCaptureInfo_v3)                                                                                             \
	F(cuLaunchKernel)                                                                                                        \
	F(cuGraphGetNodes)                                                                                                       \
	F(cuGraphDestroy)                                                                                                        \
	F(cuGraphInstantiateWithFlags)                                                                                           \
	F(cuGraphLaunch)                                                                                                         \
	F(cuGraphExecDestroy)                                                                                                    \
	F(cuUserObjectCreate)                                                                                                    \
	F(cuUserObjectRelease)                                                                                                   \
	F(cuGraphRetainUserObject)                                                                                               \
	F(cuStreamCreateWithPriority)                                                                                            \
	F(cuStreamDestroy_v2)                                                                                                    \
	F(cuStreamGetPriority)                                                                                                   \
	F(cuStreamQuery)                                                                                                         \
	F(cuStreamSynchronize)                                                                                                   \
	F(cuStreamWaitEvent)                                                                                                     \
	F(cuLaunchHostFunc)                                                                                                      \
	F(cuEventCreate)                                                                                                         \
	F(cuEventDestroy_v2)                                                                                                     \
	F(cuEventRecordWithFlags)                                                                                                \
	F(cuEventQuery)                                                                                                          \
	F(cuEventSynchronize)                                                                                                    \
	F(cuEventElapsedTime_v2)

struct runtime_driver {
#define F(name) __typeof__(name) *name;
	RUNTIME_DRIVER_FUNCTIONS(F)
#undef F
};

/* The driver's functions, initialised; the calling thread has no context yet. */
const struct runtime_driver *runtime_driver(void);

/*
 * The driver's functions, with the context of the calling thread's device current on it.  Makes the context at first.
 */
const struct runtime_driver *runtime_enter(void);

/* The same for a given device, which becomes the thread's. */
cudaError_t runtime_set_device(int device_id);

/* The calling thread's device. */
int runtime_device(void);

/* The name of the kernel whose host function is @host, as it was registered. */
void runtime_kernel_add(const void *host, const char *name);
const char *runtime_kernel_name(const void *host);

/* Remember @error for cudaGetLastError(), unless it is none, and pass it on. */
cudaError_t runtime_result(CUresult result);
cudaError_t runtime_error(cudaError_t error);

#endif
