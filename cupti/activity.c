/*
 * CUPTI's activity records, beside a client of the program's own.
 *
 * Data model.  One struct for the process.  CUPTI has one pair of buffer callbacks, and from cupti_start() on they are ours.
 * It asks us for buffers: while the client has a kind enabled it gets the client's, so that the client finds its records
 * where it expects them, else ours.  Each buffer that was handed out is noted with whom it came from and goes back there,
 * whatever happened in between, after we have read the memory records in it.  Those of a kind that only we enabled are left
 * out when the client reads.
 *
 * Threads: CUPTI calls the callbacks on threads of its own and of the program, several at once: all that they touch is
 * atomic.  The client's own calls are its to order, as they are without us.
 */
#define _GNU_SOURCE
#include "cupti/activity.h"
#include "cupti/cupti.h"

#include "hook/hook.h"
#include "nnmem/atomic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NR_OWN_BUFFERS   16u
#define OWN_BUFFER_BYTES ((size_t)256 << 10)
#define NR_HANDED_OUT    1024u
#define NR_CLIENTS       16u
#define READ_EVERY_NS    UINT64_C(100000000)
#define MIN_SAMPLE_NS    UINT64_C(1000000)
#define MAX_STARTS       1000u

enum state { STATE_OFF, STATE_STARTING, STATE_ON, STATE_NEVER };

/* Whose buffers. */
struct client {
	cupti_requested_fn *requested;
	cupti_completed_fn *completed;
};

/* A buffer that CUPTI has: from whom it is, an index of clients + 1. */
struct handed_out {
	uint64_t buffer; /* atomic; 0: unused */
	uint32_t client; /* written before buffer (release), read after it (acquire) */
};

/* CUPTI's clock and ours, read together. */
struct sample {
	uint64_t cupti, ours_ns;
};

static struct {
	uint32_t state;     /* enum state; atomic */
	uint32_t nr_starts; /* atomic */
	enum cupti_use use;
	unsigned version;

	struct client clients[NR_CLIENTS];     /* each pair that was ever registered */
	uint32_t nr_clients;                   /* atomic */
	uint32_t client;                       /* the registered one's index + 1, 0: none; atomic */
	uint64_t enabled[CUPTI_NR_KINDS / 64]; /* by the client, now; atomic */
	uint64_t wanted[CUPTI_NR_KINDS / 64];  /* by the client, at any time since it registered; atomic */

	struct handed_out handed_out[NR_HANDED_OUT];
	uint8_t *own_buffers; /* NR_OWN_BUFFERS of them */
	uint32_t own_in_use;  /* a bit each; atomic */

	uint64_t clock; /* the client's, a cupti_clock_fn; 0: CUPTI's own; atomic */
	/* Two samples, the younger one first: cupti and ours_ns of each.  Read as a whole while clock_turn is even and stays so.
	 */
	uint64_t samples[4];
	uint32_t clock_turn; /* odd while they are written; atomic */

	uint64_t read_ns; /* of the last time that records were taken; atomic */
	uint64_t nr_lost; /* how often there was no buffer of ours for CUPTI; atomic */
} cupti;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- kinds */

static void kind_set(uint64_t *kinds, int kind, bool set)
{
	uint64_t bit;

	if (kind < 0 || kind >= CUPTI_NR_KINDS)
		return;
	bit = UINT64_C(1) << (kind % 64);
	if (set)
		__atomic_fetch_or(&kinds[kind / 64], bit, __ATOMIC_ACQ_REL);
	else
		__atomic_fetch_and(&kinds[kind / 64], ~bit, __ATOMIC_ACQ_REL);
}

static bool kind_is_set(const uint64_t *kinds, int kind)
{
	return kind >= 0 && kind < CUPTI_NR_KINDS && (atomic64_load_acquire(&kinds[kind / 64]) >> (kind % 64) & 1);
}

