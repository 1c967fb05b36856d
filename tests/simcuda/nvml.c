/*
 * The simulated NVML: it fails to tell which processes use a device, which PyTorch puts into the text of an OutOfMemoryError.
 *
 * NVML's header does not come with PyTorch, so that nothing here looks at its arguments.
 */
#include "sim.h"

#define FAILED 1 /* any number but 0 */

SIM_EXPORT int nvmlDeviceGetComputeRunningProcesses(void);

SIM_EXPORT int nvmlDeviceGetComputeRunningProcesses(void)
{
	return FAILED;
}
