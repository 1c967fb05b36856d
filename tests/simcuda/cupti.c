/*
 * What a client sets of the simulated CUPTI: the subscriber, kinds of records, the clock; and answers that need no device.
 *
 * One subscriber, one pair of buffer callbacks (cupti_buffers.c), kinds that are on or off for everybody in the process: as
 * the real one up to CUDA 13.2.  Real: numbers, names, layouts, which come from its headers; codes without a driver, which
 * were seen of 13.0.  Simulated: everything else; what hardware does may differ.
 */
#include "cupti_internal.h"
#include "cupti_ids.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FIRST_STREAM_ID   13
#define DEFAULT_STREAM_ID 7 /* as the default stream's is on devices */
#define MAX_STREAMS       1024

struct CUpti_Subscriber_st {
	CUpti_CallbackFunc callback;
	void *userdata;
	char name[64];
	_Atomic(bool) wants[CUPTI_CB_DOMAIN_SIZE][CUPTI_MAX_CBID]; /* what it wants to be told of */
};

static _Atomic(bool) kinds[CUPTI_ACTIVITY_KIND_COUNT];
static _Atomic(bool) calls[2][CUPTI_MAX_CBID]; /* of the runtime, of the driver */
static _Atomic(bool) with_source;
static _Atomic(CUpti_TimestampCallbackFunc) clock_callback;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static struct CUpti_Subscriber_st subscriber;
static bool subscribed;
static const void *streams[MAX_STREAMS]; /* by number; a stream keeps its own when its address is used again */
static uint32_t nr_streams;

bool cupti_without_driver(void)
{
	return sim_setting("SIMCUDA_CUPTI_NO_DRIVER", 0);
}

static void observe(observer *function)
{
	((__typeof__(simcudaObserve) *)sim_driver_function("simcudaObserve"))(function);
}

/* Versions, names, clock --------------------------------------------------------------------------------------------- */

