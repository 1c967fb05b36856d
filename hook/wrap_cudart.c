/*
 * libcudart: memory that a program takes from the device, and host memory that it pins, call by call.
 *
 * A program's libraries may be linked to different CUDA runtimes; each asks for its functions under the name of its own
 * (cudaMalloc@libcudart.so.12, @libcudart.so.13).  We export both, so each call is passed on to the runtime that it was
 * meant for.  Inside a runtime nothing comes past here: it calls the driver by pointers of its own.
 *
 * Every call is forwarded with its arguments as they are, and its result is returned as it is.  A call that gave memory is
 * recorded after it; one that gives memory back is recorded before it, since the address may be another's as soon as the
 * runtime has it.  Neither errno nor CUDA's last error is touched: all that is asked of CUDA is the current device and what
 * is in use of it.
 *
 * Expandable segments do not come from the runtime: PyTorch takes pointers to driver functions from
 * cudaGetDriverEntryPoint(ByVersion) and calls those.  Of the functions that give and take memory it gets ours.
 *
 * Source: cuda_runtime_api.h and cuda.h of CUDA 13.0 (same declarations in 12.4); c10/cuda/driver_api.cpp of 2.14; ld's manual
 * on .symver and version scripts.
 */
#define _GNU_SOURCE
#include "hook/cudart.h"

#include "cupti/cupti.h"
#include "hook/hook_internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#define CUDA_SUCCESS         0
#define CUDA_ERROR_MEMORY    2   /* cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY */
#define CUDA_ERROR_UNKNOWN   999 /* cudaErrorUnknown, CUDA_ERROR_UNKNOWN */
#define CUDA_ERROR_UNLOADING 4   /* cudaErrorCudartUnloading: the process ends */
#define CUDA_LOCATION_DEVICE 1   /* CU_MEM_LOCATION_TYPE_DEVICE */
#define CUDA_DEVICE(ordinal) ((uint16_t)(RECORD_DEVICE_TYPE_CUDA | ((unsigned)(ordinal)&0xffu) << 8))

/* driver_types.h: cudaPitchedPtr, cudaExtent, cudaChannelFormatDesc; cuda.h: the head of CUmemAllocationProp. */
struct cudart_pitched {
	void *address;
	size_t pitch, width, height;
};
struct cudart_extent {
	size_t width, height, depth;
};
struct cudart_channels {
	int bits[4];
	int format;
};
struct cuda_properties {
	int type, handle_types;
	int location_type, location_id;
};

enum runtime { RUNTIME_12, RUNTIME_13, NR_RUNTIMES };

static const char *const runtime_names[NR_RUNTIMES] = {"libcudart.so.12", "libcudart.so.13"};

enum cudart {
#define CUDART_GIVES(name, params, args, level, place, bytes) CUDART_##name,
#define CUDART_TAKES(name, params, args, address)             CUDART_##name,
#define CUDART_ENTRY(name, params, args, symbol, place)       CUDART_##name,
#include "hook/cudart.def"
#undef CUDART_GIVES
#undef CUDART_TAKES
#undef CUDART_ENTRY
	CUDART_cudaGetDevice, /* only called, as those that follow */
	CUDART_cudaMemGetInfo,
	CUDART_cudaThreadExchangeStreamCaptureMode,
	NR_CUDART
};

static const char *const symbols[NR_CUDART] = {
#define CUDART_GIVES(name, params, args, level, place, bytes) [CUDART_##name] = #name,
#define CUDART_TAKES(name, params, args, address)             [CUDART_##name] = #name,
#define CUDART_ENTRY(name, params, args, symbol, place)       [CUDART_##name] = #name,
#include "hook/cudart.def"
#undef CUDART_GIVES
#undef CUDART_TAKES
#undef CUDART_ENTRY
        [CUDART_cudaGetDevice] = "cudaGetDevice",
        [CUDART_cudaMemGetInfo] = "cudaMemGetInfo",
        [CUDART_cudaThreadExchangeStreamCaptureMode] = "cudaThreadExchangeStreamCaptureMode",
};

