/* The ring as a file: what is refused, what a private mapping leaves alone, and whose file is removed. */
#define _GNU_SOURCE
#include "store/ring_file.h"

#include "hook/emit.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], path[80], other[80];

static void make_ring(const char *name, off_t size_bytes)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	void *memory;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size_bytes), 0);
	memory = mmap(NULL, RING_HEADER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	if (size_bytes >= (off_t)RING_HEADER_BYTES)
		ring_format(memory, RING_MIN_SLOTS, 1, 2);
	munmap(memory, RING_HEADER_BYTES);
	close(fd);
}

static int setup(void **state)
{
	strcpy(folder, "/tmp/nnmem-test-ring-file-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/one.ring", folder);
	snprintf(other, sizeof(other), "%s/other", folder);
	make_ring(path, (off_t)ring_file_bytes(RING_MIN_SLOTS));
	return 0;
}

static int teardown(void **state)
{
	unlink(path);
	unlink(other);
	return rmdir(folder);
}

static void test_ring_file_open_when_it_is_no_ring_then_refuses(void **state)
{
	struct ring_file file;

	assert_int_equal(ring_file_open(other, true, &file), -ENOENT);
	assert_int_equal(ring_file_open(folder, true, &file), -EISDIR);
	assert_int_equal(symlink(path, other), 0);
	assert_int_equal(ring_file_open(other, true, &file), -ELOOP);
	unlink(other);
	assert_int_equal(mkfifo(other, 0600), 0);
	assert_int_equal(ring_file_open(other, true, &file), -EINVAL);
	make_ring(path, 100);
	assert_int_equal(ring_file_open(path, true, &file), -EINVAL);
	make_ring(path, (off_t)ring_file_bytes(RING_MIN_SLOTS) - 1);
	assert_int_equal(ring_file_open(path, true, &file), -EINVAL);
	make_ring(path, (off_t)ring_file_bytes(RING_MAX_SLOTS) + 1);
	assert_int_equal(ring_file_open(path, true, &file), -EINVAL);
}

static void test_ring_file_open_when_private_then_the_file_stays_as_it_is(void **state)
{
	struct ring_file private, shared;

	assert_int_equal(ring_file_open(path, false, &private), 0);
	private.ring->tail = 7;
	assert_int_equal(ring_file_open(path, true, &shared), 0);
	assert_int_equal(shared.ring->tail, 0);
	shared.ring->head = 9;
	ring_file_close(&shared);
	ring_file_close(&shared);
	assert_int_equal(ring_file_open(path, true, &shared), 0);
	assert_int_equal(shared.ring->head, 9);
	ring_file_close(&shared);
	ring_file_close(&private);
}

static void test_ring_file_unlink_when_the_name_is_anothers_then_leaves_it(void **state)
{
	struct ring_file file;

	assert_int_equal(ring_file_open(path, true, &file), 0);
	assert_int_equal(rename(path, other), 0);
	make_ring(path, (off_t)ring_file_bytes(RING_MIN_SLOTS));
	ring_file_unlink(&file);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(rename(other, path), 0);
	ring_file_unlink(&file);
	assert_int_equal(access(path, F_OK), -1);
	ring_file_close(&file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_ring_file_open_when_it_is_no_ring_then_refuses, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_ring_file_open_when_private_then_the_file_stays_as_it_is, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_ring_file_unlink_when_the_name_is_anothers_then_leaves_it, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
