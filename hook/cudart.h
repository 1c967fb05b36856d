/*
 * The CUDA runtime's entry points that give and take memory: exported by wrap_cudart.c from the list in cudart.def.
 */
#ifndef NNMEM_HOOK_CUDART_H
#define NNMEM_HOOK_CUDART_H

/*
 * Find the real functions of the runtimes that are loaded by now, as api_resolve() (api.h) does for PyTorch's: so that no
 * later call, which may come with an allocator's lock held, needs the loader.
 * Thread: any.  Signal: not safe.  Keeps errno.
 */
void cudart_resolve(void);

#endif
