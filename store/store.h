/*
 * Reading a run file.  The only header of store/ that report/ may include (with names.h): no SQL, no slots.
 *
 * A run file is never trusted: it is opened read-only and defensively (db.h; besides, a heap limit and a progress
 * handler that bounds time), tables are read and never views, and every value is checked before use.
 * Opening a file whose recorder died first recovers what the ring still holds (store/recover.c): into the file when it
 * can be written, else in a private copy in memory; store_run.recovered_* say what happened.
 *
 * Strings belong to the store and live until the call that returned them is made again or the store is closed, in
 * callbacks until the callback returns.  A NULL string, or -1 in a field said to be "or -1", means: not known.
 * Thread: one at a time per store.  Errors: 0 or a negative errno, with a sentence in struct store_error.
 */
#ifndef NNMEM_STORE_STORE_H
#define NNMEM_STORE_STORE_H

#include "store/names.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;

struct store_error {
	char message[512]; /* one sentence without a newline, naming the file and what is wrong */
};

enum store_recovery {
	STORE_COMPLETE = 0,        /* the run was closed by its recorder */
	STORE_LIVE,                /* a recorder is at work: a snapshot of the last commit */
	STORE_RECOVERED,           /* the recorder had died; what the ring held is now in the file */
	STORE_RECOVERED_IN_MEMORY, /* the same, but the file or its folder cannot be written: only this reader sees it */
	STORE_RING_GONE,           /* the recorder had died and its ring is gone: events after the last commit are missing */
	STORE_ORPHANED,            /* the recorder has died but the program still runs: read so far, and recoverable later */
};

struct store_lost {
	uint64_t count[NR_LOST];
	uint64_t total;
};

struct store_run {
	const char *run_id;
	int64_t pid;
	int64_t rank;                                                          /* or -1 */
	const char *torch_version, *python_version, *nnmem_version, *hostname; /* or NULL */
	const char *command;
	const char *ended; /* `exit 0`, `signal 9`, `exec`, `killed`, `running` */
	uint64_t start_realtime_ns;
	uint64_t duration_ns;
	uint64_t events; /* allocation and free reports recorded */
	uint64_t steps;  /* training steps (kinds train and partial) */
	uint64_t audit_checks, audit_failures;
	uint64_t params_bytes;   /* named parameters, each storage once */
	uint64_t params_values;  /* their elements by shape; 0 not known */
	uint64_t external_bytes; /* named tensors that PyTorch did not allocate, each storage once: outside all totals */
	uint64_t ooms;           /* allocations that were refused */
	uint64_t last_seq;       /* the last record read */
	uint64_t peak_rss_bytes; /* of the process; 0 not known */
	const char *peak_device; /* the first CUDA device used, else cpu */
	uint64_t peak_bytes, peak_seq;
	uint64_t peak_step;
	unsigned peak_phase;
	uint16_t peak_device_id;
	struct store_lost lost;
	enum store_recovery recovery;
	const char *recovery_reason; /* STORE_RING_GONE: what was found instead of the ring; or NULL */
	uint64_t recovered_events;   /* taken from the ring by this open */
	unsigned schema_version;
};

struct store_device {
	uint16_t device;
	const char *name;
	uint64_t peak_bytes, peak_step, peak_seq, allocs, frees, live_at_end_bytes, reserved_peak_bytes;
	unsigned peak_phase;
};

/* start_seq, end_seq: the first and the last record in it. */
struct store_step {
	uint64_t step;
	unsigned kind;
	uint16_t device;
	uint64_t start_seq, end_seq, start_ns, end_ns, allocs, frees, alloc_bytes, start_bytes, peak_bytes, peak_seq, end_bytes;
	unsigned peak_phase;
};

struct store_phase {
	uint64_t step;
	unsigned phase;
	uint16_t device;
	uint64_t allocs, alloc_bytes, peak_bytes, end_bytes;
};

struct store_span {
	uint64_t id, step;
	uint32_t thread;
	unsigned phase;
	bool recompute;
	const char *root; /* or NULL */
	uint64_t start_seq, end_seq /* 0 open */, start_ns, end_ns, start_bytes, peak_bytes, end_bytes;
};

struct store_allocation {
	uint64_t address;
	uint64_t requested_bytes; /* 0 not known */
	uint64_t id, size_bytes, alloc_seq, free_seq /* 0 alive */, alloc_ns, free_ns, step;
	uint64_t free_step; /* where freed */
	uint32_t thread;
	uint16_t device;
	unsigned level, phase, free_phase, category, rule;
	bool provisional, recompute;
	const char *root, *layer, *parameter, *state_key, *shape, *dtype; /* or NULL */
	const char *line;                                                 /* or NULL: "/dir/train.py:12 (Net.forward)" */
	const char *operation;                                            /* or NULL: "aten::conv2d", "ConvolutionBackward0" */
};

