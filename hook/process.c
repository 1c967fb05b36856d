/*
 * The life of the process: settings, the ring's file, the recorder's start, fork, and the end.
 *
 * The constructor does next to nothing, because it runs in every process under LD_PRELOAD: it reads the settings, remembers
 * who we are and where standard error leads, and asks to be told of the end.  The first record of interest
 * (process_start()) makes the ring and starts nnmem-record.
 */
#define _GNU_SOURCE
#include "hook/process.h"

#include "cupti/cupti.h"
#include "hook/api.h"
#include "hook/cudart.h"
#include "hook/hook_internal.h"
#include "hook/launch.h"
#include "hook/sys.h"
#include "hook/text.h"
#include "hook/wrap_libc.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#error "a sanitizer's runtime must be the first library of a process: the preloaded library cannot be built with one"
#endif

#define START_WAIT_NS   UINT64_C(1000000000) /* how long other threads wait for the one that starts the recorder */
#define END_WAIT_NS     UINT64_C(1000000000)
#define PAUSE_NS        UINT64_C(500000)
#define SAY_WAIT_MS     100
#define MIB             (UINT64_C(1) << 20)
#define DEFAULT_RING_MB 16u
#define MAX_RING_MB     (RING_MAX_SLOTS / (MIB / sizeof(struct record)))
#define VALUE_MAX       64

/* ---- settings */

enum log_level { LOG_QUIET, LOG_INFO, LOG_DEBUG };

static struct {
	uint32_t ring_mb;
	enum log_level log;
} settings = {.ring_mb = DEFAULT_RING_MB, .log = LOG_INFO};

/* A variable that the hook checks.  @take returns false when the value is not allowed. */
struct setting {
	const char *name;
	bool (*take)(const char *value);
	const char *allowed;
	const char *fallback;
};

static bool take_ring_mb(const char *value)
{
	uint64_t mb = 0;

	for (const char *digit = value; *digit; digit++) {
		if (*digit < '0' || *digit > '9' || mb > MAX_RING_MB)
			return false;
		mb = mb * 10 + (uint64_t)(*digit - '0');
	}
	if (mb == 0 || mb > MAX_RING_MB || (mb & (mb - 1)))
		return false;
	settings.ring_mb = (uint32_t)mb;
	return true;
}

static bool take_log(const char *value)
{
	if (!strcmp(value, "quiet"))
		settings.log = LOG_QUIET;
	else if (!strcmp(value, "info"))
		settings.log = LOG_INFO;
	else if (!strcmp(value, "debug"))
		settings.log = LOG_DEBUG;
	else
		return false;
	return true;
}

static bool take_stacks(const char *value)
{
	bool both = !strcmp(value, "both"), native = !strcmp(value, "native");

	if (!both && !native && strcmp(value, "python") != 0 && strcmp(value, "off") != 0)
		return false;
	hook.native_stacks = native || both;
	hook.python_stacks = both || !strcmp(value, "python");
	hook.operations = hook.native_calls = strcmp(value, "off") != 0;
	return true;
}

static bool take_cpu(const char *value)
{
	hook.record_cpu = strcmp(value, "off") != 0;
	return !hook.record_cpu || !strcmp(value, "on");
}

static bool take_cupti(const char *value)
{
	bool off = !strcmp(value, "off"), on = !strcmp(value, "on");

	cupti_set_use(off ? CUPTI_OFF : on ? CUPTI_ON : CUPTI_AUTO);
	return off || on || !strcmp(value, "auto");
}

static const struct setting known_settings[] = {
        {"NNMEM_LOG", take_log, "quiet, info, debug", "info"},
        {"NNMEM_RING_MB", take_ring_mb, "a power of two from 1 to 4096", "16"},
        {"NNMEM_STACKS", take_stacks, "off, python, native, both", "python"},
        {"NNMEM_CPU", take_cpu, "on, off", "on"},
        {"NNMEM_CUPTI", take_cupti, "auto, off, on", "auto"},
};
_Static_assert(MAX_RING_MB == 4096, "the text above says so");
#define NR_SETTINGS (sizeof(known_settings) / sizeof(known_settings[0]))

