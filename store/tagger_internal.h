/*
 * What the files of the tagger share.
 *
 *   tagger.c           the way in: records, devices, audit, allocations' births and deaths, flush and finish
 *   tagger_live.c      tables: live allocations by address, small maps, open episodes, high-water marks
 *   tagger_scope.c     what each thread is doing: scopes, phases, episodes, spans
 *   tagger_step.c      where steps begin and end, and what each adds up to
 *   tagger_name.c      modules, tensors and optimizers by name; which block a tensor lies in
 *   tagger_category.c  what a block is for
 *   tagger_save.c      the tagger as bytes, and back
 *
 * Nothing here is trusted: records may come from a damaged ring and saved state from a hostile file.  Every function keeps
 * the invariants below whatever it is given, and no record costs more than a bounded amount of work and memory.
 */
#ifndef NNMEM_STORE_TAGGER_INTERNAL_H
#define NNMEM_STORE_TAGGER_INTERNAL_H

#include "store/tagger.h"

#define NONE UINT32_MAX

/* Limits that no real run meets; what exceeds them is ignored and counted. */
#define MAX_DEVICES       64u                 /* devices in one process */
#define MAX_DEPTH         1024u               /* open scopes of one thread; the hook follows 256 module calls */
#define MAX_SIZE_BYTES    (UINT64_C(1) << 56) /* of one block: no address space is larger */
#define MAX_NODES         1024u               /* pieces of the open step that are kept apart */
#define MAX_STRETCHES     (UINT64_C(1) << 22) /* in one step */
#define MAX_LEVELS        64u                 /* of modules above a module that a layer's marks are carried up to */
#define MAX_AUDIT_THREADS 16u                 /* whose reports may cross at one time */
#define MAX_WAITING       64u                 /* tensors named before their block */
#define WAITING_RECORDS   256u                /* for how many records such a tensor waits for its block */

/* Totals stay representable in the run file's signed columns whatever is fed. */
static inline uint64_t add_bytes(uint64_t a, uint64_t b)
{
	return a + b < a || a + b > INT64_MAX ? INT64_MAX : a + b;
}

