/*
 * How records of the simulated CUPTI come to its client: buffers that are asked for, filled and given back.
 *
 * Records are queued where they are made, in the order of events, with the driver's lock held or not.  When a call of the API
 * ends they go into buffers, one for each thread that made records, or one for all when the attribute says so.  A buffer is
 * its requester's: it is completed with the callback that was registered with the one that it came from.
 *
 * The client's callbacks run with buffers_lock held, but for completion by another thread: a client that takes a lock of its
 * own in them must not hold it while it calls CUPTI.  What it calls of CUDA in them is recorded later.
 *
 * Misbehaviour on request (sim.h): small buffers, late completion, dropped records, reversed order, and a device that is
 * behind, so that what it was given is complete when somebody has waited for it.  What is wanted then of a buffer with
 * incomplete records: only a forced flush gives it back, without their times.
 */
#include "cupti_internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RECORD_ALIGNMENT 8

struct callbacks {
	CUpti_BuffersCallbackRequestFunc requested; /* NULL: nobody has registered */
	CUpti_BuffersCallbackCompleteFunc completed;
};

/*
 * A buffer of a client's, while it is CUPTI's.
 */
struct buffer {
	struct buffer *next;
	struct callbacks client; /* whose it is */
	uint64_t thread;         /* whose records it takes */
	uint8_t *bytes;
	size_t size_bytes;  /* as the client said */
	size_t limit_bytes; /* what is used of it */
	size_t used_bytes;
	size_t nr_records, max_records; /* max_records 0: as many as fit */
	uint64_t pending_since;         /* nr_synchronized when a record of the device's came last; 0: none did */
	size_t pending_from_bytes;      /* of the first one that came then */
	struct timespec late_until;     /* CLOCK_MONOTONIC */
};

/* A record that waits for a buffer. */
struct queued {
	struct queued *next;
	uint64_t thread;
	size_t size_bytes;
	uint8_t record[];
};

static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER; /* may be taken with the driver's lock held */
static struct queued *queue, **queue_end = &queue;
static uint64_t nr_queued;
static size_t nr_dropped;

static pthread_mutex_t buffers_lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows; never taken with the driver's lock held */
static struct callbacks callbacks;
static struct buffer *open_buffers; /* being filled */
static struct buffer *full_buffers; /* with SIMCUDA_CUPTI_PENDING: full, and with records that are not complete */
static struct buffer *held;         /* with SIMCUDA_CUPTI_REVERSE: full, and waits for the next one */
static uint64_t nr_synchronized = 1;
static bool for_each_thread = true;
static bool zeroed; /* the client's buffers are zero */
static __thread bool in_callback;

static pthread_mutex_t late_lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static pthread_cond_t late_more = PTHREAD_COND_INITIALIZER;
static struct buffer *late, **late_end = &late; /* complete, and not said so yet */
static pthread_cond_t late_less = PTHREAD_COND_INITIALIZER;
static uint64_t nr_late, nr_late_given; /* ever */
static bool late_started;

/* The number of the calling thread, which no other one ever has. */
static uint64_t this_thread(void)
{
	static _Atomic(uint64_t) nr_threads;
	static __thread uint64_t number;

	if (!number)
		number = atomic_fetch_add(&nr_threads, 1) + 1;
	return number;
}

void cupti_deliver(const void *record, size_t size_bytes)
{
	const uint64_t drop_each = sim_setting("SIMCUDA_CUPTI_DROP", 0);
	struct queued *queued = malloc(sizeof(*queued) + size_bytes);

	if (!queued)
		sim_die("no memory for", "a record");
	*queued = (struct queued){.thread = this_thread(), .size_bytes = size_bytes};
	memcpy(queued->record, record, size_bytes);
	pthread_mutex_lock(&queue_lock);
	if (drop_each && ++nr_queued % drop_each == 0) {
		nr_dropped++;
		free(queued);
	} else {
		*queue_end = queued;
		queue_end = &queued->next;
	}
	pthread_mutex_unlock(&queue_lock);
}

static void drop_record(void)
{
	pthread_mutex_lock(&queue_lock);
	nr_dropped++;
	pthread_mutex_unlock(&queue_lock);
}

/* Completion --------------------------------------------------------------------------------------------------------- */

