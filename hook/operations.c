/* What PyTorch is doing: see operations.h. */
#define _GNU_SOURCE
#include "hook/operations.h"

#include "hook/api.h"
#include "hook/hook_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- operators */

#define SCOPE_FUNCTION 0 /* at::RecordScope::FUNCTION: operators, and torch.autograd.Functions */

enum names_state { NAMES_OFF = 0, NAMES_SWITCHING, NAMES_ON, NAMES_NEVER };
static uint32_t names_state;  /* atomic */
static uint64_t names_handle; /* of the callback, while NAMES_ON */

#ifdef API_HAS_RETURN_ARGUMENT

/* Returns a std::unique_ptr, empty, in the place that the caller gives. */
static void *on_begin(void **result, const void *function)
{
	*result = NULL;
	hook_operation_begin(function);
	return result;
}

static void on_end(const void *function, void *context)
{
	hook_operation_end();
}

static bool add_callback(void)
{
	real_add_callback_fn *add = api_real(API_add_callback);
	struct api_callback callback = {.start = (void *)(uintptr_t)on_begin,
	                                .end = (void *)(uintptr_t)on_end,
	                                .sampling = 1.0,
	                                .scopes[SCOPE_FUNCTION] = 1};

	if (!add || !api_real(API_remove_callback) || !api_real(API_function_name))
		return false;
	names_handle = add(callback);
	return true;
}

#else

/* The callback returns an object with a destructor, which C cannot say here: see API_RETURN. */
static bool add_callback(void)
{
	return false;
}

#endif

void operations_want(void)
{
	uint32_t expected = NAMES_OFF;
	static uint8_t once;
	bool is_there;

	if (atomic32_load_relaxed(&names_state) != NAMES_OFF || !atomic32_cas_acq_rel(&names_state, &expected, NAMES_SWITCHING))
		return;
	is_there = add_callback();
	/* Release pairs with operations_unwant()'s acquire: the handle is set. */
	atomic32_store_release(&names_state, is_there ? NAMES_ON : NAMES_NEVER);
	if (!is_there)
		hook_note(&once, RECORD_SEVERITY_DEGRADED, "operators have no names: this PyTorch does not tell them");
}

void operations_unwant(void)
{
	uint32_t expected = NAMES_ON;
	real_remove_callback_fn *removed;

	if (!atomic32_cas_acq_rel(&names_state, &expected, NAMES_SWITCHING))
		return;
	removed = api_real(API_remove_callback);
	removed(names_handle);
	atomic32_store_release(&names_state, NAMES_OFF);
}

bool operations_are_told(void)
{
	return atomic32_load_relaxed(&names_state) == NAMES_ON;
}

const char *operation_name(const void *function)
{
	real_function_name_fn *name = api_real(API_function_name);

	return name(function);
}

/* ---- nodes that Python wrote */

#define PYTHON_NODE     "N5torch8autograd6PyNodeE"
#define PYTHON_FUNCTION "torch._C._FunctionBase" /* the type that all such objects' classes come from */

/* Offsets in PyObject and PyTypeObject, 3.10 to 3.13 without free threading. */
#define OBJECT_TYPE 8u
#define TYPE_NAME   24u
#define TYPE_BASE   256u
#define MAX_BASES   16

/* Of a Node: where the object's pointer is looked for, from its first word on. */
#define NODE_SEARCHED 64u
#define MAX_SEARCHES  64u

static uint32_t object_word; /* atomic; which word of a PyNode points to its object; 0 unknown */
static uint32_t nr_searches; /* atomic */

/* Through the kernel, so that whatever @from is, it cannot crash. */
static bool read_memory(uintptr_t from, void *to, size_t size)
{
	struct iovec local = {.iov_base = to, .iov_len = size};
	struct iovec remote = {.iov_base = (void *)from, .iov_len = size};

	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)size;
}

static bool is_function_object(uintptr_t object)
{
	uintptr_t type, name;
	char text[sizeof(PYTHON_FUNCTION)];

	if (!object || object % sizeof(object) || !read_memory(object + OBJECT_TYPE, &type, sizeof(type)))
		return false;
	for (int i = 0; i < MAX_BASES && type; i++) {
		if (!read_memory(type + TYPE_NAME, &name, sizeof(name)) || !read_memory(name, text, sizeof(text)))
			return false;
		if (!memcmp(text, PYTHON_FUNCTION, sizeof(text)))
			return true;
		if (!read_memory(type + TYPE_BASE, &type, sizeof(type)))
			return false;
	}
	return false;
}

/* Look for the word that points to the node's object. */
static uint32_t find_object_word(const char *node)
{
	int saved_errno = errno;
	uint32_t found = 0;

	if (atomic32_add_relaxed(&nr_searches, 1) >= MAX_SEARCHES)
		return 0;
	for (uint32_t word = 1; word < NODE_SEARCHED && !found; word++) {
		uintptr_t object;

		if (!read_memory((uintptr_t)node + word * sizeof(object), &object, sizeof(object)))
			break;
		if (is_function_object(object))
			found = word;
	}
	errno = saved_errno;
	if (found)
		atomic32_store_relaxed(&object_word, found);
	return found;
}

/*
 * The name of the class of a PyNode's object, which the node keeps alive.  A program that renames the class on another
 * thread at this instant can make us read the old name's memory, which is then some other text.
 */
static const char *python_class(const char *node)
{
	uint32_t word = atomic32_load_relaxed(&object_word);
	const char *object, *type, *name;

	if (!word)
		word = find_object_word(node);
	if (!word)
		return "PyNode";
	memcpy(&object, node + word * sizeof(object), sizeof(object));
	if (!object)
		return "PyNode";
	memcpy(&type, object + OBJECT_TYPE, sizeof(type));
	memcpy(&name, type + TYPE_NAME, sizeof(name));
	return name;
}

/* ---- nodes */

struct operation_class operation_class_of(const void *node)
{
	const char *const *vtable, *type_info, *name;

	memcpy(&vtable, node, sizeof(vtable));
	type_info = vtable[-1];
	if (!type_info) /* compiled without run-time types */
		return (struct operation_class){0};
	memcpy(&name, type_info + sizeof(void *), sizeof(name));
	name += name[0] == '*'; /* of a type that no other object can name */
	if (!strcmp(name, PYTHON_NODE))
		return (struct operation_class){.name = python_class(node), .is_python = true};
	return (struct operation_class){.name = name};
}
