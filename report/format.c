/* Numbers, names and tables for people: see format.h. */
#include "report/format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

static const struct unit binary_units[] = {
        {"bytes", 1},
        {"KiB", UINT64_C(1) << 10},
        {"MiB", UINT64_C(1) << 20},
        {"GiB", UINT64_C(1) << 30},
        {"TiB", UINT64_C(1) << 40},
};

static const struct unit decimal_units[] = {
        {"bytes", 1},
        {"kB", UINT64_C(1000)},
        {"MB", UINT64_C(1000000)},
        {"GB", UINT64_C(1000000000)},
        {"TB", UINT64_C(1000000000000)},
};

struct unit unit_for(enum unit_system system, uint64_t bytes)
{
	const struct unit *units = system == UNITS_DECIMAL ? decimal_units : binary_units;
	size_t i = 0;

	if (system != UNITS_EXACT)
		while (i + 1 < sizeof(binary_units) / sizeof(binary_units[0]) && bytes >= units[i + 1].bytes)
			i++;
	return units[i];
}

struct unit unit_for_table(enum unit_system system, uint64_t largest_bytes)
{
	return unit_for(system, largest_bytes / 10);
}

char *format_count(uint64_t count, char ret[FORMAT_MAX])
{
	char digits[24];
	int length = snprintf(digits, sizeof(digits), "%" PRIu64, count);
	char *to = ret;

	for (int i = 0; i < length; i++) {
		if (i > 0 && (length - i) % 3 == 0)
			*to++ = ' ';
		*to++ = digits[i];
	}
	*to = '\0';
	return ret;
}

char *format_delta(int64_t count, char ret[FORMAT_MAX])
{
	char digits[FORMAT_MAX];
	uint64_t magnitude = count < 0 ? -(uint64_t)count : (uint64_t)count;

	snprintf(ret, FORMAT_MAX, "%s%.30s", count > 0 ? "+" : count < 0 ? "-" : "", format_count(magnitude, digits));
	return ret;
}

char *format_in_unit(struct unit unit, uint64_t bytes, char ret[FORMAT_MAX])
{
	uint64_t whole = bytes / unit.bytes;
	uint64_t tenths = 0;
	char digits[FORMAT_MAX];

	if (bytes == 0 || unit.bytes == 1)
		return format_count(bytes, ret);
	/* Rounded half up in integers; the remainder is below 2^40, so nothing overflows. */
	tenths = (bytes % unit.bytes * 10 + unit.bytes / 2) / unit.bytes;
	if (tenths == 10) {
		whole++;
		tenths = 0;
	}
	if (whole == 0 && tenths == 0)
		snprintf(ret, FORMAT_MAX, "<0.1");
	else
		snprintf(ret, FORMAT_MAX, "%.30s.%u", format_count(whole, digits), (unsigned)tenths);
	return ret;
}

char *format_bytes(enum unit_system system, uint64_t bytes, char ret[FORMAT_MAX])
{
	struct unit unit = unit_for(system, bytes);
	char number[FORMAT_MAX];

	if (unit.bytes == 1 && bytes == 1)
		snprintf(ret, FORMAT_MAX, "1 byte");
	else
		snprintf(ret, FORMAT_MAX, "%.30s %s", format_in_unit(unit, bytes, number), unit.name);
	return ret;
}

char *format_duration(uint64_t duration_ns, char ret[FORMAT_MAX])
{
	uint64_t seconds = duration_ns / 1000000000u;

	if (duration_ns < 1000000u)
		snprintf(ret, FORMAT_MAX, "%u us", (unsigned)(duration_ns / 1000u));
	else if (duration_ns < 1000000000u)
		snprintf(ret, FORMAT_MAX, "%u ms", (unsigned)(duration_ns / 1000000u));
	else if (seconds < 60)
		snprintf(ret, FORMAT_MAX, "%u.%02u s", (unsigned)seconds, (unsigned)(duration_ns / 10000000u % 100));
	else if (seconds < 3600)
		snprintf(ret, FORMAT_MAX, "%u min %02u s", (unsigned)(seconds / 60), (unsigned)(seconds % 60));
	else
		snprintf(ret, FORMAT_MAX, "%" PRIu64 " h %02u min", seconds / 3600, (unsigned)(seconds / 60 % 60));
	return ret;
}

char *format_share(uint64_t part, uint64_t whole, char ret[FORMAT_MAX])
{
	unsigned percent;

	if (whole == 0) {
		snprintf(ret, FORMAT_MAX, "-");
		return ret;
	}
	percent = (unsigned)((double)part * 100.0 / (double)whole + 0.5);
	if (percent == 0 && part > 0)
		snprintf(ret, FORMAT_MAX, "<1 %%");
	else
		snprintf(ret, FORMAT_MAX, "%u %%", percent);
	return ret;
}

