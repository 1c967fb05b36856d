/*
 * The Python adapter's C side: gets hook/adapter.py into the interpreter and gives it its C functions.
 *
 * It has a constructor of its own; everything else happens inside the interpreter, on threads that hold its lock.  In a
 * process without Python nothing here does anything.
 */
#ifndef NNMEM_HOOK_PYTHON_H
#define NNMEM_HOOK_PYTHON_H

/*
 * A tensor was reported: where the adapter could not be attached by an audit event (an interpreter that was loaded after
 * the constructor ran), ask for it to be run on the main thread.  Costs one load once it has been asked or is attached.
 * Thread: any, GIL held or not.  Allocates nothing.  Keeps errno.
 */
void python_reported(void);

#endif
