/*
 * The run file as a file: its name, the lock that tells whether its recorder is alive, and where it lies.
 *
 * Names.  The wanted name is the template NNMEM_OUT, `run.db` by default, with %p (pid), %r (rank), %h
 * (host) and %% replaced; with a rank and neither %p nor %r in it, `.rank<R>` goes before the extension.  A dead run file of
 * that name is kept as `run.~1~.db` (~2~, ...), together with its -wal, -shm and -journal; where the name belongs to a live
 * recorder, or to somebody whose life we cannot tell, `run.<pid>.db` is taken instead, and so it is where what has the name
 * is no run file: that is never touched.  An empty file is adopted.
 *
 * Lock.  The recorder holds an exclusive open-file-description lock on one byte far behind anything that SQLite locks or
 * that is ever stored.  It goes with the recorder, however that dies, and means the same in every pid namespace.
 * Thread: any.  Nothing here knows SQL.
 */
#ifndef NNMEM_STORE_RUNFILE_H
#define NNMEM_STORE_RUNFILE_H

#include "nnmem/ring.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Which byte the lock is on. */
#define RUNFILE_LOCK_OFFSET ((INT64_C(1) << 40) + 7)

struct runfile {
	char path[RING_PATH_MAX]; /* as the user would write it */
	int fd;                   /* holds the lock; -1: none.  Close it after the database: closing any descriptor of
	                           * a file drops the POSIX locks that SQLite holds on it. */
	bool network;             /* on a file system that other machines may write to */
	bool locked;              /* false: the file system knows no locks */
};

/* What a name is made of. */
struct runfile_origin {
	const char *out; /* NNMEM_OUT, NULL or "": run.db; a folder: run.db in it */
	pid_t pid;       /* of the program */
	int64_t rank;    /* or -1 */
	const char *host;
};

/*
 * Choose the name, create the file (mode 0600 whatever the umask) and lock it.
 * Owner: caller, runfile_release().  Errors: negative errno, with one sentence in @message that names path and reason.
 */
int runfile_create(const struct runfile_origin *origin, struct runfile *ret, char *message, size_t message_size);

/*
 * Take the lock of an existing file, to recover it.
 * Errors: -EBUSY its recorder is alive (or another recovery is at work); -EACCES, -EROFS, -ENOENT as open(2);
 * -ENOLCK the file system knows no locks.
 */
int runfile_take_over(const char *path, struct runfile *ret);

/* Unlock and close; the file stays.  Twice is allowed. */
void runfile_release(struct runfile *file);

/*
 * Whether a recorder is at work on @path: 1 yes, 0 no, or a negative errno when that cannot be told.
 * Not while this process has @path open as a database: the descriptor that is closed here would take SQLite's locks along.
 */
int runfile_is_live(const char *path);

/* Whether the file system type (statfs.f_type) is one that other machines may write to, or whose locks are doubtful. */
bool runfile_is_network(uint32_t fs_type);

#endif