static bool client_has_any(void)
{
	uint64_t any = 0;

	for (size_t i = 0; i < CUPTI_NR_KINDS / 64; i++)
		any |= atomic64_load_acquire(&cupti.enabled[i]);
	return any;
}

static bool is_ours(unsigned version, int kind)
{
	return kind == CUPTI_KIND_MEMORY2 && cupti_is_on() && version == cupti.version;
}

/* ---- the clock */

static uint64_t cupti_now(void)
{
	cupti_clock_fn *clock = (cupti_clock_fn *)(uintptr_t)atomic64_load_acquire(&cupti.clock);
	int (*own)(uint64_t *) = cupti_real(cupti.version, CUPTI_GetTimestamp);
	uint64_t now = 0;

	if (clock)
		return clock();
	return own && own(&now) == CUPTI_SUCCESS ? now : 0;
}

static void clock_get(struct sample *ret_young, struct sample *ret_old)
{
	uint64_t words[4];
	uint32_t turn, tries = 0;

	do {
		turn = atomic32_load_acquire(&cupti.clock_turn);
		for (size_t i = 0; i < 4; i++)
			words[i] = atomic64_load_acquire(&cupti.samples[i]);
	} while (((turn & 1) || atomic32_load_acquire(&cupti.clock_turn) != turn) && ++tries < 10000); /* wait for nobody */
	*ret_young = (struct sample){words[0], words[1]};
	*ret_old = (struct sample){words[2], words[3]};
}

static void clock_set(uint32_t turn, struct sample young, struct sample old)
{
	const uint64_t words[4] = {young.cupti, young.ours_ns, old.cupti, old.ours_ns};

	if ((turn & 1) || !atomic32_cas_acq_rel(&cupti.clock_turn, &turn, turn + 1))
		return; /* another thread does it */
	for (size_t i = 0; i < 4; i++)
		atomic64_store_release(&cupti.samples[i], words[i]);
	atomic32_store_release(&cupti.clock_turn, turn + 2);
}

/* @first: what was sampled before was another clock. */
static void clock_sample(bool first)
{
	uint32_t turn = atomic32_load_acquire(&cupti.clock_turn);
	struct sample now = {.cupti = cupti_now(), .ours_ns = now_ns()};
	struct sample young, old;

	clock_get(&young, &old);
	if (first)
		old = now;
	else if (now.ours_ns - young.ours_ns > MIN_SAMPLE_NS)
		old = young;
	clock_set(turn, now, old);
}

/* CUPTI's @time by our clock: on the line through two samples, since a client's clock may count something else than ns. */
static uint64_t clock_convert(uint64_t time)
{
	struct sample young, old;
	double rate = 1;

	clock_get(&young, &old);
	if (young.cupti > old.cupti && young.ours_ns - old.ours_ns > MIN_SAMPLE_NS)
		rate = (double)(young.ours_ns - old.ours_ns) / (double)(young.cupti - old.cupti);
	return young.ours_ns + (uint64_t)(int64_t)((double)(int64_t)(time - young.cupti) * rate);
}

/* ---- buffers */

/* Where too many are out already it is forgotten from whom this one is. */
static void hand_out(uint8_t *buffer, uint32_t client)
{
	for (uint32_t i = 0; i < NR_HANDED_OUT; i++) {
		struct handed_out *out = &cupti.handed_out[i];
		uint64_t unused = 0;

		/* 1 is no address: the entry is taken, and becomes the buffer's when it says from whom it is. */
		if (atomic64_load_relaxed(&out->buffer) || !atomic64_cas_acq_rel(&out->buffer, &unused, 1))
			continue;
		out->client = client;
		atomic64_store_release(&out->buffer, (uint64_t)(uintptr_t)buffer);
		return;
	}
}

