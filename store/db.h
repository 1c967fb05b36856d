/*
 * A SQLite connection with the settings that every user of a run file needs: open, statements, errors.
 *
 * The writer, the reader and recovery go through it; nobody else opens a database.  A run file may come from anywhere, so
 * every connection is defensive: no trusted schema, no triggers, no views, no extensions, whatever it is opened for.
 * SQLite's codes are mapped to negative errnos in one place (db_error()), and its sentence is kept (db_message()).
 * Thread: one at a time per connection (opened without mutexes).
 */
#ifndef NNMEM_STORE_DB_H
#define NNMEM_STORE_DB_H

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>

struct db;

enum db_mode {
	DB_READ,           /* read only; takes part in locking and in WAL, so a live file can be read */
	DB_READ_IMMUTABLE, /* read only, no locks and no WAL: for a file in a folder that cannot be written */
	DB_WRITE,          /* read and write an existing file; never creates one */
	DB_MEMORY,         /* a private, empty database in memory; the path is ignored */
};

/*
 * Open @path.  Nothing is read yet: that a file is no database is found by the first statement (-EBADMSG).
 * Owner: caller, db_close().  Errors: negative errno, with SQLite's sentence in @message (may be NULL).
 */
int db_open(const char *path, enum db_mode mode, struct db **ret_db, char *message, size_t message_size);

/* Finalises all statements; an open transaction is rolled back.  NULL is allowed. */
void db_close(struct db *db);

/* The connection itself, for what has no helper here.  Owner: @db. */
sqlite3 *db_handle(struct db *db);

/*
 * The negative errno for @sqlite_code (0 for SQLITE_OK, SQLITE_ROW, SQLITE_DONE); the connection's sentence is kept for
 * db_message().  Where the operating system said why (ENOSPC, EACCES), that is returned.
 */
int db_error(struct db *db, int sqlite_code);

/* The sentence of the last error; "" before the first.  Valid until the next error. */
const char *db_message(const struct db *db);

/* Run @sql, possibly several statements, none of which returns anything of interest. */
int db_exec(struct db *db, const char *sql);

/*
 * A statement for @sql, ready to bind: compiled once per connection and kept, looked up by the *address* of @sql, which
 * must be a string literal or live as long as the connection.  Owner: @db.  A statement that is still being stepped
 * through is reset: do not nest two uses of one @sql.
 */
int db_prepare(struct db *db, const char *sql, sqlite3_stmt **ret_statement);

/* Step: 1 there is a row, 0 done (and reset), or a negative errno (and reset). */
int db_step(struct db *db, sqlite3_stmt *statement);

/* The first column of the first row of @sql (kept as by db_prepare()).  -ENODATA: no row, or NULL. */
int db_read_i64(struct db *db, const char *sql, int64_t *ret_value);

int db_begin(struct db *db);
int db_commit(struct db *db);
/* Never fails: without a transaction it does nothing. */
void db_rollback(struct db *db);

/* Unsigned values are stored as SQLite's signed ones with the same bits. */
static inline int db_bind_u64(sqlite3_stmt *statement, int index, uint64_t value)
{
	return sqlite3_bind_int64(statement, index, (sqlite3_int64)value);
}

static inline uint64_t db_column_u64(sqlite3_stmt *statement, int column)
{
	return (uint64_t)sqlite3_column_int64(statement, column);
}

/* Text without a copy: valid until the statement is stepped to its next row or reset.  NULL for NULL. */
static inline const char *db_column_text(sqlite3_stmt *statement, int column)
{
	return (const char *)sqlite3_column_text(statement, column);
}

#endif