static inline uint64_t sub_bytes(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* ---- tagger_live.c */

/* Keys to small numbers; entries are never removed.  Zero-initialised is empty. */
struct map {
	uint64_t *keys;
	uint32_t *values; /* value + 1; 0: free */
	size_t nr_slots;  /* a power of two, or 0 */
	size_t nr_used;
	uint64_t seed; /* keys come from outside: nobody can know where they fall */
};

uint32_t map_get(const struct map *map, uint64_t key); /* NONE: absent */
int map_put(struct map *map, uint64_t key, uint32_t value);
void map_release(struct map *map);
uint64_t mix64(uint64_t value);

/* Which live allocations a flush looks at. */
enum live_list {
	LIVE_SETTLED, /* told; only a name or death changes them.  In no list */
	LIVE_YOUNG,   /* all of them, at the next flush */
	LIVE_IDLE,    /* told; a forward that begins changes them */
	NR_LIVE_LISTS
};

/* One live allocation. */
struct live {
	struct tag_allocation a;
	uint64_t forwards;   /* tagger->nr_forwards at birth: more of them now means that a forward began meanwhile */
	uint32_t next, prev; /* in its list, NONE: the end; @next of an unused entry: the next unused one + 1 */
	uint8_t list;        /* enum live_list */
	bool used;
	bool told;  /* the sink has seen it */
	bool named; /* its name changed since */
};

struct live_slot {
	uint64_t address;
	uint32_t index; /* in the pool, + 1; 0: free */
	uint16_t device;
	uint8_t level;
};

/*
 * Live allocations: a pool whose entries never move in number, and an open-addressing table over addresses.  A block's
 * key is (address, device); other memory's is its address among what is no block, since segments and the blocks in them
 * may begin at the same address.
 */
struct live_table {
	struct live *pool;
	uint32_t nr_pool, pool_size;
	uint32_t free_head; /* + 1 */
	uint32_t nr_live;
	struct live_slot *slots;
	size_t nr_slots;
	uint64_t seed;
	uint32_t head[NR_LIVE_LISTS], tail[NR_LIVE_LISTS]; /* NONE: empty */
	/* Blocks by address, for tensors that lie inside one: built when asked for, stale after the next birth. */
	uint32_t *sorted;
	uint32_t nr_sorted;
	bool sorted_valid;
	uint64_t budget; /* work that sorting may cost: earned by records, so that it stays linear in the stream */
};

/* Beside a level in the functions below: among what only CUPTI saw, which lives beside what was told. */
#define LIVE_SEEN 0x80u

void live_init(struct live_table *table);
uint32_t live_find(const struct live_table *table, uint64_t address, uint16_t device, uint8_t level);
uint32_t live_find_block(const struct live_table *table, uint64_t address);
uint32_t live_find_containing(struct live_table *table, uint64_t address);
int live_add(struct live_table *table, uint64_t address, uint16_t device, uint8_t level, uint32_t *ret_index);
void live_remove(struct live_table *table, uint32_t index);
void live_move(struct live_table *table, uint32_t index, enum live_list list);
void live_table_release(struct live_table *table);

/* A call as CUPTI saw it, until it is settled; and one that gave memory and was told, until CUPTI's record of it comes. */
struct seen {
	uint64_t seq, come_ns; /* of the record */
	uint64_t ns;           /* of the call */
	uint64_t address, size_bytes, caller;
	uint32_t thread; /* that told it */
	uint16_t device;
	uint8_t level;
	bool given;
};
struct seen_call {
	uint64_t address, size_bytes;
	uint64_t begin_ns, end_ns;
	bool handle; /* the address is one */
	bool seen;
};

/* The episodes that are open now, ascending: ids only grow. */
struct episodes {
	uint64_t *ids;
	size_t nr, size;
	uint64_t last;
};

int episodes_open(struct episodes *episodes, uint64_t *ret_id);
void episodes_close(struct episodes *episodes, uint64_t id);
bool episodes_is_open(const struct episodes *episodes, uint64_t id);

/*
 * "How high did the device stand since a given moment", for any moment at which something still open began.  Moments are
 * epochs (tagger->epoch), one more with each thing that begins.  An entry says that @bytes was the highest value seen from
 * @epoch to now, exclusive of what later entries cover: epochs ascend, bytes strictly descend.
 */
struct high_water {
	uint64_t epoch;
	uint64_t bytes;
};

struct high_waters {
	struct high_water *marks;
	size_t nr, size;
	size_t prune_at;
};

int high_waters_add(struct high_waters *waters, uint64_t epoch, uint64_t bytes);
uint64_t high_waters_since(const struct high_waters *waters, uint64_t epoch, uint64_t now_bytes);
void high_waters_prune(struct high_waters *waters, uint64_t oldest_epoch);

/* ---- tagger_scope.c */

/* A forward that began and whose backward has not: the thread stays in it between and after module calls (the loss). */
struct forward {
	bool open;
	uint32_t root; /* root module whose call began it, 0: functional code */
	uint64_t episode;
};

enum scope_kind { SCOPE_MODULE, SCOPE_BACKWARD, SCOPE_OPTIMIZER, SCOPE_MARK, NR_SCOPE_KINDS };

struct scope {
	uint8_t kind;
	uint8_t phase;
	bool recompute;
	bool root;          /* a root module's call */
	bool training;      /* ... of a module in training mode */
	bool began_forward; /* ... which began the forward that is open under it */
	bool owns_episode;  /* ends with the scope */
	uint32_t id;        /* module or optimizer */
	uint32_t root_module;
	uint64_t call; /* SCOPE_MODULE: tagger->nr_calls when it began */
	uint32_t hard; /* index of the innermost backward or step() at or below, NONE: none */
	uint64_t episode;
	uint64_t epoch;
	struct forward forward; /* SCOPE_OPTIMIZER: a closure's */
};

struct thread {
	uint32_t id;
	uint8_t flags; /* of RECORD_DEF_THREAD */
	bool defined;
	bool scoped;        /* it had scopes of its own: it counts as a Python thread whatever its definition says */
	uint32_t works_for; /* autograd worker: the thread whose graph it runs, 0: none */
	struct scope *scopes;
	uint32_t depth, nr_scopes;        /* nr_scopes: room */
	uint32_t overflow;                /* scopes beyond MAX_DEPTH */
	uint32_t nr_backward, nr_modules; /* scopes of these kinds that are open */
	struct forward forward;           /* outside backward and step() */
	bool modular;                     /* its training forwards are calls of modules that own parameters */
	bool unfinished; /* its last backward was autograd.grad() or kept its graph: a loss may be made of what it left */

	/* Its last report, if that may be the gradient that `.backward()` makes: an allocation outside module calls for which no
	 * node was made. */
	uint64_t seed; /* id of the allocation, 0: none */
	uint64_t seed_address;
	uint16_t seed_device;

	/* What the scopes amount to: scope_settle(). */
	uint8_t phase;
	bool rest; /* in nothing: static or other */
	bool busy; /* in forward, backward, step() or inference by its own scopes */
	bool recompute;
	uint32_t optimizer, root_module;
	uint64_t episode;

	struct tag_span span;
	bool in_span;
	bool span_changed;  /* since it was told */
	uint32_t span_main; /* index of the main device when it began */
	uint64_t span_epoch, span_episode;

	/* Pace: what decides where steps end (tagger_step.c).  Candidates and the like are first stretches of nodes; 0: none. */
	bool stepped;           /* stepped since its last candidate */
	bool backed;            /* ran a backward since its last training forward that could end a step */
	bool owes_step;         /* ran a backward, and neither an optimizer's step() nor a GradScaler.update came since */
	uint64_t owes_step_seq; /* since when; 0 after loading: not known */
	uint64_t candidate, candidate_eval, candidate_seq;
	uint64_t early, early_eval, early_seq; /* the first candidate since the lead's last step() */
	uint64_t eval;                         /* where evaluation began after the last step() */
	uint64_t pending; /* a root call that will be a candidate if it makes nodes; in step 0 also functional code's */
	bool pending_functional;
	uint64_t outer; /* the outermost backward or step() that is open */
};

/* What an event on a thread belongs to. */
struct context {
	uint8_t phase;
	bool recompute;
	uint64_t episode;
};

struct tagger;

struct thread *scope_thread(struct tagger *tagger, uint32_t id);
struct context scope_context(struct tagger *tagger, struct thread *thread, const struct record *record);
void scope_settle(struct tagger *tagger, struct thread *thread, const struct record *record);
void scope_count_event(struct tagger *tagger, struct thread *thread);
void scope_enter(struct tagger *tagger, struct thread *thread, const struct record *record);
void scope_leave(struct tagger *tagger, struct thread *thread, const struct record *record);
void scope_backward_begin(struct tagger *tagger, struct thread *thread, const struct record *record);
void scope_backward_end(struct tagger *tagger, struct thread *thread, const struct record *record);
void scope_optimizer_begin(struct tagger *tagger, struct thread *thread, const struct record *record);
void scope_optimizer_end(struct tagger *tagger, struct thread *thread, const struct record *record);
void scope_mark_begin(struct tagger *tagger, struct thread *thread, const struct record *record);
void scope_mark_end(struct tagger *tagger, struct thread *thread, const struct record *record);
void scope_forward(struct tagger *tagger, struct thread *thread, const struct record *record);
void scope_worker(struct tagger *tagger, struct thread *thread, const struct record *record);
/* The call of @module in which the thread is, 0: in none. */
uint64_t scope_call(const struct thread *thread, uint32_t module);
bool scope_module_is_open(const struct tagger *tagger, uint32_t thread, uint32_t module);
uint64_t scope_oldest_epoch(const struct tagger *tagger);
void scope_tell_spans(struct tagger *tagger);
void scope_end_spans(struct tagger *tagger);
bool scope_load_check(struct tagger *tagger, struct thread *thread);

/* ---- tagger_step.c */

/* A layer's marks in a node, by module and device. */
struct layer_marks {
	struct tag_layer_peak *peaks;
	size_t nr, size;
	struct map map;
	bool changed;      /* since they were told */
	uint64_t last_key; /* the entry used last */
	size_t last_index;
};

enum node_mark { NODE_PLAIN, NODE_TRAIN, NODE_EVAL };

/*
 * A piece of the open step: one stretch, or neighbours that will not be parted any more.  A node that some thread points
 * at (candidate, ...) or that is marked stays apart from the one before it; others are merged into it.
 */
struct node {
	uint64_t first, last; /* stretches */
	uint64_t start_seq, end_seq, start_ns, end_ns;
	uint32_t refs;
	uint8_t mark; /* no optimizer was seen so far: where a step begins if none ever is */
	uint8_t start_phase;
	uint64_t steps, backwards, forwards,
	        evals;                   /* optimizer steps that began in it, backwards that ended, training and eval forwards */
	struct tag_step_device *devices; /* by index of the device */
	uint32_t nr_devices;
	struct layer_marks marks;
};

int step_init(struct tagger *tagger);
void step_release(struct tagger *tagger);
struct tag_step_device *step_device(struct tagger *tagger, uint32_t device);
void step_phase_enter(struct tagger *tagger, uint8_t phase);
void step_phase_leave(struct tagger *tagger, uint8_t phase);
void step_layer_mark(struct tagger *tagger, uint32_t module, uint32_t device, bool backward, uint64_t bytes);
void step_record_begin(struct tagger *tagger, const struct record *record);
void step_record_done(struct tagger *tagger, const struct record *record);

void step_root_enter(struct tagger *tagger, struct thread *thread, const struct record *record, bool hard);
void step_root_leave(struct tagger *tagger, struct thread *thread, const struct record *record, bool made_nodes, bool hard);
void step_root_lost(struct tagger *tagger, struct thread *thread);
bool step_forward_was_stray(const struct tagger *tagger, uint32_t began_by, uint32_t root);
void step_forward(struct tagger *tagger, struct thread *thread, const struct record *record);
void step_backward_begin(struct tagger *tagger, struct thread *thread, const struct record *record, bool outermost);
void step_backward_end(struct tagger *tagger, struct thread *thread);
void step_optimizer_begin(struct tagger *tagger, struct thread *thread, const struct record *record, bool outermost);
void step_hard_end(struct tagger *tagger, struct thread *thread);
void step_scaler_update(struct tagger *tagger, struct thread *thread, const struct record *record);
void step_mark(struct tagger *tagger, const struct record *record);

void step_tell_open(struct tagger *tagger);
void step_finish(struct tagger *tagger);
uint64_t step_pointer(const struct tagger *tagger, uint64_t stretch);
bool step_load_check(struct tagger *tagger);

/* ---- tagger_name.c */

struct module {
	uint32_t id, root, parent;
	uint32_t fqn_bytes;
	uint64_t key;        /* of root and path, 0: another module has it */
	bool has_parameters; /* a root whose modules own parameters */
};

struct tensor {
	uint64_t key; /* of kind, owners and name */
	uint64_t address, size_bytes;
	uint64_t allocation; /* the last life that held it; 0: none ever did */
	uint32_t live;       /* + 1: index of that life if it names it; checked against @allocation before use */
	uint32_t module, optimizer;
	uint32_t number; /* of a gradient: what RECORD_GRADIENT calls it, 0: nothing */
	uint8_t kind;
};

/* A tensor whose block has not been reported (yet), with its text, so that it can be told again. */
struct waiting {
	uint32_t tensor; /* index */
	uint64_t until_seq;
	uint64_t address, size_bytes;
	char *text; /* name, dtype, shape, state key, each with its NUL */
	uint32_t text_bytes;
};

struct optimizer {
	uint32_t id;
	uint64_t lead_number; /* tagger->lead_number when it last stepped */
	uint64_t steps;       /* since the lead stepped */
	uint64_t last_seq;    /* of its last step() */
};

void name_module(struct tagger *tagger, const struct record *record, const char *const fields[]);
void name_tensor(struct tagger *tagger, const struct record *record, const char *const fields[]);
void name_input(struct tagger *tagger, const struct record *record);
void name_gradient(struct tagger *tagger, const struct record *record);
void name_block_born(struct tagger *tagger, uint32_t index);
void name_release(struct tagger *tagger);
const struct module *name_module_by_id(const struct tagger *tagger, uint32_t id);
const struct module *name_parent(const struct tagger *tagger, const struct module *module);
struct optimizer *name_optimizer(struct tagger *tagger, uint32_t id);

/* ---- tagger_category.c */

/* Set category, rule, provisional and seen_forward of @live as of now; dead when its free_seq is set. */
void category_decide(const struct tagger *tagger, struct live *live);
void category_step(struct tagger *tagger, const struct thread *thread);
bool category_is_settled(const struct tagger *tagger, const struct live *live);

/* ---- tagger.c */

/* PyTorch's totals against ours.  All sums are modulo 2^64: only equality matters. */
struct audit {
	bool started;
	bool many_threads; /* more than one thread reported, so reports may come in another order than totals were taken */
	uint32_t thread;
	uint64_t total;         /* PyTorch's, when last everything agreed */
	uint64_t delta;         /* bytes reported since */
	uint64_t balance;       /* hash of totals minus hash of the totals before, over the reports since */
	uint64_t nr_open;       /* reports since */
	uint64_t open_ns;       /* when the first of them came */
	uint64_t running, base; /* sum of our own live blocks, and what it differs by from PyTorch's */
	/* Of each thread that reported since: the total before its first report, and after its last. */
	struct audit_thread {
		uint32_t thread;
		uint64_t first_before, last_after;
	} threads[MAX_AUDIT_THREADS];
	uint32_t nr_threads; /* one more than there is room: too many to tell */
	/*
	 * All reports since the first, or since a failure, as above: the first one need not have been the first whose total
	 * was taken, and then what was taken for the beginning is mended.  A thread that lost its processor just there comes
	 * thousands of reports later, so they are kept until there are AUDIT_FIRST_REPORTS of them and AUDIT_OPEN_NS is over.
	 */
	bool first_over;
	uint64_t first_ns;
	uint64_t nr_first, first_delta, first_balance;
	struct audit_thread first_threads[MAX_AUDIT_THREADS];
	uint32_t nr_first_threads;
};

struct device {
	struct tag_device d;
	bool changed;             /* since the last flush */
	uint64_t told_peak_bytes; /* with its layers' marks */
	struct high_waters waters;
	struct audit audit;
	uint64_t segment_bytes;  /* of level segment, that calls told of, alive */
	uint64_t reserved_bytes; /* as PyTorch last said */
	struct tag_used used;    /* what the driver said last; seq 0: nothing */
	bool used_changed;       /* since it was told */
};

struct tagger {
	struct tag_sink sink;
	int error; /* of this call: the sink's or -ENOMEM; nothing more is told once it is set */
	uint64_t last_seq, last_ns;
	uint64_t nr_ignored;
	uint64_t key_seed; /* of tensors' and modules' keys: kept, they are compared across save and load */

	struct device devices[MAX_DEVICES];
	uint32_t nr_devices;
	uint32_t main; /* index of the first CUDA device seen, else of the first device */

	struct thread **threads;
	uint32_t nr_threads, threads_size;
	struct map thread_map;
	struct thread *last_thread;
	uint32_t nr_busy; /* threads in forward, backward, step() or inference, and the sum of their indices */
	uint64_t busy_sum;

	struct live_table live;
	struct seen *seen; /* as they came */
	uint32_t nr_seen, seen_size;
	struct seen_call *seen_calls;
	uint32_t nr_seen_calls, seen_calls_size;
	uint64_t last_allocation;
	uint64_t nr_calls;      /* of modules */
	uint64_t nr_forwards;   /* forwards and inferences that began */
	uint64_t told_forwards; /* ... before the last flush */
	struct episodes episodes;
	uint64_t epoch;
	uint64_t last_span;

	/* Steps. */
	struct node *nodes; /* the open step in order of time, at least one */
	uint32_t nr_nodes, nodes_size;
	uint64_t step; /* number of the open one */
	uint64_t last_stretch;
	bool setup;           /* no training forward yet */
	bool in_static;       /* ... and nothing was evaluated either */
	bool manual;          /* steps are marked by the program */
	bool any_optimizer;   /* an optimizer stepped */
	bool no_optimizer;    /* so many backwards without one that there will be none */
	uint32_t nr_marked;   /* nodes with a mark NODE_TRAIN */
	uint32_t home, rival; /* thread that trains where there is no optimizer, and one that may replace it */
	uint32_t lead;        /* optimizer id */
	bool has_lead;
	uint64_t lead_number; /* how often a lead stepped */
	uint64_t lead_seq;    /* of its last step(), 0: none */
	uint64_t update_seq;  /* of the last GradScaler.update, 0: none */
	uint32_t lead_thread;
	uint64_t steps_before; /* optimizer steps in the last training step that closed */
	uint8_t ended;         /* enum record_end, 0: not told */
	bool finished;

	/* Names. */
	bool requests; /* of some block of a GPU it is known what was asked for, so it is of every tensor's */
	bool adapter;  /* something names modules or tensors */
	struct module *modules;
	uint32_t nr_modules, modules_size;
	struct map module_map, path_map; /* by id; by root and path */
	struct tensor *tensors;          /* id = index + 1 */
	uint32_t nr_tensors, tensors_size;
	struct map tensor_map, gradient_map; /* by key; gradients by number */
	struct waiting waiting[MAX_WAITING];
	uint32_t nr_waiting;
	struct optimizer *optimizers;
	uint32_t nr_optimizers, optimizers_size;
	struct map optimizer_map;
};

/* ---- tagger.c, for the others */

void tagger_fail(struct tagger *tagger, int error);
/* Index of the device; NONE: one too many. */
uint32_t tagger_device(struct tagger *tagger, uint16_t id);
/* The live allocation @index ends; @lost: because its address was given out again. */
void life_end(struct tagger *tagger, uint32_t index, uint64_t seq, uint64_t ns, uint32_t thread, uint8_t phase, bool lost);
/* Make room for one more of @nr elements; false (and the error is set) when there is no memory. */
bool tagger_reserve(struct tagger *tagger, void *array_pointer, uint32_t nr, uint32_t *size, size_t element_bytes);

/* Call a sink's function unless something failed or nobody listens. */
#define TELL(tagger, function, ...)                                                                                              \
	do {                                                                                                                     \
		if (!(tagger)->error && (tagger)->sink.function)                                                                 \
			tagger_fail(tagger, (tagger)->sink.function((tagger)->sink.arg, __VA_ARGS__));                           \
	} while (0)

/* ---- tagger_seen.c */

/* A call that gave memory was told (RECORD_ALLOC). */
void seen_told(struct tagger *tagger, const struct record *record);
void seen_feed(struct tagger *tagger, const struct record *record);
/* Settle what has waited long enough by @now_ns; UINT64_MAX: all. */
void seen_settle(struct tagger *tagger, uint64_t now_ns);
void seen_release(struct tagger *tagger);

#endif
