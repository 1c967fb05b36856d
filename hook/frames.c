/* Reading Python frames: see frames.h. */
#define _GNU_SOURCE
#include "hook/frames.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define OBJECT_TYPE    8u                   /* PyObject.ob_type */
#define BYTES_SIZE     16u                  /* PyVarObject.ob_size */
#define BYTES_DATA     32u                  /* PyBytesObject.ob_sval */
#define CODE_UNIT      2                    /* bytes of a _Py_CODEUNIT */
#define MAX_STEPS      (FRAMES_MAX + 1024u) /* frames looked at, those that are left out among them */
#define MAX_TEXT       4096u
#define MAX_LINE_TABLE (1u << 24)

/* enum _frameowner of 3.11 to 3.13. */
#define OWNED_BY_GENERATOR 1u
#define OWNED_BY_C_STACK   3u

/* PyASCIIObject.state: interned:2, kind:3 (bytes of a character), compact:1, ascii:1. */
#define TEXT_KIND(state) (((state) >> 2) & 7u)
#define TEXT_HASH        24u /* PyASCIIObject.hash; -1: not asked for yet */
#define TEXT_COMPACT     0x20u
#define TEXT_ASCII       0x40u

/* ---- layouts */

static const struct frames_layout layout_310 = {
        .minor = 10,
        .thread_frame = 24,
        .frame_code = 32,
        .frame_previous = 24,
        .frame_instruction = 96, /* int f_lasti, in code units */
        .code_first_line = 40,
        .code_filename = 104,
        .code_name = 112,
        .code_linetable = 120,
        .text_state = 32,
        .text_length = 16,
        .text_ascii = 48,
        .text_other = 72,
};

static const struct frames_layout layout_311 = {
        .minor = 11,
        .thread_frame = 56,
        .has_cframe = true,
        .cframe_frame = 8,
        .frame_code = 32,
        .frame_previous = 48,
        .frame_instruction = 56,
        .frame_owner = 69,
        .code_first_line = 72,
        .code_filename = 112,
        .code_name = 128, /* co_qualname */
        .code_linetable = 136,
        .has_first_traceable = true,
        .code_first_traceable = 168,
        .code_bytes = 184,
        .text_state = 32,
        .text_length = 16,
        .text_ascii = 48,
        .text_other = 72,
};

static const struct frames_layout layout_312 = {
        .minor = 12,
        .thread_frame = 56,
        .has_cframe = true,
        .cframe_frame = 0,
        .frame_code = 0,
        .frame_previous = 8,
        .frame_instruction = 56,
        .frame_owner = 70,
        .code_first_line = 68,
        .code_filename = 112,
        .code_name = 128, /* co_qualname */
        .code_linetable = 136,
        .has_first_traceable = true,
        .code_first_traceable = 176,
        .code_bytes = 192,
        .text_state = 32,
        .text_length = 16,
        .text_ascii = 40,
        .text_other = 56,
};

/* The words of 3.13's _Py_DebugOffsets, by index: the structure is nothing but 64-bit words. */
enum debug_word {
	DEBUG_COOKIE = 0,
	DEBUG_VERSION = 1, /* PY_VERSION_HEX */
	DEBUG_FREE_THREADED = 2,
	DEBUG_THREAD_CURRENT_FRAME = 23,
	DEBUG_FRAME_PREVIOUS = 29,
	DEBUG_FRAME_EXECUTABLE = 30,
	DEBUG_FRAME_INSTR_PTR = 31,
	DEBUG_FRAME_OWNER = 33,
	DEBUG_CODE_FILENAME = 35,
	DEBUG_CODE_QUALNAME = 37,
	DEBUG_CODE_LINETABLE = 38,
	DEBUG_CODE_FIRSTLINENO = 39,
	DEBUG_CODE_ADAPTIVE = 43,
	DEBUG_BYTES_SIZE = 65,
	DEBUG_BYTES_DATA = 66,
	DEBUG_TEXT_STATE = 68,
	DEBUG_TEXT_LENGTH = 69,
	DEBUG_TEXT_ASCII_SIZE = 70,
};

#define COMPACT_EXTRA 16u /* PyCompactUnicodeObject: utf8_length and utf8 follow the ASCII object; since 3.12 */