/* Gradients, state, saved and temporary bytes: each at its own highest in the step. */
struct store_layer_sums {
	uint64_t params_bytes, gradient_bytes, optimizer_state_bytes, saved_bytes, temporary_bytes;
	uint64_t live_at_peak_bytes; /* at the step's peak */
};

struct store_layer {
	const char *root, *layer, *class_name; /* layer "" is the root itself */
	uint32_t module, parent;               /* ids; parent 0: a root; module 0: what no layer owns, names NULL */
	uint16_t device;
	/* Without what layers below it own, and with it.  Of module 0: what no layer owns, and everything. */
	struct store_layer_sums own, subtree;
	bool has_peaks; /* the next two are known: of modules, in the step of the device's peak */
	/* All that was alive on the device while it, or what is below it, ran. */
	uint64_t forward_peak_bytes, backward_peak_bytes;
};

/* One call of a module in a step, in which it, not a module below it, allocated something. */
struct store_layer_call {
	const char *root, *layer;
	uint32_t module;
	uint64_t call;  /* from 1 in the step */
	unsigned phase; /* PHASE_BACKWARD: a checkpoint ran it again */
	uint64_t blocks, alloc_bytes;
	uint64_t saved_bytes; /* of these: for backward */
	uint64_t live_at_peak_bytes;
};

struct store_thread {
	uint32_t id;
	uint64_t os_id;
	bool python, autograd;
	const char *name;
};

/* An allocation that was refused; totals as PyTorch said them. */
struct store_oom {
	uint64_t seq, ns, step;
	uint32_t thread;
	uint16_t device;
	unsigned phase;
	const char *root, *layer, *line, *operation; /* or NULL; as of an allocation */
	uint64_t size_bytes, allocated_bytes, reserved_bytes;
};

/* A range of device memory in which blocks may lie: what one call gave, or a piece of an expandable segment. */
struct store_segment {
	uint64_t id, address, size_bytes, alloc_seq, alloc_ns, step;
	uint32_t thread;
	unsigned phase;
	bool expandable;    /* physical memory that is mapped there; where it is mapped nowhere, address is 0 */
	bool of_pytorch;    /* of PyTorch's allocator */
	bool seen;          /* no call was told: CUPTI alone saw it, whose clock says when */
	const char *caller; /* or NULL: the file of the code that called for it */
	const char *line;   /* or NULL */
};

/* Where a block lies. */
struct store_placed {
	uint64_t id, address, size_bytes, requested_bytes /* 0 not known */;
	unsigned category;
};

/* What the driver says of a device. */
struct store_driver {
	uint64_t seq, last_seq, ns; /* asked first, and last with the same answer */
	uint64_t used_bytes, total_bytes;
	uint64_t segment_bytes;  /* that calls told of, alive then */
	uint64_t seen_bytes;     /* that CUPTI alone saw, alive then by its clock */
	uint64_t reserved_bytes; /* as PyTorch last said */
	bool first;              /* before the program was given any memory of the device */
};

/* A block is born (or dies), in order; @id counts from 1 in the order of birth. */
struct store_change {
	uint64_t id, seq, size_bytes, requested_bytes;
	bool birth;
};

struct store_note {
	uint64_t seq;
	unsigned severity;
	const char *text;
};

/* Each category's highest live bytes in a window, each at its own instant, and the composition at the window's peak. */
struct store_composition {
	bool present;  /* the run has such a window */
	uint64_t step; /* the step that was looked at */
	unsigned step_kind;
	uint64_t max_bytes[NR_CATEGORIES];
	uint64_t sum_of_max_bytes;
	uint64_t peak_bytes, peak_seq; /* one instant */
	unsigned peak_phase;
	uint64_t at_peak_bytes[NR_CATEGORIES];
};

/* Which allocations a view speaks of: the common filters of the command line.  All must hold. */
enum store_layers {
	STORE_LAYERS_ANY = 0,
	STORE_LAYERS_ONE,   /* @layer itself */
	STORE_LAYERS_BELOW, /* @layer and all below it */
	STORE_LAYERS_NONE,  /* what no layer owns */
};

struct store_filter {
	uint32_t phases, categories; /* a bit for each, of birth; all ones: any */
	uint64_t step;               /* of birth; UINT64_MAX: any */
	uint64_t min_size_bytes;
	enum store_layers layers;
	const char *layer; /* `encoder.0`, `Net` (a root), `Net.encoder.0`; NULL for STORE_LAYERS_ANY and _NONE */
};

#define STORE_FILTER_NONE                                                                                                        \
	{                                                                                                                        \
		.phases = UINT32_MAX, .categories = UINT32_MAX, .step = UINT64_MAX                                               \
	}

