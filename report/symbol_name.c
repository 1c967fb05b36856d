/* A function's name as people say it: see symbol_name.h. */
#include "report/symbol_name.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* Longer ones are left as they are: what they mean in words may be many times as long. */
#define LINKED_MAX 16384u

/* ---- shortening */

static const char anonymous[] = "(anonymous namespace)";

/* The character after the bracket that @open, '<' or '(', begins; the end when it is never closed. */
static const char *skip_bracket(const char *open)
{
	unsigned depth = 0;
	const char *c = open;

	for (; *c; c++) {
		if (*c == '<' || *c == '(' || *c == '[' || *c == '{')
			depth++;
		else if ((*c == '>' && c[-1] != '-') || *c == ')' || *c == ']' || *c == '}')
			depth--;
		if (!depth)
			return c + 1;
	}
	return c;
}

/* How much of @from is the word `operator` with its sign; 0: it is none. */
static size_t operator_length(const char *from)
{
	size_t length = sizeof("operator") - 1;

	if (strncmp(from, "operator", length) != 0)
		return 0;
	if (!strncmp(from + length, "()", 2))
		return length + 2;
	return length + strspn(from + length, "+-*/%^&|~!=<>,[]");
}

static bool ends_in_word(const char *start, const char *end)
{
	char c = end > start ? end[-1] : ' ';

	return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

void symbol_name_shorten(char *name)
{
	char *to = name;
	const char *from = name;
	unsigned braces = 0; /* {lambda(int)#1} */
	bool is_conversion = false;

	while (*from) {
		size_t length = ends_in_word(name, to) ? 0 : operator_length(from);

		if (!strncmp(from, anonymous, sizeof(anonymous) - 1))
			length = sizeof(anonymous) - 1;
		if (length) {
			is_conversion = from[0] == 'o' && from[length] == ' '; /* operator bool, operator new */
			memmove(to, from, length);
			to += length;
			from += length;
		} else if (*from == '<' && to > name) {
			from = skip_bracket(from);
		} else if (*from == '(') {
			from = skip_bracket(from);
			if (!braces && strncmp(from, "::", 2) != 0 && strncmp(from, " const::", 8) != 0)
				break; /* Its arguments: the name ends here. */
			if (*from == ' ')
				from += sizeof(" const") - 1;
		} else if (*from == ' ' && !braces && !is_conversion) {
			if (from[1] == '[')
				break; /* [clone .isra.0] */
			to = name;     /* What came before was its type. */
			from++;
		} else {
			braces += *from == '{';
			braces -= *from == '}' && braces;
			*to++ = *from++;
		}
	}
	while (to > name && to[-1] == ' ')
		to--;
	*to = '\0';
}

/* ---- demangling */

typedef char *demangle_function(const char *name, char *buffer, size_t *length, int *status);

/* Not linked to it: a C program need not have it, and most runs of it ask nothing. */
static demangle_function *find_demangle(void)
{
	static demangle_function *found;
	static bool asked;

	if (!asked) {
		void *library = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_LOCAL);

		if (library)
			*(void **)(void *)&found = dlsym(library, "__cxa_demangle");
		asked = true;
	}
	return found;
}

char *symbol_name(const char *linked)
{
	demangle_function *demangle =
	        !strncmp(linked, "_Z", 2) && strnlen(linked, LINKED_MAX) < LINKED_MAX ? find_demangle() : NULL;
	int status = -1;
	char *name = demangle ? demangle(linked, NULL, NULL, &status) : NULL;

	if (name && !status) {
		symbol_name_shorten(name);
		return name;
	}
	free(name);
	return strdup(linked);
}

/* ---- glue */

/*
 * PyTorch's dispatcher and what its operators are called through, its CPU allocator, the engine's loop around a node; C++'s
 * library; what CPython puts between its interpreter and a function in C.
 * Source: PyTorch 2.13.0 and 2.14.1, aten/src/ATen/core, c10/core/CPUAllocator.cpp, torch/csrc/autograd; CPython 3.11, Objects.
 */
bool symbol_name_is_glue(const char *name)
{
	static const char *const beginnings[] = {
	        "at::_ops::",
	        "at::redispatch::",
	        "c10::BoxedKernel::",
	        "c10::DefaultCPUAllocator::",
	        "c10::Dispatcher::",
	        "c10::KernelFunction::",
	        "c10::ProfiledCPUMemoryReporter::",
	        "c10::detail::",
	        "c10::impl::",
	        "torch::autograd::Engine::",
	        "torch::autograd::Node::operator()",
	        "torch::autograd::python::PythonEngine::",
	        "THPEngine_run_backward",
	        "std::",
	        "_PyCFunction_",
	        "_PyFunction_",
	        "_PyObject_",
	        "_PyVectorcall_",
	        "PyObject_",
	        "PyVectorcall_",
	        "cfunction_",
	        "method_vectorcall",
	        "vectorcall_",
	};

	for (size_t i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++) {
		if (!strncmp(name, beginnings[i], strlen(beginnings[i])))
			return true;
	}
	return false;
}
