/* The ring: hook/emit.c against store/ring_reader.c, on plain memory, with time and the recorder's life in our hands. */
#include "hook/emit.c" /* for publish(): a writer that comes late cannot be had from outside */
#include "store/ring_reader.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CAPACITY             RING_MIN_SLOTS
#define NR_PRODUCERS         4
#define RECORDS_PER_PRODUCER 20000u

static uint64_t fake_now_ns;
static uint64_t nr_pauses;
static bool fake_alive;

static uint64_t fake_now(void)
{
	return fake_now_ns;
}

static void fake_pause(uint64_t ns)
{
	nr_pauses++;
	fake_now_ns += ns;
}

static bool fake_recorder_alive(uint32_t pid)
{
	assert_int_equal(pid, 4242);
	return fake_alive;
}

static const struct emit_env fake_env = {fake_now, fake_pause, fake_recorder_alive};

struct fixture {
	struct ring *ring;
	struct emitter emitter;
	struct ring_reader reader;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->ring = aligned_alloc(RING_HEADER_BYTES, ring_file_bytes(CAPACITY));
	memset(f->ring, 0, ring_file_bytes(CAPACITY));
	ring_format(f->ring, CAPACITY, 1, 2);
	f->emitter = (struct emitter){.ring = f->ring, .env = &fake_env};
	ring_reader_init(&f->reader, f->ring);
	fake_now_ns = 1000;
	nr_pauses = 0;
	fake_alive = true;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	free(f->ring);
	free(f);
	return 0;
}

static bool emit_numbered(struct emitter *emitter, uint64_t number)
{
	struct record record = {.kind = RECORD_ALLOC,
	                        .device = RECORD_DEVICE_CPU,
	                        .thread = 7,
	                        .address = number,
	                        .size = number * 3,
	                        .a = ~number,
	                        .b = number ^ 0x5555,
	                        .scope = (uint32_t)number};

	return emit_record(emitter, &record);
}

static void assert_numbered(const struct record *record, uint64_t number)
{
	assert_int_equal(record->kind, RECORD_ALLOC);
	assert_int_equal(record->device, RECORD_DEVICE_CPU);
	assert_int_equal(record->thread, 7);
	assert_int_equal(record->address, number);
	assert_int_equal(record->size, number * 3);
	assert_int_equal(record->a, ~number);
	assert_int_equal(record->b, number ^ 0x5555);
	assert_int_equal(record->scope, (uint32_t)number);
}

static void test_emit_record_when_read_then_every_field_arrives_in_order(void **state)
{
	struct fixture *f = *state;
	struct ring_item item;

	/* Five laps, so that every slot is reused. */
	for (uint64_t lap = 0, number = 0; lap < 5; lap++) {
		uint64_t first = number;

		for (uint32_t i = 0; i < CAPACITY; i++, number++)
			assert_true(emit_numbered(&f->emitter, number));
		assert_int_equal(ring_reader_backlog(&f->reader), CAPACITY);
		for (uint64_t expected = first; expected < number; expected++) {
			assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
			assert_numbered(&item.record, expected);
			assert_int_equal(item.record.seq, expected + 1);
			assert_int_equal(item.record.time_ns, 1000);
			assert_null(item.text);
		}
		assert_int_equal(ring_reader_next(&f->reader, 0, &item), 0);
		ring_reader_release(&f->reader);
	}
}

