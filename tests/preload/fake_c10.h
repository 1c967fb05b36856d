/* A caller of PyTorch's reporting functions: see fake_c10.c. */
#ifndef FAKE_C10_H
#define FAKE_C10_H

#include <stdbool.h>
#include <stdint.h>

extern bool fake_profiler_is_on;
/* What the real report function was told while the profiler was on: how often, sum of sizes, last total. */
extern unsigned fake_nr_told;
extern int64_t fake_told_bytes, fake_told_total;

void fake_alloc(uint64_t address, int64_t size);
void fake_free(uint64_t address);

#endif
