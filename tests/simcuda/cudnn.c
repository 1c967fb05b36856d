/*
 * The simulated cuDNN: handles, batch norm, and convolutions through the backend's descriptors; nothing is computed.
 *
 * As the real one does, a handle takes memory from the driver that the program's allocator never hears of; its size, and
 * those of workspaces, are inventions.  RNNs and losses are traps, and so are the convolutions of the older interface.
 *
 * Source: cudnn_graph.h and cudnn_ops.h of cuDNN 9.
 */
#include "sim.h"

#include <cuda.h>
#include <cudnn.h>

#include <stdlib.h>
#include <string.h>

#define HANDLE_BYTES    ((size_t)4 << 20)
#define WORKSPACE_BYTES ((size_t)3 << 20) /* of a convolution */

struct cudnnContext {
	cudaStream_t stream;
	CUdeviceptr memory; /* the handle's own */
};

#define DRIVER(name) ((__typeof__(name) *)sim_driver_function(#name))

SIM_EXPORT size_t cudnnGetVersion(void)
{
	return CUDNN_VERSION;
}

SIM_EXPORT size_t cudnnGetCudartVersion(void)
{
	return CUDART_VERSION;
}

SIM_EXPORT const char *cudnnGetErrorString(cudnnStatus_t status)
{
	return status == CUDNN_STATUS_SUCCESS ? "CUDNN_STATUS_SUCCESS" : "an error of the simulated cuDNN";
}

SIM_EXPORT void cudnnGetLastErrorString(char *message, size_t max_size)
{
	if (max_size)
		message[0] = '\0';
}

SIM_EXPORT cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
	cudnnHandle_t made = calloc(1, sizeof(*made));

	if (!made)
		return CUDNN_STATUS_ALLOC_FAILED;
	if (DRIVER(cuMemAlloc_v2)(&made->memory, HANDLE_BYTES) != CUDA_SUCCESS) {
		free(made);
		return CUDNN_STATUS_ALLOC_FAILED;
	}
	*handle = made;
	return CUDNN_STATUS_SUCCESS;
}

SIM_EXPORT cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t streamId)
{
	handle->stream = streamId;
	return CUDNN_STATUS_SUCCESS;
}

SIM_EXPORT cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *streamId)
{
	*streamId = handle->stream;
	return CUDNN_STATUS_SUCCESS;
}

/* Batch norm --------------------------------------------------------------------------------------------------------- */

/* A descriptor remembers nothing. */
SIM_EXPORT cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *tensorDesc)
{
	*tensorDesc = malloc(1);
	return *tensorDesc ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_ALLOC_FAILED;
}

SIM_EXPORT cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t tensorDesc)
{
	free(tensorDesc);
	return CUDNN_STATUS_SUCCESS;
}

SIM_EXPORT cudnnStatus_t cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
        cudnnHandle_t handle, cudnnBatchNormMode_t mode, cudnnBatchNormOps_t bnOps, const cudnnTensorDescriptor_t xDesc,
        const cudnnTensorDescriptor_t zDesc, const cudnnTensorDescriptor_t yDesc,
        const cudnnTensorDescriptor_t bnScaleBiasMeanVarDesc, const cudnnActivationDescriptor_t activationDesc,
        size_t *sizeInBytes)
{
	*sizeInBytes = 0;
	return CUDNN_STATUS_SUCCESS;
}

SIM_EXPORT cudnnStatus_t cudnnGetBatchNormalizationBackwardExWorkspaceSize(
        cudnnHandle_t handle, cudnnBatchNormMode_t mode, cudnnBatchNormOps_t bnOps, const cudnnTensorDescriptor_t xDesc,
        const cudnnTensorDescriptor_t yDesc, const cudnnTensorDescriptor_t dyDesc, const cudnnTensorDescriptor_t dzDesc,
        const cudnnTensorDescriptor_t dxDesc, const cudnnTensorDescriptor_t dBnScaleBiasDesc,
        const cudnnActivationDescriptor_t activationDesc, size_t *sizeInBytes)
{
	*sizeInBytes = 64 << 10;
	return CUDNN_STATUS_SUCCESS;
}

SIM_EXPORT cudnnStatus_t cudnnGetBatchNormalizationTrainingExReserveSpaceSize(cudnnHandle_t handle, cudnnBatchNormMode_t mode,
                                                                              cudnnBatchNormOps_t bnOps,
                                                                              const cudnnActivationDescriptor_t activationDesc,
                                                                              const cudnnTensorDescriptor_t xDesc,
                                                                              size_t *sizeInBytes)
{
	*sizeInBytes = 4 << 10;
	return CUDNN_STATUS_SUCCESS;
}

/* The backend -------------------------------------------------------------------------------------------------------- */

struct attribute {
	struct attribute *next;
	cudnnBackendAttributeName_t name;
	int64_t nr_elements;
	size_t size_bytes;
	unsigned char bytes[];
};

/* What a program set of a descriptor, as it set it. */
struct descriptor {
	cudnnBackendDescriptorType_t type;
	struct attribute *attributes;
};

static size_t element_bytes(cudnnBackendAttributeType_t type)
{
	switch (type) {
	case CUDNN_TYPE_HANDLE:
	case CUDNN_TYPE_INT64:
	case CUDNN_TYPE_DOUBLE:
	case CUDNN_TYPE_VOID_PTR:
	case CUDNN_TYPE_BACKEND_DESCRIPTOR:
	case CUDNN_TYPE_FRACTION:
		return 8;
	case CUDNN_TYPE_BOOLEAN:
	case CUDNN_TYPE_CHAR:
		return 1;
	default:
		return 4; /* enumerations, float and int32 */
	}
}

