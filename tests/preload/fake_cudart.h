/*
 * The CUDA runtime's calls that give and take memory, as the preload tests use them: fake_cudart.c stands in for libcudart.
 * Written after cuda_runtime_api.h of CUDA 13.0, apart from hook/cudart.def: what both get wrong alike is not found here.
 */
#ifndef FAKE_CUDART_H
#define FAKE_CUDART_H

#include <stddef.h>

struct fake_pitched {
	void *ptr;
	size_t pitch, xsize, ysize;
};
struct fake_extent {
	size_t width, height, depth;
};
struct fake_channels {
	int x, y, z, w, f;
};
/* The head of CUmemAllocationProp. */
struct fake_properties {
	int type, handle_types, location_type, location_id;
};

int cudaSetDevice(int device);
int cudaGetDevice(int *device);
int cudaMalloc(void **ptr, size_t size);
int cudaMallocManaged(void **ptr, size_t size, unsigned flags);
int cudaMallocHost(void **ptr, size_t size);
int cudaHostAlloc(void **ptr, size_t size, unsigned flags);
int cudaHostRegister(void *ptr, size_t size, unsigned flags);
int cudaHostUnregister(void *ptr);
int cudaMallocPitch(void **ptr, size_t *pitch, size_t width, size_t height);
int cudaMalloc3D(struct fake_pitched *pitched, struct fake_extent extent);
int cudaMallocArray(void **array, const struct fake_channels *channels, size_t width, size_t height, unsigned flags);
int cudaMalloc3DArray(void **array, const struct fake_channels *channels, struct fake_extent extent, unsigned flags);
int cudaMallocAsync(void **ptr, size_t size, void *stream);
int cudaMallocAsync_ptsz(void **ptr, size_t size, void *stream);
int cudaMallocFromPoolAsync(void **ptr, size_t size, void *pool, void *stream);
int cudaFree(void *ptr);
int cudaFreeHost(void *ptr);
int cudaFreeArray(void *array);
int cudaFreeAsync(void *ptr, void *stream);
int cudaFreeAsync_ptsz(void *ptr, void *stream);
int cudaGetDriverEntryPoint(const char *symbol, void **function, unsigned long long flags, int *status);
int cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version, unsigned long long flags,
                                     int *status);

#endif
