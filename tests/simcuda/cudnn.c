/*
 * The simulated cuDNN: its version.  Convolutions and all else are traps.
 */
#include "sim.h"

#include <cudnn.h>

SIM_EXPORT size_t cudnnGetVersion(void)
{
	return CUDNN_VERSION;
}
