/*
 * The tagger on a GPU's memory: what was asked for, what no tensor asked for, segments, and what the driver says.
 */
#include "store/tagger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CUDA_0   0x0001u
#define MAX_ROWS 32

struct play {
	struct tagger *tagger;
	uint64_t seq;
	struct tag_allocation allocations[MAX_ROWS]; /* by id */
	struct tag_used used[MAX_ROWS];              /* as told */
	unsigned nr_used;
	struct tag_oom refusal; /* the last */
	struct tag_device device;
};

static int on_allocation(void *arg, struct tag_allocation *allocation)
{
	assert_true(allocation->id < MAX_ROWS);
	((struct play *)arg)->allocations[allocation->id] = *allocation;
	return 0;
}

static int on_used(void *arg, const struct tag_used *used)
{
	struct play *p = arg;

	assert_true(p->nr_used < MAX_ROWS);
	p->used[p->nr_used++] = *used;
	return 0;
}

static int on_device(void *arg, const struct tag_device *device)
{
	((struct play *)arg)->device = *device;
	return 0;
}

static int on_refused(void *arg, const struct tag_oom *refusal)
{
	((struct play *)arg)->refusal = *refusal;
	return 0;
}

static struct tag_sink sink_of(struct play *p)
{
	return (struct tag_sink){
	        .arg = p, .allocation = on_allocation, .used = on_used, .refused = on_refused, .device = on_device};
}

static int set_up(void **state)
{
	struct play *p = calloc(1, sizeof(*p));
	struct tag_sink sink = sink_of(p);

	*state = p;
	return tagger_new(&sink, &p->tagger);
}

static int tear_down(void **state)
{
	struct play *p = *state;

	tagger_free(p->tagger);
	free(p);
	return 0;
}

static void feed(struct play *p, struct record record)
{
	record.seq = ++p->seq;
	record.time_ns = 1000 * p->seq;
	record.thread = 1;
	assert_int_equal(tagger_feed(p->tagger, &record, NULL), 0);
}

/* A block of @size bytes, of which @requested were asked for (0: nobody knows). */
static void block(struct play *p, uint64_t address, uint64_t size, uint64_t requested)
{
	feed(p, (struct record){.kind = RECORD_ALLOC,
	                        .device = CUDA_0,
	                        .address = address,
	                        .size = size,
	                        .b = record_pack_reserved(2 << 20, size, requested)});
}

static void segment(struct play *p, uint64_t address, uint64_t size, uint64_t caller)
{
	feed(p, (struct record){.kind = RECORD_ALLOC,
	                        .flags = LEVEL_SEGMENT << RECORD_LEVEL_SHIFT,
	                        .device = CUDA_0,
	                        .address = address,
	                        .size = size,
	                        .a = caller});
}

static void taken(struct play *p, uint64_t address)
{
	feed(p, (struct record){.kind = RECORD_FREE, .flags = LEVEL_SEGMENT << RECORD_LEVEL_SHIFT, .address = address});
}

static void used(struct play *p, uint64_t used_bytes)
{
	feed(p, (struct record){.kind = RECORD_USED, .device = CUDA_0, .a = used_bytes, .b = 1000});
}

/* The tagger dies and is made anew from what it saved. */
static void cut(struct play *p)
{
	struct tag_sink sink = sink_of(p);
	unsigned char *bytes;
	size_t size;

	assert_int_equal(tagger_flush(p->tagger), 0);
	assert_int_equal(tagger_save(p->tagger, &bytes, &size), 0);
	tagger_free(p->tagger);
	p->tagger = NULL;
	assert_int_equal(tagger_load(&sink, bytes, size, &p->tagger), 0);
	for (unsigned i = 1; i < MAX_ROWS; i++)
		if (p->allocations[i].id && !p->allocations[i].free_seq)
			assert_int_equal(tagger_load_allocation(p->tagger, &p->allocations[i]), 0);
	free(bytes);
}

static void forward(struct play *p)
{
	feed(p, (struct record){.kind = RECORD_FORWARD});
}

static void test_category_when_no_tensor_asked_for_a_block_then_it_is_a_workspace(void **state)
{
	struct play *p = *state;

	block(p, 0x1000, 512, 100); /* 1: what is asked for is known here */
	block(p, 0x2000, 1024, 0);  /* 2: before training, perhaps a file that is loaded */
	forward(p);
	block(p, 0x3000, 512, 512); /* 3 */
	block(p, 0x4000, 8192, 0);  /* 4 */
	cut(p);
	block(p, 0x5000, 4096, 0); /* 5 */
	assert_int_equal(tagger_finish(p->tagger), 0);
	assert_int_equal(p->allocations[1].requested_bytes, 100);
	assert_int_equal(p->allocations[3].requested_bytes, 512);
	assert_int_equal(p->allocations[4].requested_bytes, 0);
	assert_int_not_equal(p->allocations[2].category, CATEGORY_WORKSPACE);
	assert_int_not_equal(p->allocations[3].category, CATEGORY_WORKSPACE);
	assert_int_equal(p->allocations[4].category, CATEGORY_WORKSPACE);
	assert_int_equal(p->allocations[4].rule, RULE_NO_TENSOR);
	assert_int_equal(p->allocations[5].category, CATEGORY_WORKSPACE);
	assert_int_equal(p->device.reserved_peak_bytes, 2 << 20);
}

