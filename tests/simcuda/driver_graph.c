/*
 * Captures and graphs of the simulated driver.  A graph is the number of its nodes: launching it does nothing.
 *
 * A capture is known by its number.  A stream and an event remember the one that they were in; it counts while it lasts, so
 * that ending it ends it for every stream that joined.  What was captured was also done, where the simulated driver does it.
 */
#include "driver.h"

#include <stdlib.h>

struct CUgraph_st {
	struct CUgraph_st *next; /* while it is captured */
	uint64_t capture_id;
	CUstreamCaptureMode mode;
	pthread_t thread; /* that began the capture */
	size_t nr_nodes;
	struct CUuserObject_st *objects[16]; /* what lives as long as the graph */
	size_t nr_objects;
};

struct CUgraphExec_st {
	size_t nr_nodes;
};

/* A reference-counted object of the program's. */
struct CUuserObject_st {
	void *object;
	CUhostFn destroy;
	unsigned nr_references;
};

static struct CUgraph_st *captures; /* that last */
static uint64_t nr_captures;
static __thread CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

static struct CUgraph_st *capture_find(uint64_t capture_id)
{
	struct CUgraph_st *capture = captures;

	while (capture && capture->capture_id != capture_id)
		capture = capture->next;
	return capture;
}

/* 0, 1 and 2 are the default streams, which are never captured. */
static bool is_stream(CUstream stream)
{
	return (uintptr_t)stream > 2;
}

struct CUgraph_st *capture_of(CUstream stream)
{
	struct CUgraph_st *capture = NULL;

	pthread_mutex_lock(&driver_lock);
	if (is_stream(stream) && stream->capture_id)
		capture = capture_find(stream->capture_id);
	pthread_mutex_unlock(&driver_lock);
	return capture;
}

bool capture_forbids(void)
{
	bool forbids = false;

	pthread_mutex_lock(&driver_lock);
	for (const struct CUgraph_st *capture = captures; capture && thread_mode != CU_STREAM_CAPTURE_MODE_RELAXED;
	     capture = capture->next) {
		if (pthread_equal(capture->thread, pthread_self()))
			forbids |= capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
		else
			forbids |= thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL && capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
	}
	pthread_mutex_unlock(&driver_lock);
	return forbids;
}

SIM_EXPORT CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
	CUstreamCaptureMode before = thread_mode;

	thread_mode = *mode;
	*mode = before;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
	struct CUgraph_st *capture;

	if (!is_stream(hStream))
		return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	if (capture_of(hStream))
		return CUDA_ERROR_ILLEGAL_STATE;
	capture = calloc(1, sizeof(*capture));
	if (!capture)
		return CUDA_ERROR_OUT_OF_MEMORY;
	capture->mode = mode;
	capture->thread = pthread_self();
	pthread_mutex_lock(&driver_lock);
	capture->capture_id = ++nr_captures;
	capture->next = captures;
	captures = capture;
	hStream->capture_id = capture->capture_id;
	pthread_mutex_unlock(&driver_lock);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
	struct CUgraph_st *capture = capture_of(hStream), **link;

	if (!capture)
		return CUDA_ERROR_ILLEGAL_STATE;
	pthread_mutex_lock(&driver_lock);
	for (link = &captures; *link != capture;)
		link = &(*link)->next;
	*link = capture->next;
	hStream->capture_id = 0;
	pthread_mutex_unlock(&driver_lock);
	*phGraph = capture;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus)
{
	*captureStatus = capture_of(hStream) ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out,
                                              CUgraph *graph_out, const CUgraphNode **dependencies_out,
                                              const CUgraphEdgeData **edgeData_out, size_t *numDependencies_out)
{
	CUgraph capture = capture_of(hStream);

	cuStreamIsCapturing(hStream, captureStatus_out);
	if (!capture)
		return CUDA_SUCCESS;
	if (id_out)
		*id_out = capture->capture_id;
	if (graph_out)
		*graph_out = capture;
	/* What depends on what is not kept. */
	if (dependencies_out)
		*dependencies_out = NULL;
	if (edgeData_out)
		*edgeData_out = NULL;
	if (numDependencies_out)
		*numDependencies_out = 0;
	return CUDA_SUCCESS;
}

/* A kernel is a node where its stream is captured, and nothing elsewhere. */
SIM_EXPORT CUresult cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
                                   unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ,
                                   unsigned int sharedMemBytes, CUstream hStream, void **kernelParams, void **extra)
{
	CUgraph capture = capture_of(hStream);

	if (capture)
		capture->nr_nodes++;
	else
		observe(&(const struct observed){
		        .kind = OBSERVED_KERNEL,
		        .what = (const char *)f, /* by its name the simulated runtime knows a function */
		        .device_id = device_current(),
		        .stream = hStream,
		        .grid = {gridDimX, gridDimY, gridDimZ},
		        .block = {blockDimX, blockDimY, blockDimZ},
		        .shared_bytes = sharedMemBytes,
		});
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes)
{
	if (nodes)
		sim_unimplemented("the nodes of a graph");
	*numNodes = hGraph->nr_nodes;
	return nodes ? CUDA_ERROR_NOT_SUPPORTED : CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuGraphDestroy(CUgraph hGraph)
{
	for (size_t i = 0; i < hGraph->nr_objects; i++)
		cuUserObjectRelease(hGraph->objects[i], 1);
	free(hGraph);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags)
{
	CUgraphExec exec = malloc(sizeof(*exec));

	if (!exec)
		return CUDA_ERROR_OUT_OF_MEMORY;
	exec->nr_nodes = hGraph->nr_nodes;
	*phGraphExec = exec;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream)
{
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuGraphExecDestroy(CUgraphExec hGraphExec)
{
	free(hGraphExec);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuUserObjectCreate(CUuserObject *object_out, void *ptr, CUhostFn destroy, unsigned int initialRefcount,
                                       unsigned int flags)
{
	CUuserObject object = malloc(sizeof(*object));

	if (!object)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*object = (struct CUuserObject_st){ptr, destroy, initialRefcount};
	*object_out = object;
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuUserObjectRelease(CUuserObject object, unsigned int count)
{
	if (count < object->nr_references) {
		object->nr_references -= count;
		return CUDA_SUCCESS;
	}
	object->destroy(object->object);
	free(object);
	return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int count, unsigned int flags)
{
	if (graph->nr_objects == sizeof(graph->objects) / sizeof(graph->objects[0]))
		return CUDA_ERROR_OUT_OF_MEMORY;
	if (!(flags & CU_GRAPH_USER_OBJECT_MOVE))
		object->nr_references += count;
	graph->objects[graph->nr_objects++] = object;
	return CUDA_SUCCESS;
}
