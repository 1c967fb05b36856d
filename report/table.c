/* Tables for people: see table.h. */
#include "report/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct row {
	enum style style;
	size_t nr_cells;
	char **cells; /* nr_columns of the table, NULL: empty */
};

struct table {
	const struct column *columns;
	size_t nr_columns;
	struct row *rows;
	size_t nr_rows, room_rows;
	int error;
};

#define COLUMN_GAP   2u
#define FLEXIBLE_MIN 12u

struct table *table_new(const struct column *columns, size_t nr_columns)
{
	struct table *table = calloc(1, sizeof(*table));

	if (table) {
		table->columns = columns;
		table->nr_columns = nr_columns;
	}
	return table;
}

void table_free(struct table *table)
{
	if (!table)
		return;
	for (size_t i = 0; i < table->nr_rows; i++) {
		for (size_t j = 0; table->rows[i].cells && j < table->nr_columns; j++)
			free(table->rows[i].cells[j]);
		free(table->rows[i].cells);
	}
	free(table->rows);
	free(table);
}

void table_row(struct table *table, enum style style)
{
	struct row *row;

	if (!table || table->error)
		return;
	if (table->nr_rows == table->room_rows) {
		size_t room = table->room_rows ? table->room_rows * 2 : 32;
		struct row *rows = realloc(table->rows, room * sizeof(*rows));

		if (!rows) {
			table->error = -ENOMEM;
			return;
		}
		table->rows = rows;
		table->room_rows = room;
	}
	row = &table->rows[table->nr_rows];
	*row = (struct row){.style = style, .cells = calloc(table->nr_columns, sizeof(char *))};
	if (!row->cells)
		table->error = -ENOMEM;
	else
		table->nr_rows++;
}

void table_cell(struct table *table, const char *text)
{
	struct row *row;

	if (!table || table->error || table->nr_rows == 0)
		return;
	row = &table->rows[table->nr_rows - 1];
	if (row->nr_cells == table->nr_columns)
		return;
	row->cells[row->nr_cells] = strdup(text);
	if (!row->cells[row->nr_cells++])
		table->error = -ENOMEM;
}

static void print_blanks(FILE *out, size_t count)
{
	if (count)
		fprintf(out, "%*s", (int)count, "");
}

/* Print @text in exactly @width columns, a part of it replaced by dots when it is longer. */
static void print_cell(FILE *out, const char *text, size_t width, bool right, enum cut cut, bool utf8)
{
	size_t needed = text_width(text);
	const char *dots = utf8 ? "\xe2\x80\xa6" : "~";
	size_t indent, head, used = 0;

	if (needed <= width) {
		if (right)
			print_blanks(out, width - needed);
		fputs(text, out);
		if (!right)
			print_blanks(out, width - needed);
		return;
	}
	/* An indented name stays where it is in its tree. */
	indent = strspn(text, " ");
	indent = indent < width ? indent : 0;
	head = cut == CUT_START ? indent : cut == CUT_END ? width - 1 : indent + (width - indent - 1) / 2;
	while (*text) {
		size_t columns;
		size_t length = text_next_character(text, &columns);

		if (used + columns > head)
			break;
		fwrite(text, 1, length, out);
		text += length;
		used += columns;
		needed -= columns;
	}
	fputs(dots, out);
	used++;
	while (*text && needed > width - used) {
		size_t columns;

		text += text_next_character(text, &columns);
		needed -= columns;
	}
	fputs(text, out);
	print_blanks(out, width - used - needed);
}

static void print_row(const struct table *table, const char *const *cells, const size_t *widths, FILE *out, bool utf8)
{
	size_t last = 0;

	for (size_t j = 0; j < table->nr_columns; j++)
		if (cells[j] && *cells[j])
			last = j;
	for (size_t j = 0; j <= last; j++) {
		const char *text = cells[j] ? cells[j] : "";
		bool right = table->columns[j].right;

		if (j > 0)
			print_blanks(out, COLUMN_GAP);
		/* Nothing pads the end of a line. */
		if (j == last && !right && text_width(text) <= widths[j])
			fputs(text, out);
		else
			print_cell(out, text, widths[j], right, table->columns[j].cut, utf8);
	}
}

