/*
 * The tagger: a pure state machine that turns records into tagged allocations, steps and spans.
 *
 * Records go in, in the order of seq, through tagger_feed(); what is known comes out through the callbacks of a
 * struct tag_sink.  No I/O, no clock, no knowledge of SQL: tests feed it tables of events (tests/unit/test_tagger.c),
 * nnmem-record connects it to the writer.  The rules are in the comments that open
 * tagger_scope.c (phases), tagger_step.c (steps) and tagger_category.c (categories).
 *
 * Data model.
 * - An *allocation* is one life of a block.  Its id counts from 1 in order of birth.
 * - A *stretch* is a piece of the timeline that will fall into one step as a whole.  Steps are decided late (a candidate
 *   boundary counts only once the lead optimizer steps again), so allocations name stretches, and the sink is told,
 *   possibly more than once, to which step a stretch belongs.  Stretch ids count from 1; stretch 1 begins in step 0.
 * - A *span* is one contiguous stay of one thread in one phase.
 *
 * Memory: by live allocations, modules, threads and devices; not by the length of the run.
 * Thread: one at a time.  Errors: a callback's negative return stops the feed and is returned; -ENOMEM.
 */
#ifndef NNMEM_STORE_TAGGER_H
#define NNMEM_STORE_TAGGER_H

#include "store/names.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tag_allocation {
	uint64_t id;
	uint64_t address;
	uint64_t size_bytes;
	uint64_t alloc_seq;
	uint64_t alloc_ns;
	uint64_t free_seq; /* 0: alive */
	uint64_t free_ns;
	uint64_t stretch;      /* at birth */
	uint64_t free_stretch; /* 0: alive */
	uint32_t thread;
	uint32_t free_thread;
	uint32_t module; /* 0: none; the owner's module for named parameters, buffers, states */
	uint32_t tensor; /* id of the tensor that names it (tag_tensor.id), 0: none */
	uint32_t stack;
	uint64_t requested_bytes; /* of a block: what was asked for; 0: not known */
	uint64_t caller;          /* of what is no block: an address in the code that called for it; 0: not known */
	uint64_t call; /* of @module: module calls are counted over the run, from 1; 0: born outside one, or in a node */
	uint16_t device;
	uint8_t level; /* enum record_level */
	uint8_t phase; /* enum record_phase, at birth */
	uint8_t free_phase;
	uint8_t category; /* enum category */
	uint8_t rule;     /* enum category_rule */
	bool provisional; /* alive: category may still change */
	bool recompute;   /* born in a module call inside backward */
	bool shared;      /* PyTorch reported no total for it */
	bool free_lost;   /* closed because its address was given out again */
	bool seen;        /* no block: no call was told, CUPTI alone saw it */
	bool stored;      /* for the sink's use: a row exists.  Kept by the tagger between calls */

	/* What the category rules need and a rebuilt tagger must get back; stored with open rows. */
	uint64_t episode;  /* the forward, backward or step() of its thread in which it was born */
	bool seen_forward; /* a forward began, on any thread, while it was alive */
	bool named_input;  /* it was given to a root module call */
	bool seed;         /* made for `.backward()`, just before it began */
	bool before_step;  /* born outside the phases after a backward of its thread, before the step() that follows */
	bool into_step;    /* ... which came while it was alive, and before any forward */
};

struct tag_phase_totals {
	bool seen;
	uint64_t allocs;
	uint64_t alloc_bytes;
	uint64_t peak_bytes; /* highest live bytes of the device when a thread came into the phase and at events in it */
	uint64_t end_bytes;  /* live bytes when the phase was last left */
};

struct tag_step_device {
	uint16_t device;
	uint8_t peak_phase;
	uint64_t allocs, frees, alloc_bytes;
	uint64_t start_bytes, peak_bytes, end_bytes;
	uint64_t peak_seq; /* of the event after which peak_bytes was first reached (0: at the start) */
	struct tag_phase_totals phases[NR_PHASES];
};

/* A layer's high-water marks in one step: live bytes of the device while a call of the module, or a node that it made, ran. */
struct tag_layer_peak {
	uint32_t module;
	uint16_t device;
	uint64_t forward_peak_bytes; /* 0: nothing ran */
	uint64_t backward_peak_bytes;
};

struct tag_step {
	uint64_t step;
	uint8_t kind;                /* enum step_kind */
	bool closed;                 /* will not change any more */
	uint64_t start_seq, end_seq; /* first and last record in it */
	uint64_t start_ns, end_ns;
	const struct tag_step_device *devices;
	size_t nr_devices;
};

struct tag_device {
	uint16_t device;
	uint64_t allocs, frees; /* reports of blocks; frees of unknown addresses among them */
	uint64_t live_bytes, peak_bytes;
	uint64_t peak_seq;
	uint64_t peak_stretch;
	uint8_t peak_phase;
	uint64_t reserved_peak_bytes; /* PyTorch's total_reserved; 0 where it says none */
	uint64_t audit_checks, audit_failures;
	uint64_t unknown_frees; /* frees of addresses that were not alive */
};

struct tag_span {
	uint64_t id;      /* from 1 */
	uint64_t stretch; /* in which it began */
	uint32_t thread;
	uint32_t module;    /* root module of a forward, 0 none */
	uint32_t optimizer; /* of an optimizer span, 0 none */
	uint8_t phase;
	bool recompute;
	uint64_t start_seq, end_seq; /* end_seq 0: open */
	uint64_t start_ns, end_ns;
	uint64_t start_bytes; /* of the main device (first CUDA device seen, else cpu) */
	uint64_t peak_bytes;
	uint64_t end_bytes;
};

