/* The ELF objects of the process: see native_objects.h. */
#define _GNU_SOURCE
#include "hook/native_objects.h"

#include "nnmem/atomic.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NAMES_BYTES  (512u << 10)
#define FORK_WAIT_MS 10
#define MAX_YIELDS   1000

static struct native_object objects[NATIVE_OBJECTS];
static uint32_t nr_objects; /* atomic; release: the entries below are set */
static char names[NAMES_BYTES];
static uint32_t names_used;
static char program_name[PATH_MAX];

static void (*forget)(uintptr_t start, uintptr_t end);
static uintptr_t ours;

/* What the loader counted when the table was last brought up to date; only with `is_reading`. */
static unsigned long long adds_seen, subs_seen;

static uint32_t is_reading; /* atomic: a thread reads the loader's list, and owns the table's end */
static uint32_t is_forking; /* atomic: nobody begins to */

/* ---- the table */

static bool holds(const struct native_object *object, uintptr_t address)
{
	return object->start <= address && address < object->end && !atomic32_load_acquire(&object->gone);
}

static struct native_object *object_at(uintptr_t address)
{
	/* Acquire pairs with the release in append(). */
	for (uint32_t i = atomic32_load_acquire(&nr_objects); i > 0; i--) {
		if (holds(&objects[i - 1], address))
			return &objects[i - 1];
	}
	return NULL;
}

/* Give @object a copy of what the loader calls it, and of that as an absolute name if it is a file's; "?" without room. */
static void keep_name(struct native_object *object, const char *told)
{
	static char folder[PATH_MAX]; /* not on a stack that may be small */
	const char *name = *told ? told : program_name;
	char *copy = names + names_used;
	size_t length = strnlen(name, PATH_MAX), folder_length = 0;

	if (*name != '/' && strchr(name, '/') && getcwd(folder, sizeof(folder) - 1)) {
		folder_length = strlen(folder);
		folder[folder_length++] = '/';
	}
	object->name = object->told = "?";
	if (names_used + folder_length + length + 1 > sizeof(names))
		return;
	memcpy(copy, folder, folder_length);
	memcpy(copy + folder_length, name, length);
	copy[folder_length + length] = '\0';
	names_used += (uint32_t)(folder_length + length + 1);
	object->name = copy;
	object->told = *told ? copy + folder_length : "";
}

static bool is_same(const struct native_object *a, const struct native_object *b)
{
	return a->start == b->start && a->end == b->end && a->bias == b->bias && a->unwind == b->unwind &&
	       !strcmp(a->build_id, b->build_id) && !strcmp(a->told, b->told);
}

/* With `is_reading`.  What @found has taken the place of is gone. */
static void append(const struct native_object *found)
{
	uint32_t nr = nr_objects;

	for (uint32_t i = 0; i < nr; i++) {
		struct native_object *old = &objects[i];

		if (old->gone || found->end <= old->start || old->end <= found->start)
			continue;
		if (is_same(old, found))
			return;
		atomic32_store_release(&old->gone, 1);
		if (forget)
			forget(old->start, old->end);
	}
	if (nr == NATIVE_OBJECTS)
		return;
	objects[nr] = *found;
	keep_name(&objects[nr], found->told);
	atomic32_store_release(&nr_objects, nr + 1);
}

/* ---- the loader's list */

static void find_build_id(const char *notes, size_t size, char ret[NATIVE_BUILD_ID_TEXT])
{
	static const char digits[] = "0123456789abcdef";
	ElfW(Nhdr) note;

	while (size >= sizeof(note)) {
		size_t name_bytes, id_bytes;

		memcpy(&note, notes, sizeof(note));
		name_bytes = (note.n_namesz + 3u) & ~(size_t)3;
		id_bytes = (note.n_descsz + 3u) & ~(size_t)3;
		if (name_bytes > size - sizeof(note) || id_bytes > size - sizeof(note) - name_bytes)
			return;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && !memcmp(notes + sizeof(note), "GNU", 4)) {
			const unsigned char *id = (const unsigned char *)notes + sizeof(note) + name_bytes;
			size_t length = note.n_descsz < NATIVE_BUILD_ID_MAX ? note.n_descsz : NATIVE_BUILD_ID_MAX;

			for (size_t i = 0; i < length; i++) {
				ret[2 * i] = digits[id[i] >> 4];
				ret[2 * i + 1] = digits[id[i] & 15];
			}
			ret[2 * length] = '\0';
			return;
		}
		notes += sizeof(note) + name_bytes + id_bytes;
		size -= sizeof(note) + name_bytes + id_bytes;
	}
}

