/*
 * The ring: one multi-producer, single-consumer queue of 64-byte slots in a mapping that hook and recorder share.
 *
 * The producers are the threads of the traced program (hook/emit.c, through ring_write()); the consumer is nnmem-record,
 * or, after its death, a reporter that recovers what was left (store/ring_reader.c).
 *
 * Protocol.  `head` and `tail` count slots since the start and never wrap; slot p lives at index p & (capacity - 1).
 * - A producer claims n slots by compare-and-swap on `head`, only if head + n - tail <= capacity: lock-free, and a full
 *   ring takes nothing.  It fills them and publishes each by changing its seq word from what the slot held before the
 *   claim (p + 1 - capacity, or 0 in the first lap) to p + 1, with release order.
 * - The consumer reads slot p when its seq is p + 1 (acquire).  A slot that stays unpublished for RING_TORN_NS is taken
 *   over: the consumer changes its seq from the old value to p + 1 itself, counts lost_torn, and the late writer's publish
 *   fails.  (A writer stopped for that long between its last check of seq and its stores can still scribble over the
 *   payload of a slot of the next lap: a window of a few instructions, stated here rather than hidden.)
 * - `tail` moves only after the database has committed what was read, so whatever kills the consumer loses nothing.
 *
 * The file has one header page and then the slots.  It is never trusted by the reader: ring_check() validates it.
 */
#ifndef NNMEM_RING_H
#define NNMEM_RING_H

#include "nnmem/atomic.h"
#include "nnmem/record.h"

#include <stddef.h>

#define RING_MAGIC        UINT64_C(0x31676e69724d4e4e) /* "NNMring1", little endian */
#define RING_HEADER_BYTES 4096u
#define RING_MIN_SLOTS    (1u << 10)
#define RING_MAX_SLOTS    (1u << 26)
#define RING_TORN_NS      UINT64_C(1000000000)
#define RING_PATH_MAX     512u
#define RING_MESSAGE_MAX  512u

/* Why a record was not written.  Names, as stored and shown, in store/names.c. */
enum ring_lost {
	LOST_FULL = 0,      /* the ring was full and the wait for room was over */
	LOST_TORN = 1,      /* claimed, never published (the thread died or was stopped) */
	LOST_RECORDER = 2,  /* the ring was full and the recorder is dead */
	LOST_REENTERED = 3, /* reported while the hook was already at work on this thread (a signal handler) */
	LOST_DEEP = 4,      /* more nested module calls than the hook follows */
	NR_LOST = 5,
};

/* What the recorder says of itself; written by the recorder only, read by the hook. */
enum ring_recorder {
	RECORDER_STARTING = 0,
	RECORDER_READY = 1,  /* the run file is open */
	RECORDER_FAILED = 2, /* could not open it; ring->message says why */
	RECORDER_CLOSED = 3, /* everything is committed and the run file is closed */
};

/* What the hook says of the program; written by the hook only. */
enum ring_producer {
	PRODUCER_RUNNING = 0,
	PRODUCER_ENDED = 1, /* RECORD_END is in the ring; nothing follows */
	/* Another program follows under this pid; RECORD_END is in the ring, and the recorder closes as for ENDED. */
	PRODUCER_EXEC = 2,
};

/*
 * The header page.  Fields of the first block are written once, before the recorder starts.  The words that producers
 * and the consumer change lie on cache lines of their own.
 */
struct ring {
	uint64_t magic;              /* RING_MAGIC */
	uint32_t header_version;     /* RECORD_VERSION */
	uint32_t capacity;           /* slots, a power of two in [RING_MIN_SLOTS, RING_MAX_SLOTS] */
	uint64_t start_realtime_ns;  /* CLOCK_REALTIME when the ring was made */
	uint64_t start_monotonic_ns; /* CLOCK_MONOTONIC at the same moment */
	uint32_t pid;                /* of the program, in its own pid namespace */
	uint32_t unused0;
	uint64_t pid_start_ticks; /* field 22 of /proc/<pid>/stat: tells a reused pid */
	uint8_t pad0[16];

	uint64_t head __attribute__((aligned(64))); /* slots claimed; producers */
	uint64_t lost[NR_LOST];                     /* producers; LOST_TORN: consumer */
	uint8_t pad1[16];

	uint64_t tail __attribute__((aligned(64))); /* slots consumed and committed; consumer */
	uint32_t recorder;                          /* enum ring_recorder; consumer */
	uint32_t recorder_pid;                      /* consumer */
	uint32_t operations_known;                  /* consumer: what happens now has happened before, under the same names */
	uint8_t pad2[44];

	uint32_t producer __attribute__((aligned(64))); /* enum ring_producer; producers */
	uint8_t pad3[60];

	/* Written by the consumer before `recorder` becomes READY, FAILED or CLOSED (release). */
	char run_path[RING_PATH_MAX];   /* the run file, as the user would name it */
	char message[RING_MESSAGE_MAX]; /* FAILED: one sentence; CLOSED: what the file holds */
};
_Static_assert(sizeof(struct ring) <= RING_HEADER_BYTES, "the header fits its page");
_Static_assert(offsetof(struct ring, head) == 64 && offsetof(struct ring, tail) == 128 &&
                       offsetof(struct ring, producer) == 192 && offsetof(struct ring, run_path) == 256,
               "hook and recorder agree on the header");

/* Bytes of a whole ring file. */
static inline uint64_t ring_file_bytes(uint32_t capacity)
{
	return RING_HEADER_BYTES + (uint64_t)capacity * sizeof(struct record);
}

static inline struct record *ring_slots(struct ring *ring)
{
	return (struct record *)(void *)((char *)ring + RING_HEADER_BYTES);
}

/* The seq word that slot @position holds before it is published. */
static inline uint64_t ring_stale_seq(const struct ring *ring, uint64_t position)
{
	return position < ring->capacity ? 0 : position + 1 - ring->capacity;
}

#endif
