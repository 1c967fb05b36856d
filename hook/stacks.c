/* Stacks as numbers: see stacks.h. */
#include "hook/stacks.h"

#include <string.h>

#define MAX_PROBES 32u
#define TEXT_ROOM  1024u /* of a file's name; a function's gets as much */

/* What stands for the frames that were cut off at FRAMES_MAX. */
#define CUT_FUNCTION "<more frames>"

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static void set_folder(char ret[STACKS_FOLDER_MAX], const char *folder)
{
	size_t length = strnlen(folder, STACKS_FOLDER_MAX - 2);

	memcpy(ret, folder, length);
	ret[length] = '/';
	ret[length + 1] = '\0';
}

void stacks_start(struct stacks *stacks, const struct frames_layout *layout, const char *torch, const char *library)
{
	if (stacks_are_on(stacks))
		return;
	stacks->layout = *layout;
	set_folder(stacks->torch, torch);
	set_folder(stacks->library, library);
	/* Release pairs with stacks_are_on(). */
	atomic32_store_release(&stacks->is_on, 1);
}

/*
 * The entry of @table (@nr_entries, a power of two) that holds @key << 1, with or without its lowest bit; made when there
 * is none.  Returns its index, or @nr_entries when there is no room.
 */
static inline uint32_t find_or_claim(uint64_t *table, uint32_t nr_entries, uint64_t key, uint64_t *ret_word)
{
	uint32_t index = (uint32_t)(mix(key) >> 32) & (nr_entries - 1);

	for (uint32_t probe = 0; probe < MAX_PROBES; probe++, index = (index + 1) & (nr_entries - 1)) {
		/* Acquire pairs with the release that sets the lowest bit: the definition is written, `shown` is set. */
		uint64_t word = atomic64_load_acquire(&table[index]);

		if (!word && atomic64_cas_acq_rel(&table[index], &word, key << 1))
			word = key << 1;
		if (word >> 1 == key) {
			*ret_word = word;
			return index;
		}
	}
	return nr_entries;
}

/* ---- frames */

static uint64_t hash_text(uint64_t hash, const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
	return mix(hash ^ length);
}

static bool begins_with(const char *text, const char *beginning)
{
	return strncmp(text, beginning, strlen(beginning)) == 0;
}

/*
 * Whose code a frame is of, the user's last.  The frame to show for a stack is the innermost of the highest kind that is in
 * it: what a package that is installed calls stands for the user's own code only where there is none.
 */
enum origin { ORIGIN_LIBRARY = 0, ORIGIN_PACKAGE = 1, ORIGIN_USER = 2 };

/* In stacks->flags, above the flags of the record. */
#define ORIGIN_SHIFT 6u
#define FLAGS_MASK   ((1u << ORIGIN_SHIFT) - 1)

static enum origin origin_of(const struct stacks *stacks, const char *file)
{
	/* PyTorch's, the import machinery's, our own, and what torch.fx and torch.compile write. */
	if (begins_with(file, stacks->torch) || begins_with(file, "<frozen ") || !strcmp(file, "<nnmem>") ||
	    begins_with(file, "<eval_with_key>") || strstr(file, "/torchinductor_"))
		return ORIGIN_LIBRARY;
	if (strstr(file, "/site-packages/") || strstr(file, "/dist-packages/"))
		return ORIGIN_PACKAGE;
	return stacks->library[1] && begins_with(file, stacks->library) ? ORIGIN_LIBRARY : ORIGIN_USER;
}

/* The frame with @hash of what @text (two fields, joined by a NUL), @a (a line, an offset) and @flags say, defined.  0: no room.
 */
static uint32_t frame_by_hash(struct stacks *stacks, struct emitter *emitter, uint32_t number, uint64_t hash, const char *text,
                              uint32_t bytes, uint64_t a, uint8_t flags)
{
	uint64_t word;
	uint32_t index;

	hash >>= 1;
	hash += !hash;
	index = find_or_claim(stacks->frames, STACKS_FRAMES, hash, &word);
	if (index == STACKS_FRAMES) {
		atomic32_store_relaxed(&stacks->is_full, 1);
		return 0;
	}
	if (!(word & 1)) {
		const struct record record = {
		        .kind = RECORD_DEF_FRAME,
		        .flags = flags & FLAGS_MASK,
		        .thread = number,
		        .scope = index + 1,
		        .a = a,
		};

		__atomic_store_n(&stacks->flags[index], flags, __ATOMIC_RELAXED);
		if (!emit_record_text(emitter, &record, text, bytes))
			return 0;
		atomic64_store_release(&stacks->frames[index], hash << 1 | 1);
	}
	return index + 1;
}

