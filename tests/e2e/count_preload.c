/*
 * The second witness: a preload that only logs what PyTorch reports, on every thread, into a file.
 *
 * It shares nothing with the hook but the names of PyTorch's functions.  Put before libnnmemhook.so in LD_PRELOAD it logs
 * each event and passes it on to the hook; alone it passes it on to PyTorch.  The file is a shared mapping, so it
 * outlives any death of the program.  Layout: struct header, then struct event of as many as `next` says.
 *
 * A script may listen: count_preload_listen() names a function that is called at each allocation on the calling thread,
 * before PyTorch goes on.
 *
 * Environment: COUNT_FILE (path; nothing is logged without it).
 * Thread: any, lock-free.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT   __attribute__((visibility("default")))
#define CAPACITY (UINT64_C(1) << 22)

struct header {
	uint64_t next; /* events logged, also those for which there was no room */
	uint64_t capacity;
	uint64_t pid;
	uint64_t unused;
};

struct event {
	uint64_t address;
	int64_t size_bytes; /* < 0: a free */
	uint32_t thread;    /* OS thread id */
	uint32_t device;
	uint64_t total_bytes; /* as PyTorch reported it */
};
_Static_assert(sizeof(struct header) == 32 && sizeof(struct event) == 32, "the reader unpacks these");

typedef void report(void *, long, size_t, size_t, uint16_t);

/* c10 of 2.x and of 1.13, and c10::memoryProfilingEnabled(). */
EXPORT void _ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE(void *, long, size_t, size_t, uint16_t);
EXPORT void _ZN3c1027reportMemoryUsageToProfilerEPvlllNS_6DeviceE(void *, long, size_t, size_t, uint16_t);
EXPORT bool _ZN3c1022memoryProfilingEnabledEv(void);
EXPORT uint64_t count_preload_events(void);
typedef void listener(uint64_t event, int64_t size_bytes);
EXPORT void count_preload_listen(listener *function);

static struct header *log_file;
static __thread listener *listening;

/*
 * The function of that name of the hook, which is loaded after us, or PyTorch's own, which only a handle of its library finds.
 * Debian's PyTorch has its version at the end of the library's name.
 */
static report *find_next(const char *name)
{
	static const char *const libraries[] = {"libc10.so", "libc10.so.1.13"};
	report *next = (report *)dlsym(RTLD_NEXT, name);

	for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]) && !next; i++) {
		void *library = dlopen(libraries[i], RTLD_NOLOAD | RTLD_LAZY);

		if (library)
			next = (report *)dlsym(library, name);
	}
	return next;
}

__attribute__((constructor)) static void count_preload_start(void)
{
	const char *path = getenv("COUNT_FILE");
	size_t bytes = sizeof(struct header) + CAPACITY * sizeof(struct event);
	void *memory;
	int fd;

	if (!path)
		return;
	/* Only the first process logs: what it starts inherits the variable and finds the file there. */
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	if (ftruncate(fd, (off_t)bytes) == 0) {
		memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (memory != MAP_FAILED) {
			log_file = memory;
			log_file->capacity = CAPACITY;
			log_file->pid = (uint64_t)getpid();
		}
	}
	close(fd);
}

/* Events logged so far; for scripts that note where in the log they are. */
uint64_t count_preload_events(void)
{
	return log_file ? __atomic_load_n(&log_file->next, __ATOMIC_RELAXED) : 0;
}

/* @function, or none if NULL, is called on this thread: event's number in the log, and its size.  It may be any Python. */
void count_preload_listen(listener *function)
{
	listening = function;
}

static void tell_listener(uint64_t event, int64_t size_bytes)
{
	listener *function = listening;

	if (!function || size_bytes <= 0)
		return;
	listening = NULL; /* what it allocates itself is none of the script's */
	function(event, size_bytes);
	listening = function;
}

bool _ZN3c1022memoryProfilingEnabledEv(void)
{
	return true;
}

static void log_report(const void *address, long size, size_t total, uint16_t device)
{
	struct event *events;
	uint64_t at;

	if (!log_file || log_file->pid != (uint64_t)getpid())
		return;
	events = (struct event *)(log_file + 1);
	at = __atomic_fetch_add(&log_file->next, 1, __ATOMIC_RELAXED);
	if (at < CAPACITY)
		events[at] = (struct event){
		        .address = (uint64_t)(uintptr_t)address,
		        .size_bytes = size,
		        .thread = (uint32_t)syscall(SYS_gettid),
		        .device = device,
		        .total_bytes = total,
		};
	tell_listener(at, size);
}

void _ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE(void *address, long size, size_t total, size_t reserved,
                                                           uint16_t device)
{
	static report *next;

	log_report(address, size, total, device);
	if (!next)
		next = find_next("_ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE");
	next(address, size, total, reserved, device);
}

void _ZN3c1027reportMemoryUsageToProfilerEPvlllNS_6DeviceE(void *address, long size, size_t total, size_t reserved,
                                                           uint16_t device)
{
	static report *next;

	log_report(address, size, total, device);
	if (!next)
		next = find_next("_ZN3c1027reportMemoryUsageToProfilerEPvlllNS_6DeviceE");
	next(address, size, total, reserved, device);
}
