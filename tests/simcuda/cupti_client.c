/*
 * A client of CUPTI, to be preloaded: it registers its callbacks, enables kinds of records, and writes down what it gets.
 *
 * It knows CUPTI by its public interface alone, and looks that up when it starts, so that the real library serves as well.
 *
 * Settings, from the environment:
 *   CLIENT_LOG       the file that gets one line for each thing that happens; unset: nothing is started
 *   CLIENT_KINDS     kinds of records to enable, by number: "49 50"
 *   CLIENT_BYTES     size of its buffers (64 KiB)
 *   CLIENT_RECORDS   how many records it lets into one (0: as many as fit)
 *   CLIENT_NO_SOURCE 1: it does not ask for the sources of memory
 *   CLIENT_CLOCK     1: timestamps count from 1
 *   CLIENT_SUBSCRIBE the domain that it subscribes to as well, by number
 *   CLIENT_CALL      a call of the runtime that it wants records of, by number
 *   CLIENT_ONE_BUFFER 1: one buffer for all threads
 *
 * Lines, of words: "call FUNCTION RESULT"; "memory OPERATION KIND DEVICE ADDRESS BYTES CONTEXT STREAM ASYNC POOL THRESHOLD
 * POOL-SIZE POOL-USED TIMESTAMP CORRELATION SOURCE"; "pool OPERATION DEVICE ADDRESS SIZE THRESHOLD KEEP USED CORRELATION";
 * "call-record KIND CBID CORRELATION"; "work KIND START END" of what a device does; "record KIND"; "heard DOMAIN CBID SITE";
 * "buffer THREAD RECORDS BYTES-VALID DROPPED LAST-RESULT BYTES-NOT-ZERO-AFTER-THEM"; "mark WORD".
 */
#define _GNU_SOURCE /* RTLD_DEFAULT, gettid */
#include <cupti.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fd = -1;
static size_t buffer_bytes, max_records;
static uint64_t ticks;

static __typeof__(cuptiActivityGetNextRecord) *next_record;
static __typeof__(cuptiActivityGetNumDroppedRecords) *get_dropped;
static __typeof__(cuptiActivityFlushAll) *flush_all;

/* What is called through ctypes. */
__attribute__((visibility("default"))) int client_flush(unsigned flag);
__attribute__((visibility("default"))) void client_mark(const char *what);

static void *function_of(const char *name)
{
	void *library = dlopen("libcupti.so.13", RTLD_NOW);
	void *function = library ? dlsym(library, name) : NULL;

	if (!function) {
		dprintf(STDERR_FILENO, "cupti_client: no %s: %s\n", name, dlerror());
		abort();
	}
	return function;
}

#define CUPTI(name) ((__typeof__(name) *)function_of(#name))

static void wrote_call(const char *function, CUptiResult result)
{
	dprintf(fd, "call %s %d\n", function, (int)result);
}

static void requested(uint8_t **buffer, size_t *size, size_t *maxNumRecords)
{
	*buffer = aligned_alloc(8, buffer_bytes);
	*size = buffer_bytes;
	*maxNumRecords = max_records;
	if (*buffer)
		memset(*buffer, 0xa5, buffer_bytes); /* what CUPTI does not overwrite is seen */
}

static void write_memory(const CUpti_ActivityMemory4 *record)
{
	dprintf(fd,
	        "memory %d %d %" PRIu32 " %#" PRIx64 " %" PRIu64 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %#" PRIx64 " %" PRIu64
	        " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu32 " %s\n",
	        (int)record->memoryOperationType, (int)record->memoryKind, record->deviceId, record->address, record->bytes,
	        record->contextId, record->streamId, record->isAsync, record->memoryPoolConfig.address,
	        record->memoryPoolConfig.releaseThreshold, record->memoryPoolConfig.pool.size,
	        record->memoryPoolConfig.utilizedSize, record->timestamp, record->correlationId,
	        record->source ? record->source : "-");
}

static void write_pool(const CUpti_ActivityMemoryPool3 *record)
{
	dprintf(fd, "pool %d %" PRIu32 " %#" PRIx64 " %" PRIu64 " %" PRIu64 " %zu %" PRIu64 " %" PRIu32 "\n",
	        (int)record->memoryPoolOperationType, record->deviceId, record->address, record->size, record->releaseThreshold,
	        record->minBytesToKeep, record->utilizedSize, record->correlationId);
}

