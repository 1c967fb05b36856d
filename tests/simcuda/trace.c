/*
 * Calls of a simulated library's API, told to the driver's observer (observe.h).
 *
 * The library is compiled with -finstrument-functions; a function that it exports under a name of CUDA's is a call.  So no
 * function has to say that it is called, and none is forgotten.
 */
#define _GNU_SOURCE /* dladdr */
#include "observe.h"
#include "sim.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define UNTRACED    __attribute__((no_instrument_function))
#define TABLE_SLOTS 4096 /* a power of two, well above the number of functions in a library */

/* A function of this library that was called.  The name is written before the address. */
struct function {
	_Atomic(const void *) address; /* NULL: the slot is free */
	const char *name;              /* NULL: not one of the API's */
};

void __cyg_profile_func_enter(void *function, void *site) UNTRACED;
void __cyg_profile_func_exit(void *function, void *site) UNTRACED;

static struct function functions[TABLE_SLOTS];
static pthread_mutex_t functions_lock = PTHREAD_MUTEX_INITIALIZER; /* of adding to them */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static __typeof__(simcudaCall) *tell_call;
static __typeof__(simcudaReturn) *tell_return;

static UNTRACED void bind(void)
{
	tell_call = (__typeof__(tell_call))sim_driver_function("simcudaCall");
	tell_return = (__typeof__(tell_return))sim_driver_function("simcudaReturn");
}

/* What the compiler's stubs call when a program starts or launches is no call of the program's, but for the launch. */
static UNTRACED bool is_of_the_api(const char *name)
{
	return !strncmp(name, "cu", 2) || !strcmp(name, "__cudaLaunchKernel");
}

static UNTRACED const char *name_of(const void *address)
{
	Dl_info info;

	if (!dladdr(address, &info) || info.dli_saddr != address || !info.dli_sname || !is_of_the_api(info.dli_sname))
		return NULL;
	return info.dli_sname;
}

/* The slot of @address, or the free one where it belongs. */
static UNTRACED struct function *slot_of(const void *address)
{
	size_t slot = ((uintptr_t)address >> 4) % TABLE_SLOTS;

	for (;; slot = (slot + 1) % TABLE_SLOTS) {
		const void *there = atomic_load_explicit(&functions[slot].address, memory_order_acquire);

		if (!there || there == address)
			return &functions[slot];
	}
}

static UNTRACED const char *traced_name(const void *address)
{
	struct function *function = slot_of(address);

	if (atomic_load_explicit(&function->address, memory_order_acquire))
		return function->name;
	pthread_mutex_lock(&functions_lock);
	function = slot_of(address);
	if (!atomic_load_explicit(&function->address, memory_order_relaxed)) {
		function->name = name_of(address);
		atomic_store_explicit(&function->address, address, memory_order_release);
	}
	pthread_mutex_unlock(&functions_lock);
	return function->name;
}

void __cyg_profile_func_enter(void *function, void *site)
{
	const char *name = traced_name(function);

	if (!name)
		return;
	pthread_once(&once, bind);
	tell_call(name, site);
}

void __cyg_profile_func_exit(void *function, void *site)
{
	const char *name = traced_name(function);

	if (name)
		tell_return(name);
}
