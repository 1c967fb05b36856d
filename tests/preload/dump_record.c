/*
 * Stands in for nnmem-record in the preload tests: reads the ring to the end and writes what it held to the file that
 * NNMEM_OUT names, without addresses, times and sizes that vary, so that it can be compared with an expected text.
 * Equal lines that follow each other become one with a count.
 */
#include "store/ring_reader.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static FILE *out;
static char last[512];
static unsigned nr_equal;

static void flush_line(void)
{
	if (nr_equal > 1)
		fprintf(out, "%s x%u\n", last, nr_equal);
	else if (nr_equal == 1)
		fprintf(out, "%s\n", last);
	fflush(out);
	nr_equal = 0;
}

static void line(const char *text)
{
	if (nr_equal && !strcmp(text, last)) {
		nr_equal++;
		return;
	}
	flush_line();
	snprintf(last, sizeof(last), "%s", text);
	nr_equal = 1;
}

/* ---- native stacks */

#define MAX_IDS (1u << 20)

static struct {
	char function[64]; /* empty: none that is shown */
} frames[1u << 17];
static struct {
	uint32_t parent, frame;
} stacks[MAX_IDS];

/* The function of a frame in this test's own objects, as addr2line names it: the C library's inside is nothing to test. */
static void learn_frame(const struct ring_item *item)
{
	char command[1024], *name = frames[item->record.scope].function;
	const char *slash = strrchr(item->text, '/');
	FILE *witness;

	if (!(item->record.flags & RECORD_F_NATIVE) || !slash || !strstr(slash, "cuda_"))
		return;
	snprintf(command, sizeof(command), "addr2line -f -e '%.800s' 0x%lx", item->text, (unsigned long)item->record.a);
	witness = popen(command, "re");
	if (!witness || !fgets(name, sizeof(frames[0].function), witness))
		line("recorder: no addr2line");
	if (witness)
		pclose(witness);
	name[strcspn(name, "\n")] = '\0';
}

/* " by INNERMOST OUTER ...", after what is in @text. */
static void name_stack(uint32_t stack, char *text, size_t size)
{
	size_t used = strlen(text);
	bool any = false;

	for (; stack && used < size; stack = stacks[stack].parent) {
		const char *function = frames[stacks[stack].frame].function;

		if (*function)
			used += (size_t)snprintf(text + used, size - used, "%s%s", any ? " " : " by ", function);
		any |= *function != '\0';
	}
}

/* Memory that a call gives or takes: by its address, which the fake runtime makes up. */
static void write_call(const struct record *record)
{
	char text[512];

	if (record->kind == RECORD_FREE)
		snprintf(text, sizeof(text), "taken %lx", (unsigned long)record->address);
	else
		snprintf(text, sizeof(text), "given %lx level %u device %x size %lu", (unsigned long)record->address,
		         record_level(record->flags), record->device, (unsigned long)record->size);
	if (record->kind == RECORD_ALLOC)
		name_stack(record->stack, text, sizeof(text));
	line(text);
}

static void write_record(const struct ring_item *item)
{
	const struct record *record = &item->record;
	char text[512];

	switch (record->kind) {
	case RECORD_ALLOC:
	case RECORD_FREE:
		if (record_level(record->flags) != LEVEL_BLOCK) {
			write_call(record);
			return;
		}
		snprintf(text, sizeof(text), "%s thread %u device %x size %lu total %lu%s",
		         record->kind == RECORD_ALLOC ? "alloc" : "free", record->thread, record->device,
		         (unsigned long)record->size, (unsigned long)record->a, record->flags & RECORD_F_SHARED ? " shared" : "");
		break;
	case RECORD_DEF_FRAME:
		learn_frame(item);
		return;
	case RECORD_DEF_STACK:
		stacks[record->stack].parent = (uint32_t)record->a;
		stacks[record->stack].frame = record->scope;
		return;
	case RECORD_DEF_THREAD:
		snprintf(text, sizeof(text), "thread %u %s", record->thread, item->text);
		break;
	case RECORD_NOTE:
		snprintf(text, sizeof(text), "note %lu %s", (unsigned long)record->a, item->text);
		break;
	case RECORD_END:
		snprintf(text, sizeof(text), "end %s %lu%s", record->a == RECORD_END_EXEC ? "exec" : "exit",
		         (unsigned long)record->b, record->size ? "" : " without peak");
		break;
	default:
		snprintf(text, sizeof(text), "kind %u thread %u scope %u a %lu", record->kind, record->thread, record->scope,
		         (unsigned long)record->a);
	}
	line(text);
}

