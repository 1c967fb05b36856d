/*
 * The Python adapter's C side: see python.h for who calls it and adapter.py for what the adapter does.
 *
 * Built without Python.h: the few functions are found by name at run time, in whatever interpreter the process has.  They
 * are functions of the stable ABI, but for PySys_AddAuditHook.  Source: CPython's Doc/data/stable_abi.dat and
 * Include/methodobject.h, 3.10 to 3.14; run with 3.11.
 *
 * Data model.  One table of known objects (modules and optimizers) by address, guarded by the GIL; each entry has a weak
 * reference whose callback removes it, so an address never outlives its object.  One struct scopes a thread, which says
 * whether the adapter's next "leave" has something to take back.  Free-threaded interpreters are left alone: there is no
 * GIL that would guard the table.
 *
 * The adapter's functions never raise but for wrong arguments and lack of memory.
 */
#define _GNU_SOURCE
#include "hook/python.h"

#include "hook/frames.h"
#include "hook/hook.h"
#include "nnmem/atomic.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- what we use of the interpreter */

typedef struct PyObject PyObject; /* opaque */
typedef intptr_t Py_ssize_t;
typedef PyObject *(*PyCFunction)(PyObject *, PyObject *);

struct PyMethodDef {
	const char *ml_name;
	PyCFunction ml_meth;
	int ml_flags;
	const char *ml_doc;
};

#define METH_VARARGS  0x0001
#define METH_NOARGS   0x0004
#define METH_O        0x0008
#define Py_file_input 257

/* X(result, name, parameters): every function that must be there. */
#define PYTHON_FUNCTIONS(X)                                                                                                      \
	X(int, Py_IsInitialized, (void))                                                                                         \
	X(void, Py_IncRef, (PyObject *))                                                                                         \
	X(void, Py_DecRef, (PyObject *))                                                                                         \
	X(void, PyErr_Fetch, (PyObject **, PyObject **, PyObject **))                                                            \
	X(void, PyErr_Restore, (PyObject *, PyObject *, PyObject *))                                                             \
	X(void, PyErr_Clear, (void))                                                                                             \
	X(PyObject *, PyErr_Occurred, (void))                                                                                    \
	X(int, PyErr_ExceptionMatches, (PyObject *))                                                                             \
	X(void, PyErr_SetInterrupt, (void))                                                                                      \
	X(PyObject *, PyImport_GetModuleDict, (void))                                                                            \
	X(PyObject *, PyEval_EvalCode, (PyObject *, PyObject *, PyObject *))                                                     \
	X(PyObject *, Py_CompileString, (const char *, const char *, int))                                                       \
	X(PyObject *, PyDict_New, (void))                                                                                        \
	X(PyObject *, PyDict_GetItem, (PyObject *, PyObject *))                                                                  \
	X(PyObject *, PyDict_GetItemString, (PyObject *, const char *))                                                          \
	X(int, PyDict_SetItemString, (PyObject *, const char *, PyObject *))                                                     \
	X(PyObject *, PyObject_GetAttrString, (PyObject *, const char *))                                                        \
	X(PyObject *, PyObject_CallObject, (PyObject *, PyObject *))                                                             \
	X(PyObject *, PyObject_Str, (PyObject *))                                                                                \
	X(int, PyObject_IsTrue, (PyObject *))                                                                                    \
	X(PyObject *, PyCFunction_NewEx, (struct PyMethodDef *, PyObject *, PyObject *))                                         \
	X(PyObject *, PyWeakref_NewRef, (PyObject *, PyObject *))                                                                \
	X(Py_ssize_t, PyTuple_Size, (PyObject *))                                                                                \
	X(PyObject *, PyTuple_GetItem, (PyObject *, Py_ssize_t))                                                                 \
	X(int, PyBytes_AsStringAndSize, (PyObject *, char **, Py_ssize_t *))                                                     \
	X(PyObject *, PyBool_FromLong, (long))                                                                                   \
	X(PyObject *, PyUnicode_InternFromString, (const char *))                                                                \
	X(const char *, PyUnicode_AsUTF8AndSize, (PyObject *, Py_ssize_t *))                                                     \
	X(PyObject *, PyLong_FromUnsignedLongLong, (unsigned long long))                                                         \
	X(unsigned long long, PyLong_AsUnsignedLongLong, (PyObject *))                                                           \
	X(PyObject *, PyInterpreterState_Get, (void))                                                                            \
	X(int64_t, PyInterpreterState_GetID, (PyObject *))                                                                       \
	X(int, Py_AddPendingCall, (int (*)(void *), void *))

