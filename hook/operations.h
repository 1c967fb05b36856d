/*
 * What PyTorch is doing: the class of a node that runs, and the names of operators.
 *
 * A node's class is read through its vtable, at every report made in the node.  Operators are told by PyTorch itself, to a
 * callback (at::addGlobalCallback) that costs every small operator a quarter of its time; so it is there only while names are
 * wanted: at first, and again whenever the recorder meets what it has no names for (ring->operations_known).
 *
 * The callback asks for nothing that changes what other observers see (no inputs, outputs, ids), and is removed, not
 * disabled, so that PyTorch is left as it was found.
 *
 * Source: aten/src/ATen/record_function.h of 1.13 to 2.14 (RecordFunctionCallback has the same 40 bytes in 2.13.0 and
 * 2.14.1); Itanium C++ ABI 2.5.2 (vtable), 2.9.5 (type_info); CPython's PyTypeObject, 3.10 to 3.13.
 *
 * Thread: any.  Signal: safe but for operations_want(), which takes a lock of PyTorch's.
 */
#ifndef NNMEM_HOOK_OPERATIONS_H
#define NNMEM_HOOK_OPERATIONS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Have operators told, from now on, if they are not yet.  Call it where no operator runs on this thread and nothing of
 * PyTorch's is locked.  Where PyTorch cannot tell them: noted, once.
 */
void operations_want(void);

/* Whether they are told now. */
bool operations_are_told(void);

/* Have them told no more.  Also from inside the callback. */
void operations_unwant(void);

/* The name of the operator that @function (at::RecordFunction) is of; it lives as long as that. */
const char *operation_name(const void *function);

/* The class of a node.  `name` lives as long as the node, and is mangled unless `is_python`. */
struct operation_class {
	const char *name; /* NULL: cannot be had */
	bool is_python;   /* a torch.autograd.Function: what it runs is Python */
};

/* The class of the live Node at @node, which this thread runs. */
struct operation_class operation_class_of(const void *node);

/* Called by the callback; in hook.c. */
void hook_operation_begin(const void *function);
void hook_operation_end(void);

#endif