static void test_emit_record_text_when_read_then_text_is_whole_and_long_text_is_cut(void **state)
{
	struct fixture *f = *state;
	static const uint32_t lengths[] = {0,
	                                   1,
	                                   RECORD_TEXT_BYTES - 1,
	                                   RECORD_TEXT_BYTES,
	                                   RECORD_TEXT_BYTES + 1,
	                                   1000,
	                                   RECORD_TEXT_MAX,
	                                   RECORD_TEXT_MAX + 100};
	char text[RECORD_TEXT_MAX + 100];
	struct ring_item item;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)(i % 251);
	for (size_t lap = 0; lap < 40; lap++) {
		for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
			struct record record = {.kind = RECORD_NOTE, .thread = 1, .a = lap};
			uint32_t expected = lengths[i] > RECORD_TEXT_MAX ? RECORD_TEXT_MAX : lengths[i];

			assert_true(emit_record_text(&f->emitter, &record, text, lengths[i]));
			assert_true(emit_numbered(&f->emitter, i));
			assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
			assert_int_equal(item.record.kind, RECORD_NOTE);
			assert_int_equal(item.record.a, lap);
			assert_int_equal(item.record.stack, expected);
			assert_memory_equal(item.text, text, expected);
			assert_int_equal(item.text[expected], '\0');
			assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
			assert_numbered(&item.record, i);
			ring_reader_release(&f->reader);
		}
	}
}

static void test_emit_record_when_full_then_takes_nothing_and_counts(void **state)
{
	struct fixture *f = *state;
	struct ring_item item;

	f->ring->recorder_pid = 4242;
	for (uint32_t i = 0; i < CAPACITY; i++)
		assert_true(emit_numbered(&f->emitter, i));
	assert_false(emit_numbered(&f->emitter, 999999));
	assert_int_equal(f->ring->lost[LOST_FULL], 1);
	assert_int_equal(f->ring->head, CAPACITY);
	/* One wait of about 10 ms, then none until the tail moves. */
	assert_true(fake_now_ns - 1000 >= EMIT_WAIT_NS && fake_now_ns - 1000 <= 2 * EMIT_WAIT_NS);
	nr_pauses = 0;
	for (int i = 0; i < 100; i++)
		assert_false(emit_numbered(&f->emitter, 999999));
	assert_int_equal(nr_pauses, 0);
	assert_int_equal(f->ring->lost[LOST_FULL], 101);
	/* Read, but not released: still full.  Released: room, and nothing of what was there is hurt. */
	for (uint32_t i = 0; i < CAPACITY; i++) {
		assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
		assert_numbered(&item.record, i);
	}
	assert_false(emit_numbered(&f->emitter, 999999));
	ring_reader_release(&f->reader);
	assert_true(emit_numbered(&f->emitter, 5));
	assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
	assert_numbered(&item.record, 5);
}

static void test_emit_record_when_always_full_then_all_waits_together_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct ring_item item;

	for (uint32_t i = 0; i < CAPACITY; i++)
		assert_true(emit_numbered(&f->emitter, i));
	for (int round = 0; round < 1000; round++) {
		assert_false(emit_numbered(&f->emitter, 1));
		/* The tail moves by one, and the room is taken at once. */
		assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
		ring_reader_release(&f->reader);
		assert_true(emit_numbered(&f->emitter, 1));
	}
	assert_true(fake_now_ns - 1000 <= EMIT_WAIT_TOTAL_NS + 2 * EMIT_WAIT_NS);
	assert_int_equal(f->ring->lost[LOST_FULL], 1000);
}

static void test_emit_record_when_recorder_is_dead_then_no_wait_and_its_own_counter(void **state)
{
	struct fixture *f = *state;

	f->ring->recorder_pid = 4242;
	fake_alive = false;
	for (uint32_t i = 0; i < CAPACITY; i++)
		assert_true(emit_numbered(&f->emitter, i));
	assert_false(emit_numbered(&f->emitter, 1));
	assert_false(emit_numbered(&f->emitter, 1));
	assert_int_equal(nr_pauses, 0);
	assert_int_equal(f->ring->lost[LOST_RECORDER], 2);
	assert_int_equal(f->ring->lost[LOST_FULL], 0);
}