/* Put the records of @buffer in the reverse order. */
static void reverse(struct buffer *buffer)
{
	uint8_t *copy = malloc(buffer->used_bytes);
	size_t at_bytes = 0;

	if (!copy)
		sim_die("no memory for", "a buffer");
	memcpy(copy, buffer->bytes, buffer->used_bytes);
	while (at_bytes < buffer->used_bytes) {
		size_t size_bytes = cupti_record_bytes(((CUpti_Activity *)(copy + at_bytes))->kind);

		memcpy(buffer->bytes + buffer->used_bytes - at_bytes - size_bytes, copy + at_bytes, size_bytes);
		at_bytes += size_bytes;
	}
	free(copy);
}

static void give_back(struct buffer *buffer)
{
	in_callback = true;
	buffer->client.completed(NULL, 0, buffer->bytes, buffer->size_bytes, buffer->used_bytes);
	in_callback = false;
	free(buffer);
}

static void *late_main(void *unused)
{
	for (;;) {
		struct buffer *buffer;

		pthread_mutex_lock(&late_lock);
		while (!late)
			pthread_cond_wait(&late_more, &late_lock);
		buffer = late;
		late = buffer->next;
		if (!late)
			late_end = &late;
		pthread_mutex_unlock(&late_lock);
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &buffer->late_until, NULL))
			;
		give_back(buffer);
		pthread_mutex_lock(&late_lock);
		nr_late_given++;
		pthread_cond_broadcast(&late_less);
		pthread_mutex_unlock(&late_lock);
	}
	return unused;
}

/* Let another thread give @buffer back, @late_ms from now. */
static void give_back_late(struct buffer *buffer, uint64_t late_ms)
{
	struct timespec *until = &buffer->late_until;
	sigset_t all, before;
	pthread_t thread;

	clock_gettime(CLOCK_MONOTONIC, until);
	until->tv_sec += (time_t)(late_ms / 1000);
	until->tv_nsec += (long)(late_ms % 1000) * 1000000;
	if (until->tv_nsec >= 1000000000) {
		until->tv_nsec -= 1000000000;
		until->tv_sec++;
	}
	buffer->next = NULL;
	pthread_mutex_lock(&late_lock);
	*late_end = buffer;
	late_end = &buffer->next;
	nr_late++;
	if (!late_started) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		if (pthread_create(&thread, NULL, late_main, NULL))
			sim_die("cannot start", "the thread that is late");
		pthread_detach(thread);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
		late_started = true;
	}
	pthread_cond_signal(&late_more);
	pthread_mutex_unlock(&late_lock);
}

static void give_back_now_or_late(struct buffer *buffer)
{
	const uint64_t late_ms = sim_setting("SIMCUDA_CUPTI_LATE", 0);

	if (late_ms || sim_setting("SIMCUDA_CUPTI_WORKER", 0))
		give_back_late(buffer, late_ms);
	else
		give_back(buffer);
}

/* Until all buffers that another thread was to give back are so. */
static void wait_for_late(void)
{
	uint64_t until;

	pthread_mutex_lock(&late_lock);
	until = nr_late;
	while (nr_late_given < until)
		pthread_cond_wait(&late_less, &late_lock);
	pthread_mutex_unlock(&late_lock);
}

/* Of what the device does, times are known when it is done. */
static bool is_of_device(CUpti_ActivityKind kind)
{
	return kind == CUPTI_ACTIVITY_KIND_MEMCPY || kind == CUPTI_ACTIVITY_KIND_MEMSET || kind == CUPTI_ACTIVITY_KIND_KERNEL ||
	       kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL;
}

static bool is_pending(const struct buffer *buffer)
{
	return buffer->pending_since == nr_synchronized;
}

/* Take away the times of the records of @buffer that are not complete. */
static void take_times(struct buffer *buffer)
{
	size_t at_bytes = buffer->pending_from_bytes;

	while (is_pending(buffer) && at_bytes < buffer->used_bytes) {
		CUpti_Activity *record = (CUpti_Activity *)(buffer->bytes + at_bytes);

		if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY)
			((CUpti_ActivityMemcpy6 *)record)->start = ((CUpti_ActivityMemcpy6 *)record)->end = 0;
		else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET)
			((CUpti_ActivityMemset4 *)record)->start = ((CUpti_ActivityMemset4 *)record)->end = 0;
		else if (is_of_device(record->kind))
			((CUpti_ActivityKernel10 *)record)->start = ((CUpti_ActivityKernel10 *)record)->end = 0;
		at_bytes += cupti_record_bytes(record->kind);
	}
}

