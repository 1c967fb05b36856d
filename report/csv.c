/* Comma-separated values: see csv.h. */
#include "report/csv.h"

#include "report/format.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Full-width forms count too: some spreadsheets read them as the plain ones. */
static bool is_calculated(const char *text)
{
	static const char *const wide[] = {"\xef\xbc\x9d", "\xef\xbc\x8b", "\xef\xbc\x8d", "\xef\xbc\xa0"};

	text += strspn(text, " ");
	if (*text && strchr("=+-@", *text))
		return true;
	for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++)
		if (!strncmp(text, wide[i], 3))
			return true;
	return false;
}

int csv_print_text(FILE *out, const char *raw)
{
	size_t size;
	char *clean;
	bool calculated, quoted;

	if (!raw)
		return 0;
	size = strlen(raw) * 6 + 1; /* at worst each two bytes become `\u202e` */
	clean = malloc(size);
	if (!clean)
		return -ENOMEM;
	text_clean(raw, true, clean, size);
	/* A text that began with a control character begins with its escape now, which nothing calculates. */
	calculated = is_calculated(clean);
	quoted = calculated || strpbrk(clean, ",;\"'|") || *clean == ' ' || (*clean && clean[strlen(clean) - 1] == ' ');
	if (quoted)
		putc('"', out);
	if (calculated)
		putc('\'', out);
	for (const char *at = clean; *at; at++) {
		if (*at == '"')
			putc('"', out);
		putc(*at, out);
	}
	if (quoted)
		putc('"', out);
	free(clean);
	return 0;
}
