/* Rows of a view in every format: see rows.h. */
#include "report/rows.h"

#include "report/csv.h"
#include "report/view.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct cell {
	bool known, dash;
	uint64_t number; /* two's complement where signed */
	char *text;      /* as it came from the file; owned */
};

/* A row that is kept for people. */
struct kept_row {
	enum style style;
	struct cell *cells; /* nr_columns of the kind */
};

struct rows {
	struct report *report;
	const struct row_kind *kind;
	struct cell *cells; /* of the row being filled */
	size_t next;        /* the column that is probably filled next */
	bool begun, for_people;
	enum style style;

	struct kept_row *kept;
	size_t nr_kept, room_kept;
	bool has_unit;
	struct unit unit;
	const char *unit_column; /* whose heading names the unit, NULL: none */
	char unit_heading[64];
	int error;
};

static bool is_for_programs(const struct row_column *column)
{
	return !(column->flags & COLUMN_FOR_PEOPLE);
}

static void clear_cells(struct cell *cells, size_t nr)
{
	for (size_t i = 0; cells && i < nr; i++) {
		free(cells[i].text);
		cells[i] = (struct cell){0};
	}
}

struct rows *rows_new(struct report *report, const struct row_kind *kind)
{
	struct rows *rows = calloc(1, sizeof(*rows));

	if (!rows)
		return NULL;
	rows->report = report;
	rows->kind = kind;
	rows->cells = calloc(kind->nr_columns, sizeof(*rows->cells));
	if (!rows->cells)
		rows->error = -ENOMEM;
	return rows;
}

void rows_set_unit(struct rows *rows, struct unit unit)
{
	if (!rows)
		return;
	rows->has_unit = true;
	rows->unit = unit;
}

void rows_name_unit(struct rows *rows, const char *column)
{
	if (rows)
		rows->unit_column = column;
}

static void begin(struct rows *rows, bool for_people, enum style style)
{
	if (!rows)
		return;
	clear_cells(rows->cells, rows->kind->nr_columns);
	rows->next = 0;
	rows->begun = true;
	rows->for_people = for_people;
	rows->style = style;
}

void row_begin(struct rows *rows)
{
	begin(rows, false, STYLE_PLAIN);
}

void row_begin_for_people(struct rows *rows, enum style style)
{
	begin(rows, true, style);
}

/* The cell of @column in the row that is being filled; NULL after an error. */
static struct cell *cell_of(struct rows *rows, const char *column)
{
	size_t nr_columns;

	if (!rows || !rows->cells || !rows->begun)
		return NULL;
	nr_columns = rows->kind->nr_columns;
	for (size_t i = 0; i < nr_columns; i++) {
		size_t at = (rows->next + i) % nr_columns;

		if (strcmp(rows->kind->columns[at].name, column))
			continue;
		rows->next = (at + 1) % nr_columns;
		rows->cells[at].known = true;
		return &rows->cells[at];
	}
	/* A view that names a column that its kind has not: our own mistake, which the first test of the view shows. */
	rows->error = rows->error ? rows->error : -EINVAL;
	return NULL;
}

void row_text(struct rows *rows, const char *column, const char *raw)
{
	struct cell *cell = raw ? cell_of(rows, column) : NULL;

	if (!cell)
		return;
	free(cell->text);
	cell->text = strdup(raw);
	if (!cell->text)
		rows->error = -ENOMEM;
}

void row_textf(struct rows *rows, const char *column, const char *format, ...)
{
	char text[SAFE_TEXT_MAX];
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	row_text(rows, column, text);
}

void row_count(struct rows *rows, const char *column, uint64_t value)
{
	struct cell *cell = cell_of(rows, column);

	if (cell)
		cell->number = value;
}

void row_delta(struct rows *rows, const char *column, int64_t value)
{
	row_count(rows, column, (uint64_t)value);
}

void row_unknown(struct rows *rows, const char *column)
{
	struct cell *cell = cell_of(rows, column);

	if (cell) {
		cell->known = false;
		cell->dash = true;
	}
}

void row_bool(struct rows *rows, const char *column, bool value)
{
	row_count(rows, column, value);
}

void row_share(struct rows *rows, const char *column, uint64_t part, uint64_t whole)
{
	format_buffer share;

	row_text(rows, column, format_share(part, whole, share));
}

/* ---- programs */

