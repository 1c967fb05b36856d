/*
 * An allocator of the program's own, for torch.cuda.memory.CUDAPluggableAllocator: each tensor is a cudaMalloc.
 */
#include "sim.h"

#include <cuda_runtime_api.h>

#include <sys/types.h>

SIM_EXPORT void *sim_allocate(ssize_t size, int device, cudaStream_t stream);
SIM_EXPORT void sim_free(void *address, ssize_t size, int device, cudaStream_t stream);

void *sim_allocate(ssize_t size, int device, cudaStream_t stream)
{
	void *address = NULL;

	cudaSetDevice(device);
	return cudaMalloc(&address, (size_t)size) == cudaSuccess ? address : NULL;
}

void sim_free(void *address, ssize_t size, int device, cudaStream_t stream)
{
	cudaSetDevice(device);
	cudaFree(address);
}
