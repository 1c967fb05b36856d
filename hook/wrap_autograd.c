/*
 * libtorch_cpu's autograd engine: backward, its workers, and each node as it is made and run.
 *
 * C++ called from C.  References are pointers; an object with a destructor that is passed by value is passed as a pointer to
 * it; one that is returned: see API_RETURN in api.h.  `this` comes first (after the place for the result).
 *
 * Exceptions.  A backward that fails leaves through our frames.  What must then be done (the scope must end) is done by a
 * personality routine of our own, which the C++ unwinder calls for our frame as it passes: it does its work in the cleanup
 * phase and says "go on".  Compared with __attribute__((cleanup)) this needs nothing of libgcc_s: the compiler's way makes
 * the library depend on _Unwind_Resume and __gcc_personality_v0, so that every process under LD_PRELOAD, a shell included,
 * would load this machine's libgcc_s first, and with it replace the one that the user's own C++ runtime came with.
 *
 * Source: torch/csrc/autograd/engine.h of 2.13.0 and 2.14.1 (same declarations), Itanium C++ ABI (calling convention 3.1,
 * exceptions 1.3), System V ABI for x86-64 and AAPCS64; run on both wheels.
 */
#include "hook/api.h"
#include "hook/hook_internal.h"

/* Of the unwinder's interface (Itanium C++ ABI: Exception Handling 1.3), what a routine needs that only passes on. */
#define UNWIND_CLEANUP_PHASE 2
#define UNWIND_CONTINUE      8

typedef int personality(int version, int actions, uint64_t exception_class, void *exception, void *context);

__attribute__((used, visibility("hidden"))) personality nnmem_end_backward, nnmem_end_node;

int nnmem_end_backward(int version, int actions, uint64_t exception_class, void *exception, void *context)
{
	if (actions & UNWIND_CLEANUP_PHASE)
		hook_backward_end();
	return UNWIND_CONTINUE;
}

int nnmem_end_node(int version, int actions, uint64_t exception_class, void *exception, void *context)
{
	if (actions & UNWIND_CLEANUP_PHASE)
		hook_node_end();
	return UNWIND_CONTINUE;
}

/*
 * Make @routine the enclosing function's personality.  0x1b: a 32-bit distance from here, so no relocation.  The function
 * must not be inlined, split or end in a tail call, and a call of it must not throw before its scope begins.
 */
#define UNWIND_BY(routine) __asm__ volatile(".cfi_personality 0x1b, " #routine)

uint64_t hook_torch_thread(void)
{
	real_current_thread_id_fn *real = api_real(API_current_thread_id);

	return real ? real() : UINT64_MAX;
}

__attribute__((noinline)) API_RETURN wrap_execute(API_RETURN_ARGUMENT void *engine, const void *roots, const void *inputs,
                                                  bool keep_graph, bool create_graph, bool accumulate, const void *outputs)
{
	real_execute_fn *real = api_real(API_execute);
	API_RETURN returned;

	UNWIND_BY(nnmem_end_backward);
	hook_backward_begin(accumulate, keep_graph);
#ifdef API_HAS_RETURN_ARGUMENT
	returned = real(result, engine, roots, inputs, keep_graph, create_graph, accumulate, outputs);
#else
	returned = real(engine, roots, inputs, keep_graph, create_graph, accumulate, outputs);
#endif
	hook_backward_end();
	return returned;
}

#ifdef API_HAS_RETURN_ARGUMENT
void *wrap_execute_with_graph_task(void *result, void *engine, void *const *graph_task, void *graph_root, void *inputs)
{
	real_execute_with_graph_task_fn *real = api_real(API_execute_with_graph_task);

	hook_graph_task(*graph_task);
	return real(result, engine, graph_task, graph_root, inputs);
}

void *wrap_execute_with_graph_task_v1(void *result, void *engine, void *const *graph_task, void *graph_root, void *inputs)
{
	real_execute_with_graph_task_v1_fn *real = api_real(API_execute_with_graph_task_v1);

	hook_graph_task(*graph_task);
	return real(result, engine, graph_task, graph_root, inputs);
}
#endif

void wrap_thread_init(void *engine, int device, const void *ready_queue, bool should_increment)
{
	real_thread_init_fn *real = api_real(API_thread_init);

	hook_autograd_worker();
	real(engine, device, ready_queue, should_increment);
}

__attribute__((noinline)) void wrap_evaluate_function(void *engine, void *const *graph_task, void *node, void *inputs,
                                                      const void *ready_queue)
{
	real_evaluate_function_fn *real = api_real(API_evaluate_function);

	UNWIND_BY(nnmem_end_node);
	hook_node_begin(*graph_task, node);
	real(engine, graph_task, node, inputs, ready_queue);
	hook_node_end();
}

uint64_t wrap_next_number(void)
{
	real_next_number_fn *real = api_real(API_next_number);
	uint64_t number = real();

	hook_node_made(number);
	return number;
}
