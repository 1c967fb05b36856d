/*
 * Marks: tell nnmem where steps and phases of your own program begin.
 *
 * Nothing needs them: steps and phases are found by themselves.  They override what was found.
 * The functions live in libnnmemhook.so and are declared weak: a program that includes this header builds, links and runs
 * without the library, and the inline wrappers then do nothing.
 *
 * Thread: any; a mark belongs to the calling thread.  Signal: safe.  They never fail.
 */
#ifndef NNMEM_NNMEM_H
#define NNMEM_NNMEM_H

#ifdef __cplusplus
extern "C" {
#endif

enum nnmem_phase {
	NNMEM_PHASE_STATIC = 0,
	NNMEM_PHASE_FORWARD = 1,
	NNMEM_PHASE_BACKWARD = 2,
	NNMEM_PHASE_OPTIMIZER = 3,
	NNMEM_PHASE_INFERENCE = 4,
	NNMEM_PHASE_OTHER = 5,
};

__attribute__((weak)) void nnmem_mark_step(void);
__attribute__((weak)) void nnmem_mark_phase_begin(enum nnmem_phase phase);
__attribute__((weak)) void nnmem_mark_phase_end(void);

/* A training step begins here; from the first call on, only these calls make training steps. */
static inline void nnmem_step(void)
{
	if (nnmem_mark_step)
		nnmem_mark_step();
}

/* The calling thread is in @phase until the matching nnmem_phase_end(); phases nest, the innermost counts. */
static inline void nnmem_phase_begin(enum nnmem_phase phase)
{
	if (nnmem_mark_phase_begin)
		nnmem_mark_phase_begin(phase);
}

static inline void nnmem_phase_end(void)
{
	if (nnmem_mark_phase_end)
		nnmem_mark_phase_end();
}

#ifdef __cplusplus
}
#endif

#endif
