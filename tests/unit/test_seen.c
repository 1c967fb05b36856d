/*
 * The tagger on what CUPTI saw: calls that were told too are one call, what is left over has a life of its own.
 */
#include "store/tagger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CUDA_0    0x0001u
#define MAX_ROWS  64
#define MS        UINT64_C(1000000)
#define LONG_LATE (3000 * MS)

struct play {
	struct tagger *tagger;
	uint64_t seq, now_ns;
	struct tag_allocation allocations[MAX_ROWS]; /* by id */
};

static int on_allocation(void *arg, struct tag_allocation *allocation)
{
	assert_true(allocation->id < MAX_ROWS);
	((struct play *)arg)->allocations[allocation->id] = *allocation;
	return 0;
}

static int set_up(void **state)
{
	struct play *p = calloc(1, sizeof(*p));
	struct tag_sink sink = {.arg = p, .allocation = on_allocation};

	*state = p;
	p->now_ns = 1000 * MS;
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
	record.time_ns = p->now_ns;
	record.thread = 1;
	assert_int_equal(tagger_feed(p->tagger, &record, NULL), 0);
}

#define SEGMENT_FLAGS (LEVEL_SEGMENT << RECORD_LEVEL_SHIFT)

/* A call that takes a millisecond, as the hook tells it. */
static void told(struct play *p, uint64_t address, uint64_t size, uint8_t flags)
{
	p->now_ns += 10 * MS;
	feed(p, (struct record){.kind = RECORD_ALLOC,
	                        .flags = SEGMENT_FLAGS | flags,
	                        .device = CUDA_0,
	                        .address = address,
	                        .size = size,
	                        .b = p->now_ns - MS});
}

static void told_free(struct play *p, uint64_t address)
{
	p->now_ns += 10 * MS;
	feed(p, (struct record){.kind = RECORD_FREE, .flags = SEGMENT_FLAGS, .address = address});
}

/* CUPTI's record of a call at @ns. */
static void seen(struct play *p, uint8_t kind, uint64_t address, uint64_t size, uint64_t ns)
{
	feed(p, (struct record){.kind = kind,
	                        .flags = SEGMENT_FLAGS,
	                        .device = CUDA_0,
	                        .address = address,
	                        .size = size,
	                        .a = 0x7000,
	                        .b = ns});
}

/* Everything of CUPTI's must be settled. */
static void later(struct play *p)
{
	p->now_ns += LONG_LATE;
	feed(p, (struct record){.kind = RECORD_SCALER_UPDATE});
	assert_int_equal(tagger_flush(p->tagger), 0);
}

static unsigned nr_rows(const struct play *p)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < MAX_ROWS; i++)
		nr += p->allocations[i].id != 0;
	return nr;
}

static void test_seen_when_the_call_was_told_then_it_is_one(void **state)
{
	struct play *p = *state;

	told(p, 0x1000, 2 << 20, 0);
	seen(p, RECORD_SEEN_ALLOC, 0x1000, 2 << 20, p->now_ns - MS / 2);
	later(p);
	assert_int_equal(nr_rows(p), 1);
	assert_false(p->allocations[1].seen);
	assert_int_equal(p->allocations[1].free_seq, 0);
}

static void test_seen_when_told_after_cuptis_record_then_it_is_one(void **state)
{
	struct play *p = *state;

	seen(p, RECORD_SEEN_ALLOC, 0x1000, 2 << 20, p->now_ns + 10 * MS - MS / 2);
	told(p, 0x1000, 2 << 20, 0);
	later(p);
	assert_int_equal(nr_rows(p), 1);
	assert_false(p->allocations[1].seen);
}

