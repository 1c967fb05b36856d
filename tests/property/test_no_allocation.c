/*
 * The hook's path allocates nothing and keeps errno: hook.c and what it calls, linked into a program that counts every
 * allocation and mapping.  Never built with sanitizers: they replace malloc too.
 */
#define _GNU_SOURCE
#include "hook/api.h"
#include "hook/hook_internal.h"
#include "hook/operations.h"
#include "hook/process.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* glibc's own, behind the ones that we define. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *memory);

static unsigned long nr_allocations;

void *malloc(size_t size)
{
	nr_allocations++;
	return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	nr_allocations++;
	return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
	nr_allocations++;
	return __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	nr_allocations++;
	return __libc_memalign(alignment, size);
}

void free(void *memory)
{
	nr_allocations++;
	__libc_free(memory);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	nr_allocations++;
	return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

/* ---- the world around hook.c */

#define CAPACITY (1u << 13)

static struct hook_page page;
static _Alignas(4096) unsigned char ring_memory[RING_HEADER_BYTES + CAPACITY * sizeof(struct record)];

bool process_start(void)
{
	return false;
}

uint64_t hook_torch_thread(void)
{
	return 1;
}

/* PyTorch, as far as it tells operators. */
static struct api_callback callback;

static uint64_t fake_add_callback(struct api_callback added)
{
	callback = added;
	return 1;
}

static void fake_remove_callback(uint64_t handle)
{
}

static const char *fake_function_name(const void *function)
{
	return function;
}

void *api_real(enum api api)
{
	switch (api) {
	case API_add_callback:
		return (void *)(uintptr_t)fake_add_callback;
	case API_remove_callback:
		return (void *)(uintptr_t)fake_remove_callback;
	case API_function_name:
		return (void *)(uintptr_t)fake_function_name;
	default:
		return NULL;
	}
}

/* An operator runs, in which something is allocated. */
static void operate(void)
{
	void *(*begin)(void **result, const void *function) = (void *(*)(void **, const void *))(uintptr_t)callback.start;
	void (*end)(const void *function, void *context) = (void (*)(const void *, void *))(uintptr_t)callback.end;
	void *context = &context;

	begin(&context, "aten::conv2d");
	hook_report((void *)0x3000, 64, 64, 0, RECORD_DEVICE_CPU, false);
	end("aten::conv2d", context);
}

static uint64_t now_ns = 1;

static uint64_t fake_now(void)
{
	return now_ns;
}

static void fake_pause(uint64_t ns)
{
	now_ns += ns;
}

static bool fake_alive(uint32_t pid)
{
	return true;
}

static const struct emit_env fake_env = {fake_now, fake_pause, fake_alive};

/* A thread of a Python that is not there: one frame of 3.12, whose code changes its first line with every question. */
static struct {
	_Alignas(16) char thread[128], cframe[16], frame[96], code[256], text[64], table[64];
} python;

static void *fake_thread_state(void)
{
	static uint32_t line;

	line++;
	memcpy(python.code + 68, &line, sizeof(line));
	return python.thread;
}

static int fake_is_up(void)
{
	return 1;
}

static void point(char *from, size_t offset, const void *to)
{
	memcpy(from + offset, &to, sizeof(to));
}

static void start_python(void)
{
	static const char code_type;
	struct frames_layout layout;

	frames_layout_of(12, NULL, &code_type, &layout);
	point(python.thread, layout.thread_frame, python.cframe);
	point(python.cframe, layout.cframe_frame, python.frame);
	point(python.frame, layout.frame_code, python.code);
	point(python.frame, layout.frame_instruction, python.code + layout.code_bytes + 2);
	point(python.code, 8, &code_type);
	point(python.code, layout.code_filename, python.text);
	point(python.code, layout.code_name, python.text);
	point(python.code, layout.code_linetable, python.table);
	hook.thread_state = fake_thread_state;
	hook.python_is_up = fake_is_up;
	hook_stacks_start(&layout, "/torch", "/library");
}

static void everything(struct forward_table *table)
{
	/* A class as type_info has it, and a PyNode, whose object is looked for. */
	const char *types[2][2] = {{NULL, "N5torch8autograd9generated3FooE"}, {NULL, "N5torch8autograd6PyNodeE"}};
	const void *vtables[2][2] = {{types[0], NULL}, {types[1], NULL}};
	uint64_t node[NODES_WORDS] = {(uintptr_t)&vtables[0][1], 1, 5, 0, 0, 1};
	uint64_t python_node[64] = {(uintptr_t)&vtables[1][1]};
	struct forward_report report = {.address = 0x1000, .size_bytes = 64, .total_bytes = 64};
	uint8_t once = 0;

	for (uint32_t i = 1; i <= 100; i++) {
		hook_module_enter(i, i == 1, true, true);
		hook_report((void *)0x1000, 64, 64, 0, RECORD_DEVICE_CPU, false);
		hook_node_made(i);
	}
	hook_report_oom(1, 2, 3, RECORD_DEVICE_CPU);
	hook_memory_given(&(struct hook_given){
	        .address = (void *)0x4000, .size_bytes = 64, .level = LEVEL_SEGMENT, .device = RECORD_DEVICE_CPU});
	hook_memory_seen(&(struct hook_seen){.address = 0x4000, .size_bytes = 64, .level = LEVEL_SEGMENT, .given = true});
	hook_memory_taken((void *)0x4000);
	for (uint32_t i = 1; i <= 100; i++)
		hook_module_leave();
	hook_node_made(1000);
	hook_backward_begin(true, false);
	hook_autograd_worker();
	hook_graph_task(&node);
	hook_node_begin(&node, node);
	hook_report((void *)0x1000, -64, 0, 0, RECORD_DEVICE_CPU, false);
	hook_report((void *)0x2000, 64, 0, 0, RECORD_DEVICE_CPU, false);
	operate();
	hook_node_end();
	hook_node_begin(&node, python_node);
	hook_report((void *)0x2000, 64, 0, 0, RECORD_DEVICE_CPU, false);
	operate();
	hook_node_end();
	operations_unwant();
	hook_backward_end();
	hook_optimizer_begin(1);
	hook_optimizer_end();
	hook_scaler_update();
	hook_input(0x1000, 64, false);
	hook_gradient(1, 0x1000);
	hook_mark(RECORD_MARK_STEP, 0);
	hook_define(&(struct record){.kind = RECORD_INFO}, "key\0value", 9);
	hook_note(&once, RECORD_SEVERITY_INFO, "%s %d", "text", 1);
	forward_ordinary(table, &report);
	report.size_bytes = -64;
	forward_ordinary(table, &report);
}

static int failed;

static void expect(const char *what, bool holds)
{
	if (!holds) {
		fprintf(stderr, "FAILED: %s\n", what);
		failed = 1;
	}
}

int main(void)
{
	struct ring *ring = (struct ring *)(void *)ring_memory;
	static struct forward_table table;
	struct forward_report first = {.address = 0x5000, .size_bytes = 1, .total_bytes = 1};
	unsigned long before;
	void *volatile probe = malloc(1); /* the counters count */

	free(probe);
	expect("malloc and free are counted", nr_allocations >= 2);
	ring_format(ring, CAPACITY, 0, 0);
	page.state = HOOK_UP;
	hook.page = &page;
	hook.operations = hook.native_stacks = hook.native_calls = true;
	hook.emitter.ring = ring;
	hook.emitter.env = &fake_env;
	start_python();
	hook_native_start();
	expect("native stacks are had", native_is_on());
	before = nr_allocations;
	forward_ordinary(&table, &first);
	expect("the table of forwarded blocks is mapped once", nr_allocations == before + 1);

	before = nr_allocations;
	errno = 77;
	everything(&table);
	expect("the ring held all of it", ring->head > 300 && ring->lost[LOST_FULL] == 0);
	expect("nothing is allocated while there is room", nr_allocations == before);
	expect("errno is kept while there is room", errno == 77);
	for (int i = 0; i < 60; i++)
		everything(&table);
	expect("the ring was full", ring->lost[LOST_FULL] > 0);
	expect("nothing is allocated when the ring is full", nr_allocations == before);
	page.state = HOOK_DRAINING;
	errno = 77;
	everything(&table);
	expect("nothing is allocated after the end", nr_allocations == before);
	expect("errno is kept after the end", errno == 77);
	return failed;
}
