/*
 * Kernels of the simulated runtime: registered and launched, never run.
 *
 * The functions with two underscores are what nvcc's host code calls; they are declared here as the toolkit's
 * crt/host_runtime.h and crt/device_functions.h declare them for C++.
 */
#include "runtime.h"

#include <vector_types.h>

#define MAX_PUSHED 16 /* launch configurations: one for each launch that a launch's arguments make */

/* Attributes of every kernel; the versions are what CUDA's own libraries choose their code by. */
#define KERNEL_REGISTERS 32
#define KERNEL_VERSION   80

struct launch {
	dim3 grid, block;
	size_t shared_bytes;
	void *stream;
};

static __thread struct launch pushed[MAX_PUSHED];
static __thread int nr_pushed;

void **__cudaRegisterFatBinary(void *fatCubin);
void __cudaRegisterFatBinaryEnd(void **fatCubinHandle);
void __cudaUnregisterFatBinary(void **fatCubinHandle);
void __cudaRegisterVar(void **fatCubinHandle, char *hostVar, char *deviceAddress, const char *deviceName, int ext, size_t size,
                       int constant, int global);
void __cudaRegisterFunction(void **fatCubinHandle, const char *hostFun, char *deviceFun, const char *deviceName, int thread_limit,
                            uint3 *tid, uint3 *bid, dim3 *bDim, dim3 *gDim, int *wSize);
char __cudaInitModule(void **fatCubinHandle);
unsigned __cudaPushCallConfiguration(dim3 gridDim, dim3 blockDim, size_t sharedMem, struct CUstream_st *stream);
cudaError_t __cudaPopCallConfiguration(dim3 *gridDim, dim3 *blockDim, size_t *sharedMem, void *stream);
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *hostFun);
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 gridDim, dim3 blockDim, void **args, size_t sharedMem,
                               cudaStream_t stream);

SIM_EXPORT void **__cudaRegisterFatBinary(void *fatCubin)
{
	static void *handle;

	return &handle;
}

SIM_EXPORT void __cudaRegisterFatBinaryEnd(void **fatCubinHandle)
{
}

SIM_EXPORT void __cudaUnregisterFatBinary(void **fatCubinHandle)
{
}

SIM_EXPORT void __cudaRegisterVar(void **fatCubinHandle, char *hostVar, char *deviceAddress, const char *deviceName, int ext,
                                  size_t size, int constant, int global)
{
}

SIM_EXPORT void __cudaRegisterFunction(void **fatCubinHandle, const char *hostFun, char *deviceFun, const char *deviceName,
                                       int thread_limit, uint3 *tid, uint3 *bid, dim3 *bDim, dim3 *gDim, int *wSize)
{
	runtime_kernel_add(hostFun, deviceName);
}

SIM_EXPORT char __cudaInitModule(void **fatCubinHandle)
{
	return 1;
}

SIM_EXPORT unsigned __cudaPushCallConfiguration(dim3 gridDim, dim3 blockDim, size_t sharedMem, struct CUstream_st *stream)
{
	if (nr_pushed == MAX_PUSHED)
		return 1;
	pushed[nr_pushed++] = (struct launch){gridDim, blockDim, sharedMem, stream};
	return 0;
}

SIM_EXPORT cudaError_t __cudaPopCallConfiguration(dim3 *gridDim, dim3 *blockDim, size_t *sharedMem, void *stream)
{
	if (!nr_pushed)
		return runtime_error(cudaErrorMissingConfiguration);
	nr_pushed--;
	*gridDim = pushed[nr_pushed].grid;
	*blockDim = pushed[nr_pushed].block;
	*sharedMem = pushed[nr_pushed].shared_bytes;
	*(void **)stream = pushed[nr_pushed].stream;
	return cudaSuccess;
}

/* A kernel's handle is the address of its host function. */
SIM_EXPORT cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *hostFun)
{
	*kernel = (cudaKernel_t)hostFun;
	return cudaSuccess;
}

/* A function is known to the driver by its name.  As on a device, a launch fails that has no blocks, no threads, or too many of
 * them. */
static cudaError_t launch(const void *host, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream)
{
	const struct runtime_driver *d = runtime_enter();

	if (!grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z || (size_t)block.x * block.y * block.z > 1024)
		return runtime_error(cudaErrorInvalidConfiguration);
	return runtime_result(d->cuLaunchKernel((CUfunction)runtime_kernel_name(host), grid.x, grid.y, grid.z, block.x, block.y,
	                                        block.z, (unsigned)shared_bytes, stream, NULL, NULL));
}

SIM_EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 gridDim, dim3 blockDim, void **args, size_t sharedMem,
                                          cudaStream_t stream)
{
	return launch(kernel, gridDim, blockDim, sharedMem, stream);
}

SIM_EXPORT cudaError_t cudaLaunchKernel(const void *func, dim3 gridDim, dim3 blockDim, void **args, size_t sharedMem,
                                        cudaStream_t stream)
{
	return launch(func, gridDim, blockDim, sharedMem, stream);
}

SIM_EXPORT cudaError_t cudaLaunchCooperativeKernel(const void *func, dim3 gridDim, dim3 blockDim, void **args, size_t sharedMem,
                                                   cudaStream_t stream)
{
	return launch(func, gridDim, blockDim, sharedMem, stream);
}

SIM_EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *func, void **args)
{
	return launch(func, config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream);
}

SIM_EXPORT cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attr, const void *func)
{
	*attr = (struct cudaFuncAttributes){
	        .maxThreadsPerBlock = 1024,
	        .numRegs = KERNEL_REGISTERS,
	        .ptxVersion = KERNEL_VERSION,
	        .binaryVersion = KERNEL_VERSION,
	        .maxDynamicSharedSizeBytes = 49152,
	};
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaFuncSetAttribute(const void *func, enum cudaFuncAttribute attr, int value)
{
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, enum cudaFuncAttribute attr, int value, int device)
{
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *numBlocks, const void *func, int blockSize,
                                                                              size_t dynamicSMemSize, unsigned int flags)
{
	int blocks = blockSize > 0 ? 2048 / blockSize : 0;

	*numBlocks = blocks > 32 ? 32 : blocks;
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *numBlocks, const void *func, int blockSize,
                                                                     size_t dynamicSMemSize)
{
	return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(numBlocks, func, blockSize, dynamicSMemSize, 0);
}
