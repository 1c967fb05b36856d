/*
 * A GPU's memory as the reader tells it, and as report/ puts it together: segments, what lies in them, whose they are, what was
 * refused, what the driver says, and what expandable segments would have reserved.
 */
#include "report/driver.h"
#include "report/expandable.h"
#include "report/memory_map.h"

#include "run_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB        (UINT64_C(1) << 20)
#define TORCH_CODE 0x1010
#define NCCL_CODE  0x2010
#define MAX_ROWS   32
#define FLAG_SEEN  256

static char folder[] = "/tmp/nnmem-test-segments-XXXXXX";
static char path[64];

struct fixture {
	sqlite3 *db;
	struct report report;
	int id;
	struct store_segment segments[MAX_ROWS];
	char callers[MAX_ROWS][32];
	struct store_placed placed[MAX_ROWS];
	struct store_change changes[MAX_ROWS];
	struct store_oom refusals[MAX_ROWS];
	bool near_miss[MAX_ROWS];
	size_t nr;
};

static int make_folder(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/run.db", folder);
	return 0;
}

static int remove_folder(void **state)
{
	unlink(path);
	return rmdir(folder);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->db = builder_create(path);
	builder_exec(f->db, "INSERT INTO device VALUES (1, 'cuda:0', 1, 9, 9, 0, 0, 50, 1, 1, 0, 5, 0, 0)");
	builder_exec(f->db, "INSERT INTO stretch VALUES (1, 0)");
	builder_exec(f->db, "INSERT INTO object VALUES (4096, 8192, '/lib/libc10_cuda.so'), (8192, 12288, '/lib/libnccl.so.2')");
	builder_exec(f->db, "UPDATE run SET last_seq = 100, last_ns = 1000");
	*state = f;
	return 0;
}

/* Nothing is written any more: look at it. */
static void open_run(struct fixture *f)
{
	struct store_error error = {""};

	sqlite3_close(f->db);
	f->db = NULL;
	if (store_open(path, &f->report.store, &error))
		fail_msg("%s", error.message);
	f->report.device = BUILDER_CUDA;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	sqlite3_close(f->db);
	if (f->report.store)
		store_close(f->report.store);
	free(f);
	return 0;
}

/* Something that lives from @alloc_seq to before @free_seq (0: alive); the time of event s is 10 s. */
static void add(struct fixture *f, unsigned level, uint64_t address, uint64_t size_bytes, unsigned alloc_seq, unsigned free_seq,
                uint64_t caller, uint64_t requested_bytes, unsigned flags)
{
	builder_exec(
	        f->db,
	        "INSERT INTO allocation (id, device, level, address, size_bytes, alloc_seq, alloc_ns, free_seq, free_ns, "
	        "thread, free_thread, stretch, free_stretch, phase, free_phase, category, rule, module, tensor, stack, flags, "
	        "episode, requested_bytes, caller) VALUES (%d, 1, %u, %lld, %lld, %u, %u, nullif(%u, 0), nullif(%u, 0), 1, 0, 1, "
	        "0, 1, NULL, 5, 0, 0, 0, 0, %u, 0, %lld, %lld)",
	        ++f->id, level, (long long)address, (long long)size_bytes, alloc_seq, 10 * alloc_seq, free_seq, 10 * free_seq,
	        flags, (long long)requested_bytes, (long long)caller);
}

static void segment(struct fixture *f, uint64_t address, uint64_t size_bytes, unsigned alloc_seq, uint64_t caller)
{
	add(f, LEVEL_SEGMENT, address, size_bytes, alloc_seq, 0, caller, 0, 0);
}

static void block(struct fixture *f, uint64_t address, uint64_t size_bytes, unsigned alloc_seq, unsigned free_seq)
{
	add(f, LEVEL_BLOCK, address, size_bytes, alloc_seq, free_seq, 0, 0, 0);
}

static int collect_segment(const struct store_segment *segment, void *arg)
{
	struct fixture *f = arg;

	assert_true(f->nr < MAX_ROWS);
	snprintf(f->callers[f->nr], sizeof(f->callers[0]), "%s", segment->caller ? segment->caller : "-");
	f->segments[f->nr++] = *segment;
	return 0;
}

static size_t read_segments(struct fixture *f, uint64_t seq)
{
	f->nr = 0;
	assert_int_equal(store_each_segment(f->report.store, BUILDER_CUDA, seq, collect_segment, f), 0);
	return f->nr;
}

