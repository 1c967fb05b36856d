/*
 * Reading the Python frames of the calling thread, without the GIL and without calling Python.
 *
 * What may be read.  A thread's chain of frames changes only by what the thread itself executes, so inside a call that the
 * thread made it stands still, whoever holds the GIL; the code objects of running frames, their names and line tables are
 * immutable and alive.  Nothing else of the interpreter is read.
 *
 * Layouts.  CPython keeps these structures private, so where their fields lie is stated here for each version (3.10 to
 * 3.12) or taken from what the interpreter publishes (_Py_DebugOffsets, 3.13); frames_check() compares what is read with
 * what Python itself says, through reads that cannot crash, before anybody may rely on it.
 * Source: Include/cpython/code.h, frameobject.h, pystate.h, unicodeobject.h, internal/pycore_frame.h, pycore_runtime.h of
 * 3.10.13, 3.11.7, 3.12.1 and 3.13.0; Objects/lnotab_notes.txt (3.10), Objects/locations.md (3.11).
 *
 * Thread: any, each for itself.  Signal: safe.  Allocates nothing, takes no lock.
 */
#ifndef NNMEM_HOOK_FRAMES_H
#define NNMEM_HOOK_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How many frames of a thread are read, the innermost ones. */
#define FRAMES_MAX 128u

/* Byte offsets of fields. */
struct frames_layout {
	uint32_t minor;        /* 10 to 13; 0: no layout */
	uint16_t thread_frame; /* PyThreadState: the innermost frame, or a _PyCFrame when has_cframe */
	uint16_t cframe_frame; /* _PyCFrame: the innermost frame */
	uint16_t frame_code, frame_previous, frame_instruction, frame_owner;
	uint16_t code_first_line, code_filename, code_name, code_linetable, code_first_traceable, code_bytes;
	uint16_t text_state, text_length, text_ascii, text_other; /* str: the last two: where characters begin */
	bool has_cframe, has_first_traceable;
	const void *code_type; /* PyCode_Type */
};

/* One frame: which code, and where in it. */
struct frames_mark {
	const char *code;
	int32_t offset; /* bytes from the code's first instruction; < 0: nothing was executed yet */
};

/*
 * The layout for an interpreter of version @minor; @runtime is the address of its _PyRuntime, needed from 3.13 on.
 * Returns false where none is known: another version, a free-threaded build.
 */
bool frames_layout_of(uint32_t minor, const void *runtime, const void *code_type, struct frames_layout *ret);

/*
 * The frames of the calling thread, whose PyThreadState is @thread, innermost first.  Frames that are not complete yet and
 * the interpreter's own are left out.  Returns their number, at most FRAMES_MAX; *@ret_cut: there are more.
 */
uint32_t frames_walk(const struct frames_layout *layout, const void *thread, struct frames_mark marks[FRAMES_MAX], bool *ret_cut);

/*
 * The same through the kernel, so that a wrong layout is an error and no crash: for frames_walk()'s first time.
 * Returns -1 when something could not be read.
 */
int frames_walk_carefully(const struct frames_layout *layout, const void *thread, struct frames_mark marks[FRAMES_MAX],
                          bool *ret_cut);

/* Something that the code object at @code has for itself: a code object made later at the same address has another. */
uint64_t frames_proof(const struct frames_layout *layout, const char *code);

/* The line of @mark; 0: Python says none. */
uint32_t frames_line(const struct frames_layout *layout, const struct frames_mark *mark);

/* Copy the file's or the function's name as UTF-8, cut at @size - 1 bytes, with a NUL; returns its length. */
size_t frames_file(const struct frames_layout *layout, const char *code, char *ret, size_t size);
size_t frames_function(const struct frames_layout *layout, const char *code, char *ret, size_t size);

/* What Python says of one of its frames: addresses of the objects that its code object holds, and their values. */
struct frames_fact {
	const void *code, *filename, *name, *linetable;
	uint32_t first_line, line;   /* line: 0 none */
	const char *file, *function; /* UTF-8; NULL: cannot be said in it */
};

/*
 * Whether @layout, read through the kernel until it is known to be right, says of the calling thread's frames what @facts
 * say: all of them, or the @nr_facts innermost when that is FRAMES_MAX.
 */
bool frames_check(const struct frames_layout *layout, const void *thread, const struct frames_fact *facts, uint32_t nr_facts);

/* ---- for the tests: the line of byte @offset by a line table of 3.10, and of 3.11 and later; 0: none */
uint32_t frames_line_by_deltas(const unsigned char *table, size_t size, uint32_t first_line, int32_t offset);
uint32_t frames_line_by_locations(const unsigned char *table, size_t size, uint32_t first_line, int32_t offset);

#endif