static bool layout_of_313(const char *runtime, struct frames_layout *ret)
{
	uint64_t words[DEBUG_TEXT_ASCII_SIZE + 1];

	if (!runtime)
		return false;
	memcpy(words, runtime, sizeof(words));
	if (memcmp(runtime, "xdebugpy", 8) != 0 || words[DEBUG_VERSION] >> 16 != 0x030d || words[DEBUG_FREE_THREADED] ||
	    words[DEBUG_BYTES_SIZE] != BYTES_SIZE || words[DEBUG_BYTES_DATA] != BYTES_DATA)
		return false;
	for (unsigned i = DEBUG_THREAD_CURRENT_FRAME; i <= DEBUG_TEXT_ASCII_SIZE; i++)
		if (words[i] > UINT16_MAX / 2)
			return false;
	*ret = (struct frames_layout){
	        .minor = 13,
	        .thread_frame = (uint16_t)words[DEBUG_THREAD_CURRENT_FRAME],
	        .frame_code = (uint16_t)words[DEBUG_FRAME_EXECUTABLE],
	        .frame_previous = (uint16_t)words[DEBUG_FRAME_PREVIOUS],
	        .frame_instruction = (uint16_t)words[DEBUG_FRAME_INSTR_PTR],
	        .frame_owner = (uint16_t)words[DEBUG_FRAME_OWNER],
	        .code_first_line = (uint16_t)words[DEBUG_CODE_FIRSTLINENO],
	        .code_filename = (uint16_t)words[DEBUG_CODE_FILENAME],
	        .code_name = (uint16_t)words[DEBUG_CODE_QUALNAME],
	        .code_linetable = (uint16_t)words[DEBUG_CODE_LINETABLE],
	        .code_bytes = (uint16_t)words[DEBUG_CODE_ADAPTIVE],
	        .text_state = (uint16_t)words[DEBUG_TEXT_STATE],
	        .text_length = (uint16_t)words[DEBUG_TEXT_LENGTH],
	        .text_ascii = (uint16_t)words[DEBUG_TEXT_ASCII_SIZE],
	        .text_other = (uint16_t)(words[DEBUG_TEXT_ASCII_SIZE] + COMPACT_EXTRA),
	};
	return true;
}

bool frames_layout_of(uint32_t minor, const void *runtime, const void *code_type, struct frames_layout *ret)
{
	struct frames_layout layout;

	if (sizeof(void *) != 8 || !code_type)
		return false;
	if (minor == 10)
		layout = layout_310;
	else if (minor == 11)
		layout = layout_311;
	else if (minor == 12)
		layout = layout_312;
	else if (minor != 13 || !layout_of_313(runtime, &layout))
		return false;
	layout.code_type = code_type;
	*ret = layout;
	return true;
}

/* ---- walking.  One walk for both ways of reading: @careful is a constant where it is inlined. */

/* Copy @size bytes at @from; false when they cannot be read.  A refusal of the kernel counts as that. */
static bool read_carefully(const char *from, void *to, size_t size)
{
	struct iovec local = {.iov_base = to, .iov_len = size};
	struct iovec remote = {.iov_base = (void *)(uintptr_t)from, .iov_len = size};
	int saved_errno = errno;
	bool done = process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)size;

	errno = saved_errno;
	return done;
}

static inline __attribute__((always_inline)) bool load(const char *from, void *to, size_t size, bool careful)
{
	if (careful)
		return read_carefully(from, to, size);
	memcpy(to, from, size);
	return true;
}

/* Whether the frame of @code at @instruction counts, and where it is. */
static inline __attribute__((always_inline)) bool place(const struct frames_layout *layout, const char *frame, const char *code,
                                                        bool careful, struct frames_mark *ret, bool *ret_failed)
{
	const char *instruction, *first = code + layout->code_bytes;
	int32_t first_traceable = 0;
	uint8_t owner;

	ret->code = code;
	if (layout->minor == 10) {
		int32_t units;

		*ret_failed |= !load(frame + layout->frame_instruction, &units, sizeof(units), careful);
		ret->offset = units * CODE_UNIT;
		return !*ret_failed;
	}
	*ret_failed |= !load(frame + layout->frame_owner, &owner, sizeof(owner), careful) ||
	               !load(frame + layout->frame_instruction, &instruction, sizeof(instruction), careful);
	if (!*ret_failed && layout->has_first_traceable)
		*ret_failed |= !load(code + layout->code_first_traceable, &first_traceable, sizeof(first_traceable), careful);
	if (*ret_failed || (owner != OWNED_BY_GENERATOR && instruction < first + (ptrdiff_t)first_traceable * CODE_UNIT))
		return false;
	ret->offset = (int32_t)(instruction - first);
	return true;
}

