/*
 * Native stacks: hook/native*.c against glibc's backtrace(), which unwinds by libgcc, on chains of calls of many kinds.
 */
#define _GNU_SOURCE
#include "hook/native.h"
#include "hook/native_objects.h"
#include "hook/native_rules.h"

#include "store/ring_reader.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmocka.h>

#define ADDRESSES 256

/* A stack as we see it and as the witness sees it, both taken in one function. */
struct seen {
	uintptr_t ours[NATIVE_FRAMES_MAX];
	void *theirs[ADDRESSES];
	uint32_t nr_ours;
	int nr_theirs;
	uintptr_t from; /* the function in which both were taken */
};

static __attribute__((noinline)) void look(struct seen *ret)
{
	struct native_thread thread = {0};

	ret->from = (uintptr_t)__builtin_return_address(0);
	ret->nr_ours = native_walk(&thread, ret->ours);
	ret->nr_theirs = backtrace(ret->theirs, ADDRESSES);
}

/*
 * From the caller of look() on, the two are the same.  @exact_somewhere: one frame was interrupted, so the address that both
 * have is not a return's.
 */
static void assert_same(const struct seen *seen, bool exact_somewhere)
{
	uint32_t ours = 0, nr_exact = 0;
	int theirs = 0;

	while (ours < seen->nr_ours && seen->ours[ours] + 1 != seen->from)
		ours++;
	while (theirs < seen->nr_theirs && (uintptr_t)seen->theirs[theirs] != seen->from)
		theirs++;
	assert_true(ours < seen->nr_ours);
	assert_true(theirs < seen->nr_theirs);
	assert_int_equal(seen->nr_ours - ours, seen->nr_theirs - theirs);
	for (; ours < seen->nr_ours; ours++, theirs++) {
		uintptr_t witness = (uintptr_t)seen->theirs[theirs];

		if (seen->ours[ours] == witness && exact_somewhere)
			nr_exact++;
		else
			assert_int_equal(seen->ours[ours] + 1, witness);
	}
	assert_int_equal(nr_exact, exact_somewhere);
}

static int start(void **state)
{
	const char *why = native_start(NULL);

	if (why)
		print_error("%s\n", why);
	return why != NULL;
}

/* ---- chains of calls */

static __attribute__((noinline)) void recurse(unsigned depth, struct seen *ret)
{
	volatile char room[64];

	room[0] = (char)depth;
	if (depth)
		recurse(depth - 1, ret);
	else
		look(ret);
	room[1] = room[0];
}

/* A frame whose size is known when it runs: found by its frame pointer. */
static __attribute__((noinline)) void with_variable_frame(size_t size, struct seen *ret)
{
	volatile char *room = __builtin_alloca(size);

	room[size - 1] = 1;
	recurse(3, ret);
	room[0] = room[size - 1];
}

/* Realigned: its caller's frame is found by a word that it has stored. */
static __attribute__((noinline)) void with_aligned_frame(size_t size, struct seen *ret)
{
	volatile _Alignas(256) char room[256];
	volatile char *more = __builtin_alloca(size);

	room[0] = more[0] = (char)size;
	with_variable_frame(size, ret);
	more[0] = room[0];
}

static __attribute__((noinline)) void with_big_frame(struct seen *ret)
{
	volatile char room[300000];

	room[0] = room[sizeof(room) - 1] = 1;
	with_aligned_frame(1000, ret);
	room[1] = room[0];
}

static int compare_and_look(const void *a, const void *b, void *arg)
{
	look(arg);
	return 0;
}

/* Through another object, which was compiled by somebody else. */
static __attribute__((noinline)) void through_libc(struct seen *ret)
{
	int numbers[2] = {2, 1};

	qsort_r(numbers, 2, sizeof(int), compare_and_look, ret);
	assert_int_equal(numbers[0], 2);
}

static void test_walk_when_calls_are_nested_then_it_is_what_backtrace_says(void **state)
{
	struct seen seen;

	recurse(20, &seen);
	assert_same(&seen, false);
	with_big_frame(&seen);
	assert_same(&seen, false);
	through_libc(&seen);
	assert_same(&seen, false);
}

static void *run_thread(void *arg)
{
	with_aligned_frame(100, arg);
	return NULL;
}

