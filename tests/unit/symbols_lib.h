#ifndef NNMEM_TEST_SYMBOLS_LIB_H
#define NNMEM_TEST_SYMBOLS_LIB_H

extern volatile int symbols_lib_word;

int symbols_lib_plain(int x);
int symbols_lib_inlines(int x);
/* alpha::(anonymous namespace)::beta<int>(int, char), as C++ calls it. */
int symbols_lib_beta(int x, char y) __asm__("_ZN5alpha12_GLOBAL__N_14betaIiEEiT_c");

#endif