static inline __attribute__((always_inline)) uint32_t walk(const struct frames_layout *layout, const char *thread,
                                                           struct frames_mark marks[FRAMES_MAX], bool *ret_cut, bool careful,
                                                           bool *ret_failed)
{
	const char *frame = NULL;
	uint32_t nr = 0;

	*ret_cut = false;
	*ret_failed = !load(thread + layout->thread_frame, &frame, sizeof(frame), careful);
	if (layout->has_cframe && !*ret_failed && frame)
		*ret_failed |= !load(frame + layout->cframe_frame, &frame, sizeof(frame), careful);
	for (uint32_t step = 0; frame && !*ret_failed; step++) {
		const char *code = NULL, *type = NULL;
		struct frames_mark mark;
		uint8_t owner = 0;

		if (step == MAX_STEPS) {
			*ret_cut = true;
			break;
		}
		if (layout->minor >= 12)
			*ret_failed |= !load(frame + layout->frame_owner, &owner, sizeof(owner), careful);
		*ret_failed |= !load(frame + layout->frame_code, &code, sizeof(code), careful);
		if (owner != OWNED_BY_C_STACK && code && !*ret_failed) {
			*ret_failed |= !load(code + OBJECT_TYPE, &type, sizeof(type), careful);
			if (type == (const char *)layout->code_type && place(layout, frame, code, careful, &mark, ret_failed)) {
				if (nr == FRAMES_MAX) {
					*ret_cut = true;
					break;
				}
				marks[nr++] = mark;
			}
		}
		*ret_failed |= !load(frame + layout->frame_previous, &frame, sizeof(frame), careful);
	}
	return nr;
}

uint32_t frames_walk(const struct frames_layout *layout, const void *thread, struct frames_mark marks[FRAMES_MAX], bool *ret_cut)
{
	bool failed;

	return walk(layout, thread, marks, ret_cut, false, &failed);
}

int frames_walk_carefully(const struct frames_layout *layout, const void *thread, struct frames_mark marks[FRAMES_MAX],
                          bool *ret_cut)
{
	bool failed;
	uint32_t nr = walk(layout, thread, marks, ret_cut, true, &failed);

	return failed ? -1 : (int)nr;
}

/* ---- code objects */

static inline const char *pointer_at(const char *object, uint16_t offset)
{
	const char *pointer;

	memcpy(&pointer, object + offset, sizeof(pointer));
	return pointer;
}

static inline uint32_t first_line_of(const struct frames_layout *layout, const char *code)
{
	uint32_t line;

	memcpy(&line, code + layout->code_first_line, sizeof(line));
	return line;
}

/* The line table's bytes; empty when it cannot be one. */
static inline const unsigned char *table_of(const struct frames_layout *layout, const char *code, size_t *ret_size)
{
	const char *table = pointer_at(code, layout->code_linetable);

	*ret_size = 0;
	if (!table)
		return NULL;
	memcpy(ret_size, table + BYTES_SIZE, sizeof(*ret_size));
	if (*ret_size > MAX_LINE_TABLE)
		*ret_size = 0;
	return (const unsigned char *)table + BYTES_DATA;
}

static inline uint64_t word_at(const unsigned char *bytes)
{
	uint64_t word;

	memcpy(&word, bytes, sizeof(word));
	return word;
}

/* Odd and unlike each other; sums of products with them are independent, so that a processor works at several at once. */
#define PROOF_FILE  UINT64_C(0xbf58476d1ce4e5b9)
#define PROOF_NAME  UINT64_C(0x9e3779b97f4a7c15)
#define PROOF_TABLE UINT64_C(0xc2b2ae3d27d4eb4f)
#define PROOF_SIZE  UINT64_C(0x165667b19e3779f9)
#define PROOF_FIRST UINT64_C(0xff51afd7ed558ccd)
#define PROOF_STEP  UINT64_C(0xd6e8feb86659fd92) /* even: added to an odd factor, it stays odd */

/* Line tables up to this size count in full, of longer ones four words. */
#define PROOF_WHOLE 128u

/*
 * What a str is known by: its hash where it was asked for before (names are interned, so it was), else its length and four
 * words of it, which is all of it up to 32 bytes.
 */
