/* What wrap_libc.c needs before any of its wrappers is called. */
#ifndef NNMEM_HOOK_WRAP_LIBC_H
#define NNMEM_HOOK_WRAP_LIBC_H

/*
 * Find libc's own exec functions behind our wrappers: in the constructor, because a child of fork() or vfork() that calls
 * them must not take the loader's lock.  Twice is allowed.
 */
void wrap_libc_resolve(void);

#endif
