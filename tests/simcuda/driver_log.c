/*
 * The driver's log of memory: what happened, in order, for tests to compare with what others say happened.
 *
 * SIMCUDA_MUTATE makes it lie about one event of device memory, to show that the comparison would notice.
 */
#define _GNU_SOURCE /* dladdr */
#include "driver.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
	int fd; /* -1: none is wanted */
	bool opened;
	char mutation[8];   /* "": none */
	uint64_t mutate_at; /* counts from 1 */
	uint64_t nr_device_events;
} log_state;

static void log_open(void)
{
	const char *path = getenv("SIMCUDA_LOG");
	const char *mutation = getenv("SIMCUDA_MUTATE");
	unsigned long long at;

	log_state.opened = true;
	log_state.fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
	if (path && log_state.fd < 0)
		sim_die("cannot write SIMCUDA_LOG", path);
	if (!mutation)
		return;
	if (sscanf(mutation, "%7[a-z]:%llu", log_state.mutation, &at) != 2)
		sim_die("not understood in SIMCUDA_MUTATE", mutation);
	log_state.mutate_at = at;
}

static const char *file_name_at(const void *code)
{
	Dl_info info;
	const char *slash;

	if (!dladdr(code, &info) || !info.dli_fname)
		return "unknown";
	slash = strrchr(info.dli_fname, '/');
	return slash ? slash + 1 : info.dli_fname;
}

void log_event(const char *event, int device_id, uintptr_t address, size_t size_bytes, const void *caller)
{
	bool mutated;
	int times = 1;

	observe_memory(event, device_id, address, size_bytes);
	if (!log_state.opened)
		log_open();
	if (log_state.fd < 0)
		return;
	mutated = device_id >= 0 && log_state.mutation[0] && ++log_state.nr_device_events == log_state.mutate_at;
	if (mutated && !strcmp(log_state.mutation, "drop"))
		times = 0;
	else if (mutated && !strcmp(log_state.mutation, "double"))
		times = 2;
	else if (mutated && !strcmp(log_state.mutation, "size"))
		size_bytes += SIM_GRANULE_BYTES;
	while (times--)
		dprintf(log_state.fd, "%s %d %#zx %zu %s\n", event, device_id, (size_t)address, size_bytes, file_name_at(caller));
}
