/*
 * What CUPTI saw of the memory that a program takes from CUDA: the calls that never pass through a name that we export,
 * made by libraries with a CUDA runtime of their own inside (cuBLAS, cuDNN, NCCL).
 *
 * Its records of kind MEMORY2 are asked for by the activity interface, without cuptiSubscribe(), of which there is one in a
 * process and torch.profiler's.  What can be had only once, the pair of buffer callbacks, is shared: the names of the
 * activity interface are exported (wrap_cupti.c), and where the program is CUPTI's client too, its buffers are used while
 * it has something enabled, ours otherwise; both get every record that is theirs, and it never sees one of ours.
 *
 * Nothing here is called before the program itself has taken memory from CUDA, and nothing in a program without libcupti.
 *
 * Source: CUPTI's documentation of 12.4 and 13.0 (Activity API); libkineto's CuptiActivityApi.cpp and init.cpp.
 */
#ifndef NNMEM_CUPTI_CUPTI_H
#define NNMEM_CUPTI_CUPTI_H

#include <stdbool.h>
#include <stdint.h>

enum cupti_use {
	CUPTI_AUTO, /* unless another tool has the GPU: nsys, ncu or whatever CUDA_INJECTION64_PATH names */
	CUPTI_OFF,
	CUPTI_ON,
};

/* NNMEM_CUPTI.  Thread: before any other call. */
void cupti_set_use(enum cupti_use use);

/*
 * The program is about to take memory from CUDA: ask CUPTI for its records, once; where it cannot, say so once in the run.
 * Thread: any, also with PyTorch's allocator lock held: CUPTI calls nothing of PyTorch's but Kineto's buffer callbacks, which
 * take no lock of the allocator's.  Signal: not safe.  Keeps errno and CUDA's last error.
 */
void cupti_start(void);

/* Whether CUPTI's records are asked for now: each call of the program that gives memory has one, sooner or later. */
bool cupti_is_on(void);

/*
 * Whether the program itself has CUPTI watch right now: what we call then would be in its trace.
 * Thread: any.  Signal: safe.
 */
bool cupti_is_watched(void);

#endif