static void test_ring_reader_when_a_slot_stays_unpublished_then_it_is_taken_over_after_a_second(void **state)
{
	struct fixture *f = *state;
	struct ring_item item;

	assert_true(emit_numbered(&f->emitter, 0));
	f->ring->head++; /* A producer claims slot 1 and dies. */
	assert_true(emit_numbered(&f->emitter, 2));
	assert_int_equal(ring_reader_next(&f->reader, 5, &item), 1);
	assert_int_equal(ring_reader_next(&f->reader, 5, &item), 0);
	assert_int_equal(ring_reader_next(&f->reader, 5 + RING_TORN_NS - 1, &item), 0);
	assert_int_equal(f->ring->lost[LOST_TORN], 0);
	assert_int_equal(ring_reader_next(&f->reader, 5 + RING_TORN_NS, &item), 1);
	assert_numbered(&item.record, 2);
	assert_int_equal(f->ring->lost[LOST_TORN], 1);
	/* The slot is usable in the next lap. */
	ring_reader_release(&f->reader);
	for (uint64_t i = 3; i < 3 + CAPACITY; i++) {
		assert_true(emit_numbered(&f->emitter, i));
		assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
		assert_numbered(&item.record, i);
		ring_reader_release(&f->reader);
	}
}

static void test_publish_when_the_slot_was_taken_over_then_fails_and_leaves_the_next_lap_alone(void **state)
{
	struct fixture *f = *state;
	union slot late = {.record = {.kind = RECORD_FREE, .address = 666}};
	struct ring_item item;
	uint64_t position;

	assert_true(claim(&f->emitter, 1, &position));
	f->reader.producers_gone = true;
	assert_int_equal(ring_reader_next(&f->reader, 0, &item), 0);
	assert_int_equal(f->ring->lost[LOST_TORN], 1);
	assert_false(publish(f->ring, position, late.words));
	ring_reader_release(&f->reader);
	for (uint64_t i = 1; i <= CAPACITY; i++)
		assert_true(emit_numbered(&f->emitter, i));
	assert_false(publish(f->ring, position, late.words));
	for (uint64_t i = 1; i <= CAPACITY; i++) {
		assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
		assert_numbered(&item.record, i);
	}
}

static void test_ring_reader_when_producers_are_gone_then_torn_slots_are_skipped_at_once(void **state)
{
	struct fixture *f = *state;
	struct ring_item item;

	f->ring->head++;
	assert_true(emit_numbered(&f->emitter, 1));
	f->reader.producers_gone = true;
	assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
	assert_numbered(&item.record, 1);
	assert_int_equal(f->ring->lost[LOST_TORN], 1);
}

static void test_ring_reader_when_the_reader_that_took_a_slot_over_dies_then_the_next_reads_nothing_there(void **state)
{
	struct fixture *f = *state;
	struct ring_item item;

	for (uint64_t i = 0; i < CAPACITY; i++)
		assert_true(emit_numbered(&f->emitter, i));
	for (uint64_t i = 0; i < CAPACITY; i++)
		assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
	ring_reader_release(&f->reader);
	f->ring->head++; /* A producer claims the slot that holds record 0 and dies; so does the reader, before its commit. */
	assert_true(emit_numbered(&f->emitter, CAPACITY + 1));
	ring_reader_producers_gone(&f->reader);
	assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
	ring_reader_init(&f->reader, f->ring);
	assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
	assert_numbered(&item.record, CAPACITY + 1);
	assert_int_equal(f->ring->lost[LOST_TORN], 1);
}

static void test_ring_reader_when_producers_are_gone_and_the_head_is_damaged_then_at_most_a_lap_is_read(void **state)
{
	struct fixture *f = *state;
	struct ring_item item;

	assert_true(emit_numbered(&f->emitter, 0));
	f->ring->head = UINT64_C(1) << 60;
	ring_reader_producers_gone(&f->reader);
	f->ring->head = UINT64_MAX;
	assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
	assert_int_equal(ring_reader_next(&f->reader, 0, &item), 0);
	assert_int_equal(f->reader.position, CAPACITY);
	assert_int_equal(ring_reader_backlog(&f->reader), 0);
}