static void test_category_when_nobody_tells_what_is_asked_for_then_nothing_is_a_workspace(void **state)
{
	struct play *p = *state;

	forward(p);
	block(p, 0x3000, 512, 0);
	feed(p, (struct record){.kind = RECORD_ALLOC, .device = RECORD_DEVICE_CPU, .address = 0x9000, .size = 7});
	assert_int_equal(tagger_finish(p->tagger), 0);
	assert_int_not_equal(p->allocations[1].category, CATEGORY_WORKSPACE);
	assert_int_equal(p->allocations[2].requested_bytes, 7); /* the CPU's are never rounded */
}

static void test_used_when_nothing_changes_then_one_row(void **state)
{
	struct play *p = *state;

	used(p, 100); /* 1 */
	segment(p, 0x1000, 30, 0x7000);
	used(p, 130); /* 3 */
	used(p, 130);
	cut(p);
	used(p, 130); /* 5 */
	taken(p, 0x1000);
	used(p, 130); /* 7: the same, but not of the same segments */
	block(p, 0x2000, 512, 0);
	used(p, 130); /* 9 */
	assert_int_equal(tagger_finish(p->tagger), 0);
	assert_int_equal(p->allocations[1].caller, 0x7000);
	assert_int_equal(p->nr_used, 5);
	assert_int_equal(p->used[0].seq, 1);
	assert_int_equal(p->used[0].segment_bytes, 0);
	assert_int_equal(p->used[1].seq, 3); /* as of the flush */
	assert_int_equal(p->used[1].last_seq, 4);
	assert_int_equal(p->used[2].seq, 3);
	assert_int_equal(p->used[2].last_seq, 5);
	assert_int_equal(p->used[2].used_bytes, 130);
	assert_int_equal(p->used[2].total_bytes, 1000);
	assert_int_equal(p->used[2].segment_bytes, 30);
	assert_int_equal(p->used[3].seq, 7);
	assert_int_equal(p->used[3].segment_bytes, 0);
	assert_int_equal(p->used[4].seq, 9);
	assert_int_equal(p->used[4].reserved_bytes, 2 << 20);
}

static void test_used_when_absurd_then_ignored(void **state)
{
	struct play *p = *state;

	used(p, 1001); /* more than there is */
	assert_int_equal(tagger_ignored(p->tagger), 1);
	assert_int_equal(tagger_finish(p->tagger), 0);
	assert_int_equal(p->nr_used, 0);
}

static void mapping(struct play *p, uint64_t address, uint64_t size, uint64_t handle)
{
	feed(p, (struct record){.kind = RECORD_ALLOC,
	                        .flags = record_level_flags(LEVEL_MAPPING),
	                        .address = address,
	                        .size = size,
	                        .a = handle});
}

static void test_mapping_when_its_segment_is_known_then_it_is_of_its_device_and_takes_nothing(void **state)
{
	struct play *p = *state;

	segment(p, 0x7, 30, 0x7000);
	mapping(p, 0x100000, 30, 0x7);
	mapping(p, 0x200000, 30, 0x8); /* another process made it */
	used(p, 30);
	taken(p, 0x100000);
	used(p, 30);
	taken(p, 0x7);
	used(p, 0);
	assert_int_equal(tagger_finish(p->tagger), 0);
	assert_int_equal(p->allocations[2].level, LEVEL_MAPPING);
	assert_int_equal(p->allocations[2].device, CUDA_0);
	assert_int_equal(p->allocations[2].caller, 0x7);
	assert_int_equal(p->allocations[2].free_seq, 5);
	assert_int_equal(p->allocations[3].id, 0);
	assert_int_equal(p->nr_used, 2);
	assert_int_equal(p->used[0].segment_bytes, 30);
	assert_int_equal(p->used[1].segment_bytes, 0);
	assert_int_equal(tagger_ignored(p->tagger), 0);
}

static void test_refused_when_told_then_says_what_there_was(void **state)
{
	struct play *p = *state;

	block(p, 0x1000, 512, 100);
	feed(p, (struct record){.kind = RECORD_REFUSED, .device = CUDA_0, .size = 99, .scope = 3, .stack = 4});
	assert_int_equal(p->refusal.seq, 2);
	assert_int_equal(p->refusal.size_bytes, 99);
	assert_int_equal(p->refusal.allocated_bytes, 512);
	assert_int_equal(p->refusal.reserved_bytes, 2 << 20);
	assert_int_equal(p->refusal.module, 3);
	assert_int_equal(p->refusal.stack, 4);
	assert_int_equal(p->refusal.phase, PHASE_STATIC);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_category_when_no_tensor_asked_for_a_block_then_it_is_a_workspace),
	        TEST(test_category_when_nobody_tells_what_is_asked_for_then_nothing_is_a_workspace),
	        TEST(test_used_when_nothing_changes_then_one_row),
	        TEST(test_used_when_absurd_then_ignored),
	        TEST(test_mapping_when_its_segment_is_known_then_it_is_of_its_device_and_takes_nothing),
	        TEST(test_refused_when_told_then_says_what_there_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
