/*
 * The Python adapter without the rest of the hook: a preload library that writes down, a line each, what the adapter says
 * (and nothing else), to the file that LISTEN_FILE names, and at the end how many tensors were reported.
 *
 * Lines: "enter ID FLAGS THREAD", "leave THREAD" (flags of r, g, t), "begin ID", "end", "update", "input ADDRESS SIZE GRAD",
 * "define KIND SCOPE ADDRESS SIZE A B|TEXT" with the text's fields joined by |, "stacks FOLDER" (with LISTEN_STACKS), "note
 * TEXT", "reports N". LISTEN_OFF: what hook_is_on() says then is false.
 */
#define _GNU_SOURCE
#include "hook/hook.h"
#include "hook/python.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static FILE *out;
static uint64_t nr_reports;
#define MAX_DEPTH 64
static __thread uint32_t depth, current[MAX_DEPTH];
static __thread unsigned number;

__attribute__((constructor(101))) static void start(void)
{
	const char *path = getenv("LISTEN_FILE");

	if (path)
		out = fopen(path, "we");
}

__attribute__((destructor)) static void end(void)
{
	if (!out)
		return;
	fprintf(out, "reports %llu\n", (unsigned long long)__atomic_load_n(&nr_reports, __ATOMIC_RELAXED));
	fclose(out);
	out = NULL;
}

static unsigned thread_number(void)
{
	static unsigned nr_threads;

	if (!number)
		number = __atomic_add_fetch(&nr_threads, 1, __ATOMIC_RELAXED);
	return number;
}

__attribute__((format(printf, 1, 2))) static void line(const char *format, ...)
{
	va_list arguments;

	if (!out)
		return;
	va_start(arguments, format);
	vfprintf(out, format, arguments);
	va_end(arguments);
}

/* ---- what the adapter calls */

bool hook_is_on(void)
{
	return !getenv("LISTEN_OFF");
}

enum hook_state hook_current_state(void)
{
	return __atomic_load_n(&nr_reports, __ATOMIC_RELAXED) ? HOOK_UP : HOOK_DOWN;
}

bool hook_in_module(void)
{
	return depth > 0;
}

bool hook_in_backward(void)
{
	return false;
}

uint32_t hook_current_module(void)
{
	return depth ? current[(depth < MAX_DEPTH ? depth : MAX_DEPTH) - 1] : 0;
}

void hook_module_enter(uint32_t module, bool root, bool grad, bool training)
{
	if (depth < MAX_DEPTH)
		current[depth] = module;
	depth++;
	line("enter %u %s%s%s %u\n", module, root ? "r" : "-", grad ? "g" : "", training ? "t" : "", thread_number());
}

void hook_module_leave(void)
{
	depth--;
	line("leave %u\n", thread_number());
}

void hook_optimizer_begin(uint32_t optimizer)
{
	line("begin %u\n", optimizer);
}

void hook_optimizer_end(void)
{
	line("end\n");
}

void hook_scaler_update(void)
{
	line("update\n");
}

void hook_input(uint64_t storage, uint64_t size_bytes, bool requires_grad)
{
	line("input %llu %llu %d\n", (unsigned long long)storage, (unsigned long long)size_bytes, requires_grad);
}

void hook_gradient(uint32_t gradient, uint64_t address)
{
	line("gradient %u %llu\n", gradient, (unsigned long long)address);
}

void hook_define(const struct record *record, const char *text, uint32_t text_bytes)
{
	char fields[RECORD_TEXT_MAX + 1];

	for (uint32_t i = 0; i < text_bytes; i++)
		fields[i] = text[i] ? text[i] : '|';
	fields[text_bytes] = 0;
	line("define %u %u %llu %llu %llu %llu|%s\n", record->kind, record->scope, (unsigned long long)record->address,
	     (unsigned long long)record->size, (unsigned long long)record->a, (unsigned long long)record->b, fields);
}

void hook_note(uint8_t *once, enum record_severity severity, const char *format, ...)
{
	char text[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	line("note %s\n", text);
}

bool hook_wants_stacks(void)
{
	return true;
}

void hook_stacks_start(const struct frames_layout *layout, const char *torch, const char *library)
{
	if (getenv("LISTEN_STACKS"))
		line("stacks %s\n", torch);
}

/* ---- PyTorch's reports, counted */

NNMEM_EXPORT bool _ZN3c1022memoryProfilingEnabledEv(void);
NNMEM_EXPORT void _ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE(void *, int64_t, size_t, size_t, uint16_t);

bool _ZN3c1022memoryProfilingEnabledEv(void)
{
	return true;
}

void _ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE(void *address, int64_t size, size_t allocated, size_t reserved,
                                                           uint16_t device)
{
	__atomic_add_fetch(&nr_reports, 1, __ATOMIC_RELAXED);
	python_reported();
}