/* @buffer, which was taken off its list, is done. */
static void complete(struct buffer *buffer)
{
	struct buffer *before = held;

	take_times(buffer);
	if (sim_setting("SIMCUDA_CUPTI_REVERSE", 0)) {
		reverse(buffer);
		if (!before) {
			held = buffer;
			return;
		}
	}
	held = NULL;
	give_back_now_or_late(buffer);
	if (before)
		give_back_now_or_late(before);
}

/* Those of a list that have no incomplete records, or with @forced all of them. */
static void complete_list(struct buffer **link, bool forced)
{
	while (*link) {
		struct buffer *buffer = *link;

		if (is_pending(buffer) && !forced) {
			link = &buffer->next;
			continue;
		}
		*link = buffer->next;
		complete(buffer);
	}
}

/* @buffer, which is open, is full. */
static void fill_up(struct buffer *buffer)
{
	struct buffer **link = &open_buffers;

	while (*link != buffer)
		link = &(*link)->next;
	*link = buffer->next;
	for (link = &full_buffers; *link;)
		link = &(*link)->next;
	buffer->next = NULL;
	*link = buffer;
	complete_list(&full_buffers, false);
}

static void complete_all(bool forced)
{
	complete_list(&full_buffers, forced);
	complete_list(&open_buffers, forced);
	if (held) {
		give_back_now_or_late(held);
		held = NULL;
	}
}

/* Filling ------------------------------------------------------------------------------------------------------------ */

/* A buffer of the client's for @thread, or NULL when it has none to give. */
static struct buffer *request(uint64_t thread)
{
	const uint64_t limit_bytes = sim_setting("SIMCUDA_CUPTI_BUFFER", 0);
	struct buffer *buffer;

	if (!callbacks.requested)
		return NULL;
	buffer = calloc(1, sizeof(*buffer));
	if (!buffer)
		sim_die("no memory for", "a buffer");
	buffer->client = callbacks;
	buffer->thread = thread;
	in_callback = true;
	callbacks.requested(&buffer->bytes, &buffer->size_bytes, &buffer->max_records);
	in_callback = false;
	if (!buffer->bytes || (uintptr_t)buffer->bytes % RECORD_ALIGNMENT) {
		free(buffer);
		return NULL;
	}
	if (!zeroed)
		memset(buffer->bytes, 0, buffer->size_bytes);
	buffer->limit_bytes = limit_bytes && limit_bytes < buffer->size_bytes ? limit_bytes : buffer->size_bytes;
	buffer->next = open_buffers;
	open_buffers = buffer;
	return buffer;
}

static bool has_room(const struct buffer *buffer, size_t size_bytes)
{
	return size_bytes <= buffer->limit_bytes - buffer->used_bytes &&
	       (!buffer->max_records || buffer->nr_records < buffer->max_records);
}

static void place(const struct queued *queued)
{
	struct buffer *buffer = open_buffers;

	while (buffer && for_each_thread && buffer->thread != queued->thread)
		buffer = buffer->next;
	if (buffer && buffer->nr_records && !has_room(buffer, queued->size_bytes)) {
		fill_up(buffer);
		buffer = NULL;
	}
	if (!buffer)
		buffer = request(queued->thread);
	if (!buffer || !has_room(buffer, queued->size_bytes)) {
		drop_record();
		return;
	}
	memcpy(buffer->bytes + buffer->used_bytes, queued->record, queued->size_bytes);
	if (is_of_device(((const CUpti_Activity *)queued->record)->kind) && !is_pending(buffer) &&
	    sim_setting("SIMCUDA_CUPTI_PENDING", 0)) {
		buffer->pending_since = nr_synchronized;
		buffer->pending_from_bytes = buffer->used_bytes;
	}
	buffer->used_bytes += queued->size_bytes;
	buffer->nr_records++;
}

static void place_all(void)
{
	struct queued *first, *next;

	pthread_mutex_lock(&queue_lock);
	first = queue;
	queue = NULL;
	queue_end = &queue;
	pthread_mutex_unlock(&queue_lock);
	for (; first; first = next) {
		next = first->next;
		place(first);
		free(first);
	}
}

void cupti_drain(void)
{
	if (in_callback)
		return;
	pthread_mutex_lock(&buffers_lock);
	place_all();
	pthread_mutex_unlock(&buffers_lock);
}

void cupti_synchronized(void)
{
	if (in_callback)
		return;
	pthread_mutex_lock(&buffers_lock);
	place_all();
	nr_synchronized++;
	complete_list(&full_buffers, false);
	pthread_mutex_unlock(&buffers_lock);
}

