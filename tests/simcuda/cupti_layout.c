/* cupti/activity.h beside NVIDIA's own header: it compiles where they agree.  Nothing of it runs. */
#include <cupti.h>

#include "cupti/activity.h"

#define SAME(field, theirs)                                                                                                      \
	_Static_assert(offsetof(struct cupti_memory_record, field) == offsetof(CUpti_ActivityMemory4, theirs) &&                 \
	                       sizeof(((struct cupti_memory_record *)NULL)->field) ==                                            \
	                               sizeof(((CUpti_ActivityMemory4 *)NULL)->theirs),                                          \
	               #field)

SAME(kind, kind);
SAME(operation, memoryOperationType);
SAME(memory, memoryKind);
SAME(correlation, correlationId);
SAME(address, address);
SAME(bytes, bytes);
SAME(time_ns, timestamp);
SAME(pc, PC);
SAME(process, processId);
SAME(device, deviceId);
SAME(context, contextId);
SAME(stream, streamId);
_Static_assert(CUPTI_KIND_MEMORY2 == CUPTI_ACTIVITY_KIND_MEMORY2, "kind");
_Static_assert(CUPTI_ACTIVITY_KIND_COUNT <= CUPTI_NR_KINDS, "every kind has its bit");
_Static_assert(CUPTI_FORCED == CUPTI_ACTIVITY_FLAG_FLUSH_FORCED, "flag");
_Static_assert(CUPTI_NOT_INITIALIZED == CUPTI_ERROR_NOT_INITIALIZED && CUPTI_MAX_LIMIT == CUPTI_ERROR_MAX_LIMIT_REACHED &&
                       CUPTI_UNKNOWN == CUPTI_ERROR_UNKNOWN,
               "errors");
_Static_assert((int)CUPTI_ALLOCATION == (int)CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION &&
                       (int)CUPTI_RELEASE == (int)CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE,
               "operations");
_Static_assert((int)CUPTI_PINNED == (int)CUPTI_ACTIVITY_MEMORY_KIND_PINNED &&
                       (int)CUPTI_DEVICE == (int)CUPTI_ACTIVITY_MEMORY_KIND_DEVICE &&
                       (int)CUPTI_ARRAY == (int)CUPTI_ACTIVITY_MEMORY_KIND_ARRAY &&
                       (int)CUPTI_MANAGED == (int)CUPTI_ACTIVITY_MEMORY_KIND_MANAGED &&
                       (int)CUPTI_DEVICE_STATIC == (int)CUPTI_ACTIVITY_MEMORY_KIND_DEVICE_STATIC &&
                       (int)CUPTI_MANAGED_STATIC == (int)CUPTI_ACTIVITY_MEMORY_KIND_MANAGED_STATIC,
               "kinds of memory");
