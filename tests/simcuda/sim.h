/*
 * What every simulated library shares: settings, the way out for what is not simulated, and the binding to the driver.
 *
 * simcuda lets an unmodified CUDA build of PyTorch run on a machine without a GPU.  Simulated: every library built from this
 * folder.  Real: whatever loads them.  Nothing here computes, takes time or says anything about what hardware does.
 *
 * Settings, from the environment:
 *   SIMCUDA_DEVICES    number of devices (1)
 *   SIMCUDA_MEMORY     bytes of memory of each device (8 GiB)
 *   SIMCUDA_SEED       seeds the size of a device's context (1); 0: contexts have no size
 *   SIMCUDA_LOG        file that gets one line per driver event (driver_log.c)
 *   SIMCUDA_STRICT     1: abort at the first call of something that is not simulated; else it fails as not supported
 *   SIMCUDA_FAIL_AT    the n-th allocation of device memory fails as out of memory, once
 *   SIMCUDA_FAIL_HOST_AT  the n-th allocation of pinned memory fails as out of memory, once
 *   SIMCUDA_EVENT_LAG  an event says "not ready" n times after each record
 *   SIMCUDA_MUTATE     drop:n, double:n or size:n: the log lies about its n-th event of device memory
 *
 * Of the simulated CUPTI, which behaves as its documents say unless it is told otherwise (cupti_buffers.c):
 *   SIMCUDA_CUPTI_VMM         1: records of cuMemCreate and cuMemRelease too; the address is the handle, as in the log
 *   SIMCUDA_CUPTI_NO_DRIVER   1: the codes of a machine without a driver: registering succeeds, enabling is 999
 *   SIMCUDA_CUPTI_SUBSCRIBED  1: somebody else is the subscriber already, as under Nsight
 *   SIMCUDA_CUPTI_BUFFER      bytes of each buffer that are used, whatever the client gave
 *   SIMCUDA_CUPTI_WORKER      1: buffers are completed by a thread of CUPTI's; a flush waits for it
 *   SIMCUDA_CUPTI_LATE        a buffer is completed by another thread, that many ms later; a flush does not wait for it
 *   SIMCUDA_CUPTI_DROP        each n-th record is dropped, and counted
 *   SIMCUDA_CUPTI_PENDING     1: a kernel's, copy's or fill's record is complete when somebody has waited for the device;
 *                             until then a flush that is not forced, or being full, gives its buffer not back
 *   SIMCUDA_CUPTI_REVERSE     1: records are reversed in a buffer, and every other full buffer waits for the next one
 */
#ifndef NNMEM_SIMCUDA_SIM_H
#define NNMEM_SIMCUDA_SIM_H

#include <stddef.h>
#include <stdint.h>

#define SIM_EXPORT __attribute__((visibility("default")))

/*
 * The setting @name as a number, or @otherwise when it is not set.  Ends the program when it is not a number.
 */
uint64_t sim_setting(const char *name, uint64_t otherwise);

/*
 * Say on standard error that @what was asked for and is not simulated; ends the program in strict mode.
 */
void sim_unimplemented(const char *what);

/* Say why on standard error and end the program. */
void sim_die(const char *why, const char *what) __attribute__((noreturn));

/*
 * The driver's function @name, bound at run time: as with the real libraries, nobody between sees such a call.
 * Ends the program when there is none.
 */
void *sim_driver_function(const char *name);

#endif