#define DECLARE(result, name, parameters) result(*name) parameters;
static struct {
	PYTHON_FUNCTIONS(DECLARE)
	PyObject *none;
	PyObject **keyboard_interrupt;
} py;
#undef DECLARE

/* How far we are; only ever grows.  Written with the GIL held, read anywhere. */
enum adapter_state {
	ADAPTER_UNKNOWN = 0, /* no interpreter was found yet */
	ADAPTER_WAITING,     /* PyTorch is not ready yet */
	ADAPTER_ATTACHING,   /* one thread runs adapter.py */
	ADAPTER_ATTACHED,    /* facts are still to be sent */
	ADAPTER_DONE,        /* nothing more to do at audit events: attached, or given up and noted */
};
static uint32_t adapter_state; /* atomic */
static uint32_t state_asked;   /* atomic: the last state in which the main thread was asked to go on */
static PyObject *send_facts;   /* adapter.py's function of that name; owned, kept for ever */

extern const char nnmem_adapter_source[];

static bool find_functions(void)
{
#define FIND(result, name, parameters)                                                                                           \
	*(void **)&py.name = dlsym(RTLD_DEFAULT, #name);                                                                         \
	if (!py.name)                                                                                                            \
		return false;
	PYTHON_FUNCTIONS(FIND)
#undef FIND
	py.none = dlsym(RTLD_DEFAULT, "_Py_NoneStruct");
	py.keyboard_interrupt = dlsym(RTLD_DEFAULT, "PyExc_KeyboardInterrupt");
	return py.none && py.keyboard_interrupt;
}

static PyObject *none(void)
{
	py.Py_IncRef(py.none);
	return py.none;
}

/* ---- the known objects, by address */

struct known {
	uintptr_t address; /* 0: empty */
	PyObject *ref;     /* owned */
	uint32_t id;
};

/* Open addressing with linear probing; at most half full.  Guarded by the GIL. */
static struct known *table;
static size_t table_size; /* a power of two, or 0 */
static size_t table_used;

static size_t slot_of(uintptr_t address)
{
	return (size_t)((address >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (table_size - 1);
}

static struct known *table_find(uintptr_t address)
{
	if (table_size == 0)
		return NULL;
	for (size_t i = slot_of(address); table[i].address != 0; i = (i + 1) & (table_size - 1))
		if (table[i].address == address)
			return &table[i];
	return NULL;
}

static bool table_grow(void)
{
	struct known *old = table;
	size_t old_size = table_size;
	size_t size = old_size == 0 ? 256 : old_size * 2;
	struct known *bigger = calloc(size, sizeof(*bigger));

	if (!bigger)
		return false;
	table = bigger;
	table_size = size;
	for (size_t i = 0; i < old_size; i++) {
		size_t to;

		if (old[i].address == 0)
			continue;
		for (to = slot_of(old[i].address); table[to].address != 0;)
			to = (to + 1) & (size - 1);
		table[to] = old[i];
	}
	free(old);
	return true;
}

/* Returns the entry, or NULL without memory.  A known address keeps its reference and gets the new id. */
static struct known *table_put(uintptr_t address, uint32_t id)
{
	struct known *entry = table_find(address);
	size_t i;

	if (entry) {
		entry->id = id;
		return entry;
	}
	if ((table_used + 1) * 2 > table_size && !table_grow())
		return NULL;
	for (i = slot_of(address); table[i].address != 0;)
		i = (i + 1) & (table_size - 1);
	table[i] = (struct known){.address = address, .id = id};
	table_used++;
	return &table[i];
}

/* Returns the reference that the entry owned; NULL: not known. */
static PyObject *table_remove(uintptr_t address)
{
	struct known *entry = table_find(address);
	PyObject *ref;
	size_t hole, i;

	if (!entry)
		return NULL;
	ref = entry->ref;
	hole = (size_t)(entry - table);
	/* Whatever may no longer be found behind the hole moves into it. */
	for (i = (hole + 1) & (table_size - 1); table[i].address != 0; i = (i + 1) & (table_size - 1)) {
		size_t home = slot_of(table[i].address);

		if (((i - home) & (table_size - 1)) >= ((i - hole) & (table_size - 1))) {
			table[hole] = table[i];
			hole = i;
		}
	}
	table[hole] = (struct known){0};
	table_used--;
	return ref;
}

/* ---- what a thread has open */

/*
 * Why two counters and a mask: a signal handler may raise KeyboardInterrupt between any two byte codes of the adapter, so
 * what is to be taken back is known here, where nothing can come in between.
 */
struct scopes {
	uint32_t passed_over; /* module calls that were entered and not told to the hook; the innermost ones */
	uint32_t root;        /* id of the root module of the last root call */
	uint64_t steps_told;  /* a bit for each open step(), the innermost lowest: told to the hook */
};
static __thread struct scopes scopes __attribute__((tls_model("initial-exec")));

/* enter(module) -> bool: a module's call begins.  True: the adapter must find out more and say push(). */
static PyObject *adapter_enter(PyObject *self, PyObject *module)
{
	const struct known *known;

	if (scopes.passed_over != 0 || !hook_is_on()) {
		scopes.passed_over++;
		return none();
	}
	known = table_find((uintptr_t)module);
	if (known && hook_in_module()) {
		hook_module_enter(known->id, false, false, false);
		return none();
	}
	scopes.passed_over = 1;
	return py.PyBool_FromLong(1);
}

/* leave(): the innermost call that was entered ends. */
static PyObject *adapter_leave(PyObject *self, PyObject *unused)
{
	if (scopes.passed_over != 0)
		scopes.passed_over--;
	else
		hook_module_leave();
	return none();
}

/* The @index-th argument as a number; what is wrong leaves an error behind, seen by the caller's PyErr_Occurred(). */
static uint64_t number_at(PyObject *arguments, Py_ssize_t index)
{
	PyObject *argument = py.PyTuple_GetItem(arguments, index);

	return argument ? py.PyLong_AsUnsignedLongLong(argument) : 0;
}

/* push(id, root, grad, training): the call for which enter() said True is that of module id. */
static PyObject *adapter_push(PyObject *self, PyObject *arguments)
{
	uint64_t id = number_at(arguments, 0), root = number_at(arguments, 1), grad = number_at(arguments, 2),
	         training = number_at(arguments, 3);

	if (py.PyErr_Occurred())
		return NULL;
	if (scopes.passed_over != 1)
		return none();
	scopes.passed_over = 0;
	if (root)
		scopes.root = (uint32_t)id;
	hook_module_enter((uint32_t)id, root != 0, grad != 0, training != 0);
	return none();
}

static PyObject *adapter_in_module(PyObject *self, PyObject *unused)
{
	return py.PyBool_FromLong(hook_in_module());
}

static PyObject *adapter_in_backward(PyObject *self, PyObject *unused)
{
	return py.PyBool_FromLong(hook_in_backward());
}

/* current_root() -> id of the root of the call that is open on this thread, 0 none. */
static PyObject *adapter_current_root(PyObject *self, PyObject *unused)
{
	return py.PyLong_FromUnsignedLongLong(hook_in_module() ? scopes.root : 0);
}

/* current_module() -> id of the module that works on this thread, in an autograd node of the one that made it; 0 none. */
static PyObject *adapter_current_module(PyObject *self, PyObject *unused)
{
	return py.PyLong_FromUnsignedLongLong(hook_current_module());
}

/* enter_again(id): what module id, None the current one, did in forward is done again; leave() ends it. */
static PyObject *adapter_enter_again(PyObject *self, PyObject *argument)
{
	uint64_t id = argument == py.none ? hook_current_module() : py.PyLong_AsUnsignedLongLong(argument);

	if (py.PyErr_Occurred())
		return NULL;
	if (scopes.passed_over != 0 || !hook_is_on())
		scopes.passed_over++;
	else
		hook_module_enter((uint32_t)id, false, false, false);
	return none();
}

/* step_open(), step_push(id), step_close(): as enter(), push(), leave(), for an optimizer's step(). */
static PyObject *adapter_step_open(PyObject *self, PyObject *unused)
{
	scopes.steps_told <<= 1;
	return none();
}

static PyObject *adapter_step_push(PyObject *self, PyObject *argument)
{
	uint64_t id = py.PyLong_AsUnsignedLongLong(argument);

	if (py.PyErr_Occurred())
		return NULL;
	if (hook_is_on() && !(scopes.steps_told & 1)) {
		scopes.steps_told |= 1;
		hook_optimizer_begin((uint32_t)id);
	}
	return none();
}

static PyObject *adapter_step_close(PyObject *self, PyObject *unused)
{
	if (scopes.steps_told & 1)
		hook_optimizer_end();
	scopes.steps_told >>= 1;
	return none();
}

/* is_on() -> bool: whether anything is recorded in this process. */
static PyObject *adapter_is_on(PyObject *self, PyObject *unused)
{
	return py.PyBool_FromLong(hook_is_on());
}

static PyObject *adapter_scaler_update(PyObject *self, PyObject *unused)
{
	hook_scaler_update();
	return none();
}

/* ---- known objects and definitions */

/* forget(reference): the object whose address is @self died.  Runs no Python, so no signal handler either. */
static PyObject *adapter_forget(PyObject *self, PyObject *reference)
{
	uintptr_t address = (uintptr_t)py.PyLong_AsUnsignedLongLong(self);
	const struct known *known = table_find(address);

	if (known && known->ref == reference)
		py.Py_DecRef(table_remove(address));
	return none();
}

static struct PyMethodDef forget_def = {"forget", adapter_forget, METH_O, NULL};

static PyObject *new_reference(PyObject *object)
{
	PyObject *address = py.PyLong_FromUnsignedLongLong((uintptr_t)object);
	PyObject *callback = address ? py.PyCFunction_NewEx(&forget_def, address, NULL) : NULL;
	PyObject *ref = callback ? py.PyWeakref_NewRef(object, callback) : NULL;

	py.Py_DecRef(callback); /* NULL is fine. */
	py.Py_DecRef(address);
	return ref;
}

/* remember(object, id) -> bool: from now on @object is known by @id, until it dies. */
static PyObject *adapter_remember(PyObject *self, PyObject *arguments)
{
	PyObject *object = py.PyTuple_GetItem(arguments, 0);
	uint64_t id = number_at(arguments, 1);
	PyObject *ref = NULL;
	struct known *known;

	if (py.PyErr_Occurred())
		return NULL;
	known = table_find((uintptr_t)object);
	if (known) {
		known->id = (uint32_t)id;
		return py.PyBool_FromLong(1);
	}
	ref = new_reference(object);
	if (!ref)
		return NULL;
	/* Making the reference may have run the garbage collector and with it other threads' or our own callbacks. */
	known = table_put((uintptr_t)object, (uint32_t)id);
	if (!known || known->ref) {
		py.Py_DecRef(ref);
		return py.PyBool_FromLong(known != NULL);
	}
	known->ref = ref;
	return py.PyBool_FromLong(1);
}

/* identify(object) -> its id, 0 when it is not known. */
static PyObject *adapter_identify(PyObject *self, PyObject *object)
{
	const struct known *known = table_find((uintptr_t)object);

	return py.PyLong_FromUnsignedLongLong(known ? known->id : 0);
}

/* The text of a bytes object; NULL with an error set. */
static const char *text_of(PyObject *bytes, uint32_t *ret_size)
{
	char *text = NULL;
	Py_ssize_t size = 0;

	if (!bytes || py.PyBytes_AsStringAndSize(bytes, &text, &size) != 0)
		return NULL;
	*ret_size = size > (Py_ssize_t)RECORD_TEXT_MAX ? RECORD_TEXT_MAX : (uint32_t)size;
	return text;
}

/* define(kind, scope, address, size, a, b, text): a definition or a fact; see record.h for what each kind uses. */
static PyObject *adapter_define(PyObject *self, PyObject *arguments)
{
	uint32_t size = 0;
	struct record record = {
	        .kind = (uint8_t)number_at(arguments, 0),
	        .scope = (uint32_t)number_at(arguments, 1),
	        .address = number_at(arguments, 2),
	        .size = number_at(arguments, 3),
	        .a = number_at(arguments, 4),
	        .b = number_at(arguments, 5),
	};
	const char *text = text_of(py.PyTuple_GetItem(arguments, 6), &size);

	if (!text || py.PyErr_Occurred())
		return NULL;
	hook_define(&record, text, size);
	return none();
}

/* input_storage(address, size_bytes, requires_grad): a tensor in it was given to the root module call that is open. */
static PyObject *adapter_input(PyObject *self, PyObject *arguments)
{
	uint64_t address = number_at(arguments, 0), size = number_at(arguments, 1), requires_grad = number_at(arguments, 2);

	if (py.PyErr_Occurred())
		return NULL;
	hook_input(address, size, requires_grad);
	return none();
}

/* gradient_at(number, address): where a gradient that was defined with a number is now. */
static PyObject *adapter_gradient(PyObject *self, PyObject *arguments)
{
	uint64_t number = number_at(arguments, 0), address = number_at(arguments, 1);

	if (py.PyErr_Occurred())
		return NULL;
	hook_gradient((uint32_t)number, address);
	return none();
}

/* ---- stacks */

/* The minor version of the interpreter; 0: not a Python 3. */
static uint32_t python_minor(void)
{
	const char *(*get_version)(void);
	const char *version;
	uint32_t minor = 0;

	*(void **)&get_version = dlsym(RTLD_DEFAULT, "Py_GetVersion");
	version = get_version ? get_version() : "";
	if (strncmp(version, "3.", 2) != 0)
		return 0;
	for (version += 2; *version >= '0' && *version <= '9' && minor < 1000; version++)
		minor = minor * 10 + (uint32_t)(*version - '0');
	return minor;
}

/* One of check_stacks()'s facts.  Returns false with an error set when it is not what it should be. */
static bool take_fact(PyObject *tuple, struct frames_fact *ret)
{
	PyObject *file = py.PyTuple_GetItem(tuple, 6), *function = py.PyTuple_GetItem(tuple, 7);

	*ret = (struct frames_fact){
	        .code = (const void *)(uintptr_t)number_at(tuple, 0),
	        .filename = (const void *)(uintptr_t)number_at(tuple, 1),
	        .name = (const void *)(uintptr_t)number_at(tuple, 2),
	        .linetable = (const void *)(uintptr_t)number_at(tuple, 3),
	        .first_line = (uint32_t)number_at(tuple, 4),
	        .line = (uint32_t)number_at(tuple, 5),
	};
	if (!file || !function || py.PyErr_Occurred())
		return false;
	/* A name with a surrogate in it has no UTF-8. */
	ret->file = py.PyUnicode_AsUTF8AndSize(file, NULL);
	py.PyErr_Clear();
	ret->function = py.PyUnicode_AsUTF8AndSize(function, NULL);
	py.PyErr_Clear();
	return true;
}

/* A str of @arguments as UTF-8, which lives as long as they; NULL with an error set. */
static const char *folder_at(PyObject *arguments, Py_ssize_t index)
{
	PyObject *folder = py.PyTuple_GetItem(arguments, index);

	return folder ? py.PyUnicode_AsUTF8AndSize(folder, NULL) : NULL;
}

/*
 * check_stacks(facts, torch, library): the frames of this thread, innermost first, each (id(code), id(file), id(function),
 * id(line table), first line, line, file, function), at most FRAMES_MAX; where PyTorch and Python's library lie.  What frames.h
 * reads must be the same; then there are stacks.
 */
static PyObject *adapter_check_stacks(PyObject *self, PyObject *arguments)
{
	static uint8_t once;
	static struct frames_fact facts[FRAMES_MAX];
	PyObject *list = py.PyTuple_GetItem(arguments, 0);
	Py_ssize_t nr = list ? py.PyTuple_Size(list) : -1;
	const char *torch = folder_at(arguments, 1), *library = torch ? folder_at(arguments, 2) : NULL;
	struct frames_layout layout;
	void *(*thread_state)(void);

	if (!library || nr < 0)
		return NULL;
	if (!hook_wants_stacks())
		return none();
	for (Py_ssize_t i = 0; i < nr && i < (Py_ssize_t)FRAMES_MAX; i++)
		if (!take_fact(py.PyTuple_GetItem(list, i), &facts[i]))
			return NULL;
	*(void **)&thread_state = dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState");
	if (!thread_state ||
	    !frames_layout_of(python_minor(), dlsym(RTLD_DEFAULT, "_PyRuntime"), dlsym(RTLD_DEFAULT, "PyCode_Type"), &layout))
		hook_note(&once, RECORD_SEVERITY_DEGRADED, "no Python stacks: how Python 3.%u keeps its frames is not known",
		          python_minor());
	else if (!frames_check(&layout, thread_state(), facts, (uint32_t)(nr < (Py_ssize_t)FRAMES_MAX ? nr : FRAMES_MAX)))
		hook_note(&once, RECORD_SEVERITY_DEGRADED,
		          "no Python stacks: this Python's frames do not read as those of 3.%u do elsewhere", python_minor());
	else
		hook_stacks_start(&layout, torch, library);
	return none();
}

/* note(place, text): something in the adapter did not work; once for each @place. */
static PyObject *adapter_note(PyObject *self, PyObject *arguments)
{
	static uint8_t once[16];
	uint64_t place = number_at(arguments, 0);
	uint32_t size = 0;
	const char *text = text_of(py.PyTuple_GetItem(arguments, 1), &size);

	if (!text || py.PyErr_Occurred())
		return NULL;
	hook_note(&once[place % sizeof(once)], RECORD_SEVERITY_DEGRADED, "Python adapter: %s", text);
	return none();
}

/* limit(text): what this PyTorch does not tell; one sentence for the run file, at most one a run. */
static PyObject *adapter_limit(PyObject *self, PyObject *argument)
{
	static uint8_t once;
	uint32_t size = 0;
	const char *text = text_of(argument, &size);

	if (!text || py.PyErr_Occurred())
		return NULL;
	hook_note(&once, RECORD_SEVERITY_INFO, "%s", text);
	return none();
}

static struct PyMethodDef adapter_functions[] = {
        {"enter", adapter_enter, METH_O, NULL},
        {"leave", adapter_leave, METH_NOARGS, NULL},
        {"push", adapter_push, METH_VARARGS, NULL},
        {"in_module", adapter_in_module, METH_NOARGS, NULL},
        {"in_backward", adapter_in_backward, METH_NOARGS, NULL},
        {"current_root", adapter_current_root, METH_NOARGS, NULL},
        {"current_module", adapter_current_module, METH_NOARGS, NULL},
        {"enter_again", adapter_enter_again, METH_O, NULL},
        {"step_open", adapter_step_open, METH_NOARGS, NULL},
        {"step_push", adapter_step_push, METH_O, NULL},
        {"step_close", adapter_step_close, METH_NOARGS, NULL},
        {"is_on", adapter_is_on, METH_NOARGS, NULL},
        {"scaler_update", adapter_scaler_update, METH_NOARGS, NULL},
        {"remember", adapter_remember, METH_VARARGS, NULL},
        {"identify", adapter_identify, METH_O, NULL},
        {"define", adapter_define, METH_VARARGS, NULL},
        {"input_storage", adapter_input, METH_VARARGS, NULL},
        {"gradient_at", adapter_gradient, METH_VARARGS, NULL},
        {"check_stacks", adapter_check_stacks, METH_VARARGS, NULL},
        {"note", adapter_note, METH_VARARGS, NULL},
        {"limit", adapter_limit, METH_O, NULL},
};

/* ---- getting in */

/* Whether module @name is there and its import is over.  Borrows nothing; clears errors. */
static bool is_imported(const char *name)
{
	PyObject *modules = py.PyImport_GetModuleDict();
	PyObject *module = modules ? py.PyDict_GetItemString(modules, name) : NULL;
	PyObject *spec = NULL, *initializing = NULL;
	bool ready = false;

	if (!module)
		return false;
	py.Py_IncRef(module);
	spec = py.PyObject_GetAttrString(module, "__spec__");
	initializing = spec ? py.PyObject_GetAttrString(spec, "_initializing") : NULL;
	/* An attribute that is missing means that nobody is importing: importlib sets it while it loads. */
	ready = !initializing || py.PyObject_IsTrue(initializing) == 0;
	py.PyErr_Clear();
	py.Py_DecRef(initializing);
	py.Py_DecRef(spec);
	py.Py_DecRef(module);
	return ready;
}

/*
 * Whether everything that adapter.py uses is there.  torch.compiler is one of the last that `import torch` loads, and
 * more imports follow, so there is an event to attach at before the script goes on; versions without it have to be
 * complete.  Source: torch/__init__.py of 2.13.0 and 2.14.1.
 */
static bool is_torch_ready(void)
{
	return is_imported("torch.nn.modules.module") && is_imported("torch.optim.optimizer") &&
	       (is_imported("torch.compiler") || is_imported("torch"));
}

static bool is_torch_there(void)
{
	static PyObject *name; /* borrowed for ever: interned, made once */
	PyObject *modules = py.PyImport_GetModuleDict();

	if (!name)
		name = py.PyUnicode_InternFromString("torch.optim.optimizer");
	return modules && name && py.PyDict_GetItem(modules, name) != NULL;
}

static void note_error(void)
{
	static uint8_t once;
	PyObject *type = NULL, *value = NULL, *traceback = NULL, *string = NULL;
	const char *text = NULL;

	py.PyErr_Fetch(&type, &value, &traceback);
	string = value ? py.PyObject_Str(value) : NULL;
	text = string ? py.PyUnicode_AsUTF8AndSize(string, NULL) : NULL;
	py.PyErr_Clear();
	hook_note(&once, RECORD_SEVERITY_DEGRADED, "no layers and no names: the Python adapter could not be attached: %s",
	          text ? text : "unknown error");
	py.Py_DecRef(string);
	py.Py_DecRef(type);
	py.Py_DecRef(value);
	py.Py_DecRef(traceback);
}

/* A Ctrl-C came while we ran: let it reach the script. */
static void interrupt_again(void)
{
	py.PyErr_Clear();
	py.PyErr_SetInterrupt();
}

static PyObject *builtins(void)
{
	PyObject *modules = py.PyImport_GetModuleDict();
	PyObject *module = modules ? py.PyDict_GetItemString(modules, "builtins") : NULL;

	return module ? py.PyObject_GetAttrString(module, "__dict__") : NULL;
}

static int set_name(PyObject *names, const char *name, PyObject *value)
{
	int err = value ? py.PyDict_SetItemString(names, name, value) : -1;

	py.Py_DecRef(value);
	return err;
}

/*
 * The adapter's namespace with its C functions; NULL with an error set.  It has no __name__, so that Dynamo does not try
 * to import it as a module.
 */
static PyObject *new_namespace(void)
{
	PyObject *names = py.PyDict_New();

	if (!names || set_name(names, "__builtins__", builtins()) != 0)
		goto fail;
	for (size_t i = 0; i < sizeof(adapter_functions) / sizeof(adapter_functions[0]); i++)
		if (set_name(names, adapter_functions[i].ml_name, py.PyCFunction_NewEx(&adapter_functions[i], NULL, NULL)) != 0)
			goto fail;
	return names;
fail:
	py.Py_DecRef(names);
	return NULL;
}

/*
 * Run adapter.py.  Its namespace is never released: functions of it live in PyTorch's classes until the process ends.
 * A Ctrl-C in the middle is given back to the interpreter and the adapter run again at the next event; it changes
 * nothing of PyTorch's before its last lines.
 */
static void attach(void)
{
	enum adapter_state next = ADAPTER_DONE;
	PyObject *names = new_namespace();
	PyObject *code = names ? py.Py_CompileString(nnmem_adapter_source, "<nnmem>", Py_file_input) : NULL;
	PyObject *result = NULL;

	if (code && py.PyDict_SetItemString(names, "own_code", code) == 0)
		result = py.PyEval_EvalCode(code, names, names);
	if (result) {
		send_facts = py.PyDict_GetItemString(names, "send_facts");
		py.Py_IncRef(send_facts);
		next = ADAPTER_ATTACHED;
	} else if (py.PyErr_ExceptionMatches(*py.keyboard_interrupt)) {
		interrupt_again();
		py.Py_DecRef(names);
		next = ADAPTER_WAITING;
	} else {
		note_error();
		py.Py_DecRef(names);
	}
	py.Py_DecRef(result);
	py.Py_DecRef(code);
	atomic32_store_release(&adapter_state, next);
}

/* The script may never call a module: what is known of PyTorch is said once something is recorded. */
static void send_facts_when_recording(void)
{
	PyObject *result;

	if (hook_current_state() != HOOK_UP)
		return;
	atomic32_store_release(&adapter_state, ADAPTER_DONE);
	result = py.PyObject_CallObject(send_facts, NULL);
	if (!result) /* Only a Ctrl-C gets here: adapter.py keeps other errors to itself. */
		interrupt_again();
	py.Py_DecRef(result);
}

/* With the GIL held and no error set: go one step on, if it is time. */
static void advance(void)
{
	switch (atomic32_load_acquire(&adapter_state)) {
	case ADAPTER_WAITING:
		if (is_torch_there() && is_torch_ready()) {
			atomic32_store_release(&adapter_state, ADAPTER_ATTACHING);
			attach();
		}
		break;
	case ADAPTER_ATTACHED:
		send_facts_when_recording();
		break;
	default:
		break;
	}
}

/* advance(), with whatever error is set put back.  errno is the interpreter's business between its calls, but keep it. */
static void advance_undisturbed(void)
{
	PyObject *type = NULL, *value = NULL, *traceback = NULL;
	int saved_errno = errno;

	if (py.PyInterpreterState_GetID(py.PyInterpreterState_Get()) != 0)
		return; /* a subinterpreter: PyTorch lives in the main one */
	py.PyErr_Fetch(&type, &value, &traceback);
	advance();
	py.PyErr_Restore(type, value, traceback);
	errno = saved_errno;
}

/* Called for every audit event of the process, for as long as it lives: nearly always has nothing to do. */
static int on_audit_event(const char *event, PyObject *arguments, void *unused)
{
	uint32_t state = atomic32_load_acquire(&adapter_state);

	if (state == ADAPTER_WAITING || state == ADAPTER_ATTACHED) {
		/* The interpreter ends: nothing can be run any more.  Source: Python/sysmodule.c, _PySys_ClearAuditHooks(). */
		if (strcmp(event, "cpython._PySys_ClearAuditHooks") == 0)
			atomic32_store_release(&adapter_state, ADAPTER_DONE);
		else if (py.Py_IsInitialized())
			advance_undisturbed();
	}
	return 0;
}

/*
 * Ask the interpreter, if the process has one, to tell us of its audit events; it works before Py_Initialize().  Runs after
 * process.c's constructor, which decides whether anything is recorded.
 */
__attribute__((constructor)) static void python_start(void)
{
	int (*add_audit_hook)(int (*)(const char *, PyObject *, void *), void *);
	int saved_errno = errno;

	*(void **)&add_audit_hook = dlsym(RTLD_DEFAULT, "PySys_AddAuditHook");
	if (add_audit_hook && hook_is_on() && find_functions()) {
		atomic32_store_release(&adapter_state, ADAPTER_WAITING);
		add_audit_hook(on_audit_event, NULL);
	}
	errno = saved_errno;
}

static int on_pending_call(void *unused)
{
	uint32_t state = atomic32_load_acquire(&adapter_state);

	if (state == ADAPTER_WAITING || state == ADAPTER_ATTACHED)
		advance_undisturbed();
	return 0;
}

void python_reported(void)
{
	uint32_t state = atomic32_load_acquire(&adapter_state);
	int saved_errno = errno;

	if ((state != ADAPTER_WAITING && state != ADAPTER_ATTACHED) || atomic32_load_relaxed(&state_asked) >= state)
		return;
	if (state == ADAPTER_ATTACHED && hook_current_state() != HOOK_UP)
		return;
	/* Its queue may be full: then the next report asks again. */
	if (py.Py_IsInitialized() && py.Py_AddPendingCall(on_pending_call, NULL) == 0)
		atomic32_store_relaxed(&state_asked, state);
	errno = saved_errno;
}