/* From whom the buffer is that comes back: an index of clients + 1; 0: not known. */
static uint32_t take_back(const uint8_t *buffer)
{
	for (uint32_t i = 0; i < NR_HANDED_OUT; i++) {
		struct handed_out *out = &cupti.handed_out[i];
		uint32_t client;

		if (atomic64_load_acquire(&out->buffer) != (uint64_t)(uintptr_t)buffer)
			continue;
		client = out->client;
		atomic64_store_release(&out->buffer, 0);
		return client;
	}
	return 0;
}

static uint8_t *own_buffer(void)
{
	uint32_t in_use = atomic32_load_acquire(&cupti.own_in_use);

	for (uint32_t i = 0; i < NR_OWN_BUFFERS; i++) {
		uint32_t bit = UINT32_C(1) << i;

		if (!(in_use & bit) && !(__atomic_fetch_or(&cupti.own_in_use, bit, __ATOMIC_ACQ_REL) & bit))
			return cupti.own_buffers + i * OWN_BUFFER_BYTES;
	}
	return NULL;
}

/* False: it is none of ours. */
static bool own_buffer_back(const uint8_t *buffer)
{
	size_t offset = (size_t)(buffer - cupti.own_buffers);

	if (!cupti.own_buffers || buffer < cupti.own_buffers || offset >= NR_OWN_BUFFERS * OWN_BUFFER_BYTES)
		return false;
	__atomic_fetch_and(&cupti.own_in_use, ~(UINT32_C(1) << (offset / OWN_BUFFER_BYTES)), __ATOMIC_ACQ_REL);
	return true;
}

static void requested(uint8_t **buffer, size_t *size, size_t *max_records)
{
	uint32_t client = atomic32_load_acquire(&cupti.client);

	if (client && client_has_any()) {
		cupti.clients[client - 1].requested(buffer, size, max_records);
		/* One that is forgotten goes back to the client of then. */
		if (*buffer)
			hand_out(*buffer, client);
		return;
	}
	*buffer = own_buffer();
	*size = *buffer ? OWN_BUFFER_BYTES : 0;
	*max_records = 0;
	if (!*buffer)
		atomic64_add_relaxed(&cupti.nr_lost, 1);
}

/* ---- records */

static enum record_level level_of(uint32_t memory)
{
	switch (memory) {
	case CUPTI_PINNED:
		return LEVEL_PINNED;
	case CUPTI_MANAGED:
	case CUPTI_MANAGED_STATIC:
		return LEVEL_MANAGED;
	case CUPTI_DEVICE:
	case CUPTI_ARRAY:
	case CUPTI_DEVICE_STATIC:
		return LEVEL_SEGMENT;
	default:
		return LEVEL_BLOCK; /* of no interest */
	}
}

static void read_memory_record(const struct cupti_memory_record *record)
{
	enum record_level level = level_of(record->memory);
	struct hook_seen seen = {
	        .address = record->address,
	        .size_bytes = record->bytes,
	        .level = level,
	        .device = level == LEVEL_PINNED ? RECORD_DEVICE_CPU
	                                        : (uint16_t)(RECORD_DEVICE_TYPE_CUDA | (uint16_t)((record->device & 0xffu) << 8)),
	        .given = record->operation == CUPTI_ALLOCATION,
	        .caller = record->pc,
	        .time_ns = clock_convert(record->time_ns),
	};

	if (level != LEVEL_BLOCK && (seen.given || record->operation == CUPTI_RELEASE))
		hook_memory_seen(&seen);
}

static void read_records(uint8_t *buffer, size_t valid_size)
{
	int (*next)(uint8_t *, size_t, void **) = cupti_real(cupti.version, CUPTI_ActivityGetNextRecord);
	void *place = NULL;

	if (!valid_size || !next)
		return;
	clock_sample(false);
	while (next(buffer, valid_size, &place) == CUPTI_SUCCESS) {
		struct cupti_memory_record record;
		uint32_t kind;

		memcpy(&kind, place, sizeof(kind));
		if (kind != CUPTI_KIND_MEMORY2)
			continue;
		memcpy(&record, place, sizeof(record));
		read_memory_record(&record);
	}
}

