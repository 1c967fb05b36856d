/*
 * The ELF objects of the process: which of them an address of code lies in, and what is needed of it.
 *
 * Data model.  One table for the process, of fixed size, that only grows: an entry for each object that was ever seen, with
 * copies of all that is needed, so that nothing points into an object that may be unloaded.  An object whose place is taken by
 * another is `gone`.  The table is brought up to date when an address turns up that it does not know, not when an object is
 * loaded: nobody tells us.
 *
 * (An object that was built anew under the same name, and loaded to just where it lay before, is taken for the old one.)
 *
 * Locks.  The list of objects is the dynamic loader's, and reading it takes the loader's lock (dl_iterate_phdr()).  It is read
 * only when there is a new object: from glibc 2.35 on, _dl_find_object() says without a lock whose an address is.  A fork in
 * another thread waits until we are done (at most FORK_WAIT_MS), so that no child inherits the lock from us.
 *
 * Allocates nothing.  Keeps errno.
 */
#ifndef NNMEM_HOOK_NATIVE_OBJECTS_H
#define NNMEM_HOOK_NATIVE_OBJECTS_H

#include <stdbool.h>
#include <stdint.h>

#define NATIVE_OBJECTS       4096u
#define NATIVE_BUILD_ID_MAX  32u /* bytes; longer ones are cut */
#define NATIVE_BUILD_ID_TEXT (2 * NATIVE_BUILD_ID_MAX + 1)

/* One object.  Set before its number is published, and never changed but for what is marked atomic. */
struct native_object {
	uintptr_t start, end;   /* where it lies, with the gaps between its segments */
	uintptr_t bias;         /* address = bias + address in the file as it was linked */
	uintptr_t unwind;       /* its .eh_frame_hdr; 0: it has none */
	uintptr_t unwind_start; /* the segment that it lies in, with .eh_frame */
	uintptr_t unwind_end;
	const char *name;                    /* of its file, absolute where that is known */
	const char *told;                    /* the same as the loader has it */
	char build_id[NATIVE_BUILD_ID_TEXT]; /* hexadecimal digits; empty: it has none */
	bool is_ours;                        /* the one that was named at the start */
	uint32_t gone;                       /* atomic: another object was seen where it lay */
};

/*
 * Once, before anything else here: learn the objects that are loaded.  @own: an address in our own, or NULL.  @forget is told
 * later where objects lay that are gone.  Thread: any, one.  Signal: not safe.
 */
void native_objects_start(const void *own, void (*forget)(uintptr_t start, uintptr_t end));

/*
 * The object whose code @address is in; NULL: of none (code made at run time), or there is no room, or *@ret_busy: that cannot
 * be said now, since another thread is at it, or forks.
 * Thread: any.  Signal: safe, if it did not interrupt this function.
 */
const struct native_object *native_object_of(uintptr_t address, bool *ret_busy);

/* For the tests: the same as on a C library before 2.35. */
const struct native_object *native_object_of_slowly(uintptr_t address, bool *ret_busy);

#endif