static void read_segments(const struct dl_phdr_info *info, struct native_object *ret)
{
	ret->start = UINTPTR_MAX;
	for (ElfW(Half) i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + segment->p_vaddr, end = start + segment->p_memsz;

		if (segment->p_type == PT_LOAD) {
			ret->start = start < ret->start ? start : ret->start;
			ret->end = end > ret->end ? end : ret->end;
		} else if (segment->p_type == PT_GNU_EH_FRAME) {
			ret->unwind = start;
		} else if (segment->p_type == PT_NOTE && !ret->build_id[0]) {
			find_build_id((const char *)start, segment->p_memsz, ret->build_id);
		}
	}
	for (ElfW(Half) i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + segment->p_vaddr, end = start + segment->p_filesz;

		if (segment->p_type == PT_LOAD && (segment->p_flags & PF_R) && start <= ret->unwind && ret->unwind < end) {
			ret->unwind_start = start;
			ret->unwind_end = end;
		}
	}
}

static int take_object(struct dl_phdr_info *info, size_t size, void *first)
{
	struct native_object found = {.bias = info->dlpi_addr, .told = info->dlpi_name};
	/* The counters are the same in every call. */
	if (*(bool *)first && size >= offsetof(struct dl_phdr_info, dlpi_subs) + sizeof(info->dlpi_subs)) {
		if (info->dlpi_adds == adds_seen && info->dlpi_subs == subs_seen)
			return 1;
		adds_seen = info->dlpi_adds;
		subs_seen = info->dlpi_subs;
	}
	*(bool *)first = false;
	read_segments(info, &found);
	found.is_ours = found.start <= ours && ours < found.end;
	if (found.start < found.end)
		append(&found);
	return 0;
}

/* Returns false when it could not be done now. */
static bool bring_up_to_date(void)
{
	uint32_t expected = 0;
	int saved_errno = errno;
	bool first = true, done = false;

	for (int i = 0; !atomic32_cas_acq_rel(&is_reading, &expected, 1); i++) {
		if (i == MAX_YIELDS)
			goto out;
		expected = 0;
		sched_yield();
	}
	/* Sequentially consistent, as in before_fork(): one of the two sees the other. */
	if (!__atomic_load_n(&is_forking, __ATOMIC_SEQ_CST)) {
		dl_iterate_phdr(take_object, &first);
		done = true;
	}
	__atomic_store_n(&is_reading, 0, __ATOMIC_SEQ_CST);
out:
	errno = saved_errno;
	return done;
}

/* ---- fork */

static void before_fork(void)
{
	struct timespec pause = {.tv_nsec = 100000};
	int saved_errno = errno;

	__atomic_store_n(&is_forking, 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < FORK_WAIT_MS * 10 && __atomic_load_n(&is_reading, __ATOMIC_SEQ_CST); i++)
		nanosleep(&pause, NULL);
	errno = saved_errno;
}

static void after_fork(void)
{
	__atomic_store_n(&is_forking, 0, __ATOMIC_SEQ_CST);
}

/* ---- */

void native_objects_start(const void *own, void (*told_forget)(uintptr_t start, uintptr_t end))
{
	ssize_t length = readlink("/proc/self/exe", program_name, sizeof(program_name) - 1);

	program_name[length > 0 ? length : 0] = '\0';
	forget = told_forget;
	ours = (uintptr_t)own;
	pthread_atfork(before_fork, after_fork, after_fork);
	bring_up_to_date();
}

const struct native_object *native_object_of_slowly(uintptr_t address, bool *ret_busy)
{
	*ret_busy = !bring_up_to_date();
	return *ret_busy ? NULL : object_at(address);
}

#if __GLIBC_PREREQ(2, 35)
/* Whether the loader says that @object is what lies there now. */
static bool is_still(const struct native_object *object, const struct dl_find_object *found)
{
	return object && object->bias == found->dlfo_link_map->l_addr && object->unwind == (uintptr_t)found->dlfo_eh_frame &&
	       !strcmp(object->told, found->dlfo_link_map->l_name);
}

/*
 * Source: glibc's manual, "Dynamic Linker Introspection": _dl_find_object() is async-signal-safe; glibc 2.36
 * elf/dl-find_object.c: readers take no lock.
 */
const struct native_object *native_object_of(uintptr_t address, bool *ret_busy)
{
	const struct native_object *object;
	struct dl_find_object found;

	*ret_busy = false;
	if (_dl_find_object((void *)address, &found) != 0)
		return NULL;
	object = object_at(address);
	if (is_still(object, &found))
		return object;
	return native_object_of_slowly(address, ret_busy);
}
#else
const struct native_object *native_object_of(uintptr_t address, bool *ret_busy)
{
	return native_object_of_slowly(address, ret_busy);
}
#endif
