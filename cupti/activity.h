/*
 * CUPTI's interface as far as it is used, as its ABI has it, since its headers are not needed to build nnmem; and what the
 * files of this folder share.  tests/simcuda sets the layout beside NVIDIA's own headers.
 */
#ifndef NNMEM_CUPTI_ACTIVITY_H
#define NNMEM_CUPTI_ACTIVITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CUPTI_SUCCESS         0
#define CUPTI_NOT_INITIALIZED 15
#define CUPTI_MAX_LIMIT       12 /* CUPTI_ERROR_MAX_LIMIT_REACHED: no record is left */
#define CUPTI_UNKNOWN         999

#define CUPTI_KIND_MEMORY2    49
#define CUPTI_NR_KINDS        256 /* kinds that are told apart; of 13.0 there are 57 */
#define CUPTI_FORCED          1u  /* CUPTI_ACTIVITY_FLAG_FLUSH_FORCED */

enum cupti_operation { CUPTI_ALLOCATION = 1, CUPTI_RELEASE = 2 };
enum cupti_memory {
	CUPTI_PINNED = 2,
	CUPTI_DEVICE = 3,
	CUPTI_ARRAY = 4,
	CUPTI_MANAGED = 5,
	CUPTI_DEVICE_STATIC = 6,
	CUPTI_MANAGED_STATIC = 7
};

/* The beginning of CUpti_ActivityMemory2, 3 and 4, which they have in common (CUDA 11.2 to 13.0). */
struct cupti_memory_record {
	uint32_t kind;
	uint32_t operation; /* enum cupti_operation */
	uint32_t memory;    /* enum cupti_memory */
	uint32_t correlation;
	uint64_t address;
	uint64_t bytes;
	uint64_t time_ns; /* by CUPTI's clock, or the one that the client gave it */
	uint64_t pc;      /* where the call was made */
	uint32_t process;
	uint32_t device;
	uint32_t context;
	uint32_t stream;
};
_Static_assert(sizeof(struct cupti_memory_record) == 64, "no padding");

typedef void cupti_requested_fn(uint8_t **buffer, size_t *size, size_t *max_records);
typedef void cupti_completed_fn(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid_size);
typedef uint64_t cupti_clock_fn(void);

/* The functions that we call or stand before: CUPTI(name without "cupti", parameters, arguments). */
#define CUPTI_FUNCTIONS                                                                                                          \
	CUPTI(ActivityRegisterCallbacks, (cupti_requested_fn * requested, cupti_completed_fn * completed),                       \
	      (requested, completed))                                                                                            \
	CUPTI(ActivityEnable, (int kind), (kind))                                                                                \
	CUPTI(ActivityDisable, (int kind), (kind))                                                                               \
	CUPTI(ActivityFlushAll, (uint32_t flag), (flag))                                                                         \
	CUPTI(ActivityGetNextRecord, (uint8_t * buffer, size_t valid_size, void **record), (buffer, valid_size, record))         \
	CUPTI(ActivityRegisterTimestampCallback, (cupti_clock_fn * clock), (clock))                                              \
	CUPTI(Finalize, (void), ())

enum cupti_function {
#define CUPTI(name, params, args) CUPTI_##name,
	CUPTI_FUNCTIONS
#undef CUPTI
	        CUPTI_GetTimestamp,         /* only called */
	CUPTI_ActivityGetNumDroppedRecords, /* only called */
	NR_CUPTI_FUNCTIONS
};

/* The function of the libcupti that is loaded, NULL: none has it.  @version: 12 or 13.  wrap_cupti.c. */
void *cupti_real(unsigned version, enum cupti_function which);

/*
 * The client's calls, after which the result for the client is returned.  @version: of the libcupti that it called.
 * activity.c.  Thread: any.
 */
int client_registers(unsigned version, cupti_requested_fn *requested, cupti_completed_fn *completed);
int client_enables(unsigned version, int kind);
int client_disables(unsigned version, int kind);
int client_reads(unsigned version, uint8_t *buffer, size_t valid_size, void **record);
int client_sets_clock(unsigned version, cupti_clock_fn *clock);
int client_finalizes(unsigned version);

#endif
