/* Names for places in compiled code: see symbols.h. */
#include "report/symbols.h"

#include "report/symbol_name.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwelf.h>
#include <elfutils/libdwfl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OBJECTS_MAX  1024u
#define PLACES_MAX   (1u << 20)
#define BUILD_ID_MAX 64u /* bytes */
#define OVERLAP_MAX  16  /* functions that are looked at, from the last that begins before an address */

struct function {
	uint64_t start, size; /* size 0: not known */
	const char *linked;   /* libdw's, as long as the module is there */
};

struct object {
	char *path, *build_id;
	char *debug;                /* path of the file that has its debug information apart, if there is one */
	Dwfl *dwfl;                 /* NULL: nothing is known of it */
	Dwfl_Module *module;        /* its addresses are as linked: it is reported at base 0 */
	struct function *functions; /* by start */
	size_t nr_functions;
};

struct place {
	uint32_t object; /* index + 1; 0: a free slot */
	uint64_t address;
	struct symbol symbol; /* function and file are its own */
};

struct symbols {
	char *debug;
	struct object objects[OBJECTS_MAX];
	uint32_t nr_objects;
	struct place **places;      /* open addressing, NULL free */
	size_t nr_places, nr_slots; /* nr_slots: a power of 2 */
};

static const struct symbol nothing = {0};

int symbols_new(const char *debug, struct symbols **ret)
{
	struct symbols *symbols = calloc(1, sizeof(*symbols));

	elf_version(EV_CURRENT);
	if (symbols)
		symbols->debug = strdup(debug);
	if (!symbols || !symbols->debug) {
		free(symbols);
		return -ENOMEM;
	}
	*ret = symbols;
	return 0;
}

void symbols_free(struct symbols *symbols)
{
	if (!symbols)
		return;
	for (size_t i = 0; i < symbols->nr_slots; i++) {
		if (!symbols->places[i])
			continue;
		free((char *)(uintptr_t)symbols->places[i]->symbol.function);
		free((char *)(uintptr_t)symbols->places[i]->symbol.file);
		free(symbols->places[i]);
	}
	for (uint32_t i = 0; i < symbols->nr_objects; i++) {
		free(symbols->objects[i].path);
		free(symbols->objects[i].build_id);
		free(symbols->objects[i].debug);
		free(symbols->objects[i].functions);
		dwfl_end(symbols->objects[i].dwfl);
	}
	free(symbols->places);
	free(symbols->debug);
	free(symbols);
}

/* ---- files */

