/*
 * The witness of native stacks: a preload that writes down, at each allocation that PyTorch reports, what glibc's backtrace()
 * says (it unwinds by libgcc).  Put before libnnmemhook.so in LD_PRELOAD it passes each report on to the hook.
 *
 * Environment: BACKTRACE_FILE (path): a line for each allocation: "SIZE OBJECT+ADDRESS ...", from the caller of the report
 * outwards; ADDRESS, in hexadecimal, is that of the return, as the object was linked.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX    512

EXPORT void _ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE(void *, long, size_t, size_t, uint16_t);

static FILE *out;

__attribute__((constructor)) static void start(void)
{
	const char *path = getenv("BACKTRACE_FILE");

	/* Only the first process: what it starts inherits the variable. */
	out = path ? fopen(path, "wxe") : NULL;
}

void _ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE(void *address, long size, size_t total, size_t reserved,
                                                           uint16_t device)
{
	static void (*next)(void *, long, size_t, size_t, uint16_t);
	void *addresses[MAX];
	int nr = out && size > 0 ? backtrace(addresses, MAX) : 0;

	if (!next)
		*(void **)(void *)&next = dlsym(RTLD_NEXT, "_ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE");
	if (nr > 0) {
		flockfile(out);
		fprintf(out, "%ld", size);
		for (int i = 1; i < nr; i++) {
			Dl_info info;

			if (dladdr(addresses[i], &info))
				fprintf(out, " %s+%lx", info.dli_fname,
				        (unsigned long)((char *)addresses[i] - (char *)info.dli_fbase));
			else
				fprintf(out, " ?");
		}
		fprintf(out, "\n");
		funlockfile(out);
	}
	next(address, size, total, reserved, device);
}
