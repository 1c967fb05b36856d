/*
 * CUPTI's numbers and their names, as cbids.sh takes them from NVIDIA's headers.
 */
#ifndef NNMEM_SIMCUDA_CUPTI_IDS_H
#define NNMEM_SIMCUDA_CUPTI_IDS_H

#include <stddef.h>
#include <stdint.h>

#define CUPTI_MAX_CBID   2048
#define CUPTI_MAX_RESULT 1000

struct cupti_function {
	const char *name; /* as a library exports it */
	uint32_t cbid;
};

/* By number; NULL: there is none. */
extern const char *const cupti_runtime_names[CUPTI_MAX_CBID];
extern const char *const cupti_driver_names[CUPTI_MAX_CBID];
extern const char *const cupti_result_names[CUPTI_MAX_RESULT];

/* By name, sorted. */
extern const struct cupti_function cupti_runtime_functions[], cupti_driver_functions[];
extern const size_t cupti_nr_runtime_functions, cupti_nr_driver_functions;

#endif