/* Values that were not allowed, as given; said when recording starts. */
static char bad_values[NR_SETTINGS][VALUE_MAX];

static void read_settings(void)
{
	hook.record_cpu = true;
	take_stacks("python");
	for (size_t i = 0; i < NR_SETTINGS; i++) {
		const char *value = getenv(known_settings[i].name);

		if (value && *value && !known_settings[i].take(value))
			text_format(bad_values[i], VALUE_MAX, "%s", value);
	}
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void complain_about_settings(void)
{
	for (size_t i = 0; i < NR_SETTINGS; i++) {
		if (bad_values[i][0])
			say("%s=%s is not allowed: %s; %s is used", known_settings[i].name, bad_values[i],
			    known_settings[i].allowed, known_settings[i].fallback);
	}
}

/* NNMEM_OFF: anything but empty and "0" switches us off. */
static bool is_switched_off(void)
{
	const char *value = getenv("NNMEM_OFF");

	return value && *value && strcmp(value, "0") != 0;
}

/* ---- what the constructor remembers */

static pid_t own_pid;
static struct stat stderr_at_start;
static bool stderr_was_open;
static char library_folder[PATH_MAX];
static char ring_path[RING_PATH_MAX];

static bool stderr_is_unchanged(void)
{
	struct stat now;

	return stderr_was_open && fstat(STDERR_FILENO, &now) == 0 && now.st_dev == stderr_at_start.st_dev &&
	       now.st_ino == stderr_at_start.st_ino;
}

/*
 * Write without what a write can do to a program that did not ask for it: block because nobody reads (a pipe that poll()
 * finds writable takes PIPE_BUF bytes), end it by SIGPIPE, or stop it by SIGTTOU.
 */
static void write_to_stderr(const char *line, size_t length)
{
	struct pollfd writable = {.fd = STDERR_FILENO, .events = POLLOUT};
	struct timespec no_time = {0};
	sigset_t ours, old, pending;

	if (poll(&writable, 1, SAY_WAIT_MS) != 1 || !(writable.revents & POLLOUT) || (writable.revents & (POLLERR | POLLNVAL)))
		return;
	sigemptyset(&ours);
	sigaddset(&ours, SIGPIPE);
	sigaddset(&ours, SIGTTOU);
	sigpending(&pending);
	if (pthread_sigmask(SIG_BLOCK, &ours, &old) != 0)
		return;
	if (write(STDERR_FILENO, line, length) < 0 && errno == EPIPE && !sigismember(&pending, SIGPIPE)) {
		sigdelset(&ours, SIGTTOU);
		sigtimedwait(&ours, NULL, &no_time);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* Values and paths are quoted in what we say: it stays one line, and no escape code reaches a terminal. */
static void mask_controls(char *line, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	}
}

/* One line on stderr, if that is still the file that it was at the start and NNMEM_LOG allows it.  Signal: safe.  Keeps errno. */
static void say(const char *format, ...)
{
	char line[1536];
	int saved_errno = errno;
	size_t used = text_format(line, sizeof(line) - 1, "nnmem: ");
	va_list arguments;

	if (settings.log != LOG_QUIET && stderr_is_unchanged()) {
		va_start(arguments, format);
		used += text_vformat(line + used, sizeof(line) - 1 - used, format, arguments);
		va_end(arguments);
		mask_controls(line, used);
		line[used++] = '\n';
		write_to_stderr(line, used);
	}
	errno = saved_errno;
}

/* Remember where this library lies, as an absolute name: the program may change its folder before recording starts. */
static void find_library(void)
{
	char folder[PATH_MAX], cwd[PATH_MAX] = "";
	char *slash;
	Dl_info info;

	if (!dladdr((void *)(uintptr_t)find_library, &info) || !info.dli_fname)
		return;
	text_format(folder, sizeof(folder), "%s", info.dli_fname);
	slash = strrchr(folder, '/');
	if (!slash)
		return;
	*slash = '\0';
	if (folder[0] != '/' && !getcwd(cwd, sizeof(cwd)))
		return;
	text_format(library_folder, sizeof(library_folder), "%s%s%s", cwd, cwd[0] ? "/" : "", folder);
}

/* nnmem-record lies at a fixed place relative to this library: as both are installed, or as in the build tree. */
static void find_recorder(char ret[PATH_MAX])
{
	static const char *const folders[] = {NNMEM_BIN_FROM_LIB, "../bin"};

	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		text_format(ret, PATH_MAX, "%s/%s/nnmem-record", library_folder, folders[i]);
		if (access(ret, X_OK) == 0)
			return;
	}
	text_format(ret, PATH_MAX, "%s/%s/nnmem-record", library_folder, folders[0]);
}

static void at_exit(int status, void *unused)
{
	hook_end(RECORD_END_EXIT, status);
}

/* Where MADV_WIPEONFORK is missing (before Linux 4.14). */
static void forget_in_child(void)
{
	if (hook.page)
		memset(hook.page, 0, sizeof(*hook.page));
}

static void make_page(void)
{
	size_t size = (size_t)sysconf(_SC_PAGESIZE);
	struct hook_page *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		return;
	if (madvise(page, size, MADV_WIPEONFORK) != 0 && pthread_atfork(NULL, NULL, forget_in_child) != 0) {
		munmap(page, size);
		return;
	}
	page->armed = 1;
	hook.page = page;
}

/*
 * Before the constructors of the library's other files (the adapter's).  on_exit() from here runs after every atexit
 * handler and every destructor of the program and its libraries, because it is registered before any of theirs; and it is
 * told the status.  Source: glibc 2.31 to 2.41, csu/libc-start.c: rtld_fini is registered after the preload's constructors.
 */
__attribute__((constructor(101))) static void process_init(void)
{
	int saved_errno = errno;

	wrap_libc_resolve();
	if (hook.page || is_switched_off())
		goto out;
	own_pid = getpid();
	stderr_was_open = fstat(STDERR_FILENO, &stderr_at_start) == 0;
	read_settings();
	find_library();
	hook.emitter.env = &emit_env_default;
	hook.thread_state = (void *(*)(void))(uintptr_t)dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState");
	hook.python_is_up = (int (*)(void))(uintptr_t)dlsym(RTLD_DEFAULT, "Py_IsInitialized");
	if (on_exit(at_exit, NULL) == 0)
		make_page();
out:
	errno = saved_errno;
}

/* ---- the ring's file */

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* Field 22 of /proc/self/stat: when we started, in clock ticks since boot; 0 when it cannot be read. */
static uint64_t own_start_ticks(void)
{
	char stat[1024], *field = NULL;
	uint64_t ticks = 0;
	ssize_t length;
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	length = read(fd, stat, sizeof(stat) - 1);
	close(fd);
	if (length <= 0)
		return 0;
	stat[length] = '\0';
	field = strrchr(stat, ')'); /* The name before it may hold anything. */
	for (int i = 2; field && i < 22; i++) {
		field = strchr(field, ' ');
		field = field ? field + 1 : NULL;
	}
	while (field && *field >= '0' && *field <= '9')
		ticks = ticks * 10 + (uint64_t)(*field++ - '0');
	return ticks;
}

/* Beyond the limit on a file's size the kernel would send SIGXFSZ, which ends the program. */
static bool is_within_file_limit(uint64_t bytes)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || bytes <= limit.rlim_cur;
}