static void write_record(const CUpti_Activity *record)
{
	switch (record->kind) {
	case CUPTI_ACTIVITY_KIND_MEMORY2:
		write_memory((const CUpti_ActivityMemory4 *)record);
		break;
	case CUPTI_ACTIVITY_KIND_MEMORY_POOL:
		write_pool((const CUpti_ActivityMemoryPool3 *)record);
		break;
	case CUPTI_ACTIVITY_KIND_RUNTIME:
	case CUPTI_ACTIVITY_KIND_DRIVER:
		dprintf(fd, "call-record %d %" PRIu32 " %" PRIu32 "\n", (int)record->kind,
		        ((const CUpti_ActivityAPI *)record)->cbid, ((const CUpti_ActivityAPI *)record)->correlationId);
		break;
	case CUPTI_ACTIVITY_KIND_MEMSET:
		dprintf(fd, "work %d %" PRIu64 " %" PRIu64 "\n", (int)record->kind,
		        ((const CUpti_ActivityMemset4 *)record)->start, ((const CUpti_ActivityMemset4 *)record)->end);
		break;
	default:
		dprintf(fd, "record %d\n", (int)record->kind);
	}
}

static void completed(CUcontext context, uint32_t streamId, uint8_t *buffer, size_t size, size_t validSize)
{
	CUpti_Activity *record = NULL;
	CUptiResult result;
	size_t nr_records = 0, nr_dropped = 0, nr_dirty = 0;

	while ((result = next_record(buffer, validSize, &record)) == CUPTI_SUCCESS) {
		write_record(record);
		nr_records++;
	}
	get_dropped(context, streamId, &nr_dropped);
	for (size_t i = validSize; i < size; i++)
		nr_dirty += buffer[i] != 0;
	dprintf(fd, "buffer %d %zu %zu %zu %d %zu\n", (int)gettid(), nr_records, validSize, nr_dropped, (int)result, nr_dirty);
	free(buffer);
}

static uint64_t count(void)
{
	return __atomic_add_fetch(&ticks, 1, __ATOMIC_RELAXED);
}

static void hear(void *userdata, CUpti_CallbackDomain domain, CUpti_CallbackId cbid, const void *cbdata)
{
	int site = domain == CUPTI_CB_DOMAIN_RUNTIME_API ? (int)((const CUpti_CallbackData *)cbdata)->callbackSite : -1;

	dprintf(fd, "heard %d %" PRIu32 " %d\n", (int)domain, cbid, site);
}

static size_t setting(const char *name, size_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoul(text, NULL, 0) : otherwise;
}

static void subscribe(CUpti_CallbackDomain domain)
{
	CUpti_SubscriberHandle subscriber;
	CUptiResult result = CUPTI(cuptiSubscribe)(&subscriber, hear, NULL);

	wrote_call("cuptiSubscribe", result);
	if (result == CUPTI_SUCCESS)
		wrote_call("cuptiEnableDomain", CUPTI(cuptiEnableDomain)(1, subscriber, domain));
}

static __attribute__((constructor)) void start(void)
{
	const char *path = getenv("CLIENT_LOG"), *kinds = getenv("CLIENT_KINDS");
	char *rest;

	if (!path)
		return;
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	buffer_bytes = setting("CLIENT_BYTES", 65536);
	max_records = setting("CLIENT_RECORDS", 0);
	next_record = CUPTI(cuptiActivityGetNextRecord);
	get_dropped = CUPTI(cuptiActivityGetNumDroppedRecords);
	flush_all = CUPTI(cuptiActivityFlushAll);
	if (setting("CLIENT_SUBSCRIBE", 0))
		subscribe((CUpti_CallbackDomain)setting("CLIENT_SUBSCRIBE", 0));
	if (setting("CLIENT_ONE_BUFFER", 0))
		wrote_call("cuptiActivitySetAttribute",
		           CUPTI(cuptiActivitySetAttribute)(CUPTI_ACTIVITY_ATTR_PER_THREAD_ACTIVITY_BUFFER, &(size_t){1},
		                                            &(uint8_t){0}));
	if (setting("CLIENT_CLOCK", 0))
		wrote_call("cuptiActivityRegisterTimestampCallback", CUPTI(cuptiActivityRegisterTimestampCallback)(count));
	wrote_call("cuptiActivityRegisterCallbacks", CUPTI(cuptiActivityRegisterCallbacks)(requested, completed));
	if (!setting("CLIENT_NO_SOURCE", 0))
		wrote_call("cuptiActivityEnableAllocationSource", CUPTI(cuptiActivityEnableAllocationSource)(1));
	for (; kinds && *kinds; kinds = rest) {
		long kind = strtol(kinds, &rest, 0);

		if (rest == kinds)
			break;
		wrote_call("cuptiActivityEnable", CUPTI(cuptiActivityEnable)((CUpti_ActivityKind)kind));
	}
	if (setting("CLIENT_CALL", 0))
		wrote_call("cuptiActivityEnableRuntimeApi",
		           CUPTI(cuptiActivityEnableRuntimeApi)((CUpti_CallbackId)setting("CLIENT_CALL", 0), 1));
}

int client_flush(unsigned flag)
{
	CUptiResult result = flush_all(flag);

	wrote_call("cuptiActivityFlushAll", result);
	return (int)result;
}

void client_mark(const char *what)
{
	dprintf(fd, "mark %s\n", what);
}