/* What the recorder should find around it: no signal blocked, a session of its own, no file but /dev/null. */
static void check_surroundings(void)
{
	unsigned nr_open = 0;
	struct dirent *entry;
	struct stat null, file;
	DIR *descriptors;
	sigset_t blocked;

	sigprocmask(SIG_BLOCK, NULL, &blocked);
	for (int number = 1; number < NSIG; number++) {
		if (sigismember(&blocked, number) == 1)
			line("recorder: a signal is blocked");
	}
	if (getsid(0) != getpid())
		line("recorder: not in a session of its own");
	if (getenv("LD_PRELOAD"))
		line("recorder: LD_PRELOAD is set");
	stat("/dev/null", &null);
	for (int fd = 0; fd <= 2; fd++) {
		if (fstat(fd, &file) != 0 || file.st_rdev != null.st_rdev)
			line("recorder: a standard descriptor is not /dev/null");
	}
	descriptors = opendir("/proc/self/fd");
	while (descriptors && (entry = readdir(descriptors)))
		nr_open += entry->d_name[0] != '.';
	if (descriptors)
		closedir(descriptors);
	if (nr_open != 5) /* and our own output and the folder itself */
		line("recorder: descriptors were inherited");
}

int main(int argc, char **argv)
{
	const char *path = getenv("NNMEM_OUT");
	static struct ring_reader reader;
	unsigned long nr_events = 0;
	struct ring_item item;
	struct ring *ring;
	struct stat file;
	char temporary[512];
	bool was_alive = true, had_ended = false;
	int fd;

	if (argc != 3 || !path || strcmp(argv[1], "--ring") != 0)
		return 2;
	/* Complete before it has its name: the test waits for the name. */
	snprintf(temporary, sizeof(temporary), "%s.part", path);
	out = fopen(temporary, "a");
	if (!out)
		return 1;
	check_surroundings();
	fd = open(argv[2], O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &file) != 0)
		return 1;
	ring = mmap(NULL, (size_t)file.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring == MAP_FAILED || ring_check(ring, (size_t)file.st_size) != 0)
		line("recorder: not a ring");
	if ((file.st_mode & 0777) != 0600)
		line("recorder: the ring is open to others");
	atomic32_store_relaxed(&ring->recorder_pid, (uint32_t)getpid());
	snprintf(ring->run_path, sizeof(ring->run_path), "run.db");
	atomic32_store_release(&ring->recorder, RECORDER_READY);
	ring_reader_init(&reader, ring);
	while (was_alive && !had_ended) {
		was_alive = kill((pid_t)ring->pid, 0) == 0;
		had_ended = atomic32_load_acquire(&ring->producer) != PRODUCER_RUNNING;
		reader.producers_gone = !was_alive;
		while (ring_reader_next(&reader, (uint64_t)clock(), &item) > 0) {
			nr_events += item.record.kind < RECORD_MODULE_ENTER;
			write_record(&item);
		}
		ring_reader_release(&reader);
		poll(NULL, 0, 1);
	}
	for (unsigned cause = 0; cause < NR_LOST; cause++) {
		char text[64];

		snprintf(text, sizeof(text), "lost %u: %lu", cause, (unsigned long)ring->lost[cause]);
		if (ring->lost[cause])
			line(text);
	}
	if (!had_ended)
		line("died");
	flush_line();
	snprintf(ring->message, sizeof(ring->message), "%lu events", nr_events);
	unlink(argv[2]);
	rename(temporary, path);
	atomic32_store_release(&ring->recorder, RECORDER_CLOSED);
	return 0;
}