static void test_each_segment_when_some_have_died_then_those_of_the_moment_by_address(void **state)
{
	struct fixture *f = *state;

	segment(f, 8 * MIB, 2 * MIB, 2, TORCH_CODE);
	segment(f, 4 * MIB, 2 * MIB, 3, NCCL_CODE);
	add(f, LEVEL_SEGMENT, 2 * MIB, 2 * MIB, 4, 10, TORCH_CODE, 0, 0);
	add(f, LEVEL_PINNED, 1 * MIB, 2 * MIB, 5, 0, NCCL_CODE, 0, 0);
	open_run(f);
	assert_int_equal(read_segments(f, 9), 3);
	assert_int_equal(f->segments[0].address, 2 * MIB);
	assert_int_equal(f->segments[1].address, 4 * MIB);
	assert_int_equal(f->segments[2].address, 8 * MIB);
	assert_string_equal(f->callers[1], "/lib/libnccl.so.2");
	assert_false(f->segments[1].of_pytorch);
	assert_true(f->segments[2].of_pytorch);
	assert_int_equal(read_segments(f, 10), 2);
	assert_int_equal(read_segments(f, 1), 0);
}

static void test_each_segment_when_nobody_knows_who_called_then_a_block_tells_pytorchs(void **state)
{
	struct fixture *f = *state;

	block(f, 2 * MIB, 512, 1, 2); /* before there was that segment */
	segment(f, 2 * MIB, 2 * MIB, 3, 0);
	segment(f, 4 * MIB, 2 * MIB, 4, 77); /* in no file */
	block(f, 5 * MIB, 512, 5, 6);
	block(f, 6 * MIB, 512, 7, 0); /* behind it */
	open_run(f);
	assert_int_equal(read_segments(f, 50), 2);
	assert_string_equal(f->callers[1], "-");
	assert_false(f->segments[0].of_pytorch);
	assert_true(f->segments[1].of_pytorch);
}

static void test_each_segment_when_expandable_then_where_it_is_mapped(void **state)
{
	struct fixture *f = *state;

	segment(f, 7, 2 * MIB, 1, TORCH_CODE);
	add(f, LEVEL_MAPPING, 64 * MIB, 2 * MIB, 2, 0, 7, 0, 0);
	segment(f, 8, 2 * MIB, 3, TORCH_CODE);
	add(f, LEVEL_MAPPING, 66 * MIB, 2 * MIB, 4, 0, 8, 0, 0);
	segment(f, 9, 2 * MIB, 5, TORCH_CODE);
	add(f, LEVEL_MAPPING, 90 * MIB, 2 * MIB, 6, 20, 9, 0, 0);
	block(f, 65 * MIB, 2 * MIB, 10, 0); /* over the border of two pieces, which are one segment */
	open_run(f);
	assert_int_equal(read_segments(f, 30), 3);
	assert_int_equal(f->segments[0].address, 0); /* 9, mapped nowhere now */
	assert_true(f->segments[0].expandable && f->segments[0].of_pytorch);
	assert_int_equal(f->segments[1].address, 64 * MIB);
	assert_true(f->segments[1].expandable && f->segments[1].of_pytorch);

	struct memory_map map;

	assert_int_equal(memory_map_read(&f->report, BUILDER_CUDA, 30, &map), 0);
	assert_int_equal(map.nr_regions, 2);
	assert_int_equal(map.regions[1].nr_pieces, 2);
	assert_int_equal(map.regions[1].allocated_bytes, 2 * MIB);
	assert_int_equal(map.regions[1].nr_gaps, 2);
	assert_int_equal(map.reserved_bytes, 6 * MIB);
	assert_int_equal(map.unplaced_blocks, 0);
	memory_map_release(&map);
}

static void test_each_segment_when_cupti_alone_saw_it_then_its_clock_counts(void **state)
{
	struct fixture *f = *state;

	add(f, LEVEL_SEGMENT, 4 * MIB, 2 * MIB, 40, 0, NCCL_CODE, 0, FLAG_SEEN);
	builder_exec(f->db, "UPDATE allocation SET alloc_ns = 55 WHERE flags = 256");
	block(f, 8 * MIB, 512, 5, 0);
	block(f, 9 * MIB, 512, 6, 0);
	builder_exec(f->db, "INSERT INTO driver VALUES (1, 5, 5, 50, 20, 100, 0, 0, 0), (1, 6, 6, 60, 30, 100, 0, 0, 0)");
	open_run(f);
	assert_int_equal(read_segments(f, 5), 0);
	assert_int_equal(read_segments(f, 6), 1);
	assert_true(f->segments[0].seen);

	struct memory_map map;
	struct driver_said said;

	assert_int_equal(memory_map_read(&f->report, BUILDER_CUDA, 100, &map), 0);
	assert_int_equal(map.seen_bytes, 2 * MIB);
	assert_int_equal(driver_read(&f->report, BUILDER_CUDA, 100, &map, &said), 0);
	assert_int_equal(said.said.seen_bytes, 2 * MIB);
	assert_int_equal(said.used_bytes, 30); /* what was seen was there when the driver was asked */
	memory_map_release(&map);
}

