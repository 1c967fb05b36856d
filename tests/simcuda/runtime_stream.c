/*
 * Streams and events of the simulated runtime.
 */
#include "runtime.h"

SIM_EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t *pStream, unsigned int flags, int priority)
{
	return runtime_result(runtime_enter()->cuStreamCreateWithPriority(pStream, flags, priority));
}

SIM_EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t *pStream, unsigned int flags)
{
	return cudaStreamCreateWithPriority(pStream, flags, 0);
}

SIM_EXPORT cudaError_t cudaStreamCreate(cudaStream_t *pStream)
{
	return cudaStreamCreateWithPriority(pStream, cudaStreamDefault, 0);
}

SIM_EXPORT cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
	return runtime_result(runtime_enter()->cuStreamDestroy_v2(stream));
}

SIM_EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t hStream, int *priority)
{
	return runtime_result(runtime_enter()->cuStreamGetPriority(hStream, priority));
}

SIM_EXPORT cudaError_t cudaStreamQuery(cudaStream_t stream)
{
	return runtime_result(runtime_enter()->cuStreamQuery(stream));
}

SIM_EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
	return runtime_result(runtime_enter()->cuStreamSynchronize(stream));
}

SIM_EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
	return runtime_result(runtime_enter()->cuStreamWaitEvent(stream, event, flags));
}

SIM_EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *userData)
{
	return runtime_result(runtime_enter()->cuLaunchHostFunc(stream, fn, userData));
}

SIM_EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void *userData,
                                             unsigned int flags)
{
	callback(stream, cudaSuccess, userData);
	return cudaSuccess;
}

SIM_EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
	return runtime_result(runtime_enter()->cuEventCreate(event, flags));
}

SIM_EXPORT cudaError_t cudaEventCreate(cudaEvent_t *event)
{
	return cudaEventCreateWithFlags(event, cudaEventDefault);
}

SIM_EXPORT cudaError_t cudaEventDestroy(cudaEvent_t event)
{
	return runtime_result(runtime_enter()->cuEventDestroy_v2(event));
}

SIM_EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned int flags)
{
	return runtime_result(runtime_enter()->cuEventRecordWithFlags(event, stream, flags));
}

SIM_EXPORT cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
	return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

SIM_EXPORT cudaError_t cudaEventQuery(cudaEvent_t event)
{
	return runtime_result(runtime_enter()->cuEventQuery(event));
}

SIM_EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
	return runtime_result(runtime_enter()->cuEventSynchronize(event));
}

SIM_EXPORT cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
	return runtime_result(runtime_enter()->cuEventElapsedTime_v2(ms, start, end));
}