static inline uint64_t proof_of_text(const struct frames_layout *layout, const char *text)
{
	uint64_t hash, length, sum;
	uint32_t state;
	const unsigned char *bytes;
	size_t size;

	if (!text)
		return 0;
	memcpy(&hash, text + TEXT_HASH, sizeof(hash));
	if (hash != UINT64_MAX)
		return hash;
	memcpy(&length, text + layout->text_length, sizeof(length));
	memcpy(&state, text + layout->text_state, sizeof(state));
	bytes = (const unsigned char *)text + (state & TEXT_ASCII ? layout->text_ascii : layout->text_other);
	size = (state & TEXT_COMPACT) && length <= MAX_TEXT ? (size_t)length * TEXT_KIND(state) : 0;
	sum = length;
	if (size >= 8)
		return sum + word_at(bytes) * PROOF_FIRST + word_at(bytes + (size - 8) / 3) * PROOF_NAME +
		       word_at(bytes + (size - 8) * 2 / 3) * PROOF_SIZE + word_at(bytes + size - 8) * PROOF_TABLE;
	for (; size > 0; bytes++, size--)
		sum = (sum ^ *bytes) * PROOF_FIRST;
	return sum;
}

/*
 * The names, the address and the bytes of the line table, and the first line.  Two code objects at the same address that
 * agree in all of it have the same file, function and lines, unless a name longer than 32 bytes or a line table longer than
 * PROOF_WHOLE differs only where it is not looked at.
 */
uint64_t frames_proof(const struct frames_layout *layout, const char *code)
{
	size_t size;
	const unsigned char *table = table_of(layout, code, &size);
	uint64_t factor = PROOF_FIRST;
	uint64_t sum = proof_of_text(layout, pointer_at(code, layout->code_filename)) * PROOF_FILE +
	               proof_of_text(layout, pointer_at(code, layout->code_name)) * PROOF_NAME +
	               (uint64_t)(uintptr_t)table * PROOF_TABLE +
	               ((uint64_t)size << 32 | first_line_of(layout, code)) * PROOF_SIZE;

	if (size > PROOF_WHOLE)
		return sum + word_at(table) * PROOF_FIRST + word_at(table + size / 3) * PROOF_NAME +
		       word_at(table + size / 3 * 2) * PROOF_SIZE + word_at(table + size - 8) * PROOF_TABLE;
	for (; size >= 8; table += 8, size -= 8, factor += PROOF_STEP)
		sum += word_at(table) * factor;
	for (; size > 0; table++, size--, factor += PROOF_STEP)
		sum += *table * factor;
	return sum;
}

/* ---- lines */

/* Source: Objects/lnotab_notes.txt and Objects/codeobject.c, advance(), of 3.10: pairs of {bytes, signed lines}; -128: none. */
uint32_t frames_line_by_deltas(const unsigned char *table, size_t size, uint32_t first_line, int32_t offset)
{
	int64_t line = first_line, end = 0;

	if (offset < 0)
		return first_line;
	for (size_t i = 0; i + 1 < size; i += 2) {
		int lines = table[i + 1] < 128 ? table[i + 1] : table[i + 1] - 256;

		end += table[i];
		if (lines != -128)
			line += lines;
		if (offset < end)
			return lines == -128 || line < 0 ? 0 : (uint32_t)line;
	}
	return 0;
}

/* A number in groups of six bits, lowest first, bit 6: more follow; its lowest bit is the sign. */
static int32_t signed_number_at(const unsigned char *table, size_t size, size_t at)
{
	uint32_t number = 0;

	for (unsigned shift = 0; at < size && shift < 30; shift += 6, at++) {
		number |= (uint32_t)(table[at] & 0x3f) << shift;
		if (!(table[at] & 0x40))
			break;
	}
	return number & 1 ? -(int32_t)(number >> 1) : (int32_t)(number >> 1);
}

/* Source: Objects/locations.md of 3.11 and Include/internal/pycore_code.h, enum _PyCodeLocationInfoKind. */
uint32_t frames_line_by_locations(const unsigned char *table, size_t size, uint32_t first_line, int32_t offset)
{
	enum { ONE_LINE_FIRST = 10, ONE_LINE_LAST = 12, NO_COLUMNS = 13, LONG = 14, NONE = 15 };
	int64_t line = first_line, end = 0;

	if (offset < 0)
		return first_line;
	for (size_t i = 0; i < size;) {
		unsigned kind = (table[i] >> 3) & 15u;

		end += ((table[i] & 7) + 1) * CODE_UNIT;
		if (kind >= ONE_LINE_FIRST && kind <= ONE_LINE_LAST)
			line += kind - ONE_LINE_FIRST;
		else if (kind == NO_COLUMNS || kind == LONG)
			line += signed_number_at(table, size, i + 1);
		if (offset < end)
			return kind == NONE || line < 0 ? 0 : (uint32_t)line;
		do
			i++;
		while (i < size && !(table[i] & 0x80));
	}
	return 0;
}

