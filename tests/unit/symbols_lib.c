/* A library whose lines test_symbols.c asks for; built with debug information. */
#include "symbols_lib.h"

volatile int symbols_lib_word;

static inline __attribute__((always_inline)) int innermost(int x)
{
	symbols_lib_word += x;
	return symbols_lib_word * 3;
}

static inline __attribute__((always_inline)) int between(int x)
{
	int y = innermost(x);

	return y + innermost(y);
}

int symbols_lib_plain(int x)
{
	symbols_lib_word = x;
	x += symbols_lib_word;
	return x;
}

int symbols_lib_inlines(int x)
{
	x += between(x);
	symbols_lib_word++;
	return x - innermost(2);
}

int symbols_lib_beta(int x, char y)
{
	symbols_lib_word = x + y;
	return symbols_lib_word;
}