SIM_EXPORT CUptiResult cuptiGetVersion(uint32_t *version)
{
	if (!version)
		return CUPTI_ERROR_INVALID_PARAMETER;
	*version = CUPTI_API_VERSION;
	return CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiGetResultString(CUptiResult result, const char **str)
{
	const char *name = (unsigned)result < CUPTI_MAX_RESULT ? cupti_result_names[result] : NULL;

	if (!str)
		return CUPTI_ERROR_INVALID_PARAMETER;
	*str = name ? name : "<unknown>";
	return name ? CUPTI_SUCCESS : CUPTI_ERROR_INVALID_PARAMETER;
}

SIM_EXPORT CUptiResult cuptiGetCallbackName(CUpti_CallbackDomain domain, uint32_t cbid, const char **name)
{
	const char *const *names = domain == CUPTI_CB_DOMAIN_RUNTIME_API  ? cupti_runtime_names
	                           : domain == CUPTI_CB_DOMAIN_DRIVER_API ? cupti_driver_names
	                                                                  : NULL;

	if (!name || !names || cbid >= CUPTI_MAX_CBID || !names[cbid])
		return CUPTI_ERROR_INVALID_PARAMETER;
	*name = names[cbid];
	return CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiGetTimestamp(uint64_t *timestamp)
{
	struct timespec now;

	if (!timestamp)
		return CUPTI_ERROR_INVALID_PARAMETER;
	clock_gettime(CLOCK_REALTIME, &now);
	*timestamp = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	return CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiActivityRegisterTimestampCallback(CUpti_TimestampCallbackFunc funcTimestamp)
{
	if (cupti_without_driver())
		return CUPTI_ERROR_UNKNOWN;
	if (!funcTimestamp)
		return CUPTI_ERROR_INVALID_PARAMETER;
	atomic_store(&clock_callback, funcTimestamp);
	return CUPTI_SUCCESS;
}

uint64_t cupti_now(void)
{
	CUpti_TimestampCallbackFunc callback = atomic_load(&clock_callback);
	uint64_t now;

	if (callback)
		return callback();
	cuptiGetTimestamp(&now);
	return now;
}

/* Numbers of contexts, devices and streams --------------------------------------------------------------------------- */

static CUptiResult device_of_context(CUcontext context, CUdevice *ret_device)
{
	__typeof__(cuCtxGetCurrent) *get = (__typeof__(get))sim_driver_function("cuCtxGetCurrent");
	__typeof__(cuCtxSetCurrent) *set = (__typeof__(set))sim_driver_function("cuCtxSetCurrent");
	__typeof__(cuCtxGetDevice) *device = (__typeof__(device))sim_driver_function("cuCtxGetDevice");
	CUcontext before;

	if (!context)
		return CUPTI_ERROR_INVALID_CONTEXT;
	get(&before);
	set(context);
	device(ret_device);
	set(before);
	return CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiGetDeviceId(CUcontext context, uint32_t *deviceId)
{
	CUdevice device;
	CUptiResult result;

	if (!deviceId)
		return CUPTI_ERROR_INVALID_PARAMETER;
	result = device_of_context(context, &device);
	if (result == CUPTI_SUCCESS)
		*deviceId = (uint32_t)device;
	return result;
}

SIM_EXPORT CUptiResult cuptiGetContextId(CUcontext context, uint32_t *contextId)
{
	CUptiResult result = cuptiGetDeviceId(context, contextId);

	if (result == CUPTI_SUCCESS)
		++*contextId; /* a device has one context: as cupti_records.c numbers them */
	return result;
}

uint32_t cupti_stream_id(const void *stream)
{
	uint32_t at = 0;

	if ((uintptr_t)stream <= 2)
		return DEFAULT_STREAM_ID;
	pthread_mutex_lock(&lock);
	while (at < nr_streams && streams[at] != stream)
		at++;
	if (at == MAX_STREAMS)
		sim_die("too many", "streams");
	if (at == nr_streams)
		streams[nr_streams++] = stream;
	pthread_mutex_unlock(&lock);
	return FIRST_STREAM_ID + at;
}

SIM_EXPORT CUptiResult cuptiGetStreamIdEx(CUcontext context, CUstream stream, uint8_t perThreadStream, uint32_t *streamId)
{
	if (!streamId)
		return CUPTI_ERROR_INVALID_PARAMETER;
	*streamId = cupti_stream_id(stream);
	return CUPTI_SUCCESS;
}

/* The subscriber ----------------------------------------------------------------------------------------------------- */

SIM_EXPORT CUptiResult cuptiSubscribe_v2(CUpti_SubscriberHandle *ret_subscriber, CUpti_CallbackFunc callback, void *userdata,
                                         CUpti_SubscriberParams *pParams)
{
	CUptiResult result = CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED;
	const char *other;

	if (cupti_without_driver())
		return CUPTI_ERROR_UNKNOWN;
	if (!ret_subscriber || (pParams && !pParams->structSize))
		return CUPTI_ERROR_INVALID_PARAMETER;
	pthread_mutex_lock(&lock);
	other = sim_setting("SIMCUDA_CUPTI_SUBSCRIBED", 0) ? "somebody" : subscribed ? subscriber.name : NULL;
	if (other && pParams && pParams->oldSubscriberName) {
		snprintf(pParams->oldSubscriberName, pParams->oldSubscriberSize, "%s", other);
	} else if (!other) {
		memset(&subscriber, 0, sizeof(subscriber));
		snprintf(subscriber.name, sizeof(subscriber.name), "CUPTI for %.53s",
		         pParams && pParams->subscriberName ? pParams->subscriberName : "");
		subscriber.callback = callback;
		subscriber.userdata = userdata;
		subscribed = true;
		*ret_subscriber = &subscriber;
		result = CUPTI_SUCCESS;
	}
	pthread_mutex_unlock(&lock);
	if (result == CUPTI_SUCCESS)
		observe(cupti_observe);
	return result;
}

SIM_EXPORT CUptiResult cuptiSubscribe(CUpti_SubscriberHandle *ret_subscriber, CUpti_CallbackFunc callback, void *userdata)
{
	return cuptiSubscribe_v2(ret_subscriber, callback, userdata, NULL);
}

SIM_EXPORT CUptiResult cuptiUnsubscribe(CUpti_SubscriberHandle old)
{
	CUptiResult result = CUPTI_ERROR_INVALID_PARAMETER;

	pthread_mutex_lock(&lock);
	if (subscribed && old == &subscriber) {
		subscribed = false;
		result = CUPTI_SUCCESS;
	}
	pthread_mutex_unlock(&lock);
	return result;
}

static bool is_subscriber(CUpti_SubscriberHandle handle)
{
	bool is;

	pthread_mutex_lock(&lock);
	is = subscribed && handle == &subscriber;
	pthread_mutex_unlock(&lock);
	return is;
}

/* Of calls a subscriber hears all but their arguments; of resources, that contexts are made; of other domains, nothing. */
static CUptiResult enable_callbacks(uint32_t enable, CUpti_SubscriberHandle handle, CUpti_CallbackDomain domain, uint32_t first,
                                    uint32_t last)
{
	if (!is_subscriber(handle) || domain <= CUPTI_CB_DOMAIN_INVALID || domain >= CUPTI_CB_DOMAIN_SIZE ||
	    last >= CUPTI_MAX_CBID)
		return CUPTI_ERROR_INVALID_PARAMETER;
	for (uint32_t cbid = first; cbid <= last; cbid++)
		atomic_store(&subscriber.wants[domain][cbid], enable != 0);
	return CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiEnableCallback(uint32_t enable, CUpti_SubscriberHandle handle, CUpti_CallbackDomain domain,
                                           CUpti_CallbackId cbid)
{
	return enable_callbacks(enable, handle, domain, cbid, cbid);
}

SIM_EXPORT CUptiResult cuptiEnableDomain(uint32_t enable, CUpti_SubscriberHandle handle, CUpti_CallbackDomain domain)
{
	return enable_callbacks(enable, handle, domain, 1, CUPTI_MAX_CBID - 1);
}

static bool wants(CUpti_CallbackDomain domain, CUpti_CallbackId cbid)
{
	return atomic_load(&subscriber.wants[domain][cbid]) && is_subscriber(&subscriber);
}

void cupti_tell_context(int device_id)
{
	__typeof__(cuDevicePrimaryCtxRetain) *retain = (__typeof__(retain))sim_driver_function("cuDevicePrimaryCtxRetain");
	CUpti_ResourceData data = {0};

	if (!wants(CUPTI_CB_DOMAIN_RESOURCE, CUPTI_CBID_RESOURCE_CONTEXT_CREATED))
		return;
	retain(&data.context, device_id);
	subscriber.callback(subscriber.userdata, CUPTI_CB_DOMAIN_RESOURCE, CUPTI_CBID_RESOURCE_CONTEXT_CREATED, &data);
}

void cupti_tell_call(CUpti_CallbackDomain domain, CUpti_CallbackId cbid, const CUpti_CallbackData *data)
{
	if (cbid < CUPTI_MAX_CBID && wants(domain, cbid))
		subscriber.callback(subscriber.userdata, domain, cbid, data);
}

/* Kinds of records --------------------------------------------------------------------------------------------------- */

bool cupti_wants(CUpti_ActivityKind kind)
{
	return atomic_load(&kinds[kind]);
}

static _Atomic(bool) *calls_of(CUpti_ActivityKind kind)
{
	return calls[kind == CUPTI_ACTIVITY_KIND_DRIVER];
}

bool cupti_wants_call(CUpti_ActivityKind kind, CUpti_CallbackId cbid)
{
	return cbid < CUPTI_MAX_CBID && atomic_load(&calls_of(kind)[cbid]);
}

bool cupti_wants_source(void)
{
	return atomic_load(&with_source);
}

static CUptiResult activity_set(CUpti_ActivityKind kind, bool on)
{
	if (cupti_without_driver())
		return CUPTI_ERROR_UNKNOWN;
	if (kind <= CUPTI_ACTIVITY_KIND_INVALID || kind >= CUPTI_ACTIVITY_KIND_COUNT)
		return CUPTI_ERROR_INVALID_KIND;
	/* CUPTI itself costs nothing here, so that there are no records of overhead. */
	if (on && !cupti_record_bytes(kind) && kind != CUPTI_ACTIVITY_KIND_OVERHEAD) {
		sim_unimplemented("a kind of record that cuptiActivityEnable was asked for");
		return CUPTI_ERROR_NOT_SUPPORTED;
	}
	if (on)
		observe(cupti_observe);
	atomic_store(&kinds[kind], on);
	for (size_t cbid = 0; cbid < CUPTI_MAX_CBID; cbid++) {
		if (kind == CUPTI_ACTIVITY_KIND_RUNTIME || kind == CUPTI_ACTIVITY_KIND_DRIVER)
			atomic_store(&calls_of(kind)[cbid], on);
	}
	return CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiActivityEnable(CUpti_ActivityKind kind)
{
	return activity_set(kind, true);
}

SIM_EXPORT CUptiResult cuptiActivityDisable(CUpti_ActivityKind kind)
{
	return activity_set(kind, false);
}

static CUptiResult call_set(CUpti_ActivityKind kind, CUpti_CallbackId cbid, bool on)
{
	if (cupti_without_driver())
		return CUPTI_ERROR_UNKNOWN;
	if (cbid >= CUPTI_MAX_CBID)
		return CUPTI_ERROR_INVALID_PARAMETER;
	if (on)
		observe(cupti_observe);
	atomic_store(&calls_of(kind)[cbid], on);
	return CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiActivityEnableRuntimeApi(CUpti_CallbackId cbid, uint8_t enable)
{
	return call_set(CUPTI_ACTIVITY_KIND_RUNTIME, cbid, enable);
}

SIM_EXPORT CUptiResult cuptiActivityEnableDriverApi(CUpti_CallbackId cbid, uint8_t enable)
{
	return call_set(CUPTI_ACTIVITY_KIND_DRIVER, cbid, enable);
}

SIM_EXPORT CUptiResult cuptiActivityEnableAllocationSource(uint8_t enable)
{
	if (cupti_without_driver())
		return CUPTI_ERROR_UNKNOWN;
	atomic_store(&with_source, enable != 0);
	return CUPTI_SUCCESS;
}

/* There are no records of events, nor of how long a launch waited. */
SIM_EXPORT CUptiResult cuptiActivityEnableCudaEventDeviceTimestamps(uint8_t enable)
{
	return cupti_without_driver() ? CUPTI_ERROR_UNKNOWN : CUPTI_SUCCESS;
}

SIM_EXPORT CUptiResult cuptiActivityEnableLatencyTimestamps(uint8_t enable)
{
	return cupti_without_driver() ? CUPTI_ERROR_UNKNOWN : CUPTI_SUCCESS;
}

/* Everybody's session ends. */
SIM_EXPORT CUptiResult cuptiFinalize(void)
{
	if (cupti_without_driver())
		return CUPTI_SUCCESS;
	for (size_t kind = 0; kind < CUPTI_ACTIVITY_KIND_COUNT; kind++)
		atomic_store(&kinds[kind], false);
	for (size_t cbid = 0; cbid < CUPTI_MAX_CBID; cbid++) {
		atomic_store(&calls[0][cbid], false);
		atomic_store(&calls[1][cbid], false);
	}
	atomic_store(&with_source, false);
	observe(NULL);
	cupti_detach_buffers();
	atomic_store(&clock_callback, NULL);
	pthread_mutex_lock(&lock);
	subscribed = false;
	pthread_mutex_unlock(&lock);
	return CUPTI_SUCCESS;
}
