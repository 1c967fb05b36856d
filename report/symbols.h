/*
 * Names for places in compiled code: the function, and the line where debug information tells it.
 *
 * The object's file is asked, if it is there and has the build id that was recorded, and its debug information, in the file or
 * under DEBUG/.build-id; where the file is gone or is another one, the latter alone.  What nothing is known of stays an object
 * and an address in it.  A file is opened only if it is an ordinary one; nothing is fetched from anywhere.
 *
 * Memory follows the objects that are asked about (their functions) and the places.  Not thread-safe.
 */
#ifndef NNMEM_REPORT_SYMBOLS_H
#define NNMEM_REPORT_SYMBOLS_H

#include <stddef.h>
#include <stdint.h>

/* Where distributions put debug information. */
#define SYMBOLS_DEBUG "/usr/lib/debug"

struct symbols;

/* A place in words; strings are valid until symbols_free(). */
struct symbol {
	const char *function; /* as C++ writes it, without arguments (symbol_name.h); NULL: not known */
	const char *file;     /* of the source; NULL: not known */
	uint64_t line;        /* in it: of the function itself, also where it is in one that was inlined; 0 not known */
};

/* @debug: SYMBOLS_DEBUG, or a test's.  Owner: caller, symbols_free().  Errors: -ENOMEM. */
int symbols_new(const char *debug, struct symbols **ret);
void symbols_free(struct symbols *symbols);

/*
 * What lies at @address, as linked, of the object @path with @build_id (hexadecimal digits; "" or NULL: it has none, and is taken
 * for what it is if the file there has none either).  Errors: none; without memory less is known.
 */
const struct symbol *symbols_find(struct symbols *symbols, const char *path, const char *build_id, uint64_t address);

#endif
