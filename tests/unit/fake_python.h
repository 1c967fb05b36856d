/*
 * A thread of a Python that is not there: frames, code objects and names made by hand, as hook/frames.h lays them out.
 * For tests that include cmocka.h before.
 */
#ifndef NNMEM_TESTS_FAKE_PYTHON_H
#define NNMEM_TESTS_FAKE_PYTHON_H

#include "hook/frames.h"

#include <stdlib.h>
#include <string.h>

static const char code_type; /* stands for PyCode_Type */

struct code {
	_Alignas(16) char bytes[512];
};

struct frame {
	_Alignas(16) char bytes[80];
};

struct text {
	_Alignas(16) char bytes[160];
};

struct table {
	_Alignas(16) char bytes[400];
};

static inline void put(char *object, size_t offset, const void *value, size_t size)
{
	memcpy(object + offset, value, size);
}

static inline void put_pointer(char *object, size_t offset, const void *pointer)
{
	put(object, offset, &pointer, sizeof(pointer));
}

static inline void make_text(struct text *text, const struct frames_layout *layout, unsigned kind, bool ascii,
                             const void *characters, size_t length)
{
	uint32_t flags = kind << 2 | 0x20 | (ascii ? 0x40 : 0);

	memset(text, 0, sizeof(*text));
	put(text->bytes, 24, &(int64_t){-1}, 8); /* no hash */
	put(text->bytes, layout->text_length, &length, sizeof(length));
	put(text->bytes, layout->text_state, &flags, sizeof(flags));
	put(text->bytes, ascii ? layout->text_ascii : layout->text_other, characters, length * kind);
}

struct world {
	struct frames_layout layout;
	struct text file, function;
	struct table table;
	struct code code;
	struct frame frames[FRAMES_MAX + 8];
	char thread[256];
	char cframe[64];
};

static inline void make_table(struct world *world, const void *bytes, size_t size)
{
	put(world->table.bytes, 16, &size, sizeof(size));
	put(world->table.bytes, 32, bytes, size);
}

/* @nr frames, the innermost first in the array, all of the same code at its second unit. */
static inline struct world *make_world(uint32_t minor, uint32_t nr)
{
	static const unsigned char table[] = {0x80 | 11 << 3 | 7, 0, 0};
	struct world *world = aligned_alloc(16, sizeof(*world));
	const struct frames_layout *layout = &world->layout;
	const char *first;

	memset(world, 0, sizeof(*world));
	assert_true(frames_layout_of(minor, NULL, &code_type, &world->layout));
	make_text(&world->file, layout, 1, true, "/dir/file.py", 12);
	make_text(&world->function, layout, 1, true, "Net.forward", 11);
	make_table(world, table, sizeof(table));
	put_pointer(world->code.bytes, 8, &code_type);
	put_pointer(world->code.bytes, layout->code_filename, &world->file);
	put_pointer(world->code.bytes, layout->code_name, &world->function);
	put_pointer(world->code.bytes, layout->code_linetable, &world->table);
	put(world->code.bytes, layout->code_first_line, &(uint32_t){30}, 4);
	first = world->code.bytes + layout->code_bytes;
	for (uint32_t i = 0; i < nr; i++) {
		put_pointer(world->frames[i].bytes, layout->frame_code, &world->code);
		put_pointer(world->frames[i].bytes, layout->frame_previous, i + 1 < nr ? &world->frames[i + 1] : NULL);
		put_pointer(world->frames[i].bytes, layout->frame_instruction, first + 2);
	}
	put_pointer(world->cframe, layout->cframe_frame, nr ? world->frames : NULL);
	put_pointer(world->thread, layout->thread_frame, world->cframe);
	return world;
}

/* Let frame @index (0: the innermost) run the code of @other, which must be of the same version, at its unit @unit. */
static inline void run_code_of(struct world *world, uint32_t index, const struct world *other, int unit)
{
	put_pointer(world->frames[index].bytes, world->layout.frame_code, &other->code);
	put_pointer(world->frames[index].bytes, world->layout.frame_instruction,
	            other->code.bytes + world->layout.code_bytes + (ptrdiff_t)unit * 2);
}

static inline void name_code(struct world *world, const char *file, const char *function, uint32_t first_line)
{
	make_text(&world->file, &world->layout, 1, true, file, strlen(file));
	make_text(&world->function, &world->layout, 1, true, function, strlen(function));
	put(world->code.bytes, world->layout.code_first_line, &first_line, sizeof(first_line));
}

#endif
