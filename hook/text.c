/* Text without stdio: see text.h. */
#define _GNU_SOURCE
#include "hook/text.h"

#include <stdbool.h>
#include <string.h>

struct line {
	char *buffer;
	size_t size, used;
};

static void put(struct line *line, const char *bytes, size_t nr_bytes)
{
	size_t room = line->size - 1 - line->used;

	if (nr_bytes > room)
		nr_bytes = room;
	memcpy(line->buffer + line->used, bytes, nr_bytes);
	line->used += nr_bytes;
}

static void put_number(struct line *line, unsigned long magnitude, bool negative)
{
	char digits[24];
	size_t first = sizeof(digits);

	do {
		digits[--first] = (char)('0' + magnitude % 10);
		magnitude /= 10;
	} while (magnitude);
	if (negative)
		digits[--first] = '-';
	put(line, digits + first, sizeof(digits) - first);
}

size_t text_vformat(char *buffer, size_t size, const char *format, va_list arguments)
{
	struct line line = {.buffer = buffer, .size = size};

	if (!size)
		return 0;
	while (*format) {
		const char *percent = strchrnul(format, '%');
		bool is_long = false;

		put(&line, format, (size_t)(percent - format));
		if (!*percent)
			break;
		format = percent + 1;
		if (*format == 'l' || *format == 'z') {
			is_long = true;
			format++;
		}
		switch (*format) {
		case 'd': {
			long value = is_long ? va_arg(arguments, long) : va_arg(arguments, int);

			put_number(&line, value < 0 ? -(unsigned long)value : (unsigned long)value, value < 0);
			break;
		}
		case 'u':
			put_number(&line, is_long ? va_arg(arguments, unsigned long) : va_arg(arguments, unsigned), false);
			break;
		case 's': {
			const char *string = va_arg(arguments, const char *);

			put(&line, string ? string : "(null)", strlen(string ? string : "(null)"));
			break;
		}
		case '\0':
			goto out;
		default:
			put(&line, format, 1);
		}
		format++;
	}
out:
	buffer[line.used] = '\0';
	return line.used;
}

size_t text_format(char *buffer, size_t size, const char *format, ...)
{
	va_list arguments;
	size_t used;

	va_start(arguments, format);
	used = text_vformat(buffer, size, format, arguments);
	va_end(arguments);
	return used;
}
