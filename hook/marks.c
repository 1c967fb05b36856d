/* The public marks of nnmem/nnmem.h. */
#include "hook/hook.h"

#include "nnmem/nnmem.h"

NNMEM_EXPORT void nnmem_mark_step(void)
{
	hook_mark(RECORD_MARK_STEP, 0);
}

NNMEM_EXPORT void nnmem_mark_phase_begin(enum nnmem_phase phase)
{
	hook_mark(RECORD_MARK_PHASE_BEGIN, (unsigned)phase);
}

NNMEM_EXPORT void nnmem_mark_phase_end(void)
{
	hook_mark(RECORD_MARK_PHASE_END, 0);
}