static void test_walk_when_on_a_thread_then_it_ends_where_the_thread_begins(void **state)
{
	static struct seen seen;
	pthread_attr_t attributes;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, run_thread, &seen), 0);
	pthread_join(thread, NULL);
	assert_same(&seen, false);
	pthread_attr_init(&attributes);
	assert_int_equal(pthread_attr_setstacksize(&attributes, (size_t)sysconf(_SC_THREAD_STACK_MIN) + (32 << 10)), 0);
	memset(&seen, 0, sizeof(seen));
	assert_int_equal(pthread_create(&thread, &attributes, run_thread, &seen), 0);
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attributes);
	assert_same(&seen, false);
}

static struct seen seen_in_handler;

static void handle(int signal)
{
	look(&seen_in_handler);
}

static void test_walk_when_in_a_signal_handler_then_it_goes_on_with_what_was_interrupted(void **state)
{
	struct sigaction action = {.sa_handler = handle}, old;

	sigaction(SIGFPE, &action, &old);
	raise(SIGFPE); /* TSan puts off others */
	sigaction(SIGFPE, &old, NULL);
	assert_same(&seen_in_handler, true);
}

/* ---- where a walk must stop */

static ucontext_t main_context;
static struct seen seen_in_fiber;

static void run_fiber(void)
{
	recurse(2, &seen_in_fiber);
}