static void note_losses(void)
{
	static uint8_t once, once_full;
	int (*dropped)(void *, uint32_t, size_t *) = cupti_real(cupti.version, CUPTI_ActivityGetNumDroppedRecords);
	size_t nr = 0;

	if (atomic64_load_relaxed(&cupti.nr_lost))
		hook_note(&once_full, RECORD_SEVERITY_DEGRADED,
		          "CUPTI filled all buffers before they were read: memory that only it sees may be missing or be counted "
		          "for too long");

	/* CUPTI's count begins again when it is read, and a client counts on it. */
	if (!atomic32_load_acquire(&cupti.client) && dropped && dropped(NULL, 0, &nr) == CUPTI_SUCCESS && nr)
		hook_note(&once, RECORD_SEVERITY_DEGRADED,
		          "CUPTI dropped records (%zu at first): memory that only it sees may be missing or be counted for too "
		          "long",
		          nr);
}

static void completed(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid_size)
{
	int saved_errno = errno;
	uint32_t client;

	if (!buffer)
		return;
	read_records(buffer, valid_size);
	if (!own_buffer_back(buffer)) {
		client = take_back(buffer);
		if (!client)
			client = atomic32_load_acquire(&cupti.client);
		if (client)
			cupti.clients[client - 1].completed(context, stream, buffer, size, valid_size);
	}
	errno = saved_errno;
}

/* ---- reading in time */

/* Have CUPTI give up the buffers that it has begun. */
static void flush_forced(void)
{
	int (*flush)(uint32_t) = cupti_real(cupti.version, CUPTI_ActivityFlushAll);

	if (flush)
		flush(CUPTI_FORCED);
}

static void read_all(void)
{
	int saved_errno = errno;

	if (!cupti_is_on())
		return;
	flush_forced();
	note_losses();
	errno = saved_errno;
}

/* hook_read_with()'s: what is complete, at most ten times a second. */
static void read_now(bool all)
{
	int (*flush)(uint32_t);
	uint64_t last, now;
	int saved_errno = errno;

	if (all) {
		read_all();
		return;
	}
	/* A client takes its records when it wants them, and ours with them. */
	if (!cupti_is_on() || client_has_any())
		return;
	last = atomic64_load_relaxed(&cupti.read_ns);
	now = now_ns();
	if (now - last < READ_EVERY_NS || !atomic64_cas_acq_rel(&cupti.read_ns, &last, now))
		return;
	flush = cupti_real(cupti.version, CUPTI_ActivityFlushAll);
	if (flush)
		flush(0);
	note_losses();
	errno = saved_errno;
}

/* ---- the program's own client */

static int client_remember(cupti_requested_fn *requested_fn, cupti_completed_fn *completed_fn)
{
	uint32_t nr = atomic32_load_acquire(&cupti.nr_clients);

	for (uint32_t i = 0; i < nr; i++)
		if (cupti.clients[i].requested == requested_fn && cupti.clients[i].completed == completed_fn)
			return (int)i;
	if (nr == NR_CLIENTS)
		return -1;
	cupti.clients[nr] = (struct client){requested_fn, completed_fn};
	atomic32_store_release(&cupti.nr_clients, nr + 1);
	return (int)nr;
}

/* Give the callbacks to the client as if we were not there. */
static void step_aside(void)
{
	static uint8_t once;

	atomic32_store_release(&cupti.state, STATE_NEVER);
	hook_note(&once, RECORD_SEVERITY_DEGRADED,
	          "CUPTI has more clients than nnmem can stand beside: memory that only CUPTI sees is missing from now on");
}