struct tag_module {
	uint32_t id, root, parent;
	const char *fqn, *class_name, *root_name;
};
struct tag_tensor {
	uint32_t id, module, optimizer;
	uint8_t kind;
	uint64_t address, size_bytes, allocation; /* 0: external */
	const char *name, *dtype, *shape, *state_key;
};
struct tag_thread {
	uint32_t id;
	uint64_t os_id;
	uint8_t flags;
	const char *name;
};
struct tag_optimizer {
	uint32_t id;
	const char *class_name;
};
/*
 * A place in the source, an operation (function: its name) or a place in compiled code; and a stack of them: a prefix tree.
 * Native: file and build_id name the object, offset the place in it.
 */
struct tag_frame {
	uint32_t id;
	uint32_t line; /* 0: not known */
	uint8_t kind;  /* enum frame_kind */
	bool internal; /* not the user's own code */
	const char *file, *function;
	const char *build_id; /* native frames, else NULL */
	uint64_t offset;
};
struct tag_stack {
	uint32_t id;
	uint32_t parent; /* the stack that called it, 0: none */
	uint32_t frame;
	uint32_t shown;     /* the frame to show for it, 0: none */
	uint32_t operation; /* its operation's frame, 0: none */
};
struct tag_oom {
	uint64_t seq, ns, stretch, size_bytes, allocated_bytes, reserved_bytes;
	uint32_t thread, module, stack;
	uint16_t device;
	uint8_t phase;
};
/* What the driver said of a device, from @seq to @last_seq without a change. */
struct tag_used {
	uint64_t seq, last_seq, ns, used_bytes, total_bytes;
	uint64_t segment_bytes;  /* of level segment, that calls told of, alive then */
	uint64_t reserved_bytes; /* as PyTorch last said */
	uint16_t device;
	bool first; /* before the program was given any memory of the device */
};
struct tag_note {
	uint64_t seq;
	uint8_t severity;
	const char *text;
};

/*
 * Where results go.  All pointers are valid during the call only.  Each returns 0 or a negative errno; NULL: not
 * interested.  `allocation` comes once at death (free_seq set, category final) and, from tagger_flush(), for every open
 * allocation that is new or changed since the last flush.  `step`, `stretch`, `device`, `span`, `used` may come again for the
 * same key: the later call replaces the earlier.
 */
struct tag_sink {
	void *arg;
	int (*allocation)(void *arg, struct tag_allocation *allocation);
	int (*stretch)(void *arg, uint64_t stretch, uint64_t step);
	int (*step)(void *arg, const struct tag_step *step);
	int (*device)(void *arg, const struct tag_device *device);
	int (*span)(void *arg, const struct tag_span *span);
	/* The layers' marks of the step in which @device has its highest peak so far: replaces all earlier ones of @device. */
	int (*layer_peaks)(void *arg, uint16_t device, const struct tag_layer_peak *peaks, size_t nr_peaks);
	int (*module)(void *arg, const struct tag_module *module);
	int (*tensor)(void *arg, const struct tag_tensor *tensor);
	int (*thread)(void *arg, const struct tag_thread *thread);
	int (*optimizer)(void *arg, const struct tag_optimizer *optimizer);
	int (*frame)(void *arg, const struct tag_frame *frame);
	int (*stack)(void *arg, const struct tag_stack *stack);
	int (*oom)(void *arg, const struct tag_oom *oom);
	int (*refused)(void *arg, const struct tag_oom *refusal); /* a call for a segment; totals as of PyTorch's last report */
	int (*used)(void *arg, const struct tag_used *used);
	int (*note)(void *arg, const struct tag_note *note);
	int (*info)(void *arg, const char *key, const char *value);
	int (*end)(void *arg, unsigned how /* enum record_end */, int64_t status, uint64_t peak_rss_bytes);
};

struct tagger;

/* A new tagger that reports to @sink (copied).  Owner: caller, tagger_free().  Errors: -ENOMEM. */
int tagger_new(const struct tag_sink *sink, struct tagger **ret_tagger);
void tagger_free(struct tagger *tagger);

/*
 * Take one record; seqs must increase.  @text: record->stack bytes and a NUL, or NULL for kinds without text.
 * A record of an unknown kind, or one whose text lacks a field, is ignored and counted (tagger_ignored()).
 */
int tagger_feed(struct tagger *tagger, const struct record *record, const char *text);

/* Report everything that changed since the last flush: open allocations, open spans, open steps, devices. */
int tagger_flush(struct tagger *tagger);

/*
 * The program has ended and nothing more will be fed: close what can be closed (open spans, the last step; allocations
 * stay alive, with the final category of one that is never freed), decide the last steps, and flush.  What was born in a
 * forward, backward or step() that was cut off stays provisional.  Records fed afterwards are ignored.
 */
int tagger_finish(struct tagger *tagger);

uint64_t tagger_ignored(const struct tagger *tagger);
uint64_t tagger_nr_live(const struct tagger *tagger);

/*
 * Saving and rebuilding.  tagger_save() writes everything but the allocations that are alive into a self-contained
 * block; tagger_load() makes a tagger of it, and tagger_load_allocation() gives it back each open allocation as it was
 * last reported.  After that it continues as if nothing had happened.
 * save: *@ret_bytes is malloc'ed, the caller frees it.  load: @bytes is not trusted; -EINVAL when it is damaged or of
 * another version.
 */
int tagger_save(const struct tagger *tagger, unsigned char **ret_bytes, size_t *ret_size);
int tagger_load(const struct tag_sink *sink, const unsigned char *bytes, size_t size, struct tagger **ret_tagger);
int tagger_load_allocation(struct tagger *tagger, const struct tag_allocation *allocation);

#endif