static void test_seen_when_nobody_told_then_cupti_is_the_source(void **state)
{
	struct play *p = *state;
	uint64_t alloc_ns = p->now_ns + MS;

	told(p, 0x1000, 2 << 20, 0);
	seen(p, RECORD_SEEN_ALLOC, 0x9000, 777, alloc_ns);
	later(p);
	assert_int_equal(nr_rows(p), 2);
	assert_true(p->allocations[2].seen);
	assert_int_equal(p->allocations[2].level, LEVEL_SEGMENT);
	assert_int_equal(p->allocations[2].size_bytes, 777);
	assert_int_equal(p->allocations[2].caller, 0x7000);
	assert_int_equal(p->allocations[2].alloc_ns, alloc_ns);
	assert_int_equal(p->allocations[2].phase, PHASE_OTHER);
	assert_int_equal(p->allocations[2].free_seq, 0);
	seen(p, RECORD_SEEN_FREE, 0x9000, 777, p->now_ns);
	later(p);
	assert_int_equal(p->allocations[2].free_ns, p->now_ns - LONG_LATE);
	assert_int_equal(nr_rows(p), 2);
}

/* A library takes memory past us, gives it back, and a call that is told gets the same place and size. */
static void test_seen_when_an_address_comes_again_then_each_life_is_its_own(void **state)
{
	struct play *p = *state;
	uint64_t start_ns = p->now_ns;

	p->now_ns += 100 * MS;
	told(p, 0x1000, 4096, 0);
	seen(p, RECORD_SEEN_ALLOC, 0x1000, 4096, start_ns);
	seen(p, RECORD_SEEN_FREE, 0x1000, 4096, start_ns + 50 * MS);
	seen(p, RECORD_SEEN_ALLOC, 0x1000, 4096, p->now_ns - MS / 2);
	told_free(p, 0x1000);
	seen(p, RECORD_SEEN_FREE, 0x1000, 4096, p->now_ns + MS / 10);
	later(p);
	assert_int_equal(nr_rows(p), 2);
	assert_false(p->allocations[1].seen);
	assert_int_not_equal(p->allocations[1].free_seq, 0);
	assert_true(p->allocations[2].seen);
	assert_int_equal(p->allocations[2].alloc_ns, start_ns);
	assert_int_equal(p->allocations[2].free_ns, start_ns + 50 * MS);
}

static void test_seen_when_records_come_in_another_order_then_calls_are_settled_in_theirs(void **state)
{
	struct play *p = *state;

	seen(p, RECORD_SEEN_FREE, 0x9000, 777, p->now_ns + 2 * MS);
	seen(p, RECORD_SEEN_ALLOC, 0x9000, 777, p->now_ns + MS);
	later(p);
	assert_int_equal(nr_rows(p), 1);
	assert_int_not_equal(p->allocations[1].free_seq, 0);
	assert_true(p->allocations[1].free_seq > p->allocations[1].alloc_seq);
}

static void test_seen_when_only_the_end_was_not_told_then_the_life_ends(void **state)
{
	struct play *p = *state;
	uint64_t freed_ns;

	told(p, 0x1000, 4096, 0);
	seen(p, RECORD_SEEN_ALLOC, 0x1000, 4096, p->now_ns - MS / 2);
	freed_ns = p->now_ns + 20 * MS;
	seen(p, RECORD_SEEN_FREE, 0x1000, 4096, freed_ns);
	later(p);
	assert_int_equal(p->allocations[1].free_ns, freed_ns);
	assert_int_equal(nr_rows(p), 1);
}

/* The end that CUPTI saw belongs to an earlier life at the address than the one that is open. */
static void test_seen_when_the_open_life_is_younger_then_it_stays(void **state)
{
	struct play *p = *state;
	uint64_t freed_ns;

	told(p, 0x1000, 4096, 0);
	told_free(p, 0x1000);
	freed_ns = p->now_ns;
	p->now_ns += 100 * MS;
	told(p, 0x1000, 4096, 0);
	seen(p, RECORD_SEEN_FREE, 0x1000, 4096, freed_ns);
	later(p);
	assert_int_equal(p->allocations[2].free_seq, 0);
}