/* Of what @kind growth is: see store_each_growth(). */
enum store_growth_kind {
	GROWTH_KEPT = 0,   /* each step leaves blocks behind */
	GROWTH_REPLACED,   /* as many blocks, but larger from step to step */
	GROWTH_WITH_STEPS, /* the same, explained by steps that all in all allocate more from step to step: longer inputs */
};

/* Blocks of one line, layer, category and phase of birth that grow from one training step to the next. */
struct store_growth {
	enum store_growth_kind kind;
	const char *root, *layer, *line; /* or NULL; as of an allocation */
	const char *operation;           /* or NULL; also when there are several */
	unsigned phase, category;
	uint64_t since_step; /* the first that left something behind, a warm-up step or a later one */
	uint64_t nr_steps;   /* that bytes and nr_blocks are of: steady ones */
	uint64_t nr_blocks;  /* left behind; GROWTH_REPLACED: alive */
	uint64_t bytes, bytes_per_step;
	unsigned fit_percent; /* how much of it a constant rate explains */
};

/* Which training steps were compared. */
struct store_growth_steps {
	uint64_t nr_training, nr_needed;
	bool enough;                              /* steps to tell; the rest is 0 otherwise */
	uint64_t first_step, last_step, nr_steps; /* looked at */
	uint64_t nr_groups, nr_growing;           /* that outlive a step */
	uint64_t nr_left_out;                     /* blocks of more groups than can be followed */
};

/* Which bytes of a stack are meant. */
enum store_stacks_of { STACKS_OF_PEAK = 0, STACKS_OF_ALLOCATED, STACKS_OF_LIVE, NR_STACKS_OF };

struct store_frame {
	uint32_t id;
	unsigned kind; /* enum frame_kind */
	char *file, *function;
	uint64_t line; /* 0 not known */
	bool internal; /* not the user's own code */
	/* Compiled code only: file is the object's, or why the stack is cut ("<...>"). */
	char *build_id;  /* hexadecimal digits; NULL not known */
	uint64_t offset; /* address in the object as it was linked */
};

/* What was allocated by one stack. */
struct store_stack {
	uint32_t id; /* 0: not known */
	uint64_t nr_blocks, bytes;
	const struct store_frame *frames; /* outermost first; valid until the callback returns */
	unsigned nr_frames;               /* at most STORE_FRAMES_MAX: the innermost ones */
};
#define STORE_FRAMES_MAX 256u

enum store_window {
	/* The training step to show as typical: of those after the first the one with the highest peak, else the first. */
	WINDOW_STEADY_STEP,
	/* All instants in phase inference of the step whose inference peak is highest. */
	WINDOW_INFERENCE,
};

/* Live bytes of one device over events [start_seq, end_seq), the highest and lowest of each bucket: no peak is lost. */
struct store_bucket {
	uint64_t start_seq, end_seq, min_bytes, max_bytes;
};

/*
 * Open @path.  On success *@ret_store is the caller's, to be given to store_close().
 * Errors (all with a message): -ENOENT, -EACCES, -EISDIR and the like as open(2); -ENODATA empty; -EBADMSG not a run file,
 * damaged, or never finished; -EPROTONOSUPPORT written by a newer nnmem; -EBUSY being written on a file system where it
 * cannot be read meanwhile; -EIO, -ENOMEM.  Later calls on the store: -EBADMSG, -EBUSY, -EIO, -ENOMEM.
 */
int store_open(const char *path, struct store **ret_store, struct store_error *error);
void store_close(struct store *store);
/* The sentence of the last failed call on @store. */
const char *store_message(const struct store *store);

int store_read_run(struct store *store, struct store_run *ret_run);
/* *@ret_device: the id of a name as printed ("cpu", "cuda:0"); -ENOENT when the run has no such device. */
int store_find_device(struct store *store, const char *name, uint16_t *ret_device);

/*
 * Whether the run has what @filter names.  -ENOENT with a sentence that says what there is instead: no layer of that name, no
 * such step.
 */
int store_check_filter(struct store *store, const struct store_filter *filter);

/* Rows in the natural order of each (device, step, phase, seq); a callback's non-zero return stops and is returned. */
int store_each_device(struct store *store, int (*each)(const struct store_device *, void *), void *arg);
int store_each_step(struct store *store, uint16_t device, int (*each)(const struct store_step *, void *), void *arg);
int store_each_phase(struct store *store, uint16_t device, int (*each)(const struct store_phase *, void *), void *arg);
/* Spans that touch [start_seq, end_seq). */
int store_each_span(struct store *store, uint64_t start_seq, uint64_t end_seq, int (*each)(const struct store_span *, void *),
                    void *arg);