/*
 * Make a ring of @capacity slots in @directory and map it.  Returns NULL and *@ret_error (negative errno) when that fails.
 * The file is written through, not sparse: on a full tmpfs a sparse one would kill the program with SIGBUS later.
 */
static struct ring *ring_make(const char *directory, uint32_t capacity, uint64_t start_ticks, int *ret_error)
{
	uint64_t bytes = ring_file_bytes(capacity);
	void *memory = MAP_FAILED;
	int fd = -1, error = 0;

	if (!is_within_file_limit(bytes)) {
		*ret_error = -EFBIG;
		return NULL;
	}
	/* After an exec the earlier program's ring may still be there, with the same pid and start. */
	for (unsigned attempt = 0; attempt < 16 && fd < 0; attempt++) {
		size_t used = text_format(ring_path, sizeof(ring_path), "%s/nnmem-%u-%d-%lu", directory, (unsigned)getuid(),
		                          (int)own_pid, (unsigned long)start_ticks);

		if (attempt)
			used += text_format(ring_path + used, sizeof(ring_path) - used, "-%u", attempt);
		if (used + sizeof(".ring") > sizeof(ring_path)) {
			*ret_error = -ENAMETOOLONG;
			return NULL;
		}
		strcpy(ring_path + used, ".ring");
		fd = open(ring_path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0 && errno != EEXIST)
			break;
	}
	if (fd < 0) {
		*ret_error = -errno;
		return NULL;
	}
	do
		error = posix_fallocate(fd, 0, (off_t)bytes);
	while (error == EINTR);
	if (!error) {
		memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (memory == MAP_FAILED)
			error = errno;
	}
	close(fd);
	if (error) {
		unlink(ring_path);
		*ret_error = -error;
		return NULL;
	}
	/*
	 * The pages are there; enter them into our tables now, a millisecond for 16 MiB, instead of one fault for every 64
	 * records (15 ns a record).  Linux 5.14 and later; elsewhere the faults come one by one.
	 */
	madvise(memory, bytes, MADV_POPULATE_WRITE);
	ring_format(memory, capacity, clock_ns(CLOCK_REALTIME), clock_ns(CLOCK_MONOTONIC));
	return memory;
}

