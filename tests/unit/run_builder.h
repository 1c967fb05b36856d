/*
 * Run files made by hand for the reader's tests: schema.sql executed, rows inserted, no recorder involved.
 *
 * A random run has consistent totals (devices, steps, phases), worked out by brute force over every instant, so what the
 * reader answers can be compared with the model kept here.  The same seed makes the same file.
 */
#ifndef NNMEM_TESTS_RUN_BUILDER_H
#define NNMEM_TESTS_RUN_BUILDER_H

#include "store/names.h"

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#define BUILDER_CPU         RECORD_DEVICE_CPU
#define BUILDER_CUDA        UINT16_C(1)
#define BUILDER_MAX_SEQ     600u
#define BUILDER_MAX_BLOCKS  600u
#define BUILDER_MAX_STEPS   12u
#define BUILDER_NR_MODULES  5u  /* 1 Net, 2 Net.a, 3 Net.a.b, 4 Net.c, 5 Other */
#define BUILDER_LOST_MODULE 77u /* some blocks name it; no row has it */

struct built_block {
	uint64_t size_bytes, alloc_seq, free_seq; /* free_seq 0: alive */
	uint32_t module;
	uint16_t device;
	uint8_t category, level, phase;
};

struct built_step {
	unsigned kind;
	uint64_t start_seq, end_seq;
};

struct built_run {
	struct built_block blocks[BUILDER_MAX_BLOCKS];
	size_t nr_blocks;
	struct built_step steps[BUILDER_MAX_STEPS];
	size_t nr_steps;
	uint64_t last_seq;
	bool inference[BUILDER_MAX_SEQ + 2]; /* whether an inference span covers the instant */
};

/* What a statement begins with that inserts rows of the table: whatever columns are added to it later. */
#define BUILDER_ALLOCATION                                                                                                       \
	"INSERT INTO allocation (id, device, level, address, size_bytes, alloc_seq, alloc_ns, free_seq, free_ns, thread, "       \
	"free_thread, stretch, free_stretch, phase, free_phase, category, rule, module, tensor, stack, flags, episode, call) "   \
	"VALUES "

/* Create the file at @path with its tables, names and one finished run without events.  NULL never: asserts. */
sqlite3 *builder_create(const char *path);
/* @format as of sqlite3_mprintf(): %Q is text in quotes, or NULL. */
void builder_exec(sqlite3 *db, const char *format, ...);

/* The file at @path with a random run, described by @ret. */
void builder_make_random(const char *path, uint64_t seed, struct built_run *ret);

/* Live bytes of @device right after event @seq, of @category and @module, -1: of all. */
uint64_t built_live(const struct built_run *run, uint16_t device, uint64_t seq, int category, int64_t module);

/* Which call of its module a block was born in: column `call`. */
int built_call(const struct built_block *block);

/* splitmix64. */
uint64_t builder_random(uint64_t *state);

#endif
