/*
 * Stands in for libc10.so and libtorch_cpu.so in the preload tests: the real functions behind the wrappers, and a caller
 * that uses them as PyTorch's allocators do.
 */
#include "fake_c10.h"

#include <stddef.h>

bool profiling(void) __asm__("_ZN3c1022memoryProfilingEnabledEv");
void report(void *address, int64_t size, size_t total, size_t reserved,
            uint16_t device) __asm__("_ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE");

bool fake_profiler_is_on;
unsigned fake_nr_told;
int64_t fake_told_bytes, fake_told_total;

bool profiling(void)
{
	return fake_profiler_is_on;
}

void report(void *address, int64_t size, size_t total, size_t reserved, uint16_t device)
{
	if (fake_profiler_is_on) {
		fake_nr_told++;
		fake_told_bytes += size;
		fake_told_total = (int64_t)total;
	}
}

/* As c10::ProfiledCPUMemoryReporter does: account is kept, and reported from, only while somebody asks for it. */
static uint64_t total_bytes;
static uint64_t sizes[1u << 16]; /* by address; the tests' addresses do not collide */

static uint64_t *size_of(uint64_t address)
{
	return &sizes[(address >> 4) % (sizeof(sizes) / sizeof(sizes[0]))];
}

void fake_alloc(uint64_t address, int64_t size)
{
	uint64_t total;

	if (!profiling())
		return;
	__atomic_store_n(size_of(address), (uint64_t)size, __ATOMIC_RELAXED);
	total = __atomic_add_fetch(&total_bytes, (uint64_t)size, __ATOMIC_RELAXED);
	report((void *)(uintptr_t)address, size, total, 0, 0xff00);
}

void fake_free(uint64_t address)
{
	uint64_t total, size;

	if (!profiling())
		return;
	size = __atomic_exchange_n(size_of(address), 0, __ATOMIC_RELAXED);
	if (!size)
		return;
	total = __atomic_sub_fetch(&total_bytes, size, __ATOMIC_RELAXED);
	report((void *)(uintptr_t)address, -(int64_t)size, total, 0, 0xff00);
}