/* A stack of the program's own making, with nothing readable above it. */
static void test_walk_when_on_a_fiber_then_nothing_is_read_beyond_it(void **state)
{
	size_t size = 64 << 10;
	char *memory = mmap(NULL, 3 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ucontext_t fiber;

	assert_ptr_not_equal(memory, MAP_FAILED);
	assert_int_equal(mprotect(memory + size, size, PROT_READ | PROT_WRITE), 0);
	getcontext(&fiber);
	fiber.uc_stack.ss_sp = memory + size;
	fiber.uc_stack.ss_size = size;
	fiber.uc_link = &main_context;
	makecontext(&fiber, run_fiber, 0);
	swapcontext(&main_context, &fiber);
	assert_int_equal(seen_in_fiber.nr_ours, 0);
	assert_true(seen_in_fiber.nr_theirs > 3);
	munmap(memory, 3 * size);
}

/* ---- frames and stacks */

#define CAPACITY (1u << 12)

static struct stacks *stacks;
static struct ring *ring;
static struct ring_reader *reader;
static struct emitter emitter;

static struct {
	uint8_t flags;
	uint64_t offset;
	char file[PATH_MAX], build_id[128];
} frames[4096];
static struct {
	uint32_t parent, frame, operation;
} tree[4096];
static uint32_t nr_frames, nr_stacks;
static uint32_t frame_ids[4096], stack_ids[4096];

static int set_up(void **state)
{
	ring = aligned_alloc(4096, ring_file_bytes(CAPACITY));
	reader = malloc(sizeof(*reader));
	stacks = calloc(1, sizeof(*stacks));
	memset(ring, 0, ring_file_bytes(CAPACITY));
	ring_format(ring, CAPACITY, 0, 0);
	ring_reader_init(reader, ring);
	emitter = (struct emitter){.ring = ring, .env = &emit_env_default};
	nr_frames = nr_stacks = 0;
	native_forget_all();
	return 0;
}

static int tear_down(void **state)
{
	free(ring);
	free(reader);
	free(stacks);
	return 0;
}

/* Read the ring.  Returns how many definitions there were. */
static unsigned learn(void)
{
	struct ring_item item;
	unsigned nr = 0;

	for (; ring_reader_next(reader, 1, &item) > 0; nr++) {
		const struct record *record = &item.record;

		if (record->kind == RECORD_DEF_FRAME) {
			frame_ids[nr_frames] = record->scope;
			frames[nr_frames].flags = record->flags;
			frames[nr_frames].offset = record->a;
			snprintf(frames[nr_frames].file, PATH_MAX, "%s", item.text);
			snprintf(frames[nr_frames].build_id, 128, "%s", item.text + strlen(item.text) + 1);
			nr_frames++;
		} else {
			assert_int_equal(record->kind, RECORD_DEF_STACK);
			stack_ids[nr_stacks] = record->stack;
			tree[nr_stacks].parent = (uint32_t)record->a;
			tree[nr_stacks].frame = record->scope;
			tree[nr_stacks].operation = (uint32_t)record->address;
			nr_stacks++;
		}
	}
	ring_reader_release(reader);
	return nr;
}

/* The innermost frame of @stack, as an index of `frames`; *@stack becomes what is below it. */
static uint32_t take_frame(uint32_t *stack)
{
	for (uint32_t i = 0; i < nr_stacks; i++) {
		if (stack_ids[i] != *stack)
			continue;
		*stack = tree[i].parent;
		for (uint32_t frame = 0; frame < nr_frames; frame++) {
			if (frame_ids[frame] == tree[i].frame)
				return frame;
		}
	}
	fail_msg("stack %u was not defined", *stack);
	return 0;
}

/* As look(): @ret's `theirs` begin with the caller of this. */
static __attribute__((noinline)) uint32_t capture(struct native_thread *thread, uint32_t below, struct seen *ret)
{
	uint32_t stack = native_capture(thread, stacks, &emitter, 5, below, false);
	int first = 0;

	ret->from = (uintptr_t)__builtin_return_address(0);
	ret->nr_theirs = backtrace(ret->theirs, ADDRESSES);
	while (first < ret->nr_theirs && (uintptr_t)ret->theirs[first] != ret->from)
		first++;
	ret->nr_theirs -= first;
	memmove(ret->theirs, ret->theirs + first, (size_t)ret->nr_theirs * sizeof(void *));
	return stack;
}

/* As the program's own tools print it: file and address in it. */
static void test_capture_when_frames_are_new_then_they_are_defined_by_file_and_build_id(void **state)
{
	struct native_thread thread = {0};
	struct seen seen;
	uint32_t stack = capture(&thread, 0, &seen);
	int i = 0;

	assert_true(learn() > 4);
	take_frame(&stack); /* native_capture() */
	take_frame(&stack); /* capture() */
	for (; stack; i++) {
		uint32_t frame = take_frame(&stack);
		char file[PATH_MAX];
		Dl_info info;

		assert_true(i < seen.nr_theirs);
		assert_true(dladdr(seen.theirs[i], &info));
		assert_non_null(realpath(info.dli_fname, file));
		assert_int_equal(frames[frame].flags, RECORD_F_NATIVE | RECORD_F_INTERNAL);
		assert_string_equal(basename(frames[frame].file), basename(info.dli_fname));
		assert_int_equal(frames[frame].file[0], '/');
		assert_int_equal(frames[frame].offset, (uintptr_t)seen.theirs[i] - 1 - (uintptr_t)info.dli_fbase);
		assert_int_equal(strlen(frames[frame].build_id) % 2, 0);
	}
	assert_int_equal(i, seen.nr_theirs);
}

static void test_capture_when_frames_are_known_then_nothing_is_said_again(void **state)
{
	struct native_thread thread = {0};
	struct seen seen;
	uint32_t first = 0, second = 0;
	volatile int nr_times = 2; /* one call, done twice */

	for (int i = 0; i < nr_times; i++) {
		second = first;
		first = capture(&thread, 0, &seen);
		assert_int_equal(learn() > 0, i == 0);
	}
	assert_int_equal(first, second);
	assert_int_not_equal(first, 0);
}

static void test_capture_when_on_an_operation_then_it_stays_the_stack_s_operation(void **state)
{
	uint32_t operation = stacks_operation(stacks, &emitter, 5, "aten::conv2d", false);
	uint32_t below = stacks_on(stacks, &emitter, 5, 0, operation), stack, nr = 0;
	struct native_thread thread = {0};
	struct seen seen;

	stack = capture(&thread, below, &seen);
	learn();
	for (uint32_t i = 0; i < nr_stacks; i++)
		assert_int_equal(tree[i].operation, operation);
	while (stack != below) {
		take_frame(&stack);
		nr++;
	}
	assert_int_equal(nr, seen.nr_theirs + 2); /* and capture(), and native_capture() */
}

/* ---- code that libunwind knows nothing of */

#if defined(__x86_64__)

/* Calls function %rdi with %rsi, in an object but without unwind information. */
int call_without_information(int (*function)(void *), void *arg);
__asm__(".text\n"
        ".type call_without_information, @function\n"
        "call_without_information:\n"
        "sub $8, %rsp\n"
        "mov %rdi, %rax\n"
        "mov %rsi, %rdi\n"
        "call *%rax\n"
        "add $8, %rsp\n"
        "ret\n"
        ".size call_without_information, . - call_without_information\n");

static int capture_in(void *arg)
{
	struct native_thread thread = {0};

	*(uint32_t *)arg = native_capture(&thread, stacks, &emitter, 5, 0, false);
	return 7;
}

/* The file of the outermost frame of @stack; *@ret_nr: how many frames it has. */
static const char *outermost(uint32_t stack, uint32_t *ret_nr)
{
	uint32_t frame = 0;

	for (*ret_nr = 0; stack; (*ret_nr)++)
		frame = take_frame(&stack);
	return frames[frame].file;
}

static void test_capture_when_code_was_made_at_run_time_then_the_stack_is_cut_there(void **state)
{
	static const unsigned char code[] = {0x48, 0x83, 0xec, 0x08, 0x48, 0x89, 0xf8, 0x48, 0x89,
	                                     0xf7, 0xff, 0xd0, 0x48, 0x83, 0xc4, 0x08, 0xc3}; /* as above */
	unsigned char *made = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int (*call)(int (*)(void *), void *);
	uint32_t stack, nr;

	assert_ptr_not_equal(made, MAP_FAILED);
	memcpy(made, code, sizeof(code));
	assert_int_equal(mprotect(made, 4096, PROT_READ | PROT_EXEC), 0);
	memcpy(&call, &made, sizeof(call));
	assert_int_equal(call(capture_in, &stack), 7);
	learn();
	assert_string_equal(outermost(stack, &nr), NATIVE_CODE_MADE);
	assert_int_equal(nr, 3); /* and native_capture() and capture_in() */
	munmap(made, 4096);
}

static void test_capture_when_there_is_no_unwind_information_then_the_stack_is_cut_there(void **state)
{
	uint32_t stack, nr;

	assert_int_equal(call_without_information(capture_in, &stack), 7);
	learn();
	assert_string_equal(outermost(stack, &nr), NATIVE_CALLERS_UNKNOWN);
	assert_int_equal(nr, 4); /* and the function itself, which is known */
}

static __attribute__((noinline)) int capture_deep(unsigned depth, uint32_t *ret)
{
	volatile int result = depth ? capture_deep(depth - 1, ret) : capture_in(ret);

	return result;
}

static void test_capture_when_deeper_than_is_kept_then_the_innermost_frames_are(void **state)
{
	uint32_t stack, nr;

	capture_deep(1000, &stack);
	learn();
	assert_string_equal(outermost(stack, &nr), NATIVE_MORE);
	assert_int_equal(nr, NATIVE_FRAMES_MAX + 1);
}

/* ---- objects that go and come */

static void capture_through(const char *path, char ret_build_id[128], uintptr_t *ret_address)
{
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	int (*call)(int (*)(void *), void *);
	uint32_t stack, frame;
	Dl_info info;

	assert_non_null(library);
	*(void **)(void *)&call = dlsym(library, "native_lib_call");
	assert_int_equal(call(capture_in, &stack), 8);
	learn();
	take_frame(&stack);
	take_frame(&stack);
	frame = take_frame(&stack);
	assert_true(dladdr((void *)(uintptr_t)call, &info));
	assert_string_equal(frames[frame].file, path);
	assert_in_range(frames[frame].offset, (uintptr_t)call - (uintptr_t)info.dli_fbase,
	                (uintptr_t)call - (uintptr_t)info.dli_fbase + 32);
	snprintf(ret_build_id, 128, "%s", frames[frame].build_id);
	*ret_address = (uintptr_t)info.dli_fbase;
	assert_int_equal(strlen(ret_build_id), 40);
	dlclose(library);
}

static void test_capture_when_another_object_lies_where_one_was_then_it_is_that_one_s_frame(void **state)
{
	char build_ids[2][128];
	uintptr_t first, second;

	for (int i = 0; i < 3; i++) {
		capture_through(NATIVE_LIB_FIRST, build_ids[0], &first);
		capture_through(NATIVE_LIB_SECOND, build_ids[1], &second);
		assert_string_not_equal(build_ids[0], build_ids[1]);
	}
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	assert_int_equal(first, second); /* or it would show nothing */
#endif
}

#endif

/* ---- objects */

static void test_object_of_when_asked_both_ways_then_they_agree(void **state)
{
	const void *addresses[] = {(const void *)(uintptr_t)native_start, (const void *)(uintptr_t)qsort_r, &stacks};
	bool busy = true;

	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		uintptr_t address = (uintptr_t)addresses[i];
		const struct native_object *object = native_object_of(address, &busy);
		Dl_info info;

		assert_non_null(object);
		assert_false(busy);
		assert_ptr_equal(native_object_of_slowly(address, &busy), object);
		assert_true(dladdr(addresses[i], &info));
		assert_int_equal(object->bias, info.dli_fbase);
		assert_false(object->is_ours);
	}
	assert_null(native_object_of((uintptr_t)ring, &busy));
	assert_null(native_object_of_slowly((uintptr_t)ring, &busy));
	assert_false(busy);
}