/* Blocks of @device alive right after event @seq, biggest first (equal sizes: oldest first).  @filter: NULL for all. */
int store_each_live(struct store *store, uint16_t device, uint64_t seq, const struct store_filter *filter,
                    int (*each)(const struct store_allocation *, void *), void *arg);
/* Blocks of @device alive at any instant right after one of the events @start_seq to @end_seq, in the order of birth. */
int store_each_life(struct store *store, uint16_t device, uint64_t start_seq, uint64_t end_seq, const struct store_filter *filter,
                    int (*each)(const struct store_allocation *, void *), void *arg);
/*
 * Modules of each root, a module before those below it; last, one row with module 0: what no layer owns, and everything.
 * @step: UINT64_MAX for that of the device's peak.
 */
int store_each_layer(struct store *store, uint16_t device, uint64_t step, int (*each)(const struct store_layer *, void *),
                     void *arg);
/* By module and call; @filter: its layers, NULL all.  @step as in store_each_layer(). */
int store_each_layer_call(struct store *store, uint16_t device, uint64_t step, const struct store_filter *filter,
                          int (*each)(const struct store_layer_call *, void *), void *arg);
/*
 * What grows from one training step to the next on @device: by kind, most bytes a step first.  The first steps (what they make
 * stays in any program) and the last (the program's end frees everything) are left out.  *@ret_steps is filled before @each is
 * called, also when there is nothing to tell.
 */
int store_each_growth(struct store *store, uint16_t device, const struct store_filter *filter,
                      struct store_growth_steps *ret_steps, int (*each)(const struct store_growth *, void *), void *arg);
/* Distinct stacks of @device's blocks, most bytes first.  @seq: the instant, for STACKS_OF_PEAK. */
int store_each_stack(struct store *store, uint16_t device, enum store_stacks_of of, uint64_t seq,
                     const struct store_filter *filter, int (*each)(const struct store_stack *, void *), void *arg);
/* Whether the run recorded any stack. */
int store_has_stacks(struct store *store, bool *ret);
/*
 * Ranges of @device's memory after event @seq, by address: what calls gave and, of expandable segments, where they are mapped.
 */
int store_each_segment(struct store *store, uint16_t device, uint64_t seq, int (*each)(const struct store_segment *, void *),
                       void *arg);
/* Where the blocks lie that are alive after event @seq, by address. */
int store_each_placed(struct store *store, uint16_t device, uint64_t seq, int (*each)(const struct store_placed *, void *),
                      void *arg);
/* The block, or other allocation, @id; not called when there is none. */
int store_one_allocation(struct store *store, uint64_t id, int (*each)(const struct store_allocation *, void *), void *arg);
/* Births and deaths of @device's blocks in order, at most @limit of them: *@ret_more when there are more. */
int store_each_change(struct store *store, uint16_t device, uint64_t limit, bool *ret_more,
                      int (*each)(const struct store_change *, void *), void *arg);
int store_each_driver(struct store *store, uint16_t device, int (*each)(const struct store_driver *, void *), void *arg);
/* What is alive of a level on all devices after event @seq; of pinned and managed memory nothing else is told. */
int store_read_level(struct store *store, unsigned level, uint64_t seq, uint64_t *ret_nr, uint64_t *ret_bytes);
/*
 * Calls for memory that the driver refused, as of an OOM (totals of our own); @near_miss: PyTorch tried again, and there was
 * none.
 */
int store_each_refusal(struct store *store, int (*each)(const struct store_oom *, bool near_miss, void *), void *arg);
int store_each_thread(struct store *store, int (*each)(const struct store_thread *, void *), void *arg);
int store_each_oom(struct store *store, int (*each)(const struct store_oom *, void *), void *arg);
int store_each_note(struct store *store, int (*each)(const struct store_note *, void *), void *arg);
/* Facts by key (INFO records): for the `info` view. */
int store_each_fact(struct store *store, int (*each)(const char *key, const char *value, void *arg), void *arg);
/* Other files of the same run (children, ranks) beside this one, by run id. */
int store_each_sibling(struct store *store, int (*each)(const char *path, void *arg), void *arg);

/* Tensors known by name, each storage once: their bytes and their elements by shape; values 0: not known. */
struct store_values {
	uint64_t bytes[NR_CATEGORIES], values[NR_CATEGORIES];
};
int store_read_values(struct store *store, uint16_t device, struct store_values *ret);
int store_read_composition(struct store *store, uint16_t device, enum store_window window, struct store_composition *ret);
/* @nr_buckets equal pieces of [start_seq, end_seq). */
int store_read_levels(struct store *store, uint16_t device, uint64_t start_seq, uint64_t end_seq,
                      struct store_bucket *ret_buckets, size_t nr_buckets);

#endif
