/*
 * libcupti: the names by which the program, torch.profiler above all, is CUPTI's client.  Each call comes past here and is
 * forwarded, changed only where client and nnmem would otherwise take each other's records (activity.c).
 *
 * As with the runtime (hook/wrap_cudart.c) a caller was linked to one version of the library and gets that one.  A client that
 * finds CUPTI's functions by dlopen() and dlsym() does not come past here.
 *
 * Source: cupti_activity.h of CUDA 13.0; `nm -D` of libcupti.so.12 and .13; ld's manual on .symver.
 */
#define _GNU_SOURCE
#include "cupti/activity.h"

#include "hook/hook.h"
#include "nnmem/atomic.h"

#include <dlfcn.h>
#include <errno.h>

#define NR_VERSIONS   2
#define FIRST_VERSION 12u

static const char *const library_names[NR_VERSIONS] = {"libcupti.so.12", "libcupti.so.13"};

static const char *const symbols[NR_CUPTI_FUNCTIONS] = {
#define CUPTI(name, params, args) [CUPTI_##name] = "cupti" #name,
        CUPTI_FUNCTIONS
#undef CUPTI
                [CUPTI_GetTimestamp] = "cuptiGetTimestamp",
        [CUPTI_ActivityGetNumDroppedRecords] = "cuptiActivityGetNumDroppedRecords",
};

/* Written once each, with the same value whoever writes it. */
static uint64_t real_functions[NR_VERSIONS][NR_CUPTI_FUNCTIONS];

void *cupti_real(unsigned version, enum cupti_function which)
{
	unsigned index = version - FIRST_VERSION;
	uint64_t *place = &real_functions[index][which];
	uint64_t function = atomic64_load_acquire(place);
	void *object;
	int saved_errno = errno;

	if (function)
		return (void *)(uintptr_t)function;
	function = (uint64_t)(uintptr_t)dlvsym(RTLD_NEXT, symbols[which], library_names[index]);
	if (!function) {
		/* Never closed: what we point to must stay. */
		object = dlopen(library_names[index], RTLD_LAZY | RTLD_NOLOAD);
		function = object ? (uint64_t)(uintptr_t)dlsym(object, symbols[which]) : 0;
	}
	atomic64_store_release(place, function);
	errno = saved_errno;
	return (void *)(uintptr_t)function;
}

#define EXPORTED(version, name, params)                                                                                          \
	NNMEM_EXPORT int cupti##version##_##name params;                                                                         \
	__asm__(".symver cupti" #version "_" #name ",cupti" #name DEFAULT_##version "libcupti.so." #version);

/* A call without a version, as dlsym() makes it, means the newer one. */
#define DEFAULT_12 "@"
#define DEFAULT_13 "@@"

#define CLIENT_CALLS(version)                                                                                                    \
	EXPORTED(version, ActivityRegisterCallbacks, (cupti_requested_fn * requested, cupti_completed_fn * completed))           \
	int cupti##version##_ActivityRegisterCallbacks(cupti_requested_fn *requested, cupti_completed_fn *completed)             \
	{                                                                                                                        \
		return client_registers(version, requested, completed);                                                          \
	}                                                                                                                        \
	EXPORTED(version, ActivityEnable, (int kind))                                                                            \
	int cupti##version##_ActivityEnable(int kind)                                                                            \
	{                                                                                                                        \
		return client_enables(version, kind);                                                                            \
	}                                                                                                                        \
	EXPORTED(version, ActivityDisable, (int kind))                                                                           \
	int cupti##version##_ActivityDisable(int kind)                                                                           \
	{                                                                                                                        \
		return client_disables(version, kind);                                                                           \
	}                                                                                                                        \
	EXPORTED(version, ActivityGetNextRecord, (uint8_t * buffer, size_t valid_size, void **record))                           \
	int cupti##version##_ActivityGetNextRecord(uint8_t *buffer, size_t valid_size, void **record)                            \
	{                                                                                                                        \
		return client_reads(version, buffer, valid_size, record);                                                        \
	}                                                                                                                        \
	EXPORTED(version, ActivityRegisterTimestampCallback, (cupti_clock_fn * clock))                                           \
	int cupti##version##_ActivityRegisterTimestampCallback(cupti_clock_fn *clock)                                            \
	{                                                                                                                        \
		return client_sets_clock(version, clock);                                                                        \
	}                                                                                                                        \
	EXPORTED(version, Finalize, (void))                                                                                      \
	int cupti##version##_Finalize(void)                                                                                      \
	{                                                                                                                        \
		return client_finalizes(version);                                                                                \
	}

CLIENT_CALLS(12)
CLIENT_CALLS(13)
