/*
 * Captures and graphs of the simulated runtime.
 */
#include "runtime.h"

SIM_EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
	return runtime_result(runtime_enter()->cuStreamBeginCapture_v2(stream, (CUstreamCaptureMode)mode));
}

SIM_EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *pGraph)
{
	return runtime_result(runtime_enter()->cuStreamEndCapture(stream, pGraph));
}

SIM_EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *pCaptureStatus)
{
	return runtime_result(runtime_driver()->cuStreamIsCapturing(stream, (CUstreamCaptureStatus *)pCaptureStatus));
}

SIM_EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *captureStatus_out,
                                                unsigned long long *id_out, cudaGraph_t *graph_out,
                                                const cudaGraphNode_t **dependencies_out, const cudaGraphEdgeData **edgeData_out,
                                                size_t *numDependencies_out)
{
	cuuint64_t capture_id = 0;
	CUresult result = runtime_driver()->cuStreamGetCaptureInfo_v3(
	        stream, (CUstreamCaptureStatus *)captureStatus_out, &capture_id, graph_out,
	        (const CUgraphNode **)dependencies_out, (const CUgraphEdgeData **)edgeData_out, numDependencies_out);

	if (id_out)
		*id_out = capture_id;
	return runtime_result(result);
}

SIM_EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
	return runtime_result(runtime_driver()->cuThreadExchangeStreamCaptureMode((CUstreamCaptureMode *)mode));
}

SIM_EXPORT cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *numNodes)
{
	return runtime_result(runtime_enter()->cuGraphGetNodes(graph, nodes, numNodes));
}

SIM_EXPORT cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *pGraphExec, cudaGraph_t graph, unsigned long long flags)
{
	return runtime_result(runtime_enter()->cuGraphInstantiateWithFlags(pGraphExec, graph, flags));
}

SIM_EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t graphExec, cudaStream_t stream)
{
	return runtime_result(runtime_enter()->cuGraphLaunch(graphExec, stream));
}

SIM_EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
	return runtime_result(runtime_enter()->cuGraphDestroy(graph));
}

SIM_EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graphExec)
{
	return runtime_result(runtime_enter()->cuGraphExecDestroy(graphExec));
}

SIM_EXPORT cudaError_t cudaUserObjectCreate(cudaUserObject_t *object_out, void *ptr, cudaHostFn_t destroy,
                                            unsigned int initialRefcount, unsigned int flags)
{
	return runtime_result(runtime_enter()->cuUserObjectCreate(object_out, ptr, destroy, initialRefcount, flags));
}

SIM_EXPORT cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned int count)
{
	return runtime_result(runtime_enter()->cuUserObjectRelease(object, count));
}

SIM_EXPORT cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned int count,
                                                 unsigned int flags)
{
	return runtime_result(runtime_enter()->cuGraphRetainUserObject(graph, object, count, flags));
}
