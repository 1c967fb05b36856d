/*
 * Streams and events of the simulated driver.  Work is done when it is asked for, so that streams are always idle.
 *
 * SIMCUDA_EVENT_LAG makes an event say "not ready" that many times after each record, until somebody waits for it: what a
 * program puts off until an event is ready is then really put off.
 */
#include "driver.h"

#include <stdlib.h>

struct CUevent_st {
	int device_id;
	uint64_t nr_not_ready; /* how often it still has to say so */
	uint64_t capture_id;   /* of the stream that it was recorded on, 0: none */
};

SIM_EXPORT CUresult cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
	CUstream stream;

	if (device_current() < 0)
		return CUDA_ERROR_INVALID_CONTEXT;
	stream = malloc(sizeof(*stream));
	if (!stream)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*stream = (struct CUstream_st){.device_id = device_current(), .priority = priority};
	*phStream = stream;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuStreamDestroy_v2(CUstream hStream)
{
	free(hStream);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuStreamGetPriority(CUstream hStream, int *priority)
{
	*priority = (uintptr_t)hStream > 2 ? hStream->priority : 0; /* 0, 1 and 2 are the default streams */
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuStreamQuery(CUstream hStream)
{
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuStreamSynchronize(CUstream hStream)
{
	return CUDA_SUCCESS;
}

/* A stream that waits for a captured event joins the capture. */
SIM_EXPORT CUresult cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
	if ((uintptr_t)hStream > 2 && hEvent->capture_id && !capture_of(hStream))
		hStream->capture_id = hEvent->capture_id;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
	fn(userData);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
	CUevent event;

	if (device_current() < 0)
		return CUDA_ERROR_INVALID_CONTEXT;
	event = malloc(sizeof(*event));
	if (!event)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*event = (struct CUevent_st){.device_id = device_current()};
	*phEvent = event;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuEventDestroy_v2(CUevent hEvent)
{
	free(hEvent);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags)
{
	uint64_t lag = sim_setting("SIMCUDA_EVENT_LAG", 0);

	hEvent->capture_id = capture_of(hStream) ? hStream->capture_id : 0;
	pthread_mutex_lock(&driver_lock);
	hEvent->nr_not_ready = lag;
	pthread_mutex_unlock(&driver_lock);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuEventQuery(CUevent hEvent)
{
	CUresult result = CUDA_SUCCESS;

	pthread_mutex_lock(&driver_lock);
	if (hEvent->nr_not_ready) {
		hEvent->nr_not_ready--;
		result = CUDA_ERROR_NOT_READY;
	}
	pthread_mutex_unlock(&driver_lock);
	return result;
}

SIM_EXPORT CUresult cuEventSynchronize(CUevent hEvent)
{
	pthread_mutex_lock(&driver_lock);
	hEvent->nr_not_ready = 0;
	pthread_mutex_unlock(&driver_lock);
	return CUDA_SUCCESS;
}

/* There is no time on the simulated device. */
SIM_EXPORT CUresult cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
	*pMilliseconds = 0;
	return CUDA_SUCCESS;
}