/* An ordinary file, opened without waiting for anything; -1: none. */
static int open_file(const char *path)
{
	int fd = path[0] == '/' ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
	struct stat status;

	if (fd >= 0 && (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool has_build_id(int fd, const char *build_id)
{
	static const char digits[] = "0123456789abcdef";
	Elf *elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
	const void *id = NULL;
	ssize_t bytes = elf ? dwelf_elf_gnu_build_id(elf, &id) : -1;
	char found[2 * BUILD_ID_MAX + 1] = "";

	for (ssize_t i = 0; i < bytes && i < (ssize_t)BUILD_ID_MAX; i++) {
		unsigned char byte = ((const unsigned char *)id)[i];

		found[2 * i] = digits[byte >> 4];
		found[2 * i + 1] = digits[byte & 15];
	}
	elf_end(elf);
	/* What was recorded may have been cut. */
	return elf && (*build_id ? !strncmp(found, build_id, strlen(build_id)) : !*found);
}

/* An ordinary file with @build_id; -1: none. */
static int open_object_file(const char *path, const char *build_id)
{
	int fd = open_file(path);

	if (fd >= 0 && !has_build_id(fd, build_id)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* DEBUG/.build-id/ab/cdef.debug, the caller's; NULL: @build_id is no name of a file, or there is no memory. */
static char *debug_path(const char *debug, const char *build_id)
{
	size_t length = strlen(build_id);
	char *path;

	if (length < 4 || strspn(build_id, "0123456789abcdef") != length ||
	    asprintf(&path, "%s/.build-id/%.2s/%s.debug", debug, build_id, build_id + 2) < 0)
		return NULL;
	return path;
}

/* The object is given, so there is nothing to find. */
static int find_elf(Dwfl_Module *module, void **userdata, const char *name, Dwarf_Addr base, char **ret_path, Elf **ret_elf)
{
	return -1;
}

/* Debug information that is not in the object's own file.  Not libdwfl's own search, which asks servers, too. */
static int find_debuginfo(Dwfl_Module *module, void **userdata, const char *name, Dwarf_Addr base, const char *file,
                          const char *link, GElf_Word crc, char **ret_path)
{
	const struct object *object = *userdata;
	int fd = object && object->debug ? open_object_file(object->debug, object->build_id) : -1;

	if (fd >= 0)
		*ret_path = strdup(object->debug);
	return fd;
}

/* ---- functions */

static int compare_functions(const void *a, const void *b)
{
	const struct function *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return x->size < y->size ? -1 : x->size > y->size;
}

static void read_functions(struct object *object)
{
	int nr = dwfl_module_getsymtab(object->module);
	size_t used = 0;

	object->functions = nr > 0 ? calloc((size_t)nr, sizeof(*object->functions)) : NULL;
	for (int i = 1; object->functions && i < nr; i++) {
		GElf_Addr start;
		GElf_Sym symbol;
		const char *name = dwfl_module_getsym_info(object->module, i, &symbol, &start, NULL, NULL, NULL);
		int type = GELF_ST_TYPE(symbol.st_info);

		if (!name || !*name || symbol.st_shndx == SHN_UNDEF ||
		    (type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_NOTYPE))
			continue;
		object->functions[used++] = (struct function){.start = start, .size = symbol.st_size, .linked = name};
	}
	object->nr_functions = used;
	if (used)
		qsort(object->functions, used, sizeof(*object->functions), compare_functions);
}

/* The function that @address is in; NULL: none that is known. */
static const struct function *function_at(const struct object *object, uint64_t address)
{
	size_t low = 0, high = object->nr_functions;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (object->functions[middle].start <= address)
			low = middle + 1;
		else
			high = middle;
	}
	for (size_t i = low; i > 0 && low - i < OVERLAP_MAX; i--) {
		const struct function *function = &object->functions[i - 1];

		if (address - function->start < function->size)
			return function;
		/* Assembler code: as far as the next one. */
		if (!function->size && i == low)
			return function;
	}
	return NULL;
}

/* ---- objects */

static bool report_module(struct object *object, int fd, const char *path)
{
	static const Dwfl_Callbacks callbacks = {
	        .find_elf = find_elf, .find_debuginfo = find_debuginfo, .section_address = dwfl_offline_section_address};
	void **userdata;

	object->dwfl = dwfl_begin(&callbacks);
	if (!object->dwfl)
		return false;
	dwfl_report_begin(object->dwfl);
	/* Takes over @fd if it succeeds. */
	object->module = dwfl_report_elf(object->dwfl, "", path, fd, 0, true);
	dwfl_report_end(object->dwfl, NULL, NULL);
	if (!object->module)
		return false;
	dwfl_module_info(object->module, &userdata, NULL, NULL, NULL, NULL, NULL, NULL);
	*userdata = object;
	return true;
}

/* What is known of an object: by its own file, else by the one with its debug information. */
static void open_object(const struct symbols *symbols, struct object *object)
{
	const char *path = object->path;
	int fd = open_object_file(path, object->build_id);

	object->debug = debug_path(symbols->debug, object->build_id);
	if (fd < 0 && object->debug) {
		path = object->debug;
		fd = open_object_file(path, object->build_id);
	}
	if (fd < 0)
		return;
	if (report_module(object, fd, path)) {
		read_functions(object);
		return;
	}
	close(fd);
	dwfl_end(object->dwfl);
	object->dwfl = NULL;
}

/* Returns its index + 1; 0: too many, or no memory. */
static uint32_t object_of(struct symbols *symbols, const char *path, const char *build_id)
{
	struct object *object;

	for (uint32_t i = symbols->nr_objects; i > 0; i--) {
		object = &symbols->objects[i - 1];
		if (!strcmp(object->path, path) && !strcmp(object->build_id, build_id))
			return i;
	}
	if (symbols->nr_objects == OBJECTS_MAX)
		return 0;
	object = &symbols->objects[symbols->nr_objects];
	object->path = strdup(path);
	object->build_id = strdup(build_id);
	if (!object->path || !object->build_id) {
		free(object->path);
		free(object->build_id);
		return 0;
	}
	open_object(symbols, object);
	return ++symbols->nr_objects;
}

/* ---- lines */

/*
 * Where what is at an address of @unit was called in the function that it lies in, if it lies in others that were inlined there.
 * Their own lines would name a file that is not that function's.
 */
static bool find_inlined_call(Dwarf_Die *unit, Dwarf_Addr address, const char **ret_file, uint64_t *ret_line)
{
	Dwarf_Die *innermost = NULL, *scopes = NULL, *inlined = NULL;
	/* Beyond the innermost, these are where the inlined function was written, not what it is in. */
	int nr = dwarf_getscopes(unit, address, &innermost) > 0 ? dwarf_getscopes_die(&innermost[0], &scopes) : 0;
	Dwarf_Attribute attribute;
	Dwarf_Word file, line;
	Dwarf_Files *files;
	bool found = false;

	for (int i = 0; i < nr && dwarf_tag(&scopes[i]) != DW_TAG_subprogram; i++) {
		if (dwarf_tag(&scopes[i]) == DW_TAG_inlined_subroutine)
			inlined = &scopes[i];
	}
	if (inlined && !dwarf_formudata(dwarf_attr(inlined, DW_AT_call_file, &attribute), &file) &&
	    !dwarf_formudata(dwarf_attr(inlined, DW_AT_call_line, &attribute), &line) && !dwarf_getsrcfiles(unit, &files, NULL)) {
		*ret_file = dwarf_filesrc(files, file, NULL, NULL);
		*ret_line = line;
		found = *ret_file != NULL;
	}
	free(innermost);
	free(scopes);
	return found;
}

static void find_line(const struct object *object, uint64_t address, struct symbol *ret)
{
	Dwarf_Addr bias = 0;
	Dwarf_Die *unit = dwfl_module_addrdie(object->module, address, &bias);
	const char *file = NULL;
	uint64_t line_number = 0;
	int number = 0;

	if (!unit || !find_inlined_call(unit, address - bias, &file, &line_number)) {
		Dwfl_Line *line = dwfl_module_getsrc(object->module, address);

		file = line ? dwfl_lineinfo(line, NULL, &number, NULL, NULL, NULL) : NULL;
		line_number = number > 0 ? (uint64_t)number : 0;
	}
	ret->file = file ? strdup(file) : NULL;
	ret->line = ret->file ? line_number : 0;
}

/* ---- places */

static struct place **slot_of(const struct symbols *symbols, uint32_t object, uint64_t address)
{
	uint64_t hash = (address ^ (uint64_t)object << 48) * UINT64_C(0x9e3779b97f4a7c15);
	size_t slot = (size_t)(hash >> 20) & (symbols->nr_slots - 1);

	while (symbols->places[slot] && (symbols->places[slot]->object != object || symbols->places[slot]->address != address))
		slot = (slot + 1) & (symbols->nr_slots - 1);
	return &symbols->places[slot];
}

/* Room for one more place. */
static bool make_room(struct symbols *symbols)
{
	struct place **old = symbols->places;
	size_t nr_old = symbols->nr_slots;

	if (symbols->nr_places == PLACES_MAX)
		return false;
	if (2 * symbols->nr_places < nr_old)
		return true;
	symbols->places = calloc(nr_old ? 2 * nr_old : 1024, sizeof(struct place *));
	if (!symbols->places) {
		symbols->places = old;
		return false;
	}
	symbols->nr_slots = nr_old ? 2 * nr_old : 1024;
	for (size_t i = 0; i < nr_old; i++) {
		if (old[i])
			*slot_of(symbols, old[i]->object, old[i]->address) = old[i];
	}
	free(old);
	return true;
}

const struct symbol *symbols_find(struct symbols *symbols, const char *path, const char *build_id, uint64_t address)
{
	uint32_t index = object_of(symbols, path, build_id ? build_id : "");
	const struct function *function;
	const struct object *object;
	struct place **slot, *place;

	if (!index || !make_room(symbols))
		return &nothing;
	slot = slot_of(symbols, index, address);
	if (*slot)
		return &(*slot)->symbol;
	place = calloc(1, sizeof(*place));
	if (!place)
		return &nothing;
	place->object = index;
	place->address = address;
	object = &symbols->objects[index - 1];
	if (object->module) {
		function = function_at(object, address);
		place->symbol.function = function ? symbol_name(function->linked) : NULL;
		find_line(object, address, &place->symbol);
	}
	*slot = place;
	symbols->nr_places++;
	return &place->symbol;
}
