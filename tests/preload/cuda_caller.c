/*
 * A library that uses CUDA memory, built once against each fake runtime: what it is told, and what it passes, it says on
 * stdout.  cuda_program.c loads both locally, as Python loads its modules.
 */
#include "fake_cudart.h"

#include <stdint.h>
#include <stdio.h>

void use_memory(void);
void use_driver(void);

#define SHOW(call) printf(#call ": %d\n", (call))

void use_memory(void)
{
	const struct fake_channels channels = {8, 8, 16, 0, 2};
	const struct fake_extent extent = {100, 3, 2}, flat = {100, 0, 0};
	struct fake_pitched pitched = {0};
	void *a = NULL, *b = NULL, *c = NULL;
	static char host[4096];
	size_t pitch = 0;

	SHOW(cudaMalloc(&a, 1000));
	SHOW(cudaMalloc(&b, 0));
	SHOW(cudaMalloc(&b, (size_t)1 << 50));
	SHOW(cudaMalloc(NULL, 10));
	SHOW(cudaSetDevice(1));
	SHOW(cudaMallocManaged(&b, 2000, 1));
	SHOW(cudaFree(a));
	SHOW(cudaFree(NULL));
	SHOW(cudaFree(b));
	SHOW(cudaSetDevice(0));
	SHOW(cudaMallocHost(&a, 3000));
	SHOW(cudaHostAlloc(&b, 4000, 2));
	SHOW(cudaFreeHost(a));
	SHOW(cudaFreeHost(b));
	printf("register: %d\n", cudaHostRegister((void *)(((uintptr_t)0x7000)), sizeof(host), 0));
	printf("unregister: %d\n", cudaHostUnregister((void *)(((uintptr_t)0x7000))));
	SHOW(cudaMallocPitch(&a, &pitch, 100, 5));
	SHOW(cudaMalloc3D(&pitched, extent));
	printf("pitch %zu, %zu %zu %zu\n", pitch, pitched.pitch, pitched.xsize, pitched.ysize);
	SHOW(cudaFree(a));
	SHOW(cudaFree(pitched.ptr));
	SHOW(cudaMallocArray(&a, &channels, 10, 0, 3));
	SHOW(cudaMalloc3DArray(&b, &channels, extent, 0));
	SHOW(cudaMalloc3DArray(&c, &channels, flat, 0));
	SHOW(cudaFreeArray(a));
	SHOW(cudaFreeArray(b));
	SHOW(cudaFreeArray(c));
	SHOW(cudaMallocAsync(&a, 5000, (void *)0x10));
	SHOW(cudaMallocFromPoolAsync(&b, 6000, (void *)0x20, (void *)0x30));
	SHOW(cudaMallocAsync_ptsz(&c, 7000, (void *)0x40));
	SHOW(cudaFreeAsync(a, (void *)0x10));
	SHOW(cudaFreeAsync_ptsz(b, (void *)0x50));
	SHOW(cudaFree(c));
	SHOW(cudaFree((void *)0xbad));
}

void use_driver(void)
{
	const struct fake_properties on_device = {1, 0, 1, 1}, on_host = {1, 0, 2, 0};
	int (*create)(uint64_t *, size_t, const struct fake_properties *, unsigned long long) = NULL;
	int (*release)(uint64_t) = NULL;
	int (*other)(void) = NULL;
	uint64_t handle = 0, host_handle = 0;
	int status = 0;

	SHOW(cudaGetDriverEntryPointByVersion("cuMemCreate", (void **)&create, 12000, 0, &status));
	SHOW(cudaGetDriverEntryPoint("cuMemRelease", (void **)&release, 0, NULL));
	SHOW(cudaGetDriverEntryPoint("cuOther", (void **)&other, 7, &status));
	SHOW(cudaGetDriverEntryPoint("nothing", (void **)&other, 0, &status));
	SHOW(status);
	SHOW(other());
	SHOW(create(&handle, 8000, &on_device, 9));
	SHOW(create(&host_handle, 9000, &on_host, 0));
	SHOW(create(&host_handle, (size_t)1 << 50, &on_host, 0));
	SHOW(release(handle));
	SHOW(release(host_handle));
}
