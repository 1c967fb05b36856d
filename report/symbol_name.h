/*
 * A function's name as people say it: `at::native::conv2d_symint` for what the linker calls
 * `_ZN2at6native13conv2d_symintERKNS_6TensorES3_...`, and C++ in full
 * `at::native::conv2d_symint(at::Tensor const&, at::Tensor const&, ...)`.
 */
#ifndef NNMEM_REPORT_SYMBOL_NAME_H
#define NNMEM_REPORT_SYMBOL_NAME_H

#include <stdbool.h>

/*
 * @linked in words: what C++ mangled is demangled (by the C++ runtime's __cxa_demangle(), if that can be loaded; names come
 * from an object's file, not from a run file), and shortened.  The caller's; NULL without memory.
 */
char *symbol_name(const char *linked);

/* @name, a function as C++ writes it, without arguments, template arguments and type, in place. */
void symbol_name_shorten(char *name);

/* Whether a function of this name only passes a call on: of PyTorch's dispatcher, of std::function and the like. */
bool symbol_name_is_glue(const char *name);

#endif