/* Take the slot of a record with text over before its writer publishes: what follows must not be mistaken for records. */
static void test_ring_reader_when_a_record_with_text_is_torn_then_its_text_is_skipped(void **state)
{
	struct fixture *f = *state;
	struct record note = {.kind = RECORD_NOTE};
	char text[200];
	struct ring_item item;

	memset(text, RECORD_ALLOC, sizeof(text));
	for (uint64_t torn = 0; torn < 1 + record_text_slots(sizeof(text)); torn++) {
		uint64_t first = f->ring->head;

		assert_true(emit_record_text(&f->emitter, &note, text, sizeof(text)));
		assert_true(emit_numbered(&f->emitter, 77));
		ring_slots(f->ring)[(first + torn) & (CAPACITY - 1)].seq = ring_stale_seq(f->ring, first + torn);
		f->reader.producers_gone = true;
		assert_int_equal(ring_reader_next(&f->reader, 0, &item), 1);
		assert_numbered(&item.record, 77);
		assert_int_equal(ring_reader_next(&f->reader, 0, &item), 0);
		assert_int_equal(f->ring->lost[LOST_TORN], torn + 1);
		ring_reader_release(&f->reader);
	}
}

static void test_ring_check_when_damaged_then_refuses(void **state)
{
	struct fixture *f = *state;
	size_t size = ring_file_bytes(CAPACITY);

	assert_int_equal(ring_check(f->ring, size), 0);
	assert_int_equal(ring_check(f->ring, size - 1), -EINVAL);
	assert_int_equal(ring_check(f->ring, 100), -EINVAL);
	f->ring->capacity = CAPACITY + 1;
	assert_int_equal(ring_check(f->ring, size), -EINVAL);
	f->ring->capacity = 1u << 31;
	assert_int_equal(ring_check(f->ring, size), -EINVAL);
	f->ring->capacity = CAPACITY;
	f->ring->header_version = RECORD_VERSION + 1;
	assert_int_equal(ring_check(f->ring, size), -EPROTONOSUPPORT);
	f->ring->header_version = RECORD_VERSION;
	f->ring->magic ^= 1;
	assert_int_equal(ring_check(f->ring, size), -EINVAL);
}

/* Nothing in a damaged ring makes the reader leave the mapping or loop for ever. */
static void test_ring_reader_when_slots_are_random_then_it_ends(void **state)
{
	struct fixture *f = *state;
	unsigned seed = 12345;

	for (int round = 0; round < 50; round++) {
		unsigned char *bytes = (unsigned char *)ring_slots(f->ring);
		struct ring_item item;
		uint64_t nr_read = 0;

		for (size_t i = 0; i < CAPACITY * sizeof(struct record); i++)
			bytes[i] = (unsigned char)rand_r(&seed);
		f->ring->tail = (uint64_t)rand_r(&seed) << 20;
		f->ring->head = f->ring->tail + (uint64_t)rand_r(&seed);
		for (uint32_t i = 0; i < CAPACITY; i++) /* Half of them look published. */
			if (rand_r(&seed) & 1)
				ring_slots(f->ring)[(f->ring->tail + i) & (CAPACITY - 1)].seq = f->ring->tail + i + 1;
		ring_reader_init(&f->reader, f->ring);
		f->reader.producers_gone = true;
		f->ring->head = f->ring->tail + CAPACITY;
		while (ring_reader_next(&f->reader, 0, &item) == 1)
			nr_read++;
		assert_true(nr_read <= CAPACITY);
		assert_true(nr_read + f->reader.nr_torn > 0);
		assert_int_equal(f->reader.position, f->ring->head);
	}
}

static void test_emit_record_keeps_errno(void **state)
{
	struct fixture *f = *state;

	f->emitter.env = &emit_env_default;
	f->ring->recorder_pid = 0x7ffffff0; /* No such process. */
	errno = 12321;
	for (uint32_t i = 0; i < CAPACITY + 3; i++)
		emit_numbered(&f->emitter, i);
	assert_int_equal(errno, 12321);
	assert_int_equal(f->ring->lost[LOST_RECORDER], 3);
}

