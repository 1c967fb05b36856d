/*
 * The life of the process, as the hook's centre uses it; what others use of it (hook_end() and the like) is in hook.h.
 */
#ifndef NNMEM_HOOK_PROCESS_H
#define NNMEM_HOOK_PROCESS_H

#include <stdbool.h>

/*
 * The state is not HOOK_UP: start recording if the process is armed, or wait (bounded) for the thread that does so.
 * Returns whether the state is HOOK_UP now.  Keeps errno.
 */
bool process_start(void);

#endif