static struct attribute *attribute_find(const struct descriptor *descriptor, cudnnBackendAttributeName_t name)
{
	struct attribute *attribute = descriptor->attributes;

	while (attribute && attribute->name != name)
		attribute = attribute->next;
	return attribute;
}

SIM_EXPORT cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t descriptorType,
                                                      cudnnBackendDescriptor_t *descriptor)
{
	struct descriptor *made = calloc(1, sizeof(*made));

	if (!made)
		return CUDNN_STATUS_ALLOC_FAILED;
	made->type = descriptorType;
	*descriptor = made;
	return CUDNN_STATUS_SUCCESS;
}

SIM_EXPORT cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor)
{
	struct descriptor *gone = descriptor;
	struct attribute *attribute;

	while ((attribute = gone->attributes)) {
		gone->attributes = attribute->next;
		free(attribute);
	}
	free(gone);
	return CUDNN_STATUS_SUCCESS;
}

SIM_EXPORT cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t attributeName,
                                                  cudnnBackendAttributeType_t attributeType, int64_t elementCount,
                                                  const void *arrayOfElements)
{
	struct descriptor *changed = descriptor;
	size_t size_bytes = (size_t)elementCount * element_bytes(attributeType);
	struct attribute *attribute = malloc(sizeof(*attribute) + size_bytes);

	if (!attribute)
		return CUDNN_STATUS_ALLOC_FAILED;
	/* The last one set is the first one found. */
	*attribute = (struct attribute){changed->attributes, attributeName, elementCount, size_bytes};
	if (size_bytes)
		memcpy(attribute->bytes, arrayOfElements, size_bytes);
	changed->attributes = attribute;
	return CUDNN_STATUS_SUCCESS;
}

SIM_EXPORT cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor)
{
	return CUDNN_STATUS_SUCCESS;
}

/* Copy what was set of @from to @to, whose owner made it to be filled. */
static cudnnStatus_t descriptor_fill(struct descriptor *to, const struct descriptor *from)
{
	cudnnStatus_t status = CUDNN_STATUS_SUCCESS;

	for (const struct attribute *a = from->attributes; a && status == CUDNN_STATUS_SUCCESS; a = a->next) {
		if (!attribute_find(to, a->name))
			status = cudnnBackendSetAttribute(to, a->name, CUDNN_TYPE_CHAR, (int64_t)a->size_bytes, a->bytes);
	}
	return status;
}

/* There is one engine for everything, the first, without notes or knobs. */
static cudnnStatus_t attribute_answer(const struct descriptor *asked, cudnnBackendAttributeName_t name, int64_t wanted,
                                      int64_t *ret_nr_elements, void *ret_elements)
{
	int64_t value;

	switch (name) {
	case CUDNN_ATTR_ENGINEHEUR_RESULTS:
	case CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT:
		value = 1;
		break;
	case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
		value = 0;
		break;
	case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
		value = WORKSPACE_BYTES;
		break;
	case CUDNN_ATTR_ENGINECFG_ENGINE: /* left as the program made it */
		*ret_nr_elements = 1;
		return CUDNN_STATUS_SUCCESS;
	case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
	case CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE:
	case CUDNN_ATTR_ENGINE_KNOB_INFO:
	case CUDNN_ATTR_ENGINECFG_KNOB_CHOICES:
		if (ret_nr_elements)
			*ret_nr_elements = 0;
		return CUDNN_STATUS_SUCCESS;
	default:
		sim_unimplemented("this attribute of cudnnBackendGetAttribute");
		return CUDNN_STATUS_NOT_SUPPORTED;
	}
	if (ret_nr_elements)
		*ret_nr_elements = 1;
	/* The results of a heuristic are descriptors that the program made: they stay as they are. */
	if (wanted > 0 && ret_elements && name != CUDNN_ATTR_ENGINEHEUR_RESULTS)
		memcpy(ret_elements, &value, sizeof(value));
	return CUDNN_STATUS_SUCCESS;
}

SIM_EXPORT cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor,
                                                  cudnnBackendAttributeName_t attributeName,
                                                  cudnnBackendAttributeType_t attributeType, int64_t requestedElementCount,
                                                  int64_t *elementCount, void *arrayOfElements)
{
	const struct descriptor *asked = descriptor;
	const struct attribute *attribute = attribute_find(asked, attributeName);
	int64_t nr_elements;

	if (!attribute)
		return attribute_answer(asked, attributeName, requestedElementCount, elementCount, arrayOfElements);
	nr_elements = attribute->nr_elements < requestedElementCount ? attribute->nr_elements : requestedElementCount;
	if (elementCount)
		*elementCount = attribute->nr_elements;
	if (attributeType == CUDNN_TYPE_BACKEND_DESCRIPTOR && nr_elements && arrayOfElements) {
		const struct descriptor *from;

		memcpy(&from, attribute->bytes, sizeof(from));
		return descriptor_fill(((struct descriptor **)arrayOfElements)[0], from);
	}
	if (nr_elements && arrayOfElements)
		memcpy(arrayOfElements, attribute->bytes, (size_t)nr_elements * element_bytes(attributeType));
	return CUDNN_STATUS_SUCCESS;
}

SIM_EXPORT cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t executionPlan,
                                             cudnnBackendDescriptor_t variantPack)
{
	return CUDNN_STATUS_SUCCESS;
}
