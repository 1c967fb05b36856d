/* store/runfile.c: the run file's name, its lock, and what becomes of older files. */
#define _GNU_SOURCE
#include "store/runfile.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	char folder[64];
	char before[4096];
	char message[512];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->folder, "/tmp/nnmem-test-runfile-XXXXXX");
	if (!getcwd(f->before, sizeof(f->before)) || !mkdtemp(f->folder) || chdir(f->folder) != 0)
		return -1;
	*state = f;
	return 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
	(void)status, (void)type, (void)walk;
	return remove(path);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int r = chdir(f->before);

	chmod(f->folder, 0700);
	nftw(f->folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(f);
	return r;
}

static int create(struct fixture *f, const char *out, int64_t rank, struct runfile *ret)
{
	struct runfile_origin origin = {.out = out, .pid = 4321, .rank = rank, .host = "a/host"};

	strcpy(f->message, "");
	return runfile_create(&origin, ret, f->message, sizeof(f->message));
}

static void put(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

/* A run file as far as its name's sake needs one: the header, and what tells it from others. */
#define RUN_HEADER_BYTES 100

static void put_run(const char *path, const char *text)
{
	char header[RUN_HEADER_BYTES] = "SQLite format 3";
	FILE *file = fopen(path, "w");

	memcpy(header + 68, "nnmm", 4);
	assert_non_null(file);
	assert_int_equal(fwrite(header, 1, sizeof(header), file), sizeof(header));
	fputs(text, file);
	fclose(file);
}

static void assert_is_run(const char *path, const char *text)
{
	char buffer[RUN_HEADER_BYTES + 100] = "";
	FILE *file = fopen(path, "r");

	assert_non_null(file);
	assert_int_equal(fread(buffer, 1, sizeof(buffer) - 1, file), RUN_HEADER_BYTES + strlen(text));
	fclose(file);
	assert_string_equal(buffer + RUN_HEADER_BYTES, text);
}

static void assert_holds(const char *path, const char *text)
{
	char buffer[100] = "";
	FILE *file = fopen(path, "r");

	assert_non_null(file);
	assert_int_equal(fread(buffer, 1, sizeof(buffer) - 1, file), strlen(text));
	fclose(file);
	assert_string_equal(buffer, text);
}

static bool exists(const char *path)
{
	struct stat status;

	return lstat(path, &status) == 0;
}

static void test_runfile_create_when_nothing_is_there_then_run_db_private_and_live(void **state)
{
	struct fixture *f = *state;
	static const mode_t masks[] = {0, 022, 0777};

	for (size_t i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
		struct runfile file;
		struct stat status;
		mode_t before = umask(masks[i]);
		int r = create(f, NULL, -1, &file);

		umask(before);
		assert_int_equal(r, 0);
		assert_string_equal(file.path, "run.db");
		assert_true(file.locked);
		assert_int_equal(stat("run.db", &status), 0);
		assert_int_equal(status.st_mode & 07777, 0600);
		assert_int_equal(runfile_is_live("run.db"), 1);
		runfile_release(&file);
		runfile_release(&file);
		assert_int_equal(runfile_is_live("run.db"), 0);
		assert_int_equal(unlink("run.db"), 0);
	}
}

static void test_runfile_create_when_an_older_file_is_dead_then_it_is_kept_with_what_belongs_to_it(void **state)
{
	struct fixture *f = *state;
	struct runfile file;

	put_run("run.db", "first");
	put("run.db-wal", "first wal");
	put("run.db-shm", "first shm");
	put("run.db-journal", "first journal");
	assert_int_equal(create(f, NULL, -1, &file), 0);
	assert_string_equal(file.path, "run.db");
	runfile_release(&file);
	assert_is_run("run.~1~.db", "first");
	assert_holds("run.~1~.db-wal", "first wal");
	assert_holds("run.~1~.db-shm", "first shm");
	assert_holds("run.~1~.db-journal", "first journal");
	assert_false(exists("run.db-wal") || exists("run.db-shm") || exists("run.db-journal"));
	put_run("run.db", "second");
	assert_int_equal(create(f, NULL, -1, &file), 0);
	runfile_release(&file);
	assert_is_run("run.~1~.db", "first");
	assert_is_run("run.~2~.db", "second");
	assert_false(exists("run.~2~.db-wal"));
}

static void test_runfile_create_when_the_name_is_somebody_elses_then_it_is_left_alone(void **state)
{
	struct fixture *f = *state;
	char other_database[RUN_HEADER_BYTES] = "SQLite format 3";
	struct runfile file;
	struct stat status;
	FILE *other;

	put("train.py", "import torch\n");
	assert_int_equal(chmod("train.py", 0644), 0);
	assert_int_equal(create(f, "train.py", -1, &file), 0);
	assert_string_equal(file.path, "train.4321.py");
	runfile_release(&file);
	assert_holds("train.py", "import torch\n");
	assert_int_equal(stat("train.py", &status), 0);
	assert_int_equal(status.st_mode & 07777, 0644);

	other = fopen("run.db", "w");
	assert_non_null(other);
	assert_int_equal(fwrite(other_database, 1, sizeof(other_database), other), sizeof(other_database));
	fclose(other);
	assert_int_equal(create(f, NULL, -1, &file), 0);
	assert_string_equal(file.path, "run.4321.db");
	runfile_release(&file);
	assert_false(exists("run.~1~.db"));
}

static void test_runfile_create_when_the_file_is_live_then_the_pid_is_in_the_name(void **state)
{
	struct fixture *f = *state;
	struct runfile first, second, third;

	assert_int_equal(create(f, NULL, -1, &first), 0);
	assert_int_equal(write(first.fd, "live", 4), 4);
	assert_int_equal(create(f, NULL, -1, &second), 0);
	assert_string_equal(second.path, "run.4321.db");
	assert_int_equal(write(second.fd, "also", 4), 4);
	assert_int_equal(create(f, NULL, -1, &third), 0); /* The same pid, in another container. */
	assert_string_equal(third.path, "run.4321.1.db");
	runfile_release(&first);
	runfile_release(&second);
	runfile_release(&third);
	assert_holds("run.db", "live");
	assert_holds("run.4321.db", "also");
}

static void test_runfile_create_when_the_owner_was_killed_then_the_file_is_dead(void **state)
{
	struct fixture *f = *state;
	struct runfile file;
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		struct runfile mine;

		if (create(f, NULL, -1, &mine) != 0 || write(mine.fd, "x", 1) != 1 || write(ready[1], "", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(runfile_is_live("run.db"), 1);
	assert_int_equal(runfile_take_over("run.db", &file), -EBUSY);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(runfile_is_live("run.db"), 0);
	assert_int_equal(runfile_take_over("run.db", &file), 0);
	assert_int_equal(runfile_is_live("run.db"), 1);
	runfile_release(&file);
	close(ready[0]);
	close(ready[1]);
}

static void test_runfile_create_when_there_is_a_rank_then_it_is_in_the_name(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *out;
		int64_t rank;
		const char *path;
	} cases[] = {
	        {NULL, 3, "run.rank3.db"},
	        {"", 0, "run.rank0.db"},
	        {"a.b/out", 1, "a.b/out.rank1"},
	        {"x-%r.db", 2, "x-2.db"},
	        {"x-%r.db", -1, "x-0.db"},
	        {"x-%p-%h%%%q.db", 2, "x-4321-a_host%%q.db"},
	        {"%h.sqlite", 2, "a_host.rank2.sqlite"},
	        {".hidden", -1, ".hidden"},
	        {".hidden", 5, ".hidden.rank5"},
	        {"a.b", -1, "a.b/run.db"},
	        {"a.b/", 1, "a.b/run.rank1.db"},
	        {"100%", -1, "100%"},
	};

	assert_int_equal(mkdir("a.b", 0700), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct runfile file;

		assert_int_equal(create(f, cases[i].out, cases[i].rank, &file), 0);
		assert_string_equal(file.path, cases[i].path);
		runfile_release(&file);
		assert_int_equal(unlink(cases[i].path), 0);
	}
}

static void test_runfile_create_when_a_ranks_file_is_live_then_rank_and_pid(void **state)
{
	struct fixture *f = *state;
	struct runfile first, second;

	assert_int_equal(create(f, NULL, 3, &first), 0);
	assert_int_equal(write(first.fd, "x", 1), 1);
	assert_int_equal(create(f, NULL, 3, &second), 0);
	assert_string_equal(second.path, "run.rank3.4321.db");
	runfile_release(&first);
	runfile_release(&second);
}

static void test_runfile_create_when_an_empty_file_is_there_then_it_is_adopted_and_made_private(void **state)
{
	struct fixture *f = *state;
	struct runfile file;
	struct stat status;

	put("run.db", "");
	assert_int_equal(chmod("run.db", 0644), 0);
	assert_int_equal(create(f, NULL, -1, &file), 0);
	assert_string_equal(file.path, "run.db");
	runfile_release(&file);
	assert_false(exists("run.~1~.db"));
	assert_int_equal(stat("run.db", &status), 0);
	assert_int_equal(status.st_mode & 07777, 0600);
}

static void test_runfile_create_when_it_cannot_then_the_message_names_path_and_reason(void **state)
{
	struct fixture *f = *state;
	struct runfile file;
	char *long_name = malloc(2000);

	assert_int_equal(create(f, "none/out.db", -1, &file), -ENOENT);
	assert_string_equal(f->message, "cannot create none/out.db: No such file or directory");
	assert_int_equal(create(f, "/dev/null", -1, &file), -EEXIST);
	assert_string_equal(f->message, "cannot create /dev/null: something that is not a regular file has this name");
	assert_int_equal(mkfifo("pipe", 0600), 0);
	assert_int_equal(create(f, "pipe", -1, &file), -EEXIST);
	assert_true(exists("pipe") && exists("/dev/null"));
	memset(long_name, 'a', 1999);
	long_name[1999] = '\0';
	assert_int_equal(create(f, long_name, -1, &file), -ENAMETOOLONG);
	assert_string_not_equal(f->message, "");
	free(long_name);
	if (geteuid() != 0) {
		assert_int_equal(chmod(f->folder, 0500), 0);
		assert_int_equal(create(f, NULL, -1, &file), -EACCES);
		assert_string_equal(f->message, "cannot create run.db: Permission denied");
	}
}

static void test_runfile_create_when_the_name_is_a_symlink_then_the_link_is_kept_and_its_target_untouched(void **state)
{
	struct fixture *f = *state;
	struct runfile file;
	char target[100] = "";

	put_run("precious", "data");
	assert_int_equal(symlink("precious", "run.db"), 0);
	assert_int_equal(create(f, NULL, -1, &file), 0);
	runfile_release(&file);
	assert_is_run("precious", "data");
	assert_true(readlink("run.~1~.db", target, sizeof(target) - 1) > 0);
	assert_string_equal(target, "precious");
	assert_int_equal(unlink("run.db"), 0);
	assert_int_equal(symlink("nowhere", "run.db"), 0);
	assert_int_equal(create(f, NULL, -1, &file), 0);
	assert_string_equal(file.path, "run.4321.db");
	runfile_release(&file);
	assert_false(exists("nowhere"));
	assert_int_equal(readlink("run.db", target, sizeof(target) - 1), 7);
}

/* Many processes at once want run.db: each gets a file of its own, and none is renamed from under a live one. */
static void test_runfile_create_when_many_start_at_once_then_each_has_its_own_file(void **state)
{
	enum { NR = 8 };
	int ready[2], go[2];
	struct stat seen[NR];
	bool right = true;
	(void)state;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(go), 0);
	put_run("run.db", "old");
	for (int i = 0; i < NR; i++) {
		if (fork() == 0) {
			struct runfile_origin origin = {.pid = getpid(), .rank = -1};
			struct runfile file;
			struct stat by_name, by_fd = {0};
			char message[100], byte;

			close(go[1]);
			if (runfile_create(&origin, &file, message, sizeof(message)) != 0 || write(file.fd, "x", 1) != 1 ||
			    fstat(file.fd, &by_fd) != 0)
				by_fd.st_ino = 0;
			if (write(ready[1], &by_fd, sizeof(by_fd)) != sizeof(by_fd) || read(go[0], &byte, 1) < 0)
				_exit(1);
			_exit(stat(file.path, &by_name) == 0 && by_name.st_ino == by_fd.st_ino ? 0 : 1);
		}
	}
	for (int i = 0; i < NR; i++) {
		right &= read(ready[0], &seen[i], sizeof(seen[i])) == sizeof(seen[i]) && seen[i].st_ino != 0;
		for (int j = 0; j < i; j++)
			right &= seen[i].st_ino != seen[j].st_ino;
	}
	close(go[0]);
	close(go[1]);
	for (int i = 0; i < NR; i++) {
		int status;

		right &= wait(&status) > 0 && status == 0;
	}
	assert_true(right);
	assert_true(exists("run.db"));
	assert_is_run("run.~1~.db", "old");
	close(ready[0]);
	close(ready[1]);
}

static void test_runfile_is_network_when_local_then_false(void **state)
{
	(void)state;
	assert_true(runfile_is_network(0x6969));
	assert_true(runfile_is_network(0xff534d42));
	assert_true(runfile_is_network(0x65735546));
	assert_false(runfile_is_network(0xef53));     /* ext4 */
	assert_false(runfile_is_network(0x01021994)); /* tmpfs */
	assert_false(runfile_is_network(0x58465342)); /* XFS */
	assert_false(runfile_is_network(0x794c7630)); /* overlay */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	        TEST(test_runfile_create_when_nothing_is_there_then_run_db_private_and_live),
	        TEST(test_runfile_create_when_an_older_file_is_dead_then_it_is_kept_with_what_belongs_to_it),
	        TEST(test_runfile_create_when_the_name_is_somebody_elses_then_it_is_left_alone),
	        TEST(test_runfile_create_when_the_file_is_live_then_the_pid_is_in_the_name),
	        TEST(test_runfile_create_when_the_owner_was_killed_then_the_file_is_dead),
	        TEST(test_runfile_create_when_there_is_a_rank_then_it_is_in_the_name),
	        TEST(test_runfile_create_when_a_ranks_file_is_live_then_rank_and_pid),
	        TEST(test_runfile_create_when_an_empty_file_is_there_then_it_is_adopted_and_made_private),
	        TEST(test_runfile_create_when_it_cannot_then_the_message_names_path_and_reason),
	        TEST(test_runfile_create_when_the_name_is_a_symlink_then_the_link_is_kept_and_its_target_untouched),
	        TEST(test_runfile_create_when_many_start_at_once_then_each_has_its_own_file),
	        TEST(test_runfile_is_network_when_local_then_false),
	};

	return cmocka_run_group_tests_name("runfile", tests, NULL, NULL);
}