/* The folder that the run file will lie in, as far as NNMEM_OUT says it, or the current one; absolute. */
static bool run_directory(char *directory, size_t size)
{
	const char *out = getenv("NNMEM_OUT");
	const char *slash = out ? strrchr(out, '/') : NULL;
	size_t used = 0, length = slash ? (size_t)(slash - out) : 0;

	if (!out || out[0] != '/') {
		if (!getcwd(directory, size))
			return false;
		used = strlen(directory);
		if (length && used + 1 < size)
			directory[used++] = '/';
	}
	if (used + length + 1 > size)
		return false;
	if (length)
		memcpy(directory + used, out, length);
	directory[used + length] = '\0';
	return true;
}

/* What is worth a note once recording runs. */
static uint32_t smaller_ring_mb;
static bool ring_is_beside_run;

static struct ring *ring_make_somewhere(void)
{
	static const uint32_t min_capacity = MIB / sizeof(struct record);
	uint32_t wanted = settings.ring_mb * min_capacity;
	const char *runtime_directory = getenv("XDG_RUNTIME_DIR");
	uint64_t start_ticks = own_start_ticks();
	char directory[PATH_MAX];
	struct ring *ring = NULL;
	int error = 0;

	for (uint32_t capacity = wanted; capacity >= min_capacity && !ring; capacity /= 2) {
		if (runtime_directory && runtime_directory[0] == '/')
			ring = ring_make(runtime_directory, capacity, start_ticks, &error);
		if (!ring)
			ring = ring_make("/dev/shm", capacity, start_ticks, &error);
		if (ring && capacity != wanted)
			smaller_ring_mb = capacity / min_capacity;
	}
	if (!ring && run_directory(directory, sizeof(directory))) {
		for (uint32_t capacity = wanted; capacity >= min_capacity && !ring; capacity /= 2)
			ring = ring_make(directory, capacity, start_ticks, &error);
		ring_is_beside_run = ring != NULL;
	}
	if (!ring) {
		say("nothing is recorded: no room for the ring in $XDG_RUNTIME_DIR, /dev/shm and the run's folder "
		    "(%s: error %d)",
		    ring_path, -error);
		return NULL;
	}
	ring->pid = (uint32_t)own_pid;
	ring->pid_start_ticks = start_ticks;
	return ring;
}