uint32_t frames_line(const struct frames_layout *layout, const struct frames_mark *mark)
{
	size_t size;
	const unsigned char *table = table_of(layout, mark->code, &size);
	uint32_t first_line = first_line_of(layout, mark->code);

	return layout->minor == 10 ? frames_line_by_deltas(table, size, first_line, mark->offset)
	                           : frames_line_by_locations(table, size, first_line, mark->offset);
}

/* ---- names */

static size_t put_character(uint32_t c, char *ret, size_t room)
{
	size_t length = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

	if (length > room)
		return 0;
	if (length == 1) {
		ret[0] = (char)c;
		return 1;
	}
	for (size_t i = length - 1; i > 0; i--, c >>= 6)
		ret[i] = (char)(0x80 | (c & 0x3f));
	ret[0] = (char)(c | (0xf00u >> length & 0xff));
	return length;
}

static uint32_t character_at(const char *characters, unsigned kind, size_t index)
{
	uint32_t c = 0;

	memcpy(&c, characters + index * kind, kind);
	return c >= 0xd800 && c < 0xe000 ? 0xfffd : c; /* a surrogate: a byte that was no UTF-8 */
}

/* @text is a str; all that code objects hold are compact. */
static size_t copy_text(const struct frames_layout *layout, const char *text, char *ret, size_t size)
{
	size_t length, used = 0;
	uint32_t state;
	unsigned kind;

	ret[0] = '\0';
	if (!text)
		return 0;
	memcpy(&state, text + layout->text_state, sizeof(state));
	memcpy(&length, text + layout->text_length, sizeof(length));
	kind = TEXT_KIND(state);
	if (!(state & TEXT_COMPACT) || length > MAX_TEXT || (kind != 1 && kind != 2 && kind != 4))
		return 0;
	text += state & TEXT_ASCII ? layout->text_ascii : layout->text_other;
	for (size_t i = 0; i < length; i++) {
		uint32_t c = character_at(text, kind, i);
		size_t put = put_character(c ? c : ' ', ret + used, size - 1 - used);

		if (!put)
			break;
		used += put;
	}
	ret[used] = '\0';
	return used;
}

size_t frames_file(const struct frames_layout *layout, const char *code, char *ret, size_t size)
{
	return copy_text(layout, pointer_at(code, layout->code_filename), ret, size);
}

size_t frames_function(const struct frames_layout *layout, const char *code, char *ret, size_t size)
{
	return copy_text(layout, pointer_at(code, layout->code_name), ret, size);
}

/* ---- the self-test */

static bool text_is(const struct frames_layout *layout, const char *text, const char *wanted)
{
	char copy[MAX_TEXT];

	if (!wanted)
		return true;
	copy_text(layout, text, copy, sizeof(copy));
	return strncmp(copy, wanted, sizeof(copy) - 4) == 0 || strlen(wanted) >= sizeof(copy) - 4;
}

static bool code_is(const struct frames_layout *layout, const struct frames_mark *mark, const struct frames_fact *fact)
{
	const char *code = mark->code;

	/* First what can be compared without following it: the objects are those that Python names. */
	if (code != fact->code || pointer_at(code, layout->code_filename) != fact->filename ||
	    pointer_at(code, layout->code_name) != fact->name || pointer_at(code, layout->code_linetable) != fact->linetable ||
	    first_line_of(layout, code) != fact->first_line)
		return false;
	return frames_line(layout, mark) == fact->line && text_is(layout, fact->filename, fact->file) &&
	       text_is(layout, fact->name, fact->function);
}

bool frames_check(const struct frames_layout *layout, const void *thread, const struct frames_fact *facts, uint32_t nr_facts)
{
	struct frames_mark careful[FRAMES_MAX], plain[FRAMES_MAX];
	bool cut;
	int nr = frames_walk_carefully(layout, thread, careful, &cut);

	if (nr <= 0 || (uint32_t)nr != nr_facts || (cut && nr_facts != FRAMES_MAX))
		return false;
	for (uint32_t i = 0; i < nr_facts; i++)
		if (!code_is(layout, &careful[i], &facts[i]))
			return false;
	if (frames_walk(layout, thread, plain, &cut) != nr_facts)
		return false;
	for (uint32_t i = 0; i < nr_facts; i++)
		if (plain[i].code != careful[i].code || plain[i].offset != careful[i].offset)
			return false;
	return true;
}
