/*
 * The Python adapter's C side: gets hook/adapter.py into the interpreter and gives it its C functions.
 *
 * It has a constructor of its own; everything else happens inside the interpreter, on threads that hold its lock.  In a
 * process without Python nothing here does anything.
 */
#ifndef NNMEM_HOOK_PYTHON_H
#define NNMEM_HOOK_PYTHON_H

/*
 * A tensor was reported: ask the main thread to go on with what no audit event (an import, a file opened) has been the
 * moment for yet: to attach the adapter, to send the facts about the run.  Costs a load or two once it was asked.
 * Thread: any, GIL held or not.  Allocates nothing.  Keeps errno.
 */
void python_reported(void);

#endif
