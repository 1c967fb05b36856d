/*
 * Cells of comma-separated values (RFC 4180) that a spreadsheet takes for what they are.
 *
 * A text that a spreadsheet would calculate (it begins with = + - @ or a control character, blanks aside) gets an apostrophe
 * before it; control characters and invalid UTF-8 become `\x1b`; whatever could end a cell, in any dialect, is in quotes.
 */
#ifndef NNMEM_REPORT_CSV_H
#define NNMEM_REPORT_CSV_H

#include <stdint.h>
#include <stdio.h>

#define CSV_LINE_END "\r\n"

/* @raw in UTF-8 or not; NULL: an empty cell.  Returns 0, -ENOMEM; what writing says is in ferror(@out). */
int csv_print_text(FILE *out, const char *raw);

#endif
