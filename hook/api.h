/*
 * The functions of PyTorch that we stand before: their types, and the real ones behind us.
 *
 * Generated from api.def.  For each wrapped function `id` there are: `wrap_<id>`, our exported definition under the C++
 * name; `real_<id>_fn`, its type; API_<id>, its place in the table.
 */
#ifndef NNMEM_HOOK_API_H
#define NNMEM_HOOK_API_H

#include "hook/hook.h"

/*
 * C++ functions that return an object with a destructor are given the place for it by the caller.
 * x86-64 (System V): as a hidden first argument, which they return; we pass it through as the pointer that it is.
 * aarch64 (AAPCS64): in x8, which no C parameter can name.  A C struct of the same size above 16 bytes is returned the same
 * way, so `execute` (std::vector, 24 bytes, which may be moved by copying its bytes) is declared as one;
 * execute_with_graph_task (8 bytes) is not interposed there, and device workers' events then name no caller.
 */
#if defined(__x86_64__)
#define API_HAS_RETURN_ARGUMENT
#define API_RETURN          void *
#define API_RETURN_ARGUMENT void *result,
#elif defined(__aarch64__)
struct api_vector {
	void *words[3];
};
#define API_RETURN struct api_vector
#define API_RETURN_ARGUMENT
#else
#error "how C++ returns an object is not known for this machine"
#endif

/* at::RecordFunctionCallback, with room for what later versions may add: more scopes, and wishes that stay 0. */
struct api_callback {
	void *start, *end;
	double sampling;
	uint8_t scopes[40];
};

/* c10::ArrayRef: trivially copied. */
struct api_array {
	const void *data;
	size_t nr;
};

enum api {
#define API_WRAPPED(id, symbol, ret, params) API_##id,
#define API_CALLED(id, symbol, ret, params)  API_##id,
#include "hook/api.def"
#undef API_WRAPPED
#undef API_CALLED
	NR_API
};

#define API_WRAPPED(id, symbol, ret, params)                                                                                     \
	typedef ret real_##id##_fn params;                                                                                       \
	NNMEM_EXPORT ret wrap_##id params __asm__(symbol);
#define API_CALLED(id, symbol, ret, params) typedef ret real_##id##_fn params;
#include "hook/api.def"
#undef API_WRAPPED
#undef API_CALLED

/*
 * The real function behind @api, or NULL when no loaded library has it.  Found once and remembered.
 * Thread: any.  Signal: safe once found; the first call takes the loader's lock.  Keeps errno.
 */
void *api_real(enum api api);

/*
 * Find all functions of the libraries that are loaded by now, so that no later call needs the loader: call it at a moment
 * when no lock of PyTorch's can be held.
 */
void api_resolve(void);

#endif