static void test_seen_when_told_by_handle_then_it_is_one(void **state)
{
	struct play *p = *state;

	told(p, 0x77, 2 << 20, RECORD_F_HANDLE);
	seen(p, RECORD_SEEN_ALLOC, 0x70000000, 2 << 20, p->now_ns - MS / 2);
	later(p);
	assert_int_equal(nr_rows(p), 1);
	/* One call has one record. */
	seen(p, RECORD_SEEN_ALLOC, 0x80000000, 2 << 20, p->now_ns);
	later(p);
	assert_int_equal(nr_rows(p), 2);
}

static void test_seen_when_the_run_ends_then_nothing_waits(void **state)
{
	struct play *p = *state;

	seen(p, RECORD_SEEN_ALLOC, 0x9000, 777, p->now_ns);
	assert_int_equal(nr_rows(p), 0);
	assert_int_equal(tagger_finish(p->tagger), 0);
	assert_int_equal(nr_rows(p), 1);
}

static void test_seen_when_cut_while_it_waits_then_goes_on(void **state)
{
	struct play *p = *state;
	struct tag_sink sink = {.arg = p, .allocation = on_allocation};
	unsigned char *bytes;
	size_t size;

	seen(p, RECORD_SEEN_ALLOC, 0x9000, 777, p->now_ns);
	later(p);
	told(p, 0x1000, 4096, 0);
	seen(p, RECORD_SEEN_ALLOC, 0x1000, 4096, p->now_ns - MS / 2);
	seen(p, RECORD_SEEN_FREE, 0x9000, 777, p->now_ns);
	assert_int_equal(tagger_flush(p->tagger), 0);
	assert_int_equal(tagger_save(p->tagger, &bytes, &size), 0);
	tagger_free(p->tagger);
	p->tagger = NULL;
	assert_int_equal(tagger_load(&sink, bytes, size, &p->tagger), 0);
	free(bytes);
	for (unsigned i = 1; i < MAX_ROWS; i++)
		if (p->allocations[i].id && !p->allocations[i].free_seq)
			assert_int_equal(tagger_load_allocation(p->tagger, &p->allocations[i]), 0);
	later(p);
	assert_int_equal(nr_rows(p), 2);
	assert_true(p->allocations[1].seen);
	assert_int_not_equal(p->allocations[1].free_seq, 0);
	assert_false(p->allocations[2].seen);
	assert_int_equal(p->allocations[2].free_seq, 0);
}

static void test_seen_when_absurd_then_ignored(void **state)
{
	struct play *p = *state;

	feed(p, (struct record){.kind = RECORD_SEEN_ALLOC, .device = CUDA_0, .address = 1, .size = 1, .b = 5}); /* a block */
	seen(p, RECORD_SEEN_ALLOC, 0x9000, 0, p->now_ns);
	seen(p, RECORD_SEEN_ALLOC, 0x9000, UINT64_MAX, p->now_ns);
	assert_int_equal(tagger_ignored(p->tagger), 3);
	later(p);
	assert_int_equal(nr_rows(p), 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_seen_when_the_call_was_told_then_it_is_one),
	        TEST(test_seen_when_told_after_cuptis_record_then_it_is_one),
	        TEST(test_seen_when_nobody_told_then_cupti_is_the_source),
	        TEST(test_seen_when_an_address_comes_again_then_each_life_is_its_own),
	        TEST(test_seen_when_records_come_in_another_order_then_calls_are_settled_in_theirs),
	        TEST(test_seen_when_only_the_end_was_not_told_then_the_life_ends),
	        TEST(test_seen_when_the_open_life_is_younger_then_it_stays),
	        TEST(test_seen_when_told_by_handle_then_it_is_one),
	        TEST(test_seen_when_the_run_ends_then_nothing_waits),
	        TEST(test_seen_when_cut_while_it_waits_then_goes_on),
	        TEST(test_seen_when_absurd_then_ignored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