/* Written once each, with the same value whoever writes it. */
static uint64_t real_functions[NR_RUNTIMES][NR_CUDART];

/* ---- the real functions */

/* What another preload, or the runtime itself, has behind us; libraries that Python loaded locally are in no list. */
static void *find(enum runtime runtime, const char *symbol)
{
	void *function = dlvsym(RTLD_NEXT, symbol, runtime_names[runtime]);
	void *object;

	if (function)
		return function;
	/* Never closed: what we point to must stay. */
	object = dlopen(runtime_names[runtime], RTLD_LAZY | RTLD_NOLOAD);
	return object ? dlsym(object, symbol) : NULL;
}

static void *cudart_real(enum runtime runtime, enum cudart which)
{
	uint64_t *place = &real_functions[runtime][which];
	uint64_t function = atomic64_load_acquire(place);

	if (__builtin_expect(!function, 0)) {
		int saved_errno = errno;

		function = (uint64_t)(uintptr_t)find(runtime, symbols[which]);
		atomic64_store_release(place, function);
		errno = saved_errno;
	}
	return (void *)(uintptr_t)function;
}

bool cudart_resolve(void)
{
	int saved_errno = errno;
	bool any = false;

	for (enum runtime runtime = 0; runtime < NR_RUNTIMES; runtime++) {
		void *object = dlopen(runtime_names[runtime], RTLD_LAZY | RTLD_NOLOAD);

		if (!object)
			continue;
		any = true;
		for (enum cudart which = 0; which < NR_CUDART; which++)
			cudart_real(runtime, which);
		dlclose(object);
	}
	errno = saved_errno;
	return any;
}

/* ---- what the driver says */

#define ASK_PART             100u              /* of the time that passes, at most one part goes into asking */
#define ASK_MIN_NS           UINT64_C(1000000) /* between two questions */
#define CAPTURE_MODE_RELAXED 2                 /* cudaStreamCaptureModeRelaxed */

/* Of each device, by its ordinal.  Atomic words; two threads at once cost a question too many or too few. */
static struct {
	uint64_t next_ns;    /* CLOCK_MONOTONIC, before which it is not asked again; 0: never asked; UINT64_MAX: it refused */
	uint64_t high_bytes; /* the highest total that PyTorch reported */
	uint32_t owed;       /* the highest total, or a segment, came when it was too early to ask */
} driver[256];

static uint32_t runtime_in_use; /* enum runtime + 1 of the last call, 0: none yet */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* How to ask: two calls of the driver, or the same two of a runtime. */
struct asking {
	int (*memory)(size_t *available, size_t *total);
	int (*exchange)(int *mode);
};

static struct asking asking_driver(void)
{
	static uint64_t memory, exchange;

	if (!atomic64_load_acquire(&exchange)) {
		/* Never closed: what we point to must stay. */
		void *object = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);

		if (!object)
			return (struct asking){0};
		atomic64_store_release(&memory, (uint64_t)(uintptr_t)dlsym(object, "cuMemGetInfo_v2"));
		atomic64_store_release(&exchange, (uint64_t)(uintptr_t)dlsym(object, "cuThreadExchangeStreamCaptureMode"));
	}
	return (struct asking){(int (*)(size_t *, size_t *))(uintptr_t)atomic64_load_acquire(&memory),
	                       (int (*)(int *))(uintptr_t)atomic64_load_acquire(&exchange)};
}

static struct asking asking_runtime(enum runtime runtime)
{
	return (struct asking){cudart_real(runtime, CUDART_cudaMemGetInfo),
	                       cudart_real(runtime, CUDART_cudaThreadExchangeStreamCaptureMode)};
}