/* Narrow the flexible columns, the widest first, until the line fits or all are at their least. */
static void fit(const struct table *table, size_t *widths, unsigned width)
{
	size_t total = 0;

	for (size_t j = 0; j < table->nr_columns; j++)
		total += widths[j] + (j > 0 ? COLUMN_GAP : 0);
	while (total > width) {
		size_t widest = table->nr_columns;

		for (size_t j = 0; j < table->nr_columns; j++)
			if (table->columns[j].flexible && widths[j] > FLEXIBLE_MIN &&
			    (widest == table->nr_columns || widths[j] > widths[widest]))
				widest = j;
		if (widest == table->nr_columns)
			return;
		widths[widest]--;
		total--;
	}
}

int table_print(struct table *table, FILE *out, unsigned width, bool utf8, bool colour)
{
	const char **headings;
	size_t *widths;
	bool headed = false;

	if (!table || table->error)
		return table ? table->error : -ENOMEM;
	widths = calloc(table->nr_columns, sizeof(*widths));
	headings = calloc(table->nr_columns, sizeof(*headings));
	if (!widths || !headings) {
		free(widths);
		free(headings);
		return -ENOMEM;
	}
	for (size_t j = 0; j < table->nr_columns; j++) {
		headings[j] = table->columns[j].heading;
		headed |= headings[j] && *headings[j];
		widths[j] = headings[j] ? text_width(headings[j]) : 0;
		for (size_t i = 0; i < table->nr_rows; i++) {
			size_t needed = table->rows[i].cells[j] ? text_width(table->rows[i].cells[j]) : 0;

			if (needed > widths[j])
				widths[j] = needed;
		}
	}
	if (width)
		fit(table, widths, width);
	if (headed) {
		fputs(style_begin(STYLE_STRONG, colour), out);
		print_row(table, headings, widths, out, utf8);
		fprintf(out, "%s\n", style_end(STYLE_STRONG, colour));
	}
	for (size_t i = 0; i < table->nr_rows; i++) {
		enum style style = table->rows[i].style;

		fputs(style_begin(style, colour), out);
		print_row(table, (const char *const *)table->rows[i].cells, widths, out, utf8);
		fprintf(out, "%s\n", style_end(style, colour));
	}
	free(widths);
	free(headings);
	return 0;
}

/* Every character that markdown or HTML could take for its own is escaped; leading blanks, which it drops, are kept. */
static void print_markdown_cell(FILE *out, const char *text)
{
	for (; *text == ' '; text++)
		fputs("&nbsp;", out);
	for (; *text; text++) {
		if (strchr("\\`*_{}[]<>#|~&!$", *text))
			putc('\\', out);
		putc(*text, out);
	}
}

int table_print_markdown(struct table *table, FILE *out)
{
	if (!table || table->error)
		return table ? table->error : -ENOMEM;
	for (size_t j = 0; j < table->nr_columns; j++) {
		fputs(j ? " | " : "| ", out);
		print_markdown_cell(out, table->columns[j].heading ? table->columns[j].heading : "");
	}
	fputs(" |\n", out);
	for (size_t j = 0; j < table->nr_columns; j++)
		fputs(table->columns[j].right ? "|---:" : "|---", out);
	fputs("|\n", out);
	for (size_t i = 0; i < table->nr_rows; i++) {
		for (size_t j = 0; j < table->nr_columns; j++) {
			const char *text = table->rows[i].cells[j];
			bool strong = table->rows[i].style == STYLE_STRONG && text && *text;

			fprintf(out, "%s%s", j ? " | " : "| ", strong ? "**" : "");
			print_markdown_cell(out, text ? text : "");
			fputs(strong ? "**" : "", out);
		}
		fputs(" |\n", out);
	}
	return 0;
}