/* ---- the start */

/* A note from inside the start, where hook_note() would take us for reentered. */
static void note(enum record_severity severity, const char *text)
{
	struct record record = {.kind = RECORD_NOTE, .a = severity};

	emit_record_text(&hook.emitter, &record, text, (uint32_t)strlen(text));
}

static void note_what_happened(void)
{
	char text[256];

	if (smaller_ring_mb) {
		text_format(text, sizeof(text), "no room in memory for a ring of %u MiB: it has %u MiB", settings.ring_mb,
		            smaller_ring_mb);
		note(RECORD_SEVERITY_DEGRADED, text);
	}
	if (ring_is_beside_run)
		note(RECORD_SEVERITY_DEGRADED,
		     "no room in memory for the ring: it lies on disk beside the run file, which is slower");
	if (!hook.record_cpu)
		note(RECORD_SEVERITY_INFO, "NNMEM_CPU=off: CPU memory was not recorded");
}

static void count_early_lost(void)
{
	uint32_t nr_lost = __atomic_exchange_n(&hook.nr_early_lost, 0, __ATOMIC_RELAXED);

	if (nr_lost)
		atomic64_add_relaxed(&hook.emitter.ring->lost[LOST_REENTERED], nr_lost);
}

/* Now rather than in a call for device memory, which may come with an allocator's lock held. */
static void start_native_stacks(bool has_cuda)
{
	const char *why = hook.native_stacks || (hook.native_calls && has_cuda)
	                          ? native_start((void *)(uintptr_t)start_native_stacks)
	                          : NULL;
	char text[256];

	if (!why)
		return;
	text_format(text, sizeof(text), "no native stacks: %s", why);
	note(hook.native_stacks ? RECORD_SEVERITY_DEGRADED : RECORD_SEVERITY_INFO, text);
}

static bool start(void)
{
	char *argv[] = {(char *)(uintptr_t) "nnmem-record", (char *)(uintptr_t) "--ring", ring_path, NULL};
	static char recorder_path[PATH_MAX]; /* not on a stack that may be small; this runs once */
	struct ring *ring;
	bool has_cuda;
	int error;

	complain_about_settings();
	api_resolve();
	has_cuda = cudart_resolve();
	ring = ring_make_somewhere();
	if (!ring)
		return false;
	find_recorder(recorder_path);
	error = launch_recorder(recorder_path, argv);
	if (error) {
		say("nothing is recorded: %s cannot be started (error %d)", recorder_path, -error);
		unlink(ring_path);
		munmap(ring, ring_file_bytes(ring->capacity));
		return false;
	}
	if (settings.log == LOG_DEBUG)
		say("recording through %s by %s", ring_path, recorder_path);
	hook.emitter.ring = ring;
	note_what_happened();
	start_native_stacks(has_cuda);
	return true;
}

static bool wait_for_start(void)
{
	uint64_t end_ns = emit_env_default.now_ns() + START_WAIT_NS;

	while (hook_state_now() == HOOK_STARTING) {
		if (emit_env_default.now_ns() >= end_ns) {
			atomic32_add_relaxed(&hook.nr_early_lost, 1);
			return false;
		}
		emit_env_default.pause_ns(PAUSE_NS / 10);
	}
	return hook_state_now() == HOOK_UP;
}

bool process_start(void)
{
	uint32_t expected = HOOK_DOWN;
	int saved_errno = errno;
	bool is_up;

	if (!atomic32_load_acquire(&hook.page->armed) || !atomic32_cas_acq_rel(&hook.page->state, &expected, HOOK_STARTING))
		return wait_for_start();
	is_up = start();
	if (is_up)
		count_early_lost();
	/* In this order: a thread that sees HOOK_DOWN must not find it armed again. */
	atomic32_store_release(&hook.page->armed, 0);
	atomic32_store_release(&hook.page->state, is_up ? HOOK_UP : HOOK_DOWN);
	errno = saved_errno;
	return is_up;
}

/* ---- the end */