static bool ask_by(struct asking asking, size_t *ret_available, size_t *ret_total)
{
	int mode = CAPTURE_MODE_RELAXED;
	bool told;

	if (!asking.memory || !asking.exchange || asking.exchange(&mode) != CUDA_SUCCESS)
		return false;
	told = asking.memory(ret_available, ret_total) == CUDA_SUCCESS && *ret_available <= *ret_total;
	asking.exchange(&mode);
	return told;
}

/*
 * Ask for the calling thread's current device, which is @device.  While another thread captures a graph, calls that may not
 * be safe are refused, and the capture with them, unless the thread says that its own are; PyTorch says so around its own.
 *
 * The driver is asked past the runtime, whose every call a profiler of the program would show as the program's; it cannot
 * answer a thread that has no context yet, for which the runtime makes one.
 * Source: CUDA Driver API, cuThreadExchangeStreamCaptureMode(); c10/cuda/CUDAGraphsC10Utils.h of 2.14.
 */
static void ask(uint16_t device, bool first)
{
	enum runtime runtime = atomic32_load_relaxed(&runtime_in_use) - 1;
	int saved_errno = errno;
	size_t available = 0, total = 0;
	uint64_t before = now_ns(), took;
	bool told, watched = cupti_is_watched();

	if (runtime >= NR_RUNTIMES)
		return;
	told = ask_by(asking_driver(), &available, &total) || (!watched && ask_by(asking_runtime(runtime), &available, &total));
	took = now_ns() - before;
	took = took * ASK_PART > ASK_MIN_NS ? took * ASK_PART : ASK_MIN_NS;
	/* A runtime that refuses leaves CUDA's last error behind, which is not the program's: there is no second one. */
	atomic64_store_relaxed(&driver[device >> 8].next_ns, told || watched ? before + took : UINT64_MAX);
	if (told)
		hook_used(device, total - available, total, first);
	errno = saved_errno;
}

/* Ask now, or, when it is too early, at the next report. */
static void ask_if_cheap(uint16_t device)
{
	unsigned ordinal = device >> 8;
	uint64_t next_ns;
	bool cheap;

	if (ordinal == 0xff)
		return;
	next_ns = atomic64_load_relaxed(&driver[ordinal].next_ns);
	cheap = now_ns() >= next_ns;
	atomic32_store_relaxed(&driver[ordinal].owed, !cheap && next_ns != UINT64_MAX);
	if (cheap)
		ask(device, false);
}

void cudart_reported(uint16_t device, uint64_t total_allocated)
{
	unsigned ordinal = device >> 8;

	if (ordinal == 0xff || !hook_is_wanted())
		return;
	if (total_allocated < atomic64_load_relaxed(&driver[ordinal].high_bytes)) {
		if (__builtin_expect(!atomic32_load_relaxed(&driver[ordinal].owed), 1))
			return;
	} else {
		atomic64_store_relaxed(&driver[ordinal].high_bytes, total_allocated);
	}
	ask_if_cheap(device);
}

void cudart_refused(uint16_t device)
{
	if (record_is_cuda(device) && device >> 8 != 0xff && hook_is_wanted() &&
	    atomic64_load_relaxed(&driver[device >> 8].next_ns) != UINT64_MAX)
		ask(device, false);
}

/* ---- recording */

static uint16_t current_device(enum runtime runtime)
{
	int (*real)(int *) = cudart_real(runtime, CUDART_cudaGetDevice);
	int ordinal = 0;

	if (!real || real(&ordinal) != CUDA_SUCCESS)
		return RECORD_DEVICE_TYPE_CUDA | 0xff00u;
	return CUDA_DEVICE(ordinal);
}

/*
 * Before a call that gives memory: what is in use before the first is the context's, or other programs'.  Returns when the call
 * begins, 0 where CUPTI will not see it.
 */