/* ---- threads */

#define NR_THREADS 4
#define NR_CHAINS  200

static struct emitter no_emitter;

static __attribute__((noinline)) unsigned chain(unsigned bits, unsigned depth, struct native_thread *thread)
{
	volatile unsigned result;

	if (!depth)
		return native_capture(thread, stacks, &no_emitter, 5, 0, false);
	/* Two calls, which the compiler must not make one. */
	if (bits & 1) {
		result = chain(bits >> 1, depth - 1, thread);
		__asm__ volatile("nop");
	} else {
		result = chain(bits >> 1, depth - 1, thread);
	}
	return result;
}

static void *capture_chains(void *arg)
{
	struct native_thread thread = {0};
	unsigned *found = arg;

	for (unsigned i = 0; i < NR_CHAINS; i++)
		found[i] = chain(i, 8, &thread);
	return NULL;
}

/* All learn the same addresses at once; meanwhile children are forked, in which the loader must work. */
static void test_capture_when_many_threads_do_then_they_agree_and_children_can_load(void **state)
{
	static unsigned found[NR_THREADS][NR_CHAINS];
	static uint8_t ring_memory[RING_HEADER_BYTES + 65536 * sizeof(struct record)] __attribute__((aligned(4096)));
	pthread_t threads[NR_THREADS];

	ring_format(ring_memory, 65536, 0, 0);
	no_emitter = (struct emitter){.ring = (struct ring *)(void *)ring_memory, .env = &emit_env_default};
	for (int i = 0; i < NR_THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, capture_chains, found[i]), 0);
	for (int i = 0; i < 10; i++) {
		pid_t child = fork();
		int status;

		if (!child)
			_exit(dlopen(NATIVE_LIB_FIRST, RTLD_NOW | RTLD_LOCAL) ? 0 : 1);
		native_forget_all();
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
	}
	for (int i = 0; i < NR_THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_memory_equal(found[i], found[0], sizeof(found[0]));
	}
	assert_int_not_equal(found[0][0], 0);
	assert_int_not_equal(found[0][0], found[0][1]);
}

