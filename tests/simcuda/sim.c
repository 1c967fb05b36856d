/*
 * Settings, the way out and the binding of the driver, linked into each simulated library.
 */
#include "sim.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

uint64_t sim_setting(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);
	char *end;
	uint64_t value;

	if (!text || !*text)
		return otherwise;
	value = strtoull(text, &end, 0);
	if (*end)
		sim_die("not a number in the environment", name);
	return value;
}

void sim_die(const char *why, const char *what)
{
	dprintf(STDERR_FILENO, "simcuda: %s: %s\n", why, what);
	abort();
}

void sim_unimplemented(const char *what)
{
	if (sim_setting("SIMCUDA_STRICT", 0))
		sim_die("not simulated", what);
	dprintf(STDERR_FILENO, "simcuda: not simulated: %s\n", what);
}

void *sim_driver_function(const char *name)
{
	void *driver = dlopen("libcuda.so.1", RTLD_NOW);
	void *function = driver ? dlsym(driver, name) : NULL;

	if (!function)
		sim_die("the simulated driver has no", name);
	return function;
}