/* Give back all buffers but, unless @forced, those that wait for the device. */
static void flush(bool forced)
{
	if (in_callback)
		return;
	pthread_mutex_lock(&buffers_lock);
	place_all();
	complete_all(forced);
	pthread_mutex_unlock(&buffers_lock);
	if (sim_setting("SIMCUDA_CUPTI_WORKER", 0))
		wait_for_late();
}

void cupti_detach_buffers(void)
{
	flush(true);
	pthread_mutex_lock(&buffers_lock);
	callbacks = (struct callbacks){0};
	for_each_thread = true;
	zeroed = false;
	pthread_mutex_unlock(&buffers_lock);
}

/* What the client calls ---------------------------------------------------------------------------------------------- */

/* What the one before has in its buffers is given to it first. */
SIM_EXPORT CUptiResult cuptiActivityRegisterCallbacks(CUpti_BuffersCallbackRequestFunc funcBufferRequested,
                                                      CUpti_BuffersCallbackCompleteFunc funcBufferCompleted)
{
	if (!funcBufferRequested || !funcBufferCompleted)
		return CUPTI_ERROR_INVALID_PARAMETER;
	flush(true);
	pthread_mutex_lock(&buffers_lock);
	callbacks = (struct callbacks){funcBufferRequested, funcBufferCompleted};
	pthread_mutex_unlock(&buffers_lock);
	return CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiActivityFlushAll(uint32_t flag)
{
	bool registered;

	if (cupti_without_driver())
		return CUPTI_ERROR_UNKNOWN;
	pthread_mutex_lock(&buffers_lock);
	registered = callbacks.requested != NULL;
	pthread_mutex_unlock(&buffers_lock);
	if (!registered)
		return CUPTI_ERROR_INVALID_OPERATION;
	flush(flag & CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
	return CUPTI_SUCCESS;
}

/* Full buffers are given back at once, whatever the period is. */
SIM_EXPORT CUptiResult cuptiActivityFlushPeriod(uint32_t time)
{
	return cupti_without_driver() ? CUPTI_ERROR_UNKNOWN : CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiActivityGetNextRecord(uint8_t *buffer, size_t validBufferSizeBytes, CUpti_Activity **record)
{
	uint8_t *next;
	size_t left_bytes, size_bytes;

	if (!buffer || !record)
		return CUPTI_ERROR_INVALID_PARAMETER;
	next = *record ? (uint8_t *)*record + cupti_record_bytes((*record)->kind) : buffer;
	left_bytes = validBufferSizeBytes - (size_t)(next - buffer);
	if (!left_bytes)
		return CUPTI_ERROR_MAX_LIMIT_REACHED;
	size_bytes = cupti_record_bytes(((CUpti_Activity *)next)->kind);
	if (!size_bytes || size_bytes > left_bytes)
		return CUPTI_ERROR_INVALID_KIND;
	*record = (CUpti_Activity *)next;
	return CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiActivityGetNumDroppedRecords(CUcontext context, uint32_t streamId, size_t *dropped)
{
	if (!dropped)
		return CUPTI_ERROR_INVALID_PARAMETER;
	pthread_mutex_lock(&queue_lock);
	*dropped = nr_dropped;
	nr_dropped = 0;
	pthread_mutex_unlock(&queue_lock);
	return CUPTI_SUCCESS;
}

/* Two attributes change something; sizes of what CUPTI keeps on a device do not, as it keeps nothing. */
SIM_EXPORT CUptiResult cuptiActivitySetAttribute(CUpti_ActivityAttribute attr, size_t *valueSize, void *value)
{
	if (cupti_without_driver())
		return CUPTI_ERROR_UNKNOWN;
	if (!valueSize || !value || attr > CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_SIZE_DEVICE_GRAPHS)
		return CUPTI_ERROR_INVALID_PARAMETER;
	if (!*valueSize)
		return CUPTI_ERROR_PARAMETER_SIZE_NOT_SUFFICIENT;
	pthread_mutex_lock(&buffers_lock);
	if (attr == CUPTI_ACTIVITY_ATTR_PER_THREAD_ACTIVITY_BUFFER)
		for_each_thread = *(const uint8_t *)value;
	if (attr == CUPTI_ACTIVITY_ATTR_ZEROED_OUT_ACTIVITY_BUFFER)
		zeroed = *(const uint8_t *)value;
	pthread_mutex_unlock(&buffers_lock);
	return CUPTI_SUCCESS;
}
