/*
 * How numbers and names look to people: sizes, counts, durations, names from a file.
 *
 * Nothing here knows what a run file is.  A string that came from a file is hostile until text_clean() has seen it: no
 * control character, no invalid UTF-8 and no character that turns the direction of writing ever reaches a terminal.
 * Thread: one at a time.  Formatting functions fill and return the buffer that they are given.
 */
#ifndef NNMEM_REPORT_FORMAT_H
#define NNMEM_REPORT_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define FORMAT_MAX 48 /* the longest number has 26 characters */

enum unit_system {
	UNITS_BINARY = 0, /* KiB, MiB, GiB: powers of 1024 */
	UNITS_DECIMAL,    /* kB, MB, GB: powers of 1000 */
	UNITS_EXACT,      /* bytes */
};

/* One unit for a whole table, so that its rows can be compared. */
struct unit {
	const char *name; /* "MiB" */
	uint64_t bytes;   /* that make one; 1: exact */
};

/* The unit in which @bytes reads well. */
struct unit unit_for(enum unit_system system, uint64_t bytes);
/* The unit of a table whose largest value is @largest_bytes: finer, so that the small ones keep a digit or two. */
struct unit unit_for_table(enum unit_system system, uint64_t largest_bytes);

/* "18 531 608" */
char *format_count(uint64_t count, char ret[FORMAT_MAX]);
/* "+4 096", "-12", "0" */
char *format_delta(int64_t count, char ret[FORMAT_MAX]);
/* "17.7", without the unit's name; "<0.1" for what is too small to show, "0" for nothing */
char *format_in_unit(struct unit unit, uint64_t bytes, char ret[FORMAT_MAX]);
/* "17.7 MiB", "512 bytes" */
char *format_bytes(enum unit_system system, uint64_t bytes, char ret[FORMAT_MAX]);
/* "340 us", "12.3 s", "2 min 05 s", "3 h 20 min" */
char *format_duration(uint64_t duration_ns, char ret[FORMAT_MAX]);
/* @part of @whole: "64 %", "<1 %"; "-" of nothing */
char *format_share(uint64_t part, uint64_t whole, char ret[FORMAT_MAX]);

/*
 * Copy @raw to @ret so that it can be printed: what could steer a terminal becomes `\x1b` or `\u202e`, invalid UTF-8
 * `\xff`, and without @utf8 everything that is not ASCII too.  Cut at a whole character when @ret_size is too small.
 */
char *text_clean(const char *raw, bool utf8, char *ret, size_t ret_size);
/* The same for a file of another kind: only makes the UTF-8 valid (U+FFFD), keeps everything else. */
char *text_make_valid(const char *raw, char *ret, size_t ret_size);
/* Columns that clean text takes on a terminal. */
size_t text_width(const char *text);
/* The first character of clean text: its bytes, and its columns. */
size_t text_next_character(const char *text, size_t *ret_columns);

enum style {
	STYLE_PLAIN = 0,
	STYLE_STRONG, /* headings, totals */
	STYLE_FAINT,  /* what may be skipped */
	STYLE_BAD,    /* losses */
	STYLE_PHASE,  /* + enum record_phase */
	NR_STYLES = STYLE_PHASE + 6
};

/* The escape sequence that begins @style; style_end() ends any.  "" without colour. */
const char *style_begin(enum style style, bool colour);
const char *style_end(enum style style, bool colour);

#endif