/* ---- what the program must not notice */

static unsigned count_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned nr = 0;

	assert_non_null(folder);
	while (readdir(folder))
		nr++;
	closedir(folder);
	return nr;
}

static unsigned descriptors_before;

static void test_start_when_done_then_the_program_is_as_it_was(void **state)
{
	Dl_info info;
	void *throws = dlsym(RTLD_DEFAULT, "_Unwind_RaiseException");

	assert_int_equal(count_descriptors(), descriptors_before);
	assert_null(dlsym(RTLD_DEFAULT, "_Ux86_64_step"));
	/* backtrace() has loaded libgcc's by now, locally too; whichever answers must not be libunwind's. */
	if (throws) {
		assert_true(dladdr(throws, &info));
		assert_null(strstr(info.dli_fname, "libunwind"));
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_start_when_done_then_the_program_is_as_it_was),
		cmocka_unit_test(test_walk_when_calls_are_nested_then_it_is_what_backtrace_says),
		cmocka_unit_test(test_walk_when_on_a_thread_then_it_ends_where_the_thread_begins),
		cmocka_unit_test(test_walk_when_in_a_signal_handler_then_it_goes_on_with_what_was_interrupted),
		cmocka_unit_test(test_walk_when_on_a_fiber_then_nothing_is_read_beyond_it),
		TEST(test_capture_when_frames_are_new_then_they_are_defined_by_file_and_build_id),
		TEST(test_capture_when_frames_are_known_then_nothing_is_said_again),
		TEST(test_capture_when_on_an_operation_then_it_stays_the_stack_s_operation),
#if defined(__x86_64__)
		TEST(test_capture_when_code_was_made_at_run_time_then_the_stack_is_cut_there),
		TEST(test_capture_when_there_is_no_unwind_information_then_the_stack_is_cut_there),
		TEST(test_capture_when_deeper_than_is_kept_then_the_innermost_frames_are),
		TEST(test_capture_when_another_object_lies_where_one_was_then_it_is_that_one_s_frame),
#endif
		TEST(test_capture_when_many_threads_do_then_they_agree_and_children_can_load),
		TEST(test_object_of_when_asked_both_ways_then_they_agree),
	};

	descriptors_before = count_descriptors();
	return cmocka_run_group_tests(tests, start, NULL);
}
