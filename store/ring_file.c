/* A ring as a file: see ring_file.h for the contract. */
#include "store/ring_file.h"

#include "store/ring_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_file(int fd, struct ring_file *ret)
{
	struct stat status;

	if (fstat(fd, &status) != 0)
		return -errno;
	if (!S_ISREG(status.st_mode) || status.st_size < (off_t)RING_HEADER_BYTES ||
	    status.st_size > (off_t)ring_file_bytes(RING_MAX_SLOTS))
		return -EINVAL;
	if (status.st_uid != geteuid())
		return -EPERM;
	ret->size_bytes = (size_t)status.st_size;
	ret->device = status.st_dev;
	ret->inode = status.st_ino;
	return 0;
}

int ring_file_open(const char *path, bool shared, struct ring_file *ret)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
	struct ring_file file = {.path = path};
	int r = fd < 0 ? -errno : check_file(fd, &file);
	void *memory = MAP_FAILED;

	if (!r) {
		memory = mmap(NULL, file.size_bytes, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE, fd, 0);
		r = memory == MAP_FAILED ? -errno : ring_check(memory, file.size_bytes);
	}
	if (fd >= 0)
		close(fd);
	if (r) {
		if (memory != MAP_FAILED)
			munmap(memory, file.size_bytes);
		return r;
	}
	file.ring = memory;
	*ret = file;
	return 0;
}

void ring_file_unlink(const struct ring_file *file)
{
	struct stat status;

	if (lstat(file->path, &status) == 0 && status.st_dev == file->device && status.st_ino == file->inode)
		unlink(file->path);
}

void ring_file_close(struct ring_file *file)
{
	if (file->ring)
		munmap(file->ring, file->size_bytes);
	file->ring = NULL;
}