static void test_memory_map_when_blocks_lie_in_it_then_gaps_have_neighbours(void **state)
{
	struct fixture *f = *state;
	struct memory_map map;

	segment(f, 16 * MIB, 8 * MIB, 1, TORCH_CODE);
	segment(f, 32 * MIB, 2 * MIB, 2, NCCL_CODE);
	add(f, LEVEL_BLOCK, 17 * MIB, 2 * MIB, 3, 0, 0, 2 * MIB - 100, 0);
	block(f, 19 * MIB, 1 * MIB, 4, 0);
	block(f, 22 * MIB, 2 * MIB, 5, 0);
	block(f, 90 * MIB, 3 * MIB, 6, 0); /* in nothing that was seen */
	block(f, 20 * MIB, 2 * MIB, 7, 9);
	open_run(f);
	assert_int_equal(memory_map_read(&f->report, BUILDER_CUDA, 20, &map), 0);
	assert_int_equal(map.nr_segments, 1);
	assert_int_equal(map.reserved_bytes, 8 * MIB);
	assert_int_equal(map.allocated_bytes, 5 * MIB);
	assert_int_equal(map.free_bytes, 3 * MIB);
	assert_int_equal(map.nr_gaps, 2);
	assert_int_equal(map.largest_free_bytes, 2 * MIB);
	assert_int_equal(map.nr_others, 1);
	assert_int_equal(map.others_bytes, 2 * MIB);
	assert_int_equal(map.unplaced_bytes, 3 * MIB);
	assert_int_equal(map.known_bytes, 2 * MIB);
	assert_int_equal(map.requested_bytes, 2 * MIB - 100);
	assert_int_equal(map.block_bytes, 8 * MIB);
	assert_int_equal(map.category_bytes[CATEGORY_ACTIVATION], 8 * MIB);
	memory_map_release(&map);
}

static int collect_change(const struct store_change *change, void *arg)
{
	struct fixture *f = arg;

	f->changes[f->nr++] = *change;
	return 0;
}

static void test_each_change_when_an_address_is_given_out_again_then_deaths_come_first(void **state)
{
	struct fixture *f = *state;
	bool more;

	block(f, 1 * MIB, 512, 3, 5);
	block(f, 1 * MIB, 1024, 5, 0);
	open_run(f);
	assert_int_equal(store_each_change(f->report.store, BUILDER_CUDA, 10, &more, collect_change, f), 0);
	assert_int_equal(f->nr, 3);
	assert_false(more);
	assert_true(f->changes[0].birth && f->changes[0].id == 1);
	assert_true(!f->changes[1].birth && f->changes[1].id == 1);
	assert_true(f->changes[2].birth && f->changes[2].size_bytes == 1024);
	f->nr = 0;
	assert_int_equal(store_each_change(f->report.store, BUILDER_CUDA, 2, &more, collect_change, f), 0);
	assert_int_equal(f->nr, 2);
	assert_true(more);
}

static int collect_refusal(const struct store_oom *refusal, bool near_miss, void *arg)
{
	struct fixture *f = arg;

	f->near_miss[f->nr] = near_miss;
	f->refusals[f->nr++] = *refusal;
	return 0;
}

static void test_each_refusal_when_the_thread_got_a_block_then_it_is_a_near_miss(void **state)
{
	struct fixture *f = *state;

	builder_exec(f->db,
	             "INSERT INTO refusal VALUES (10, 1, 1, 1, 0, 1, 1, 100, 1, 1, 0), (20, 2, 1, 1, 0, 1, 1, 200, 1, 1, 0), "
	             "(22, 2, 1, 1, 0, 1, 1, 201, 1, 1, 0), (30, 3, 1, 2, 0, 1, 1, 300, 1, 1, 0)");
	block(f, 1 * MIB, 512, 12, 0); /* of thread 1 */
	builder_exec(f->db, "INSERT INTO oom VALUES (25, 2, 1, 1, 0, 1, 1, 200, 1, 1, 0)");
	open_run(f);
	assert_int_equal(store_each_refusal(f->report.store, collect_refusal, f), 0);
	assert_int_equal(f->nr, 4);
	assert_true(f->near_miss[0]);
	assert_false(f->near_miss[1]);
	assert_false(f->near_miss[2]);
	assert_true(f->near_miss[3]); /* the other thread was never out of memory */
	assert_int_equal(f->refusals[3].size_bytes, 300);
}