int client_registers(unsigned version, cupti_requested_fn *requested_fn, cupti_completed_fn *completed_fn)
{
	int (*real)(cupti_requested_fn *, cupti_completed_fn *) = cupti_real(version, CUPTI_ActivityRegisterCallbacks);
	int index;

	if (!real)
		return CUPTI_UNKNOWN;
	if (!requested_fn || !completed_fn || (cupti_is_on() && version != cupti.version))
		return real(requested_fn, completed_fn);
	index = client_remember(requested_fn, completed_fn);
	if (index < 0)
		step_aside();
	for (size_t i = 0; i < CUPTI_NR_KINDS / 64; i++)
		atomic64_store_relaxed(&cupti.wanted[i], atomic64_load_acquire(&cupti.enabled[i]));
	cupti.version = version;
	atomic32_store_release(&cupti.client, (uint32_t)(index + 1));
	return cupti_is_on() ? CUPTI_SUCCESS : real(requested_fn, completed_fn);
}

int client_enables(unsigned version, int kind)
{
	int (*real)(int) = cupti_real(version, CUPTI_ActivityEnable);
	bool first = cupti_is_on() && version == cupti.version && !client_has_any();
	int error = CUPTI_SUCCESS;

	if (!real)
		return CUPTI_UNKNOWN;
	kind_set(cupti.enabled, kind, true);
	if (first)
		flush_forced(); /* what comes from now on belongs into the client's buffers, and this is in ours */
	if (!is_ours(version, kind))
		error = real(kind);
	if (error)
		kind_set(cupti.enabled, kind, false);
	else
		kind_set(cupti.wanted, kind, true);
	return error;
}

int client_disables(unsigned version, int kind)
{
	int (*real)(int) = cupti_real(version, CUPTI_ActivityDisable);
	int error;

	if (!real)
		return CUPTI_UNKNOWN;
	error = is_ours(version, kind) ? CUPTI_SUCCESS : real(kind);
	if (!error)
		kind_set(cupti.enabled, kind, false);
	return error;
}

int client_reads(unsigned version, uint8_t *buffer, size_t valid_size, void **record)
{
	int (*real)(uint8_t *, size_t, void **) = cupti_real(version, CUPTI_ActivityGetNextRecord);
	uint32_t kind;
	int error;

	if (!real)
		return CUPTI_UNKNOWN;
	do {
		error = real(buffer, valid_size, record);
		if (error || !record || !*record)
			return error;
		memcpy(&kind, *record, sizeof(kind));
	} while (is_ours(version, (int)kind) && !kind_is_set(cupti.wanted, (int)kind));
	return error;
}

int client_sets_clock(unsigned version, cupti_clock_fn *clock)
{
	int (*real)(cupti_clock_fn *) = cupti_real(version, CUPTI_ActivityRegisterTimestampCallback);
	bool on = cupti_is_on() && version == cupti.version;
	int error;

	if (!real)
		return CUPTI_UNKNOWN;
	if (on)
		flush_forced(); /* while their time is by the clock that we know */
	error = real(clock);
	if (!error) {
		atomic64_store_release(&cupti.clock, (uint64_t)(uintptr_t)clock);
		if (on)
			clock_sample(true);
	}
	return error;
}

int client_finalizes(unsigned version)
{
	int (*real)(void) = cupti_real(version, CUPTI_Finalize);
	int error;

	if (!real)
		return CUPTI_UNKNOWN;
	if (cupti_is_on() && version == cupti.version)
		read_all();
	error = real();
	if (error || version != cupti.version)
		return error;
	/* All that was asked of CUPTI is forgotten, by the client and by us: the next call that gives memory begins again. */
	memset(cupti.enabled, 0, sizeof(cupti.enabled));
	atomic32_store_release(&cupti.client, 0);
	atomic64_store_release(&cupti.clock, 0);
	if (cupti_is_on())
		atomic32_store_release(&cupti.state, STATE_OFF);
	return error;
}

/* ---- our own */

void cupti_set_use(enum cupti_use use)
{
	cupti.use = use;
}

bool cupti_is_on(void)
{
	return atomic32_load_acquire(&cupti.state) == STATE_ON;
}

bool cupti_is_watched(void)
{
	return atomic32_load_acquire(&cupti.client) && client_has_any();
}

