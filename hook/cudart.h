/*
 * The CUDA runtime's entry points that give and take memory: exported by wrap_cudart.c from the list in cudart.def.
 *
 * Besides, what the driver says is in use, asked at moments when PyTorch itself calls the runtime: before the first memory of a
 * device is given, when a segment was given, when PyTorch's total is as high as it ever was, when memory is out.  Asking takes
 * at most a hundredth of the time.
 */
#ifndef NNMEM_HOOK_CUDART_H
#define NNMEM_HOOK_CUDART_H

#include <stdbool.h>
#include <stdint.h>

/*
 * PyTorch reported a block of CUDA's @device, after which it has @total_allocated there; it could not have one.  The device is
 * the calling thread's current one.
 * Thread: any, also with PyTorch's allocator lock held.  Signal: not safe.  Keeps errno and CUDA's last error.
 */
void cudart_reported(uint16_t device, uint64_t total_allocated);
void cudart_refused(uint16_t device);

/*
 * Find the real functions of the runtimes that are loaded by now, as api_resolve() (api.h) does for PyTorch's: so that no
 * later call, which may come with an allocator's lock held, needs the loader.
 * Returns whether there is one.  Thread: any.  Signal: not safe.  Keeps errno.
 */
bool cudart_resolve(void);

#endif
