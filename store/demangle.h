/*
 * Names of classes as C++'s type_info has them, in words: `N5torch8autograd14AccumulateGradE` is
 * torch::autograd::AccumulateGrad.  Only what classes of nodes are called: nested names, anonymous namespaces, templates over
 * such names and integers.
 *
 * Not by the C++ runtime's __cxa_demangle(): a ring that is left behind may hold anything, and what substitutions and nesting
 * can make of a short name is bounded neither in memory nor, on a small stack, in depth.  Here both are.
 *
 * Source: Itanium C++ ABI 5.1 (mangling).
 */
#ifndef NNMEM_STORE_DEMANGLE_H
#define NNMEM_STORE_DEMANGLE_H

#include <stddef.h>

/* Write what @name says into @ret (@size bytes, cut); what is not understood is copied as it is.  Never fails. */
void demangle_class(const char *name, char *ret, size_t size);

/*
 * The name of a node's class as PyTorch itself says it: as demangle_class(), and generated nodes, which are known by their
 * bare names (`ConvolutionBackward0`), without their namespace.
 */
void demangle_node(const char *name, char *ret, size_t size);

#endif