static uint32_t frame_by_content(struct stacks *stacks, struct emitter *emitter, uint32_t number, const char *text,
                                 uint32_t bytes, uint32_t line, enum origin origin)
{
	return frame_by_hash(stacks, emitter, number, hash_text(mix(line + 1), text, bytes), text, bytes, line,
	                     (uint8_t)(origin << ORIGIN_SHIFT | (origin == ORIGIN_USER ? 0 : RECORD_F_INTERNAL)));
}

static __attribute__((noinline)) uint32_t frame_of_code(struct stacks *stacks, struct emitter *emitter, uint32_t number,
                                                        const struct frames_mark *mark)
{
	char text[2 * TEXT_ROOM];
	size_t file = frames_file(&stacks->layout, mark->code, text, TEXT_ROOM);
	size_t function = frames_function(&stacks->layout, mark->code, text + file + 1, TEXT_ROOM);

	return frame_by_content(stacks, emitter, number, text, (uint32_t)(file + 1 + function),
	                        frames_line(&stacks->layout, mark), origin_of(stacks, text));
}

static inline uint32_t frame_of(struct stacks *stacks, struct emitter *emitter, uint32_t number, const struct frames_mark *mark)
{
	uint64_t proof = frames_proof(&stacks->layout, mark->code);
	uint64_t hash =
	        mix(proof ^ ((uint64_t)(uintptr_t)mark->code + (uint64_t)(uint32_t)mark->offset * UINT64_C(0x9e3779b97f4a7c15)));
	uint64_t *entry = &stacks->seen[hash & (STACKS_SEEN - 1)];
	uint64_t word = atomic64_load_relaxed(entry);
	uint32_t frame;

	_Static_assert(STACKS_FRAMES < 1u << STACKS_FRAME_BITS, "a frame's id fits its bits");
	if (__builtin_expect((word ^ hash) >> STACKS_FRAME_BITS == 0, 1))
		return word & ((1u << STACKS_FRAME_BITS) - 1);
	frame = frame_of_code(stacks, emitter, number, mark);
	if (frame)
		atomic64_store_relaxed(entry, hash >> STACKS_FRAME_BITS << STACKS_FRAME_BITS | frame);
	return frame;
}

/* ---- stacks */

static uint8_t flags_of_frame(const struct stacks *stacks, uint32_t frame)
{
	return __atomic_load_n(&stacks->flags[frame - 1], __ATOMIC_RELAXED);
}

/* The frame to show for @frame on a stack for which @below is shown. */
static uint32_t shown_of(const struct stacks *stacks, uint32_t below, uint32_t frame)
{
	uint8_t flags = flags_of_frame(stacks, frame);

	if (flags & (RECORD_F_OPERATION | RECORD_F_NATIVE))
		return below;
	return below && flags >> ORIGIN_SHIFT < flags_of_frame(stacks, below) >> ORIGIN_SHIFT ? below : frame;
}

/* The operation's frame of the stack of @frame on top of @parent; 0: it has none. */
static uint32_t operation_of(const struct stacks *stacks, uint32_t parent, uint32_t frame)
{
	/* A parent is defined, so its entry is whole, and circles there are none. */
	while (parent && (flags_of_frame(stacks, frame) & RECORD_F_NATIVE)) {
		uint64_t key = atomic64_load_relaxed(&stacks->stacks[parent - 1]) >> 1;

		frame = key & ((1u << STACKS_FRAME_BITS) - 1);
		parent = (uint32_t)(key >> STACKS_FRAME_BITS);
	}
	return flags_of_frame(stacks, frame) & RECORD_F_OPERATION ? frame : 0;
}