/* Concurrent producers, a consumer that releases as it goes: nothing lost, nothing twice, each producer in its order. */
static void *produce(void *arg)
{
	struct emitter *emitter = arg;
	static uint64_t next_id;
	uint64_t id = atomic64_add_relaxed(&next_id, 1);
	char text[150];

	for (uint64_t i = 0; i < RECORDS_PER_PRODUCER; i++) {
		struct record record = {.kind = RECORD_FREE, .address = id, .size = i, .a = id * 1000003 + i};
		bool sent;

		if (i % 16 == 0) {
			record.kind = RECORD_INFO;
			memset(text, (int)('a' + (id + i) % 26), sizeof(text));
			do
				sent = emit_record_text(emitter, &record, text, 1 + (uint32_t)(i % sizeof(text)));
			while (!sent);
		} else {
			do
				sent = emit_record(emitter, &record);
			while (!sent);
		}
	}
	return NULL;
}

static void test_ring_when_producers_are_concurrent_then_nothing_is_lost_or_mixed(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[NR_PRODUCERS];
	uint64_t next[64] = {0};
	uint64_t nr_read = 0, last_seq = 0;
	bool right = true;

	f->emitter.env = &emit_env_default;
	for (int i = 0; i < NR_PRODUCERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, produce, &f->emitter), 0);
	while (nr_read < (uint64_t)NR_PRODUCERS * RECORDS_PER_PRODUCER) {
		struct ring_item item;
		int nr_in_batch = 0;

		while (nr_in_batch < 300 && ring_reader_next(&f->reader, emit_env_default.now_ns(), &item) == 1) {
			const struct record *record = &item.record;

			right &= record->seq > last_seq && record->address < 64 && record->size == next[record->address & 63]++ &&
			         record->a == record->address * 1000003 + record->size;
			if (item.text)
				for (uint32_t i = 0; i < record->stack; i++)
					right &= item.text[i] == (char)('a' + (record->address + record->size) % 26);
			last_seq = record->seq;
			nr_in_batch++;
		}
		nr_read += (uint64_t)nr_in_batch;
		ring_reader_release(&f->reader);
	}
	for (int i = 0; i < NR_PRODUCERS; i++)
		pthread_join(threads[i], NULL);
	assert_true(right);
	assert_int_equal(f->ring->lost[LOST_TORN], 0);
	assert_int_equal(ring_reader_backlog(&f->reader), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	        TEST(test_emit_record_when_read_then_every_field_arrives_in_order),
	        TEST(test_emit_record_text_when_read_then_text_is_whole_and_long_text_is_cut),
	        TEST(test_emit_record_when_full_then_takes_nothing_and_counts),
	        TEST(test_emit_record_when_always_full_then_all_waits_together_are_bounded),
	        TEST(test_emit_record_when_recorder_is_dead_then_no_wait_and_its_own_counter),
	        TEST(test_ring_reader_when_a_slot_stays_unpublished_then_it_is_taken_over_after_a_second),
	        TEST(test_publish_when_the_slot_was_taken_over_then_fails_and_leaves_the_next_lap_alone),
	        TEST(test_ring_reader_when_producers_are_gone_then_torn_slots_are_skipped_at_once),
	        TEST(test_ring_reader_when_the_reader_that_took_a_slot_over_dies_then_the_next_reads_nothing_there),
	        TEST(test_ring_reader_when_producers_are_gone_and_the_head_is_damaged_then_at_most_a_lap_is_read),
	        TEST(test_ring_reader_when_a_record_with_text_is_torn_then_its_text_is_skipped),
	        TEST(test_ring_check_when_damaged_then_refuses),
	        TEST(test_ring_reader_when_slots_are_random_then_it_ends),
	        TEST(test_emit_record_keeps_errno),
	        TEST(test_ring_when_producers_are_concurrent_then_nothing_is_lost_or_mixed),
	};

	return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