/* ---- names */

/* Decode one character of @text.  Returns its bytes, or 0 when they are not UTF-8 (RFC 3629: shortest form, no surrogates). */
static size_t decode(const char *text, uint32_t *ret_code)
{
	const unsigned char *byte = (const unsigned char *)text;
	static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t length = byte[0] < 0x80 ? 1 : byte[0] >= 0xf0 ? 4 : byte[0] >= 0xe0 ? 3 : 2;
	uint32_t code = byte[0];

	if (length > 1) {
		if (byte[0] < 0xc2 || byte[0] > 0xf4)
			return 0;
		code = byte[0] & (0xffu >> (length + 1));
		for (size_t i = 1; i < length; i++) {
			if ((byte[i] & 0xc0) != 0x80)
				return 0;
			code = code << 6 | (byte[i] & 0x3f);
		}
		if (code < smallest[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
			return 0;
	}
	*ret_code = code;
	return length;
}

/*
 * Whether a character could do more than stand there: controls, and the marks that hide text or turn its direction.
 * Source: Unicode 15, general categories Cc, Zl, Zp and the bidirectional controls of UAX 9.
 */
static bool is_steering(uint32_t code)
{
	return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x061c || (code >= 0x200b && code <= 0x200f) ||
	       (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) || code == 0xfeff ||
	       (code >= 0xfff9 && code <= 0xfffb) || (code >= 0xe0000 && code <= 0xe007f);
}

char *text_clean(const char *raw, bool utf8, char *ret, size_t ret_size)
{
	char *to = ret;
	char *end = ret + ret_size - 1;

	while (*raw) {
		uint32_t code = 0;
		size_t length = decode(raw, &code);
		char escaped[16] = "";
		const char *piece = raw;
		size_t piece_length = length;

		if (length == 0)
			snprintf(escaped, sizeof(escaped), "\\x%02x", (unsigned char)*raw);
		else if (is_steering(code) || (code >= 0x80 && !utf8))
			snprintf(escaped, sizeof(escaped), code < 0x80 ? "\\x%02x" : "\\u%04x", code);
		if (*escaped) {
			piece = escaped;
			piece_length = strlen(escaped);
		}
		if (piece_length > (size_t)(end - to))
			break;
		memcpy(to, piece, piece_length);
		to += piece_length;
		raw += length ? length : 1;
	}
	*to = '\0';
	return ret;
}

char *text_make_valid(const char *raw, char *ret, size_t ret_size)
{
	char *to = ret;
	char *end = ret + ret_size - 1;

	while (*raw) {
		uint32_t code;
		size_t length = decode(raw, &code);
		const char *piece = length ? raw : "\xef\xbf\xbd";
		size_t piece_length = length ? length : 3;

		if (piece_length > (size_t)(end - to))
			break;
		memcpy(to, piece, piece_length);
		to += piece_length;
		raw += length ? length : 1;
	}
	*to = '\0';
	return ret;
}

size_t text_next_character(const char *text, size_t *ret_columns)
{
	uint32_t code = 0;
	size_t length = decode(text, &code);
	int columns;

	if (length == 0) {
		*ret_columns = 1;
		return 1;
	}
	columns = code < 0x80 ? 1 : wcwidth((wchar_t)code); /* glibc: wchar_t is Unicode in every locale */
	*ret_columns = columns < 0 ? 1 : (size_t)columns;
	return length;
}

size_t text_width(const char *text)
{
	size_t width = 0;

	while (*text) {
		size_t columns;

		text += text_next_character(text, &columns);
		width += columns;
	}
	return width;
}

/* ---- styles */

static const char *const style_sequences[NR_STYLES] = {
        [STYLE_PLAIN] = "",
        [STYLE_STRONG] = "\033[1m",
        [STYLE_FAINT] = "\033[2m",
        [STYLE_BAD] = "\033[1;31m",
        [STYLE_PHASE + 0] = "\033[36m", /* static */
        [STYLE_PHASE + 1] = "\033[34m", /* forward */
        [STYLE_PHASE + 2] = "\033[35m", /* backward */
        [STYLE_PHASE + 3] = "\033[33m", /* optimizer */
        [STYLE_PHASE + 4] = "\033[32m", /* inference */
        [STYLE_PHASE + 5] = "\033[2m",  /* other */
};

const char *style_begin(enum style style, bool colour)
{
	return colour && style < NR_STYLES ? style_sequences[style] : "";
}

const char *style_end(enum style style, bool colour)
{
	return colour && style != STYLE_PLAIN ? "\033[0m" : "";
}
