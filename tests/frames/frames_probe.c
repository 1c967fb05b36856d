/*
 * What hook/frames.c reads of an interpreter, as text, for check_frames.py: loaded by ctypes into any Python, without torch.
 */
#include "hook/frames.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int probe_start(void);
EXPORT int probe_walk(char *text, size_t size);
EXPORT uint32_t probe_line(const char *code, int32_t offset);
EXPORT uint64_t probe_proof(const char *code);
EXPORT int probe_misread(unsigned field, int distance);
EXPORT double probe_cost(unsigned rounds);

static struct frames_layout layout;
static void *(*thread_state)(void);

/* 0, or -1 where the interpreter's layout is not known. */
int probe_start(void)
{
	const char *(*version)(void) = (const char *(*)(void))(uintptr_t)dlsym(RTLD_DEFAULT, "Py_GetVersion");

	thread_state = (void *(*)(void))(uintptr_t)dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState");
	return frames_layout_of((uint32_t)atoi(version() + 2), dlsym(RTLD_DEFAULT, "_PyRuntime"),
	                        dlsym(RTLD_DEFAULT, "PyCode_Type"), &layout)
	               ? 0
	               : -1;
}

/*
 * A line for each frame of the calling thread: code address, line, file, function, by tabs; then one that says whether
 * there are more.  Returns the number of frames; -1: the careful walk and the quick one differ.
 */
int probe_walk(char *text, size_t size)
{
	struct frames_mark marks[FRAMES_MAX], careful[FRAMES_MAX];
	bool cut, careful_cut;
	uint32_t nr = frames_walk(&layout, thread_state(), marks, &cut);
	int nr_careful = frames_walk_carefully(&layout, thread_state(), careful, &careful_cut);
	char file[1024], function[1024];
	size_t used = 0;

	if (nr_careful != (int)nr || cut != careful_cut)
		return -1;
	for (uint32_t i = 0; i < nr; i++) {
		if (marks[i].code != careful[i].code || marks[i].offset != careful[i].offset)
			return -1;
		frames_file(&layout, marks[i].code, file, sizeof(file));
		frames_function(&layout, marks[i].code, function, sizeof(function));
		used += (size_t)snprintf(text + used, size - used, "%llu\t%u\t%s\t%s\n",
		                         (unsigned long long)(uintptr_t)marks[i].code, frames_line(&layout, &marks[i]), file,
		                         function);
	}
	snprintf(text + used, size - used, "%s\n", cut ? "cut" : "whole");
	return (int)nr;
}

uint32_t probe_line(const char *code, int32_t offset)
{
	const struct frames_mark mark = {.code = code, .offset = offset};

	return frames_line(&layout, &mark);
}

uint64_t probe_proof(const char *code)
{
	return frames_proof(&layout, code);
}

/* Whether frames_check() takes a layout that is wrong by @distance in field number @field for right; it must not crash. */
int probe_misread(unsigned field, int distance)
{
	struct frames_layout wrong = layout;
	struct frames_fact fact = {0};
	uint16_t *fields[] = {&wrong.thread_frame, &wrong.frame_code, &wrong.frame_previous, &wrong.frame_instruction};

	*fields[field] = (uint16_t)(*fields[field] + distance);
	return frames_check(&wrong, thread_state(), &fact, 1);
}

static uint64_t sink;

/* Nanoseconds for one walk with its proofs. */
double probe_cost(unsigned rounds)
{
	struct timespec begin, end;
	struct frames_mark marks[FRAMES_MAX];
	bool cut;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (unsigned i = 0; i < rounds; i++) {
		uint32_t nr = frames_walk(&layout, thread_state(), marks, &cut);

		for (uint32_t j = 0; j < nr; j++)
			sink += frames_proof(&layout, marks[j].code);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	return ((double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec)) / rounds;
}
