/*
 * A ring as a file: checked and mapped by the recorder and by recovery, removed when it is read to its end.
 *
 * A ring's path comes from a command line or from a run file, so nothing is taken for granted: the file must be a regular
 * one of this user, of a size that rings have, and hold a ring (ring_check()).
 * Thread: any.
 */
#ifndef NNMEM_STORE_RING_FILE_H
#define NNMEM_STORE_RING_FILE_H

#include "nnmem/ring.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct ring_file {
	const char *path; /* the caller's */
	struct ring *ring;
	size_t size_bytes;
	dev_t device; /* device and inode: whether the path still names this file */
	ino_t inode;
};

/*
 * Map the ring at @path, which must live as long as @ret.  @shared: what is read is given back to it and seen by all;
 * otherwise the mapping is a private copy and the file stays as it is.
 * Owner: caller, ring_file_close().
 * Errors: -EINVAL it is no ring or damaged; -EPROTONOSUPPORT made by another version; -EPERM another user's; else as
 * open(2) and mmap(2).
 */
int ring_file_open(const char *path, bool shared, struct ring_file *ret);

/* Remove the file, unless its name belongs to another ring by now: that of a program exec'ed under the same pid. */
void ring_file_unlink(const struct ring_file *file);

/* Unmap; the file stays. */
void ring_file_close(struct ring_file *file);

#endif
