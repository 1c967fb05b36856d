/*
 * Native stacks: the calls of compiled code that a thread is in, as frames on top of its Python stack.
 *
 * A frame is a place in an ELF object: its file, its build id, the address in it as it was linked.  Names are found later, by
 * nnmem-report.
 *
 * Data model.  One table for the process, of fixed size and lock-free: address of code -> the frame that it is, and the rule
 * (native_rules.h) by which its caller is found.  So an address that is known costs one look into it, and nothing is asked of
 * libunwind or of the loader.  When another object is found to lie where one was, the entries of its addresses are cleared.
 * (An address of the new object that was one of the old is taken for that until a first address of the new one is met.)
 *
 * What is read of a stack lies between the calling frame and the stack's end, in pages that were once found readable, so
 * neither a wrong rule nor a stack of the program's own making (fibers) can make it crash; there the stack is cut.
 *
 * Where a stack is cut, its outermost native frame says so: NATIVE_CALLERS_UNKNOWN, NATIVE_CODE_MADE (code that is in no
 * object, made at run time: its callers are not known either), NATIVE_MORE.
 */
#ifndef NNMEM_HOOK_NATIVE_H
#define NNMEM_HOOK_NATIVE_H

#include "hook/stacks.h"

/* How many frames are kept of a stack, the innermost ones. */
#define NATIVE_FRAMES_MAX      128u

#define NATIVE_ADDRESSES       (1u << 16)

#define NATIVE_CALLERS_UNKNOWN "<callers not known>"
#define NATIVE_CODE_MADE       "<code made at run time>"
#define NATIVE_MORE            "<more frames>"

/* What of a thread's stack was found readable; the thread's own, zero at first. */
struct native_thread {
	uintptr_t low, high;
};

/*
 * Begin; once that succeeded or failed, later calls do nothing.  @own: an address in the object whose frames are left out, or
 * NULL.  Returns NULL, or why there are no native stacks (a constant), to the first caller only.
 * Thread: any.  Signal: not safe.  Allocates, and uses the dynamic loader.  Keeps errno.
 */
const char *native_start(const void *own);

bool native_is_on(void);

/*
 * The stack of the calling thread's native frames on top of @stack; @stack itself when there are none, or no room.
 * @to_python: only as far as the innermost frame of the Python interpreter, where @stack ends.
 * Thread: any.  Signal: as for records, only inside hook_enter().  Keeps errno.  Takes no lock for addresses that are known.
 */
uint32_t native_capture(struct native_thread *thread, struct stacks *stacks, struct emitter *emitter, uint32_t number,
                        uint32_t stack, bool to_python);

/* For the tests: nothing is known of any address. */
void native_forget_all(void);

/* For the tests: the addresses of the calling thread's native frames, innermost first, as they are looked up. */
uint32_t native_walk(struct native_thread *thread, uintptr_t addresses[NATIVE_FRAMES_MAX]);

#endif