static int write_json(struct rows *rows)
{
	struct json_rows *json = &rows->report->rows;

	json_row_begin(json, rows->kind->name);
	for (size_t i = 0; i < rows->kind->nr_columns; i++) {
		const struct row_column *column = &rows->kind->columns[i];
		const struct cell *cell = &rows->cells[i];

		if (!is_for_programs(column))
			continue;
		if (!cell->known)
			json_row_null(json, column->name);
		else if (column->type == COLUMN_TEXT)
			json_row_text(json, column->name, cell->text);
		else if (column->type == COLUMN_DELTA)
			json_row_delta(json, column->name, (int64_t)cell->number);
		else if (column->type == COLUMN_BOOL)
			json_row_bool(json, column->name, cell->number != 0);
		else
			json_row_count(json, column->name, cell->number);
	}
	return json_row_end(json);
}

/*
 * Call @each for every column that CSV has, in order: those of all kinds of the view, each name once.  @each returns
 * non-zero to stop.
 */
static int each_csv_column(const struct report_view *view, int (*each)(const struct row_column *column, void *arg), void *arg)
{
	int stopped = 0;

	for (size_t k = 0; view->kinds[k]; k++) {
		const struct row_kind *kind = view->kinds[k];

		for (size_t i = 0; i < kind->nr_columns && !stopped; i++) {
			bool seen = !is_for_programs(&kind->columns[i]);

			for (size_t before = 0; before < k && !seen; before++)
				for (size_t j = 0; j < view->kinds[before]->nr_columns && !seen; j++)
					seen = is_for_programs(&view->kinds[before]->columns[j]) &&
					       !strcmp(view->kinds[before]->columns[j].name, kind->columns[i].name);
			if (!seen)
				stopped = each(&kind->columns[i], arg);
		}
	}
	return stopped;
}

struct csv_line {
	FILE *out;
	struct rows *rows; /* NULL: the heading */
	bool begun;
	int error;
};

static int print_csv_cell(const struct row_column *column, void *arg)
{
	struct csv_line *line = arg;
	struct rows *rows = line->rows;

	if (line->begun)
		putc(',', line->out);
	line->begun = true;
	if (!rows) {
		fputs(column->name, line->out);
		return 0;
	}
	for (size_t i = 0; i < rows->kind->nr_columns; i++) {
		const struct row_column *own = &rows->kind->columns[i];
		const struct cell *cell = &rows->cells[i];

		if (!is_for_programs(own) || strcmp(own->name, column->name) || !cell->known)
			continue;
		if (own->type == COLUMN_TEXT)
			line->error = csv_print_text(line->out, cell->text);
		else if (own->type == COLUMN_DELTA)
			fprintf(line->out, "%" PRId64, (int64_t)cell->number);
		else if (own->type == COLUMN_BOOL)
			fputs(cell->number ? "true" : "false", line->out);
		else
			fprintf(line->out, "%" PRIu64, cell->number);
		break;
	}
	return line->error;
}

static int write_csv_line(struct report *report, struct rows *rows)
{
	const struct report_view *view = report->arguments->view;
	struct csv_line line = {.out = report->out, .rows = rows};

	if (view->kinds[0] && view->kinds[1]) {
		fputs(rows ? rows->kind->name : "row", line.out);
		line.begun = true;
	}
	each_csv_column(view, print_csv_cell, &line);
	fputs(CSV_LINE_END, line.out);
	return line.error ? line.error : report_check(report);
}

int rows_print_csv_heading(struct report *report)
{
	return write_csv_line(report, NULL);
}

/* ---- people */

static void keep_row(struct rows *rows)
{
	struct kept_row *row;

	if (rows->nr_kept == rows->room_kept) {
		size_t room = rows->room_kept ? rows->room_kept * 2 : 32;
		struct kept_row *kept = realloc(rows->kept, room * sizeof(*kept));

		if (!kept) {
			rows->error = -ENOMEM;
			return;
		}
		rows->kept = kept;
		rows->room_kept = room;
	}
	row = &rows->kept[rows->nr_kept];
	*row = (struct kept_row){.style = rows->style, .cells = rows->cells};
	rows->cells = calloc(rows->kind->nr_columns, sizeof(*rows->cells));
	if (!rows->cells)
		rows->error = -ENOMEM;
	rows->nr_kept++;
}

static struct unit unit_of(const struct rows *rows)
{
	uint64_t largest = 0;

	if (rows->has_unit)
		return rows->unit;
	for (size_t i = 0; i < rows->nr_kept; i++)
		for (size_t j = 0; j < rows->kind->nr_columns; j++)
			if (rows->kind->columns[j].type == COLUMN_BYTES && rows->kept[i].cells[j].number > largest)
				largest = rows->kept[i].cells[j].number;
	return unit_for_table(rows->report->arguments->units, largest);
}

