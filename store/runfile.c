/* The run file as a file: see runfile.h for the contract. */
#define _GNU_SOURCE /* F_OFD_SETLK, renameat2 */
#include "store/runfile.h"

#include "store/schema.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* How often a name is tried while others create, rename and delete files of that name under our feet. */
#define MAX_ATTEMPTS 64
/* How many old files of a name are kept before the recorder gives up. */
#define MAX_KEPT 1000000

static const char *const companions[] = {"-wal", "-shm", "-journal"};

bool runfile_is_network(uint32_t fs_type)
{
	/* Source: linux/magic.h and statfs(2); FUSE stands for sshfs and its like. */
	static const uint32_t types[] = {
	        0x6969u,     /* NFS */
	        0x517bu,     /* SMB */
	        0xff534d42u, /* CIFS */
	        0xfe534d42u, /* SMB2 */
	        0x65735546u, /* FUSE */
	        0x0bd00bd0u, /* Lustre */
	        0x47504653u, /* GPFS */
	        0x00c36400u, /* Ceph */
	        0x5346414fu, /* AFS */
	        0x6b414653u, /* kAFS */
	        0x01021997u, /* 9P */
	        0x73757245u, /* Coda */
	        0x19830326u, /* BeeGFS */
	        0x7461636fu, /* OCFS2 */
	        0x01161970u, /* GFS2 */
	        0xaad7aaeau, /* PanFS */
	        0x786f4256u, /* VirtualBox shared folders */
	        0x0000564cu, /* NCP */
	};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (types[i] == fs_type)
			return true;
	return false;
}

static struct flock whole_lock(short type)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = RUNFILE_LOCK_OFFSET, .l_len = 1};
}

/* 0 taken; -EBUSY somebody has it; -ENOLCK no such thing here. */
static int take_lock(int fd)
{
	struct flock lock = whole_lock(F_WRLCK);

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -ENOLCK;
}

/* 1 somebody holds the lock, 0 nobody, -ENOLCK it cannot be told. */
static int lock_is_held(int fd)
{
	struct flock lock = whole_lock(F_WRLCK);

	if (fcntl(fd, F_OFD_GETLK, &lock) != 0)
		return -ENOLCK;
	return lock.l_type != F_UNLCK;
}

int runfile_is_live(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int r;

	if (fd < 0)
		return -errno;
	r = lock_is_held(fd);
	close(fd);
	return r;
}

/* Whether @path still names the file behind @fd. */
static bool is_named(const char *path, int fd)
{
	struct stat by_name, by_fd;

	return stat(path, &by_name) == 0 && fstat(fd, &by_fd) == 0 && by_name.st_dev == by_fd.st_dev &&
	       by_name.st_ino == by_fd.st_ino;
}

/* Where the extension of the last component begins; the end of the string where it has none. */
static const char *extension_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	const char *dot = strrchr(name, '.');

	return dot && dot != name ? dot : name + strlen(name);
}