static void say_how_it_went(uint32_t recorder_state)
{
	const struct ring *ring = hook.emitter.ring;
	char path[RING_PATH_MAX], message[RING_MESSAGE_MAX];

	/* The other side writes these; it may be dead in the middle of it. */
	memcpy(path, ring->run_path, sizeof(path));
	memcpy(message, ring->message, sizeof(message));
	path[sizeof(path) - 1] = message[sizeof(message) - 1] = '\0';

	if (recorder_state == RECORDER_FAILED && path[0])
		say("%s; what it holds and what is still in memory is read by: nnmem-report %s", message, path);
	else if (recorder_state == RECORDER_FAILED)
		say("nothing was recorded: %s", message);
	else if (recorder_state == RECORDER_CLOSED)
		say("wrote %s%s%s%s; read it with: nnmem-report %s", path, message[0] ? " (" : "", message, message[0] ? ")" : "",
		    path);
	else if (!path[0])
		say("nnmem-record has not opened a run file yet; what happened is in %s", ring_path);
	else if (!emit_env_default.recorder_alive(atomic32_load_relaxed(&ring->recorder_pid)))
		say("nnmem-record died; what it left is recovered by: nnmem-report %s", path);
	else
		say("%s is still being written; read it with: nnmem-report %s", path, path);
}

/* Wait until the recorder has closed the run file, or cannot.  Returns its state. */
static uint32_t wait_for_recorder(void)
{
	const struct ring *ring = hook.emitter.ring;
	uint64_t end_ns = emit_env_default.now_ns() + END_WAIT_NS;
	uint32_t state;

	for (;;) {
		uint32_t pid = atomic32_load_relaxed(&ring->recorder_pid);

		/* Acquire pairs with the recorder's release: run_path and message are written. */
		state = atomic32_load_acquire(&ring->recorder);
		if (state == RECORDER_FAILED || state == RECORDER_CLOSED)
			return state;
		if (emit_env_default.now_ns() >= end_ns || (pid && !emit_env_default.recorder_alive(pid)))
			return state;
		emit_env_default.pause_ns(PAUSE_NS);
	}
}

void hook_end(enum record_end how, int status)
{
	struct record record = {.kind = RECORD_END, .a = how, .b = (uint64_t)(status & 0xff)};
	uint32_t expected = HOOK_UP;
	int saved_errno = errno;
	struct rusage usage;
	uint64_t end_ns;

	/* A child of vfork() shares our memory, and so the page that a fork would have cleared. */
	if (hook_state_now() != HOOK_UP || getpid() != own_pid ||
	    !atomic32_cas_acq_rel(&hook.page->state, &expected, HOOK_DRAINING))
		return;
	count_early_lost();
	if (getrusage(RUSAGE_SELF, &usage) == 0)
		record.size = (uint64_t)usage.ru_maxrss * 1024;
	end_ns = emit_env_default.now_ns() + END_WAIT_NS;
	while (!emit_record(&hook.emitter, &record) && emit_env_default.now_ns() < end_ns &&
	       !atomic64_load_relaxed(&hook.emitter.recorder_dead))
		emit_env_default.pause_ns(PAUSE_NS);
	/* Release pairs with the recorder's acquire: the record above comes before it. */
	atomic32_store_release(&hook.emitter.ring->producer, how == RECORD_END_EXEC ? PRODUCER_EXEC : PRODUCER_ENDED);
	say_how_it_went(wait_for_recorder());
	errno = saved_errno;
}

void hook_exec_failed(void)
{
	uint32_t expected = HOOK_DRAINING;

	if (hook_state_now() != HOOK_DRAINING || getpid() != own_pid)
		return;
	if (atomic32_load_acquire(&hook.emitter.ring->recorder) == RECORDER_CLOSED) {
		say("an exec failed after the recording had been closed for it: the rest of this run is not recorded");
		return;
	}
	atomic32_store_release(&hook.emitter.ring->producer, PRODUCER_RUNNING);
	atomic32_cas_acq_rel(&hook.page->state, &expected, HOOK_UP);
}