static bool is_shown(const struct rows *rows, size_t j)
{
	const struct row_column *column = &rows->kind->columns[j];
	const struct report *report = rows->report;

	if (!column->heading)
		return false;
	if (column->from_width && report->table_width && report->table_width < column->from_width)
		return false;
	if (!(column->flags & COLUMN_IF_ANY))
		return true;
	for (size_t i = 0; i < rows->nr_kept; i++) {
		const struct cell *cell = &rows->kept[i].cells[j];

		if (cell->known && (column->type == COLUMN_TEXT ? *cell->text != '\0' : cell->number != 0))
			return true;
	}
	return false;
}

static const char *cell_words(struct rows *rows, const struct row_column *column, const struct cell *cell, char ret[FORMAT_MAX])
{
	if (!cell->known)
		return cell->dash ? "-" : "";
	switch (column->type) {
	case COLUMN_TEXT:
		return report_safe(rows->report, cell->text);
	case COLUMN_BYTES:
		return format_in_unit(rows->unit, cell->number, ret);
	case COLUMN_EXACT:
	case COLUMN_COUNT:
		return format_count(cell->number, ret);
	case COLUMN_DELTA:
		return format_delta((int64_t)cell->number, ret);
	case COLUMN_DURATION:
		return format_duration(cell->number, ret);
	case COLUMN_BOOL:
		return cell->number ? "yes" : "no";
	case COLUMN_NUMBER:
		break;
	}
	snprintf(ret, FORMAT_MAX, "%" PRIu64, cell->number);
	return ret;
}

static const char *heading_of(struct rows *rows, const struct row_column *column)
{
	if (!strcmp(column->heading, "%"))
		return rows->unit.name;
	if (!rows->unit_column || strcmp(column->name, rows->unit_column) != 0)
		return column->heading;
	snprintf(rows->unit_heading, sizeof(rows->unit_heading), "%s, %s", column->heading, rows->unit.name);
	return rows->unit_heading;
}

static int print_for_people(struct rows *rows)
{
	struct report *report = rows->report;
	size_t nr_columns = rows->kind->nr_columns, nr_shown = 0;
	struct column *shown = calloc(nr_columns, sizeof(*shown));
	size_t *source = calloc(nr_columns, sizeof(*source));
	struct table *table = NULL;
	format_buffer number;
	int error = shown && source ? 0 : -ENOMEM;

	rows->unit = unit_of(rows);
	for (size_t j = 0; j < nr_columns && !error; j++) {
		const struct row_column *column = &rows->kind->columns[j];

		if (!is_shown(rows, j))
			continue;
		source[nr_shown] = j;
		shown[nr_shown++] = (struct column){
		        .heading = heading_of(rows, column),
		        .right = column->type != COLUMN_TEXT || (column->flags & COLUMN_RIGHT),
		        .flexible = column->flags & (COLUMN_FLEXIBLE | COLUMN_CUT_START | COLUMN_CUT_END),
		        .cut = column->flags & COLUMN_CUT_START ? CUT_START
		               : column->flags & COLUMN_CUT_END ? CUT_END
		                                                : CUT_MIDDLE,
		};
	}
	if (!error)
		table = table_new(shown, nr_shown);
	for (size_t i = 0; i < rows->nr_kept && !error; i++) {
		table_row(table, rows->kept[i].style);
		for (size_t j = 0; j < nr_shown; j++)
			table_cell(table,
			           cell_words(rows, &rows->kind->columns[source[j]], &rows->kept[i].cells[source[j]], number));
	}
	if (!error)
		error = report_print_table(report, table);
	table_free(table);
	free(source);
	free(shown);
	return error;
}

/* ---- all */

int row_end(struct rows *rows)
{
	if (!rows)
		return -ENOMEM;
	if (rows->error || !rows->begun)
		return rows->error;
	rows->begun = false;
	if (report_is_for_people(rows->report)) {
		keep_row(rows);
	} else if (!rows->for_people) {
		if (rows->report->arguments->format == FORMAT_JSON)
			rows->error = write_json(rows);
		else
			rows->error = write_csv_line(rows->report, rows);
	}
	return rows->error;
}

int rows_close(struct rows *rows, int error)
{
	if (!rows)
		return error ? error : -ENOMEM;
	if (!error)
		error = rows->error;
	if (!error && report_is_for_people(rows->report))
		error = print_for_people(rows);
	for (size_t i = 0; i < rows->nr_kept; i++) {
		clear_cells(rows->kept[i].cells, rows->kind->nr_columns);
		free(rows->kept[i].cells);
	}
	free(rows->kept);
	clear_cells(rows->cells, rows->kind->nr_columns);
	free(rows->cells);
	free(rows);
	return error;
}