/* @ret_path: @path with @infix before its extension. */
static int with_infix(const char *path, const char *infix, char ret_path[RING_PATH_MAX])
{
	const char *extension = extension_of(path);
	int length = snprintf(ret_path, RING_PATH_MAX, "%.*s%s%s", (int)(extension - path), path, infix, extension);

	return length < (int)RING_PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int rename_noreplace(const char *from, const char *to)
{
	struct stat status;

	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	/* The file system does not know the flag: the window between the two calls is what is left. */
	if (lstat(to, &status) == 0)
		return -EEXIST;
	return rename(from, to) == 0 ? 0 : -errno;
}

/* Rename @path, and what belongs to it, to the first `.~n~` that is free. */
static int set_aside(const char *path)
{
	char kept[RING_PATH_MAX];

	for (int n = 1; n < MAX_KEPT; n++) {
		char infix[32];
		int r;

		snprintf(infix, sizeof(infix), ".~%d~", n);
		r = with_infix(path, infix, kept);
		if (!r)
			r = rename_noreplace(path, kept);
		if (r == -EEXIST)
			continue;
		if (r)
			return r;
		for (size_t i = 0; i < sizeof(companions) / sizeof(companions[0]); i++) {
			char from[RING_PATH_MAX + 16], to[RING_PATH_MAX + 16];

			snprintf(from, sizeof(from), "%s%s", path, companions[i]);
			snprintf(to, sizeof(to), "%s%s", kept, companions[i]);
			if (rename(from, to) != 0 && errno != ENOENT)
				return -errno;
		}
		return 0;
	}
	return -EEXIST;
}

/* Open what is at @path, if only for reading: a lock can be asked for then, too. */
static int open_existing(const char *path, bool *ret_writable)
{
	const int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	int fd = open(path, O_RDWR | flags);

	*ret_writable = fd >= 0;
	if (fd < 0 && (errno == EACCES || errno == EROFS || errno == EPERM || errno == ETXTBSY))
		fd = open(path, O_RDONLY | flags);
	return fd < 0 ? -errno : fd;
}

/* Whether @fd holds a run file: SQLite's magic, and our application id.  Source: SQLite's file format, 1.3. */
static bool is_run_file(int fd)
{
	static const char magic[16] = "SQLite format 3";
	unsigned char header[72];
	uint32_t application_id;

	if (pread(fd, header, sizeof(header), 0) != (ssize_t)sizeof(header) || memcmp(header, magic, sizeof(magic)) != 0)
		return false;
	application_id = (uint32_t)header[68] << 24 | (uint32_t)header[69] << 16 | (uint32_t)header[70] << 8 | header[71];
	return application_id == SCHEMA_APPLICATION_ID;
}

/*
 * Something is at @path: adopt it when it is empty and ours, set it aside when it is a dead run file; whatever else it is
 * belongs to somebody.
 * 0: adopted, *@ret_fd is locked.  -EAGAIN: the name is free now, or what was there has changed.  -EBUSY: leave it alone.
 */
static int clear_name(const char *path, int *ret_fd)
{
	bool writable;
	struct stat status = {0};
	int fd = open_existing(path, &writable);
	int r;

	if (fd == -ENOENT) /* A link to nothing, or gone. */
		return lstat(path, &status) == 0 ? -EBUSY : -EAGAIN;
	if (fd == -EACCES || fd == -EPERM)
		return -EBUSY;
	if (fd < 0)
		return fd == -ENXIO || fd == -ENODEV ? -EEXIST : fd;
	if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
		r = S_ISDIR(status.st_mode) ? -EISDIR : -EEXIST;
		goto out;
	}
	r = -EBUSY;
	if (writable ? take_lock(fd) != 0 : lock_is_held(fd) != 0)
		goto out;
	r = -EAGAIN;
	if (!is_named(path, fd))
		goto out;
	if (writable && status.st_size == 0 && status.st_uid == geteuid() && status.st_nlink == 1) {
		r = fchmod(fd, 0600) == 0 ? 0 : -errno;
		if (r)
			goto out;
		*ret_fd = fd;
		return 0;
	}
	r = -EBUSY;
	if (!is_run_file(fd))
		goto out;
	r = set_aside(path); /* Under its lock, so that nobody recovers it meanwhile. */
	if (!r)
		r = -EAGAIN;
out:
	close(fd);
	return r;
}

/* Create and lock @path, setting a dead run file aside.  -EBUSY: the name is a live recorder's, or no run file's. */
static int claim_name(const char *path, struct runfile *ret)
{
	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
		int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0600);
		int r;

		if (fd >= 0) {
			r = fchmod(fd, 0600) == 0 ? take_lock(fd) : -errno;
			if (r == -EBUSY || (!r && !is_named(path, fd))) {
				close(fd); /* Another recorder found it before we had locked it, and adopted or renamed it. */
				continue;
			}
			ret->locked = r == 0;
			ret->fd = fd;
			return 0;
		}
		if (errno != EEXIST)
			return -errno;
		r = clear_name(path, &fd);
		if (!r) {
			ret->locked = true;
			ret->fd = fd;
			return 0;
		}
		if (r != -EAGAIN)
			return r;
	}
	return -EBUSY;
}