static __attribute__((noinline)) bool define_stack(struct stacks *stacks, struct emitter *emitter, uint32_t number,
                                                   uint32_t index, uint32_t parent, uint32_t frame)
{
	uint32_t shown = shown_of(stacks, parent ? atomic32_load_relaxed(&stacks->shown[parent - 1]) : 0, frame);
	const struct record record = {
	        .kind = RECORD_DEF_STACK,
	        .thread = number,
	        .stack = index + 1,
	        .scope = frame,
	        .address = operation_of(stacks, parent, frame),
	        .a = parent,
	        .b = shown,
	};

	atomic32_store_relaxed(&stacks->shown[index], shown);
	if (!emit_record(emitter, &record))
		return false;
	/* Release pairs with find_or_claim()'s acquire. */
	atomic64_store_release(&stacks->stacks[index], ((uint64_t)parent << STACKS_FRAME_BITS | frame) << 1 | 1);
	return true;
}

/* The stack of @frame on top of @parent; 0: no room, now or at all. */
static inline uint32_t stack_of(struct stacks *stacks, struct emitter *emitter, uint32_t number, uint32_t parent, uint32_t frame)
{
	uint64_t word;
	uint32_t index = find_or_claim(stacks->stacks, STACKS_STACKS, (uint64_t)parent << STACKS_FRAME_BITS | frame, &word);

	_Static_assert(STACKS_STACKS < 1u << STACKS_STACK_BITS, "a stack's id fits its bits");
	if (__builtin_expect(index == STACKS_STACKS, 0)) {
		atomic32_store_relaxed(&stacks->is_full, 1);
		return 0;
	}
	if (__builtin_expect(!(word & 1), 0) && !define_stack(stacks, emitter, number, index, parent, frame))
		return 0;
	return index + 1;
}

uint32_t stacks_capture(struct stacks *stacks, struct emitter *emitter, uint32_t number, const void *thread)
{
	struct frames_mark marks[FRAMES_MAX];
	uint32_t nr, stack = 0, frame;
	bool cut;

	nr = frames_walk(&stacks->layout, thread, marks, &cut);
	if (cut) {
		frame = frame_by_content(stacks, emitter, number, "\0" CUT_FUNCTION, sizeof(CUT_FUNCTION), 0, ORIGIN_LIBRARY);
		stack = frame ? stack_of(stacks, emitter, number, 0, frame) : 0;
		if (!stack)
			return 0;
	}
	while (nr > 0) {
		frame = frame_of(stacks, emitter, number, &marks[--nr]);
		stack = frame ? stack_of(stacks, emitter, number, stack, frame) : 0;
		if (!stack)
			return 0;
	}
	return stack;
}

/* ---- operations */

/* Eight bytes at a time: operators are asked for at every allocation. */
static uint64_t hash_name(const char *name, size_t length, bool mangled)
{
	uint64_t hash = mix(length * 2 + mangled + 1), word;

	for (; length >= sizeof(word); name += sizeof(word), length -= sizeof(word)) {
		memcpy(&word, name, sizeof(word));
		hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
		hash ^= hash >> 32;
	}
	word = 0;
	memcpy(&word, name, length);
	return mix(hash ^ word);
}

uint32_t stacks_operation(struct stacks *stacks, struct emitter *emitter, uint32_t number, const char *name, bool mangled)
{
	char text[1 + STACKS_NAME_MAX];
	size_t length = strnlen(name, STACKS_NAME_MAX);

	text[0] = '\0'; /* the file's name */
	memcpy(text + 1, name, length);
	return frame_by_hash(stacks, emitter, number, hash_name(name, length, mangled), text, (uint32_t)length + 1, 0,
	                     RECORD_F_OPERATION | (mangled ? RECORD_F_MANGLED : 0));
}

uint32_t stacks_on(struct stacks *stacks, struct emitter *emitter, uint32_t number, uint32_t stack, uint32_t frame)
{
	uint32_t found = stack_of(stacks, emitter, number, stack, frame);

	return found ? found : stack;
}

/* ---- native frames */

uint32_t stacks_native(struct stacks *stacks, struct emitter *emitter, uint32_t number, const char *file, const char *build_id,
                       uint64_t offset)
{
	char text[2 * TEXT_ROOM];
	size_t length = strnlen(file, TEXT_ROOM - 1), id_length = strnlen(build_id, TEXT_ROOM - 1);

	memcpy(text, file, length);
	text[length] = '\0';
	memcpy(text + length + 1, build_id, id_length);
	return frame_by_hash(stacks, emitter, number, hash_text(mix(offset + 1) ^ RECORD_F_NATIVE, text, length + 1 + id_length),
	                     text, (uint32_t)(length + 1 + id_length), offset, RECORD_F_NATIVE | RECORD_F_INTERNAL);
}
