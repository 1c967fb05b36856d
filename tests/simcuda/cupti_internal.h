/*
 * The simulated CUPTI's own parts (libcupti.so.13), one header for all of them.
 *
 * cupti.c has what a client sets: kinds, callbacks, clock.  cupti_records.c makes records of what the driver's observer is
 * told (observe.h).  cupti_buffers.c brings them to the client.
 */
#ifndef NNMEM_SIMCUDA_CUPTI_INTERNAL_H
#define NNMEM_SIMCUDA_CUPTI_INTERNAL_H

#include "observe.h"
#include "sim.h"

#include <cupti.h>

/* Whether SIMCUDA_CUPTI_NO_DRIVER is set: CUPTI is there, and no driver. */
bool cupti_without_driver(void);

/* Whether somebody wants records of @kind. */
bool cupti_wants(CUpti_ActivityKind kind);

/* Whether somebody wants records of the call @cbid; @kind is RUNTIME or DRIVER. */
bool cupti_wants_call(CUpti_ActivityKind kind, CUpti_CallbackId cbid);

/* Whether `source` of memory's records is wanted. */
bool cupti_wants_source(void);

/* Now, by the client's clock when there is one. */
uint64_t cupti_now(void);

/* The number of @stream of @context_device_id. */
uint32_t cupti_stream_id(const void *stream);

/* Tell the subscriber that the context of @device_id was made.  No lock is held. */
void cupti_tell_context(int device_id);

/* Tell the subscriber, if it wants to know, of a call of the API.  No lock is held. */
void cupti_tell_call(CUpti_CallbackDomain domain, CUpti_CallbackId cbid, const CUpti_CallbackData *data);

/* Watch the device: the observer of observe.h. */
void cupti_observe(const struct observed *observed);

/* Bytes of a record of @kind, 0 when no such record is ever made. */
size_t cupti_record_bytes(CUpti_ActivityKind kind);

/*
 * Take over a copy of @record, of the calling thread, to be delivered.  The driver's lock may be held.
 */
void cupti_deliver(const void *record, size_t size_bytes);

/*
 * Put what was taken over into buffers, and give those to the client that are full.  No lock is held.
 */
void cupti_drain(void);

/* The program waited for the device: with SIMCUDA_CUPTI_PENDING, what it had to do until now is complete. */
void cupti_synchronized(void);

/* Give all buffers to their clients, and forget the callbacks. */
void cupti_detach_buffers(void);

#endif