static uint64_t before_giving(enum runtime runtime)
{
	uint16_t device;

	if (!hook_is_wanted())
		return 0;
	cupti_start();
	atomic32_store_relaxed(&runtime_in_use, runtime + 1);
	device = current_device(runtime);
	if (device >> 8 != 0xff && !atomic64_load_relaxed(&driver[device >> 8].next_ns))
		ask(device, true);
	return cupti_is_on() ? now_ns() : 0;
}

/*
 * @place: where a successful call has left the address.  Of managed memory some may lie on the device, but nobody says how
 * much: the driver is asked after calls that give device memory alone.
 */
static void given(enum runtime runtime, void *const *place, size_t bytes, enum record_level level, const void *caller,
                  uint64_t begin_ns)
{
	uint16_t device;

	if (!place || !*place || !bytes || !hook_is_wanted())
		return;
	device = level == LEVEL_PINNED ? RECORD_DEVICE_CPU : current_device(runtime);
	hook_memory_given(&(struct hook_given){.address = *place,
	                                       .size_bytes = bytes,
	                                       .caller = caller,
	                                       .begin_ns = begin_ns,
	                                       .level = level,
	                                       .device = device});
	if (level == LEVEL_SEGMENT)
		ask_if_cheap(device);
}

static void refused(enum runtime runtime, size_t bytes, enum record_level level)
{
	if (level == LEVEL_SEGMENT && hook_is_wanted())
		hook_memory_refused(bytes, current_device(runtime));
}

static void taken(const void *address)
{
	if (address && hook_is_wanted())
		hook_memory_taken(address);
}

static void check_taken(int error)
{
	static uint8_t once;

	if (error != CUDA_SUCCESS && error != CUDA_ERROR_UNLOADING)
		hook_note(&once, RECORD_SEVERITY_DEGRADED, "memory that CUDA refused to take back (error %d) is counted as freed",
		          error);
}

/* SIZE_MAX for what is larger. */
static size_t product(size_t a, size_t b, size_t c)
{
	size_t result;

	if (__builtin_mul_overflow(a, b, &result) || __builtin_mul_overflow(result, c, &result))
		return SIZE_MAX;
	return result;
}

/* An extent of 0 stands for one that an array does not have. */
static size_t array_bytes(const struct cudart_channels *channels, size_t width, size_t height, size_t depth)
{
	size_t bits = 0;

	for (int i = 0; channels && i < 4; i++)
		bits += channels->bits[i] > 0 ? (size_t)channels->bits[i] : 0;
	return product(product(width, height ? height : 1, depth ? depth : 1), (bits + 7) / 8, 1);
}

/* ---- driver functions that are handed out */

static uint64_t driver_gives(void)
{
	enum runtime runtime = atomic32_load_relaxed(&runtime_in_use) - 1;

	return runtime < NR_RUNTIMES ? before_giving(runtime) : 0;
}

static void driver_gave(const void *handle, size_t bytes, enum record_level level, uint16_t device, const void *caller,
                        uint64_t begin_ns)
{
	enum runtime runtime = atomic32_load_relaxed(&runtime_in_use) - 1;

	hook_memory_given(&(struct hook_given){.address = handle,
	                                       .size_bytes = bytes,
	                                       .caller = caller,
	                                       .begin_ns = begin_ns,
	                                       .level = level,
	                                       .device = device,
	                                       .handle = true});
	if (level == LEVEL_SEGMENT && runtime < NR_RUNTIMES && current_device(runtime) == device)
		ask_if_cheap(device);
}

static void driver_refused(size_t bytes, enum record_level level, uint16_t device)
{
	if (level == LEVEL_SEGMENT && hook_is_wanted())
		hook_memory_refused(bytes, device);
}

