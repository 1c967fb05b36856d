/*
 * Taking up what a dead recorder did not write.
 *
 * Runs only when no recorder holds its lock on the file (runfile.h), on the file itself when that and its folder can be
 * written, else on a private copy in memory that only the caller sees; the ring is then read through a private mapping,
 * so that both stay as they are.  The names in a run file are not trusted: a ring is taken for the run's only if it is a
 * regular file of this user (ring_file.h), called as rings are, and its process and start time are those of the run.
 */
#ifndef NNMEM_STORE_RECOVER_H
#define NNMEM_STORE_RECOVER_H

#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the run file says of itself. */
struct recover_origin {
	const char *ring_path; /* or NULL */
	int64_t pid;
	uint64_t ring_start_ns;
};

struct recovery {
	enum store_recovery result;
	char copy_path[512]; /* private copy to read instead of the file; "" none.  The caller drops it */
};

/*
 * Take up the run file at @path; its recorder is dead, and nothing in this process has it open.
 * @ret->copy_path names a copy that was made already, or ""; it is dropped where the file itself is the one to read.
 * @ret->result: STORE_RECOVERED, _IN_MEMORY, STORE_ORPHANED (the program lives: nothing was touched), STORE_LIVE (another
 * recovery is at work) or STORE_RING_GONE; then @reason, maybe "", says why.
 */
void recover_run(const char *path, const struct recover_origin *origin, struct recovery *ret, char *reason, size_t reason_size);

/* The run is closed: remove the ring that its recorder did not come to remove, if the program is gone. */
void recover_drop_ring(const struct recover_origin *origin);

/*
 * Whether something that is not a regular file lies where SQLite would open its journal, WAL or shared memory;
 * @ret_name is then what its name has after the file's.
 */
bool recover_has_odd_companion(const char *path, char *ret_name, size_t size);

/*
 * Copy a run file and what SQLite keeps beside it into a folder of its own, in memory if there is room: twice the bytes.
 * -ENOSPC: nowhere; -EBADMSG: what lies beside it is no file.
 */
int recover_copy(const char *path, char *ret_copy_path, size_t size);
/* Unlink a private copy; who has it open keeps it.  "" is allowed. */
void recover_drop_copy(const char *copy_path);

/* Whether SQLite keeps unfinished work beside the file: a WAL or a rollback journal with bytes in it. */
bool recover_has_leftovers(const char *path);
/* Fold such work into the file (no recorder is alive).  Errors: negative errno, and the file is as it was. */
int recover_fold(const char *path);

#endif
