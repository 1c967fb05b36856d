/* Names of classes: see demangle.h.  A recursive descent over the few productions that occur, bounded in depth and length. */
#include "store/demangle.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define MAX_DEPTH 8
#define GENERATED "torch::autograd::generated::"

struct reading {
	const char *at; /* the rest of the name; it ends with a NUL */
	char *text;
	size_t used, size;
};

static void put(struct reading *reading, const char *bytes, size_t length)
{
	size_t room = reading->size - 1 - reading->used;

	if (length > room)
		length = room;
	memcpy(reading->text + reading->used, bytes, length);
	reading->used += length;
}

static bool read_name(struct reading *reading, int depth);

/* <source-name>: its length and itself. */
static bool read_word(struct reading *reading)
{
	size_t length = 0;

	while (*reading->at >= '0' && *reading->at <= '9' && length < 4096)
		length = length * 10 + (size_t)(*reading->at++ - '0');
	if (!length || strnlen(reading->at, length) < length)
		return false;
	if (length >= 10 && !strncmp(reading->at, "_GLOBAL__N", 10))
		put(reading, "(anonymous namespace)", strlen("(anonymous namespace)"));
	else
		put(reading, reading->at, length);
	reading->at += length;
	return true;
}

/* A literal of a builtin integer type, L <type> <digits> E, n: negative. */
static bool read_literal(struct reading *reading)
{
	reading->at++;
	if (!*reading->at || !strchr("bcahstijlmxy", *reading->at))
		return false;
	reading->at++;
	if (*reading->at == 'n') {
		put(reading, "-", 1);
		reading->at++;
	}
	for (; *reading->at >= '0' && *reading->at <= '9'; reading->at++)
		put(reading, reading->at, 1);
	return *reading->at++ == 'E';
}

/* <template-args>: I <type or literal>+ E. */
static bool read_arguments(struct reading *reading, int depth)
{
	put(reading, "<", 1);
	for (reading->at++; *reading->at != 'E';) {
		if (reading->text[reading->used - 1] != '<')
			put(reading, ", ", 2);
		if (!(*reading->at == 'L' ? read_literal(reading) : read_name(reading, depth)))
			return false;
	}
	reading->at++;
	put(reading, ">", 1);
	return true;
}

static bool read_part(struct reading *reading, int depth)
{
	return read_word(reading) && (*reading->at != 'I' || read_arguments(reading, depth));
}

/* A class: <source-name> or N <source-name>+ E, each with template arguments or without. */
static bool read_name(struct reading *reading, int depth)
{
	if (depth == MAX_DEPTH)
		return false;
	if (*reading->at != 'N')
		return read_part(reading, depth + 1);
	for (reading->at++; *reading->at != 'E';) {
		if (!read_part(reading, depth + 1))
			return false;
		if (*reading->at != 'E')
			put(reading, "::", 2);
	}
	reading->at++;
	return true;
}

void demangle_class(const char *name, char *ret, size_t size)
{
	struct reading reading = {.at = name, .text = ret, .size = size};

	if (read_name(&reading, 0) && !*reading.at)
		ret[reading.used] = '\0';
	else
		snprintf(ret, size, "%s", name);
}

void demangle_node(const char *name, char *ret, size_t size)
{
	size_t prefix = strlen(GENERATED);

	demangle_class(name, ret, size);
	if (!strncmp(ret, GENERATED, prefix) && !strstr(ret + prefix, "::"))
		memmove(ret, ret + prefix, strlen(ret + prefix) + 1);
}
