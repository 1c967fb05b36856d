/*
 * Stands in for libcudart in the preload tests, built once for each version (FAKE_VERSION: 12 or 13).  Every call says on
 * stdout what it was asked, so that a test sees that all arguments and results went through the hook unchanged.
 */
#include "fake_cudart.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define OUT_OF_MEMORY 2
#define INVALID_VALUE 1
#define MOST_BYTES    ((size_t)1 << 40)

/* Addresses are made up, and the same in every run. */
static uint64_t next_address = 0x100000u * FAKE_VERSION;
static int current_device;

#define SAY(...) (printf("cudart %d: ", FAKE_VERSION), printf(__VA_ARGS__), putchar('\n'))

static int give(const char *name, void **ptr, size_t size)
{
	SAY("%s %zu", name, size);
	if (!ptr)
		return INVALID_VALUE;
	if (size > MOST_BYTES)
		return OUT_OF_MEMORY;
	*ptr = size ? (void *)(uintptr_t)next_address : NULL;
	next_address += (size + 0xfff) & ~(size_t)0xfff;
	return 0;
}

static int take(const char *name, const void *ptr)
{
	SAY("%s %#lx", name, (unsigned long)(uintptr_t)ptr);
	return (uintptr_t)ptr == 0xbad ? INVALID_VALUE : 0;
}

int cudaSetDevice(int device)
{
	current_device = device;
	return 0;
}

int cudaGetDevice(int *device)
{
	*device = current_device;
	return 0;
}

int cudaMalloc(void **ptr, size_t size)
{
	return give("malloc", ptr, size);
}

int cudaMallocManaged(void **ptr, size_t size, unsigned flags)
{
	SAY("flags %u", flags);
	return give("managed", ptr, size);
}

int cudaMallocHost(void **ptr, size_t size)
{
	return give("malloc host", ptr, size);
}

int cudaHostAlloc(void **ptr, size_t size, unsigned flags)
{
	SAY("flags %u", flags);
	return give("host alloc", ptr, size);
}

int cudaHostRegister(void *ptr, size_t size, unsigned flags)
{
	SAY("register %#lx %zu flags %u", (unsigned long)(uintptr_t)ptr, size, flags);
	return 0;
}

int cudaHostUnregister(void *ptr)
{
	return take("unregister", ptr);
}

int cudaMallocPitch(void **ptr, size_t *pitch, size_t width, size_t height)
{
	*pitch = (width + 511) & ~(size_t)511;
	return give("pitch", ptr, *pitch * height);
}

int cudaMalloc3D(struct fake_pitched *pitched, struct fake_extent extent)
{
	pitched->pitch = (extent.width + 511) & ~(size_t)511;
	pitched->xsize = extent.width;
	pitched->ysize = extent.height;
	return give("3D", &pitched->ptr, pitched->pitch * extent.height * extent.depth);
}

int cudaMallocArray(void **array, const struct fake_channels *channels, size_t width, size_t height, unsigned flags)
{
	SAY("channels %d %d %d %d %d flags %u", channels->x, channels->y, channels->z, channels->w, channels->f, flags);
	return give("array", array, width * (height ? height : 1));
}

int cudaMalloc3DArray(void **array, const struct fake_channels *channels, struct fake_extent extent, unsigned flags)
{
	SAY("channels %d %d %d %d %d flags %u", channels->x, channels->y, channels->z, channels->w, channels->f, flags);
	return give("3D array", array, extent.width * (extent.height ? extent.height : 1) * (extent.depth ? extent.depth : 1));
}

int cudaMallocAsync(void **ptr, size_t size, void *stream)
{
	SAY("stream %p", stream);
	return give("async", ptr, size);
}

int cudaMallocAsync_ptsz(void **ptr, size_t size, void *stream)
{
	SAY("stream %p", stream);
	return give("async ptsz", ptr, size);
}

int cudaMallocFromPoolAsync(void **ptr, size_t size, void *pool, void *stream)
{
	SAY("pool %p stream %p", pool, stream);
	return give("pool async", ptr, size);
}

int cudaFree(void *ptr)
{
	return take("free", ptr);
}

int cudaFreeHost(void *ptr)
{
	return take("free host", ptr);
}

int cudaFreeArray(void *array)
{
	return take("free array", array);
}

int cudaFreeAsync(void *ptr, void *stream)
{
	SAY("stream %p", stream);
	return take("free async", ptr);
}

int cudaFreeAsync_ptsz(void *ptr, void *stream)
{
	SAY("stream %p", stream);
	return take("free async ptsz", ptr);
}

/* ---- the driver functions that it hands out */

static int create(uint64_t *handle, size_t size, const struct fake_properties *properties, unsigned long long flags)
{
	void *ptr = NULL;
	int error;

	SAY("location %d %d flags %llu", properties->location_type, properties->location_id, flags);
	error = give("cuMemCreate", handle ? &ptr : NULL, size);
	if (!error)
		*handle = (uintptr_t)ptr;
	return error;
}

static int release(uint64_t handle)
{
	return take("cuMemRelease", (void *)(uintptr_t)handle);
}

static int other(void)
{
	return 77;
}

static int hand_out(const char *symbol, void **function, int *status)
{
	if (!strcmp(symbol, "nothing"))
		return INVALID_VALUE;
	*function = !strcmp(symbol, "cuMemCreate")    ? (void *)create
	            : !strcmp(symbol, "cuMemRelease") ? (void *)release
	                                              : (void *)other;
	if (status)
		*status = 5;
	return 0;
}

int cudaGetDriverEntryPoint(const char *symbol, void **function, unsigned long long flags, int *status)
{
	SAY("entry %s flags %llu", symbol, flags);
	return hand_out(symbol, function, status);
}

int cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version, unsigned long long flags, int *status)
{
	SAY("entry %s version %u flags %llu", symbol, version, flags);
	return hand_out(symbol, function, status);
}
