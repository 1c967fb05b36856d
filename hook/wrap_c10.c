/*
 * libc10: the reports of memory, and the question whether anybody wants them.
 *
 * CPU memory is reported only while c10::memoryProfilingEnabled() says so, which we answer with true; what the user's own
 * profiler then gets is decided by hook/forward.h.  Reports of devices are made whether anybody wants them or not and are
 * passed on as they are.  They come with the device allocator's lock held: nothing here waits or calls PyTorch back, but for
 * the real functions that it was going to call anyway.
 *
 * Source: c10/core/Allocator.h, CPUAllocator.cpp, aten/src/ATen/MapAllocator.cpp of 2.13.0 and 2.14.1.
 */
#include "hook/api.h"
#include "hook/cudart.h"
#include "hook/hook_internal.h"
#include "hook/python.h"

static bool user_profiler_is_on(void)
{
	real_memory_profiling_enabled_fn *real = api_real(API_memory_profiling_enabled);

	return real && real();
}

bool wrap_memory_profiling_enabled(void)
{
	if (!hook_is_wanted() || !hook.record_cpu)
		return user_profiler_is_on();
	if (!atomic32_load_relaxed(&hook.forced))
		atomic32_store_relaxed(&hook.forced, 1);
	return true;
}

/* Tell the hook and decide what PyTorch is told: returns whether the report, changed in place, is passed on. */
static bool take_report(void *address, int64_t *size_bytes, uint64_t *total_allocated, uint64_t total_reserved, uint16_t device)
{
	struct forward_report report = {
	        .address = (uint64_t)(uintptr_t)address,
	        .size_bytes = *size_bytes,
	        .total_bytes = *total_allocated,
	};
	bool is_passed_on, is_forced = atomic32_load_relaxed(&hook.forced);

	python_reported();
	if (device != RECORD_DEVICE_CPU || !is_forced) {
		bool shared = device == RECORD_DEVICE_CPU && hook_is_wanted() && forward_is_shared(&hook.forward, &report);

		if (device != RECORD_DEVICE_CPU || hook.record_cpu)
			hook_report(address, *size_bytes, *total_allocated, total_reserved, device, shared);
		if (record_is_cuda(device))
			cudart_reported(device, *total_allocated);
		return true;
	}
	if (forward_is_shared(&hook.forward, &report)) {
		hook_report(address, *size_bytes, *total_allocated, total_reserved, device, true);
		return true;
	}
	hook_report(address, *size_bytes, *total_allocated, total_reserved, device, false);
	if (!user_profiler_is_on())
		return false;
	is_passed_on = forward_ordinary(&hook.forward, &report);
	if (__builtin_expect(atomic64_load_relaxed(&hook.forward.overflow) != 0, 0)) {
		static uint8_t once;

		hook_note(&once, RECORD_SEVERITY_DEGRADED,
		          "more live blocks than are remembered for the program's own profiler: it misses frees");
	}
	*size_bytes = report.size_bytes;
	*total_allocated = report.total_bytes;
	return is_passed_on;
}

void wrap_report_memory(void *address, int64_t size_bytes, size_t total_allocated, size_t total_reserved, uint16_t device)
{
	uint64_t total = total_allocated;
	real_report_memory_fn *real;

	if (!take_report(address, &size_bytes, &total, total_reserved, device))
		return;
	real = api_real(API_report_memory);
	if (real)
		real(address, size_bytes, total, total_reserved, device);
}

void wrap_report_memory_v1(void *address, int64_t size_bytes, int64_t total_allocated, int64_t total_reserved, uint16_t device)
{
	uint64_t total = (uint64_t)total_allocated;
	real_report_memory_v1_fn *real;

	if (!take_report(address, &size_bytes, &total, (uint64_t)total_reserved, device))
		return;
	real = api_real(API_report_memory_v1);
	if (real)
		real(address, size_bytes, (int64_t)total, total_reserved, device);
}

/* ---- what a storage needs */

size_t wrap_storage_bytes(struct api_array sizes, struct api_array strides, size_t item_bytes, size_t offset)
{
	real_storage_bytes_fn *real = api_real(API_storage_bytes);
	size_t size_bytes = real(sizes, strides, item_bytes, offset);

	hook_storage(size_bytes);
	return size_bytes;
}

size_t wrap_storage_bytes_contiguous(struct api_array sizes, size_t item_bytes, size_t offset)
{
	real_storage_bytes_contiguous_fn *real = api_real(API_storage_bytes_contiguous);
	size_t size_bytes = real(sizes, item_bytes, offset);

	hook_storage(size_bytes);
	return size_bytes;
}

void wrap_resize_bytes_cuda(void *storage, size_t size_bytes)
{
	real_resize_bytes_cuda_fn *real = api_real(API_resize_bytes_cuda);

	hook_storage(size_bytes);
	real(storage, size_bytes);
}

/* ---- out of memory */

/* The total that the user's profiler is told when CPU memory is out: the one that PyTorch would have had. */
static uint64_t oom_total(uint64_t total_allocated, uint16_t device)
{
	return device == RECORD_DEVICE_CPU && atomic32_load_relaxed(&hook.forced) ? forward_total(&hook.forward)
	                                                                          : total_allocated;
}

void wrap_report_oom(int64_t size_bytes, size_t total_allocated, size_t total_reserved, uint16_t device)
{
	real_report_oom_fn *real = api_real(API_report_oom);

	hook_report_oom(size_bytes, total_allocated, total_reserved, device);
	cudart_refused(device);
	if (real)
		real(size_bytes, oom_total(total_allocated, device), total_reserved, device);
}

void wrap_report_oom_v1(int64_t size_bytes, int64_t total_allocated, int64_t total_reserved, uint16_t device)
{
	real_report_oom_v1_fn *real = api_real(API_report_oom_v1);

	hook_report_oom(size_bytes, (uint64_t)total_allocated, (uint64_t)total_reserved, device);
	cudart_refused(device);
	if (real)
		real(size_bytes, (int64_t)oom_total((uint64_t)total_allocated, device), total_reserved, device);
}