static void test_driver_read_when_asked_at_another_time_then_told_calls_count(void **state)
{
	struct fixture *f = *state;
	struct memory_map map;
	struct driver_said said;

	builder_exec(f->db, "INSERT INTO driver VALUES (1, 2, 2, 20, 500, 9999, 0, 0, 1), (1, 10, 28, 100, 510, 9999, 10, 0, 0), "
	                    "(1, 40, 40, 400, 532, 9999, 30, 0, 0)");
	segment(f, 1000, 10, 5, TORCH_CODE);
	segment(f, 2000, 20, 30, TORCH_CODE);
	segment(f, 3000, 40, 50, TORCH_CODE);
	open_run(f);
	assert_int_equal(memory_map_read(&f->report, BUILDER_CUDA, 15, &map), 0);
	assert_int_equal(driver_read(&f->report, BUILDER_CUDA, 15, &map, &said), 0);
	assert_true(said.known && said.exact && said.has_context);
	assert_int_equal(said.context_bytes, 500);
	assert_int_equal(said.used_bytes, 510);
	memory_map_release(&map);
	/* Nearer to another answer, but that was of other segments. */
	assert_int_equal(memory_map_read(&f->report, BUILDER_CUDA, 31, &map), 0);
	assert_int_equal(driver_read(&f->report, BUILDER_CUDA, 31, &map, &said), 0);
	assert_int_equal(said.said.seq, 40);
	assert_true(said.later && !said.exact);
	assert_int_equal(said.used_bytes, 532);
	memory_map_release(&map);
	assert_int_equal(memory_map_read(&f->report, BUILDER_CUDA, 100, &map), 0);
	assert_int_equal(driver_read(&f->report, BUILDER_CUDA, 100, &map, &said), 0);
	assert_int_equal(said.used_bytes, 572);
	memory_map_release(&map);
}

static void test_expandable_estimate_when_pieces_would_not_serve_then_they_are_joined(void **state)
{
	struct fixture *f = *state;
	struct expandable estimate;

	/* Three of 12 MiB take two pages of 20; when they are gone one of 40 fits where they were; small ones have their own. */
	block(f, 100 * MIB, 12 * MIB, 1, 4);
	block(f, 200 * MIB, 12 * MIB, 2, 5);
	block(f, 300 * MIB, 12 * MIB, 3, 6);
	block(f, 400 * MIB, 40 * MIB, 7, 0);
	add(f, LEVEL_BLOCK, 500 * MIB, 2 * MIB, 8, 0, 0, 600, 0);
	open_run(f);
	assert_int_equal(expandable_estimate(&f->report, BUILDER_CUDA, &estimate), 0);
	assert_true(estimate.known);
	assert_int_equal(estimate.reserved_bytes, 40 * MIB + 2 * MIB);
}

static void test_expandable_estimate_when_gaps_differ_then_the_smallest_that_fits_is_taken(void **state)
{
	struct fixture *f = *state;
	struct expandable estimate;

	block(f, 100 * MIB, 10 * MIB, 1, 6);
	block(f, 200 * MIB, 2 * MIB, 2, 0);
	block(f, 300 * MIB, 4 * MIB, 3, 7);
	block(f, 400 * MIB, 4 * MIB, 4, 0);  /* [0, 20) is full */
	block(f, 500 * MIB, 4 * MIB, 8, 0);  /* into the gap of 4 */
	block(f, 600 * MIB, 10 * MIB, 9, 0); /* into that of 10 */
	open_run(f);
	assert_int_equal(expandable_estimate(&f->report, BUILDER_CUDA, &estimate), 0);
	assert_int_equal(estimate.reserved_bytes, 20 * MIB);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_each_segment_when_some_have_died_then_those_of_the_moment_by_address),
	        TEST(test_each_segment_when_nobody_knows_who_called_then_a_block_tells_pytorchs),
	        TEST(test_each_segment_when_expandable_then_where_it_is_mapped),
	        TEST(test_each_segment_when_cupti_alone_saw_it_then_its_clock_counts),
	        TEST(test_memory_map_when_blocks_lie_in_it_then_gaps_have_neighbours),
	        TEST(test_each_change_when_an_address_is_given_out_again_then_deaths_come_first),
	        TEST(test_each_refusal_when_the_thread_got_a_block_then_it_is_a_near_miss),
	        TEST(test_driver_read_when_asked_at_another_time_then_told_calls_count),
	        TEST(test_expandable_estimate_when_pieces_would_not_serve_then_they_are_joined),
	        TEST(test_expandable_estimate_when_gaps_differ_then_the_smallest_that_fits_is_taken),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