static int append(char path[RING_PATH_MAX], size_t *length, const char *text)
{
	size_t nr_bytes = strlen(text);

	if (*length + nr_bytes >= RING_PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(path + *length, text, nr_bytes + 1);
	*length += nr_bytes;
	return 0;
}

/* One field of the template.  @ret_own: the field tells one process of a run from another. */
static const char *field_value(char field, const struct runfile_origin *origin, char buffer[HOST_NAME_MAX + 1], bool *ret_own)
{
	switch (field) {
	case 'p':
		*ret_own = true;
		snprintf(buffer, HOST_NAME_MAX + 1, "%ld", (long)origin->pid);
		return buffer;
	case 'r':
		*ret_own = true;
		snprintf(buffer, HOST_NAME_MAX + 1, "%lld", origin->rank < 0 ? 0LL : (long long)origin->rank);
		return buffer;
	case 'h':
		snprintf(buffer, HOST_NAME_MAX + 1, "%s", origin->host && origin->host[0] ? origin->host : "localhost");
		for (char *c = buffer; *c; c++)
			if (*c == '/')
				*c = '_';
		return buffer;
	case '%':
		return "%";
	default:
		return NULL;
	}
}

static int wanted_name(const struct runfile_origin *origin, char ret_path[RING_PATH_MAX])
{
	const char *out = origin->out && origin->out[0] ? origin->out : "run.db";
	char path[RING_PATH_MAX] = "";
	size_t length = 0;
	bool own = false;
	struct stat status;
	int r = 0;

	for (; *out && !r; out++) {
		char buffer[HOST_NAME_MAX + 1];
		const char *value = out[0] == '%' ? field_value(out[1], origin, buffer, &own) : NULL;

		if (value) {
			r = append(path, &length, value);
			out++;
		} else {
			r = append(path, &length, (char[]){*out, '\0'});
		}
	}
	if (!r && (path[length - 1] == '/' || (stat(path, &status) == 0 && S_ISDIR(status.st_mode)))) {
		if (path[length - 1] != '/')
			r = append(path, &length, "/");
		if (!r)
			r = append(path, &length, "run.db");
	}
	if (!r && origin->rank >= 0 && !own) {
		char infix[40];

		snprintf(infix, sizeof(infix), ".rank%lld", (long long)origin->rank);
		return with_infix(path, infix, ret_path);
	}
	memcpy(ret_path, path, sizeof(path));
	return r;
}

/* The wanted name, or where that is taken the one with our pid, or (pids repeat in containers) a number after it. */
static int claim_some_name(const char *wanted, pid_t pid, struct runfile *ret)
{
	int r;

	snprintf(ret->path, sizeof(ret->path), "%s", wanted);
	r = claim_name(ret->path, ret);
	for (int n = 0; r == -EBUSY && n < MAX_ATTEMPTS; n++) {
		char infix[64];

		if (n == 0)
			snprintf(infix, sizeof(infix), ".%ld", (long)pid);
		else
			snprintf(infix, sizeof(infix), ".%ld.%d", (long)pid, n);
		r = with_infix(wanted, infix, ret->path);
		if (!r)
			r = claim_name(ret->path, ret);
	}
	return r;
}

static const char *reason(int r)
{
	switch (r) {
	case -EEXIST:
		return "something that is not a regular file has this name";
	case -EBUSY:
		return "every name for it is taken";
	default:
		return strerror(-r);
	}
}

int runfile_create(const struct runfile_origin *origin, struct runfile *ret, char *message, size_t message_size)
{
	struct runfile file = {.fd = -1};
	char wanted[RING_PATH_MAX];
	struct statfs fs;
	int r = wanted_name(origin, wanted);

	if (r) {
		snprintf(message, message_size, "cannot create the run file: NNMEM_OUT is longer than %u bytes",
		         RING_PATH_MAX - 1);
		return r;
	}
	r = claim_some_name(wanted, origin->pid, &file);
	if (r) {
		snprintf(message, message_size, "cannot create %s: %s", file.path, reason(r));
		return r;
	}
	file.network = fstatfs(file.fd, &fs) == 0 && runfile_is_network((uint32_t)fs.f_type);
	*ret = file;
	return 0;
}

int runfile_take_over(const char *path, struct runfile *ret)
{
	struct runfile file = {.fd = -1, .locked = true};
	struct statfs fs;
	int r;

	if (strlen(path) >= sizeof(file.path))
		return -ENAMETOOLONG;
	strcpy(file.path, path);
	file.fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (file.fd < 0)
		return -errno;
	r = take_lock(file.fd);
	if (!r && !is_named(path, file.fd))
		r = -EBUSY; /* A new recorder renames it right now. */
	if (r) {
		runfile_release(&file);
		return r;
	}
	file.network = fstatfs(file.fd, &fs) == 0 && runfile_is_network((uint32_t)fs.f_type);
	*ret = file;
	return 0;
}

void runfile_release(struct runfile *file)
{
	if (file->fd >= 0)
		close(file->fd);
	file->fd = -1;
}
