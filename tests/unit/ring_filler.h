/*
 * A synthetic training run, played into a ring: for tests and benchmarks of everything behind the ring.
 *
 * One root module `Net` (id 1) with layers `layers.0` ... (class Linear, ids 2 ...), parameters weight and bias each, and
 * one SGD (id 1) with a momentum buffer per parameter; everything happens on thread 1.  Every report carries the right
 * running totals.  Time is the ring's start plus a microsecond per record: two runs of the same calls are equal slot by
 * slot.  Per training step, with L layers and T temporaries:
 *	input; forward: per layer T temporaries and an activation kept for backward; the loss;
 *	backward: per layer (last first) T temporaries, the two gradients, then the activation is freed;
 *	step(): per parameter one temporary (in the first step a momentum buffer too); then gradients, loss and input die.
 * so it has 2 * (2 L T + L + 2 L + 2 L + 2) events, and 2 L more (births of momentum) in the first.
 */
#ifndef NNMEM_TESTS_RING_FILLER_H
#define NNMEM_TESTS_RING_FILLER_H

#include "hook/emit.h"

#include <stdint.h>

#define RING_FILLER_MAX_LAYERS 512u

struct ring_filler {
	struct emitter emitter;
	uint32_t nr_layers;
	uint32_t nr_temporaries;
	/* Called when the ring is nearly full; NULL: sleep until its consumer has made room. */
	void (*make_room)(void *arg);
	void *arg;

	uint64_t nr_events; /* allocations and frees so far */
	uint64_t nr_steps;
	uint64_t live_bytes; /* of the CPU */
	uint64_t peak_bytes;
	uint64_t next_address;
	uint64_t parameters[RING_FILLER_MAX_LAYERS * 2]; /* addresses; weight, bias, weight, ... */
	uint64_t gradients[RING_FILLER_MAX_LAYERS * 2];
	uint64_t momenta[RING_FILLER_MAX_LAYERS * 2];
	uint64_t activations[RING_FILLER_MAX_LAYERS];
};

/* Sizes in bytes, the same in every layer. */
#define RING_FILLER_WEIGHT_BYTES     UINT64_C(4096)
#define RING_FILLER_BIAS_BYTES       UINT64_C(128)
#define RING_FILLER_INPUT_BYTES      UINT64_C(8192)
#define RING_FILLER_ACTIVATION_BYTES UINT64_C(8192)
#define RING_FILLER_TEMPORARY_BYTES  UINT64_C(1024)
#define RING_FILLER_LOSS_BYTES       UINT64_C(4)

/* Start the ring's clock anew; the ring is formatted and empty. */
void ring_filler_init(struct ring_filler *filler, struct ring *ring, uint32_t nr_layers, uint32_t nr_temporaries);

/* The thread, facts, the model and its parameters. */
void ring_filler_setup(struct ring_filler *filler);
void ring_filler_train_step(struct ring_filler *filler);
/* One forward of the root with gradients off, in eval mode. */
void ring_filler_evaluate(struct ring_filler *filler);
/* RECORD_END and PRODUCER_ENDED. */
void ring_filler_end(struct ring_filler *filler, int status);

/*
 * A ring in memory, or, with a @path, in a new file of that name (mode 0600) as the hook makes it; it names the calling
 * process as its program.  NULL with errno.  ring_filler_unmap() gives the memory back and leaves the file.
 */
struct ring *ring_filler_map(const char *path, uint32_t capacity);
void ring_filler_unmap(struct ring *ring);

#endif
