/* What PyTorch is doing: hook/operations.c on nodes, classes and a PyTorch made by hand. */
#include "hook/operations.h"

#include "hook/api.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- PyTorch, and the hook's centre */

static struct api_callback callback;
static unsigned nr_added, nr_removed, nr_notes, nr_open;
static bool lacks_callbacks;

static uint64_t add_callback(struct api_callback added)
{
	callback = added;
	return 70 + nr_added++;
}

static void remove_callback(uint64_t handle)
{
	assert_int_equal(handle, 70 + nr_removed++);
}

static const char *function_name(const void *function)
{
	return function;
}

void *api_real(enum api api)
{
	if (lacks_callbacks)
		return NULL;
	return api == API_add_callback      ? (void *)(uintptr_t)add_callback
	       : api == API_remove_callback ? (void *)(uintptr_t)remove_callback
	       : api == API_function_name   ? (void *)(uintptr_t)function_name
	                                    : NULL;
}

void hook_note(uint8_t *once, enum record_severity severity, const char *format, ...)
{
	assert_int_equal(severity, RECORD_SEVERITY_DEGRADED);
	nr_notes++;
}

void hook_operation_begin(const void *function)
{
	assert_string_equal(operation_name(function), "aten::add");
	nr_open++;
}

void hook_operation_end(void)
{
	nr_open--;
}

/* ---- nodes */

/* A vtable as the ABI has it: the type_info, whose second word is the name, before the first function. */
struct class
{
	const char *type_info[2];
	const void *vtable[2];
};

static struct class make_class(const char *name)
{
	return (struct class){.type_info = {NULL, name}};
}

static const void *vptr(struct class *class)
{
	class->vtable[0] = class->type_info;
	return &class->vtable[1];
}

struct python_type {
	char words[512];
};

static void put_word(char *memory, size_t offset, const void *word)
{
	memcpy(memory + offset, &word, sizeof(word));
}

static void test_class_when_of_cpp_then_its_mangled_name(void **state)
{
	struct class relu = make_class("N5torch8autograd9generated13ReluBackward0E"), hidden = make_class("*6MyNode");
	const void *node[8] = {vptr(&relu)};

	assert_string_equal(operation_class_of(node).name, "N5torch8autograd9generated13ReluBackward0E");
	assert_false(operation_class_of(node).is_python);
	node[0] = vptr(&hidden);
	assert_string_equal(operation_class_of(node).name, "6MyNode");
	hidden.vtable[0] = NULL; /* compiled without run-time types */
	assert_null(operation_class_of(node).name);
}

/* A test for all of it: where a node keeps its object is learnt once. */
static void test_class_when_of_python_then_the_name_of_its_type(void **state)
{
	/* Names as Python's heap has them: what follows can be read. */
	static const char base_name[64] = "torch._C._FunctionBase", name[64] = "TwiceBackward", other_name[64] = "OtherBackward";
	static const char stranger_name[64] = "dict";
	struct class python = make_class("N5torch8autograd6PyNodeE");
	static struct python_type base, type, other, stranger;
	static char object[64], other_object[64], strange_object[64];
	/* Words that are no pointers, that point nowhere, to something else, and to the object. */
	const void *node[80] = {vptr(&python), (void *)3, (void *)-8, (void *)0x1000, strange_object, node, NULL, object};

	put_word(base.words, 24, base_name);
	put_word(type.words, 24, name);
	put_word(type.words, 256, &base);
	put_word(other.words, 24, other_name);
	put_word(other.words, 256, &type);
	put_word(stranger.words, 24, stranger_name);
	put_word(stranger.words, 256, &stranger); /* its own base: the walk ends all the same */
	put_word(object, 8, &type);
	put_word(other_object, 8, &other);
	put_word(strange_object, 8, &stranger);

	node[7] = NULL;
	assert_string_equal(operation_class_of(node).name, "PyNode");
	node[7] = object;
	errno = 77;
	assert_string_equal(operation_class_of(node).name, "TwiceBackward");
	assert_int_equal(errno, 77);
	assert_true(operation_class_of(node).is_python);
	node[6] = object; /* it is known by now which word counts */
	node[7] = other_object;
	assert_string_equal(operation_class_of(node).name, "OtherBackward");
	node[7] = NULL;
	assert_string_equal(operation_class_of(node).name, "PyNode");
}

/* ---- operators.  One test after the other: the state is the process's. */

static void test_want_when_wanted_then_the_callback_is_there_once(void **state)
{
	void *(*begin)(void **, const void *);
	void (*end)(const void *, void *);
	void *context = &context;

	assert_false(operations_are_told());
	operations_unwant();
	assert_int_equal(nr_removed, 0);
	operations_want();
	operations_want();
	assert_int_equal(nr_added, 1);
	assert_true(operations_are_told());
	assert_true(callback.sampling == 1.0);
	for (size_t i = 0; i < sizeof(callback.scopes); i++) /* operators only, and no wishes */
		assert_int_equal(callback.scopes[i], i == 0);
	memcpy(&begin, &callback.start, sizeof(begin));
	memcpy(&end, &callback.end, sizeof(end));
	assert_ptr_equal(begin(&context, "aten::add"), &context);
	assert_null(context);
	assert_int_equal(nr_open, 1);
	end("aten::add", NULL);
	assert_int_equal(nr_open, 0);
	operations_unwant();
	operations_unwant();
	assert_int_equal(nr_removed, 1);
	assert_false(operations_are_told());
	operations_want();
	assert_int_equal(nr_added, 2);
	operations_unwant();
}

static void test_want_when_pytorch_cannot_then_noted_once(void **state)
{
	lacks_callbacks = true;
	operations_want();
	lacks_callbacks = false;
	operations_want();
	operations_unwant();
	assert_int_equal(nr_notes, 1);
	assert_false(operations_are_told());
	assert_int_equal(nr_added, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_class_when_of_cpp_then_its_mangled_name),
	        cmocka_unit_test(test_class_when_of_python_then_the_name_of_its_type),
	        cmocka_unit_test(test_want_when_wanted_then_the_callback_is_there_once),
	        cmocka_unit_test(test_want_when_pytorch_cannot_then_noted_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
