/*
 * Traps: functions that PyTorch imports and that are not simulated.  They say so, and fail as not supported.
 *
 * The names come from names.txt through traps.sh.  A trap is weak: a simulated function of the same name wins.
 */
#ifndef NNMEM_SIMCUDA_TRAP_H
#define NNMEM_SIMCUDA_TRAP_H

#include "sim.h"

/* What the library's functions answer when something is not supported; from its public header. */
extern const long sim_trap_status;

#define SIM_TRAP(name)                                                                                                           \
	SIM_EXPORT __attribute__((weak)) long name(void);                                                                        \
	long name(void)                                                                                                          \
	{                                                                                                                        \
		sim_unimplemented(#name);                                                                                        \
		return sim_trap_status;                                                                                          \
	}

/* Succeeds whatever its arguments are, which it leaves alone. */
#define SIM_NOTHING(name)                                                                                                        \
	SIM_EXPORT long name(void);                                                                                              \
	long name(void)                                                                                                          \
	{                                                                                                                        \
		return 0;                                                                                                        \
	}

#define SIM_TRAP_STRING(name)                                                                                                    \
	SIM_EXPORT __attribute__((weak)) const char *name(void);                                                                 \
	const char *name(void)                                                                                                   \
	{                                                                                                                        \
		sim_unimplemented(#name);                                                                                        \
		return "not simulated";                                                                                          \
	}

#endif