/* The name of the variable that says that another tool has the GPU, NULL: none. */
static const char *other_tool(void)
{
	static const char *const prefixes[] = {"CUDA_INJECTION64_PATH=", "NSYS_", "QUADD_INJECTION", "NV_NSIGHT_",
	                                       "NV_TPS_LAUNCH"};

	for (char **variable = environ; variable && *variable; variable++)
		for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
			if (!strncmp(*variable, prefixes[i], strlen(prefixes[i])))
				return prefixes[i];
	return NULL;
}

static void note_why_not(const char *why, int error)
{
	static uint8_t once;

	hook_note(&once, cupti.use == CUPTI_ON ? RECORD_SEVERITY_DEGRADED : RECORD_SEVERITY_INFO,
	          "CUPTI is not asked (%s, error %d): memory that libraries take past libcudart is not seen", why, error);
}

/* The version of CUPTI to ask: the client's, else the newest that is loaded; 0: none is. */
static unsigned choose_version(void)
{
	if (cupti.version)
		return cupti.version;
	for (unsigned version = 13; version >= 12; version--)
		if (cupti_real(version, CUPTI_ActivityRegisterCallbacks))
			return version;
	return 0;
}

static enum state start(void)
{
	int (*register_callbacks)(cupti_requested_fn *, cupti_completed_fn *);
	int (*enable)(int);
	int error;
	void *buffers;

	if (cupti.use == CUPTI_AUTO && other_tool()) {
		note_why_not("another tool has the GPU", 0);
		return STATE_NEVER;
	}
	cupti.version = choose_version();
	if (!cupti.version) {
		if (cupti.use == CUPTI_ON)
			note_why_not("there is no libcupti in the program", 0);
		return STATE_NEVER;
	}
	register_callbacks = cupti_real(cupti.version, CUPTI_ActivityRegisterCallbacks);
	enable = cupti_real(cupti.version, CUPTI_ActivityEnable);
	if (!register_callbacks || !enable)
		return STATE_NEVER;
	if (!cupti.own_buffers) {
		buffers =
		        mmap(NULL, NR_OWN_BUFFERS * OWN_BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (buffers == MAP_FAILED) {
			note_why_not("no room for its records", errno);
			return STATE_NEVER;
		}
		cupti.own_buffers = buffers;
	}
	error = register_callbacks(requested, completed);
	if (!error && !kind_is_set(cupti.enabled, CUPTI_KIND_MEMORY2))
		error = enable(CUPTI_KIND_MEMORY2);
	if (error) {
		uint32_t client = atomic32_load_acquire(&cupti.client);

		/* As it was before. */
		if (client)
			register_callbacks(cupti.clients[client - 1].requested, cupti.clients[client - 1].completed);
		note_why_not(error == CUPTI_NOT_INITIALIZED || error == CUPTI_UNKNOWN ? "it knows no device" : "it refused",
		             error);
		return STATE_NEVER;
	}
	clock_sample(true);
	/* Registered this late it comes before CUPTI and CUDA take themselves down. */
	if (atomic32_load_relaxed(&cupti.nr_starts) == 1 && atexit(read_all))
		note_why_not("not at the end of the program", 0);
	hook_read_with(read_now);
	return STATE_ON;
}

void cupti_start(void)
{
	uint32_t off = STATE_OFF;
	int saved_errno = errno;

	if (atomic32_load_acquire(&cupti.state) != STATE_OFF || cupti.use == CUPTI_OFF)
		return;
	if (!atomic32_cas_acq_rel(&cupti.state, &off, STATE_STARTING))
		return;
	/* A program that ends CUPTI again and again is not followed for ever. */
	if (atomic32_add_relaxed(&cupti.nr_starts, 1) >= MAX_STARTS)
		atomic32_store_release(&cupti.state, STATE_NEVER);
	else
		atomic32_store_release(&cupti.state, start());
	errno = saved_errno;
}