#define DRIVER_GIVES(name, params, args, level_and_device, place, bytes)                                                         \
	static uint64_t real_##name;                                                                                             \
	static int wrap_##name params                                                                                            \
	{                                                                                                                        \
		int(*real) params = (int(*) params)(uintptr_t)atomic64_load_acquire(&real_##name);                               \
		uint64_t begin_ns = driver_gives();                                                                              \
		int error;                                                                                                       \
                                                                                                                                 \
		error = real args;                                                                                               \
		if (error == CUDA_SUCCESS && (place) && *(place) && (bytes) && hook_is_wanted())                                 \
			driver_gave((const void *)(uintptr_t) * (place), bytes, level_and_device, __builtin_return_address(0),   \
			            begin_ns);                                                                                   \
		else if (error == CUDA_ERROR_MEMORY)                                                                             \
			driver_refused(bytes, level_and_device);                                                                 \
		return error;                                                                                                    \
	}
#define DRIVER_TAKES(name, params, args, address)                                                                                \
	static uint64_t real_##name;                                                                                             \
	static int wrap_##name params                                                                                            \
	{                                                                                                                        \
		int(*real) params = (int(*) params)(uintptr_t)atomic64_load_acquire(&real_##name);                               \
		int error;                                                                                                       \
                                                                                                                                 \
		taken((const void *)(uintptr_t)(address));                                                                       \
		error = real args;                                                                                               \
		check_taken(error);                                                                                              \
		return error;                                                                                                    \
	}

/* Physical memory is known by its handle; where it is mapped, and how often, takes none, but says where its blocks lie. */
static enum record_level level_of(const struct cuda_properties *properties)
{
	return properties->location_type == CUDA_LOCATION_DEVICE ? LEVEL_SEGMENT : LEVEL_PINNED;
}

static uint16_t device_of(const struct cuda_properties *properties)
{
	return properties->location_type == CUDA_LOCATION_DEVICE ? CUDA_DEVICE(properties->location_id) : RECORD_DEVICE_CPU;
}

#define PROPERTIES_PLACE level_of(properties), device_of(properties)
DRIVER_GIVES(cuMemCreate, (uint64_t * ret, size_t bytes, const struct cuda_properties *properties, unsigned long long flags),
             (ret, bytes, properties, flags), PROPERTIES_PLACE, ret, bytes)
DRIVER_TAKES(cuMemRelease, (uint64_t handle), (handle), handle)

DRIVER_TAKES(cuMemUnmap, (uint64_t address, size_t bytes), (address, bytes), address)

static uint64_t real_cuMemMap;
static int wrap_cuMemMap(uint64_t address, size_t bytes, size_t offset, uint64_t handle, unsigned long long flags)
{
	int (*real)(uint64_t, size_t, size_t, uint64_t, unsigned long long) =
	        (int (*)(uint64_t, size_t, size_t, uint64_t, unsigned long long))(uintptr_t)atomic64_load_acquire(&real_cuMemMap);
	int error = real(address, bytes, offset, handle, flags);

	if (error == CUDA_SUCCESS && address && bytes && hook_is_wanted())
		hook_memory_given(&(struct hook_given){.address = (const void *)(uintptr_t)address,
		                                       .size_bytes = bytes,
		                                       .caller = (const void *)(uintptr_t)handle,
		                                       .level = LEVEL_MAPPING});
	return error;
}

/* name, wrapper, the real function. */
static const struct {
	const char *name;
	void *wrapper;
	uint64_t *real;
} driver_functions[] = {
        {"cuMemCreate", (void *)wrap_cuMemCreate, &real_cuMemCreate},
        {"cuMemRelease", (void *)wrap_cuMemRelease, &real_cuMemRelease},
        {"cuMemMap", (void *)wrap_cuMemMap, &real_cuMemMap},
        {"cuMemUnmap", (void *)wrap_cuMemUnmap, &real_cuMemUnmap},
};

/* What a program that asks for driver function @symbol and would get @function gets. */
static void *stand_before(const char *symbol, void *function)
{
	for (size_t i = 0; i < sizeof(driver_functions) / sizeof(driver_functions[0]); i++) {
		uint64_t before = 0;

		if (strcmp(symbol, driver_functions[i].name) != 0)
			continue;
		/* There is one wrapper for each name; another version of the function is left alone. */
		if (atomic64_cas_acq_rel(driver_functions[i].real, &before, (uint64_t)(uintptr_t)function) ||
		    before == (uint64_t)(uintptr_t)function)
			return driver_functions[i].wrapper;
		return function;
	}
	return function;
}

/* ---- what is exported */

#define EXPORTED(version, runtime, name, params)                                                                                 \
	NNMEM_EXPORT int cudart##version##_##name params;                                                                        \
	__asm__(".symver cudart" #version "_" #name "," #name DEFAULT_##version "libcudart.so." #version);

/* A call without a version, as dlsym() makes it, means the newer one. */
#define DEFAULT_12 "@"
#define DEFAULT_13 "@@"

#define GIVES(version, runtime, name, params, args, level, place, bytes)                                                         \
	EXPORTED(version, runtime, name, params)                                                                                 \
	int cudart##version##_##name params                                                                                      \
	{                                                                                                                        \
		__typeof__(&cudart##version##_##name) real = cudart_real(runtime, CUDART_##name);                                \
		uint64_t begin_ns = before_giving(runtime);                                                                      \
		int error = real ? real args : CUDA_ERROR_UNKNOWN;                                                               \
                                                                                                                                 \
		if (error == CUDA_SUCCESS)                                                                                       \
			given(runtime, (void *const *)(place), bytes, level, __builtin_return_address(0), begin_ns);             \
		else if (error == CUDA_ERROR_MEMORY)                                                                             \
			refused(runtime, bytes, level);                                                                          \
		return error;                                                                                                    \
	}

#define TAKES(version, runtime, name, params, args, address)                                                                     \
	EXPORTED(version, runtime, name, params)                                                                                 \
	int cudart##version##_##name params                                                                                      \
	{                                                                                                                        \
		__typeof__(&cudart##version##_##name) real = cudart_real(runtime, CUDART_##name);                                \
		int error;                                                                                                       \
                                                                                                                                 \
		taken(address);                                                                                                  \
		error = real ? real args : CUDA_ERROR_UNKNOWN;                                                                   \
		check_taken(error);                                                                                              \
		return error;                                                                                                    \
	}

#define ENTRY(version, runtime, name, params, args, symbol, place)                                                               \
	EXPORTED(version, runtime, name, params)                                                                                 \
	int cudart##version##_##name params                                                                                      \
	{                                                                                                                        \
		__typeof__(&cudart##version##_##name) real = cudart_real(runtime, CUDART_##name);                                \
		int error = real ? real args : CUDA_ERROR_UNKNOWN;                                                               \
                                                                                                                                 \
		atomic32_store_relaxed(&runtime_in_use, (runtime) + 1);                                                          \
		if (error == CUDA_SUCCESS && (symbol) && (place) && *(place))                                                    \
			*(place) = stand_before(symbol, *(place));                                                               \
		return error;                                                                                                    \
	}

#define CUDART_GIVES(...) GIVES(12, RUNTIME_12, __VA_ARGS__)
#define CUDART_TAKES(...) TAKES(12, RUNTIME_12, __VA_ARGS__)
#define CUDART_ENTRY(...) ENTRY(12, RUNTIME_12, __VA_ARGS__)
#include "hook/cudart.def"
#undef CUDART_GIVES
#undef CUDART_TAKES
#undef CUDART_ENTRY
#define CUDART_GIVES(...) GIVES(13, RUNTIME_13, __VA_ARGS__)
#define CUDART_TAKES(...) TAKES(13, RUNTIME_13, __VA_ARGS__)
#define CUDART_ENTRY(...) ENTRY(13, RUNTIME_13, __VA_ARGS__)
#include "hook/cudart.def"
#undef CUDART_GIVES
#undef CUDART_TAKES
#undef CUDART_ENTRY
