/* What process.c and wrap_libc.c share. */
#ifndef NNMEM_HOOK_PROCESS_H
#define NNMEM_HOOK_PROCESS_H

/*
 * Find libc's own exec functions behind our wrappers: in the constructor, because a child of fork() or vfork() that calls
 * them must not take the loader's lock.
 */
void process_resolve(void);

#endif
