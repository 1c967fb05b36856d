/*
 * Beside a client of CUPTI: a stand-in for libcupti with one pair of buffer callbacks, as CUPTI's documentation says it, and a
 * client as Kineto is one.  Both must get every record that is theirs, and no other.
 */
#include "cupti/activity.h"
#include "cupti/cupti.h"

#include "hook/hook.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define KIND_KERNEL 10 /* CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL; any other than MEMORY2 */
#define MAX_SEEN    256

/* ---- the stand-in: records of 64 bytes, one open buffer */

static struct {
	cupti_requested_fn *requested;
	cupti_completed_fn *completed;
	cupti_clock_fn *clock;
	uint8_t *buffer;
	size_t size, used;
	bool enabled[CUPTI_NR_KINDS];
	int enable_error;
	unsigned nr_registered, nr_dropped, nr_flushed;
} fake;

static uint64_t real_time(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int fake_register(cupti_requested_fn *requested, cupti_completed_fn *completed)
{
	fake.requested = requested;
	fake.completed = completed;
	fake.nr_registered++;
	return CUPTI_SUCCESS;
}

static int fake_enable(int kind)
{
	if (fake.enable_error)
		return fake.enable_error;
	fake.enabled[kind] = true;
	return CUPTI_SUCCESS;
}

static int fake_disable(int kind)
{
	fake.enabled[kind] = false;
	return CUPTI_SUCCESS;
}

static int fake_flush(uint32_t flag)
{
	uint8_t *buffer = fake.buffer;

	fake.nr_flushed++;
	if (buffer) {
		fake.buffer = NULL;
		fake.completed(NULL, 0, buffer, fake.size, fake.used);
	}
	return CUPTI_SUCCESS;
}

static int fake_next(uint8_t *buffer, size_t valid_size, void **record)
{
	uint8_t *next = *record ? (uint8_t *)*record + 64 : buffer;

	if (next >= buffer + valid_size)
		return CUPTI_MAX_LIMIT;
	*record = next;
	return CUPTI_SUCCESS;
}

static int fake_clock(cupti_clock_fn *clock)
{
	fake.clock = clock;
	return CUPTI_SUCCESS;
}

static int fake_finalize(void)
{
	memset(&fake, 0, sizeof(fake));
	return CUPTI_SUCCESS;
}

static int fake_timestamp(uint64_t *now)
{
	*now = real_time();
	return CUPTI_SUCCESS;
}

static int fake_dropped(void *context, uint32_t stream, size_t *nr)
{
	*nr = fake.nr_dropped;
	fake.nr_dropped = 0;
	return CUPTI_SUCCESS;
}

void *cupti_real(unsigned version, enum cupti_function which)
{
	static void *const functions[NR_CUPTI_FUNCTIONS] = {
	        [CUPTI_ActivityRegisterCallbacks] = (void *)fake_register,
	        [CUPTI_ActivityEnable] = (void *)fake_enable,
	        [CUPTI_ActivityDisable] = (void *)fake_disable,
	        [CUPTI_ActivityFlushAll] = (void *)fake_flush,
	        [CUPTI_ActivityGetNextRecord] = (void *)fake_next,
	        [CUPTI_ActivityRegisterTimestampCallback] = (void *)fake_clock,
	        [CUPTI_Finalize] = (void *)fake_finalize,
	        [CUPTI_GetTimestamp] = (void *)fake_timestamp,
	        [CUPTI_ActivityGetNumDroppedRecords] = (void *)fake_dropped,
	};

	return version == 13 ? functions[which] : NULL;
}

/* Something happens on the device. */
static void happen(uint32_t kind, uint64_t address)
{
	struct cupti_memory_record record = {.kind = kind,
	                                     .operation = CUPTI_ALLOCATION,
	                                     .memory = CUPTI_DEVICE,
	                                     .address = address,
	                                     .bytes = 4096,
	                                     .time_ns = fake.clock ? fake.clock() : real_time(),
	                                     .pc = 0x7000,
	                                     .device = 1};
	size_t max_records;

	if (!fake.enabled[kind])
		return;
	if (!fake.buffer) {
		fake.used = 0;
		fake.requested(&fake.buffer, &fake.size, &max_records);
		if (!fake.buffer) {
			fake.nr_dropped++;
			return;
		}
	}
	memcpy(fake.buffer + fake.used, &record, sizeof(record));
	fake.used += sizeof(record);
	if (fake.used + sizeof(record) > fake.size)
		fake_flush(0);
}

/* ---- what the hook is told */

static struct hook_seen seen[MAX_SEEN];
static unsigned nr_seen, nr_notes;
static enum record_severity severity;
static void (*reader)(bool all);

void hook_memory_seen(const struct hook_seen *what)
{
	assert_true(nr_seen < MAX_SEEN);
	seen[nr_seen++] = *what;
}

void hook_read_with(void (*read)(bool all))
{
	reader = read;
}

void hook_note(uint8_t *once, enum record_severity how, const char *format, ...)
{
	if (*once)
		return;
	*once = 1;
	nr_notes++;
	severity = how;
}

/* ---- the client: two buffers of its own */

static uint8_t client_buffers[2][1024];
static unsigned nr_requested, nr_completed, client_kinds[MAX_SEEN], nr_client_records;
static size_t client_size = sizeof(client_buffers[0]);

static void client_requested(uint8_t **buffer, size_t *size, size_t *max_records)
{
	*buffer = client_buffers[nr_requested++ % 2];
	*size = client_size;
	*max_records = 0;
}

static void client_completed(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid_size)
{
	void *record = NULL;

	assert_true(buffer == client_buffers[0] || buffer == client_buffers[1]);
	nr_completed++;
	while (client_reads(13, buffer, valid_size, &record) == CUPTI_SUCCESS) {
		uint32_t kind;

		memcpy(&kind, record, sizeof(kind));
		assert_true(nr_client_records < MAX_SEEN);
		client_kinds[nr_client_records++] = kind;
	}
}

static void flush(void)
{
	reader(true);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int set_up(void **state)
{
	client_finalizes(13); /* forget all */
	memset(&fake, 0, sizeof(fake));
	memset(client_kinds, 0, sizeof(client_kinds));
	nr_seen = nr_notes = nr_requested = nr_completed = nr_client_records = 0;
	client_size = sizeof(client_buffers[0]);
	cupti_set_use(CUPTI_ON);
	return 0;
}

/* ---- tests */

static void test_start_when_alone_then_memory_is_seen(void **state)
{
	uint64_t before = now_ns();

	cupti_start();
	assert_true(cupti_is_on());
	happen(CUPTI_KIND_MEMORY2, 0x1000);
	happen(KIND_KERNEL, 0);
	flush();
	assert_int_equal(nr_seen, 1);
	assert_int_equal(seen[0].address, 0x1000);
	assert_int_equal(seen[0].size_bytes, 4096);
	assert_int_equal(seen[0].caller, 0x7000);
	assert_int_equal(seen[0].device, 0x0101);
	assert_int_equal(seen[0].level, LEVEL_SEGMENT);
	assert_true(seen[0].given);
	assert_in_range(seen[0].time_ns, before - 1000000, now_ns() + 1000000);
}

static void test_client_when_it_profiles_after_us_then_both_have_theirs(void **state)
{
	cupti_start();
	happen(CUPTI_KIND_MEMORY2, 0x1000);
	assert_int_equal(client_registers(13, client_requested, client_completed), CUPTI_SUCCESS);
	assert_int_equal(fake.nr_registered, 1);
	assert_int_equal(client_enables(13, KIND_KERNEL), CUPTI_SUCCESS);
	assert_int_equal(nr_seen, 1); /* ours was given up before */
	happen(KIND_KERNEL, 0);
	happen(CUPTI_KIND_MEMORY2, 0x2000);
	happen(KIND_KERNEL, 0);
	flush();
	assert_int_equal(nr_completed, 1);
	assert_int_equal(nr_client_records, 2);
	assert_int_equal(client_kinds[0], KIND_KERNEL);
	assert_int_equal(client_kinds[1], KIND_KERNEL);
	assert_int_equal(nr_seen, 2);
	assert_int_equal(seen[1].address, 0x2000);
	assert_int_equal(client_disables(13, KIND_KERNEL), CUPTI_SUCCESS);
	happen(CUPTI_KIND_MEMORY2, 0x3000);
	flush();
	assert_int_equal(nr_requested, 1); /* that was in a buffer of ours */
	assert_int_equal(nr_seen, 3);
}

static void test_client_when_it_profiles_before_us_then_both_have_theirs(void **state)
{
	assert_int_equal(client_registers(13, client_requested, client_completed), CUPTI_SUCCESS);
	assert_int_equal(client_enables(13, KIND_KERNEL), CUPTI_SUCCESS);
	happen(KIND_KERNEL, 0);
	cupti_start();
	happen(CUPTI_KIND_MEMORY2, 0x1000);
	happen(KIND_KERNEL, 0);
	flush();
	assert_int_equal(nr_client_records, 2);
	assert_int_equal(nr_seen, 1);
}

static void test_client_when_it_wants_memory_too_then_it_gets_it_and_cannot_stop_ours(void **state)
{
	cupti_start();
	client_registers(13, client_requested, client_completed);
	client_enables(13, CUPTI_KIND_MEMORY2);
	happen(CUPTI_KIND_MEMORY2, 0x1000);
	flush();
	assert_int_equal(nr_client_records, 1);
	assert_int_equal(nr_seen, 1);
	client_disables(13, CUPTI_KIND_MEMORY2);
	happen(CUPTI_KIND_MEMORY2, 0x2000);
	flush();
	assert_int_equal(nr_seen, 2);
	assert_int_equal(nr_client_records, 1);
	/* The next session of the client did not ask for it. */
	client_registers(13, client_requested, client_completed);
	client_enables(13, KIND_KERNEL);
	happen(CUPTI_KIND_MEMORY2, 0x3000);
	flush();
	assert_int_equal(nr_client_records, 1);
}

static void test_client_when_its_buffers_are_small_then_each_goes_back_to_it(void **state)
{
	cupti_start();
	client_registers(13, client_requested, client_completed);
	client_size = 128;
	client_enables(13, KIND_KERNEL);
	for (unsigned i = 0; i < 20; i++)
		happen(i % 2 ? KIND_KERNEL : CUPTI_KIND_MEMORY2, 0x1000 + i);
	client_disables(13, KIND_KERNEL);
	flush();
	assert_int_equal(nr_requested, 10);
	assert_int_equal(nr_completed, 10);
	assert_int_equal(nr_client_records, 10);
	assert_int_equal(nr_seen, 10);
}

/* A buffer goes back to whom it is from, whoever registered meanwhile. */
static void other_completed(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid_size)
{
	fail_msg("a buffer of another client");
}

static void test_client_when_another_registers_then_buffers_go_back_to_whom_they_are_from(void **state)
{
	cupti_start();
	client_registers(13, client_requested, client_completed);
	client_enables(13, KIND_KERNEL);
	happen(KIND_KERNEL, 0);
	client_registers(13, client_requested, other_completed);
	flush();
	assert_int_equal(nr_completed, 1);
}

/* A clock as Kineto's: it counts something, not nanoseconds. */
static uint64_t ticks(void)
{
	return now_ns() * 3 + 12345;
}

static void test_clock_when_the_client_has_one_then_time_is_still_ours(void **state)
{
	struct timespec pause = {.tv_nsec = 5000000};
	uint64_t before;

	cupti_start();
	happen(CUPTI_KIND_MEMORY2, 0x1000);
	client_sets_clock(13, ticks);
	assert_int_equal(nr_seen, 1); /* what is by the old clock was read by it */
	nanosleep(&pause, NULL);
	before = now_ns();
	happen(CUPTI_KIND_MEMORY2, 0x2000);
	nanosleep(&pause, NULL);
	flush();
	assert_int_equal(nr_seen, 2);
	assert_in_range(seen[1].time_ns, before - 500000, before + 500000);
}

static void test_start_when_cupti_refuses_then_the_client_has_it_as_before(void **state)
{
	assert_int_equal(client_registers(13, client_requested, client_completed), CUPTI_SUCCESS);
	fake.enable_error = CUPTI_UNKNOWN;
	cupti_start();
	assert_false(cupti_is_on());
	assert_ptr_equal(fake.requested, client_requested);
	assert_int_equal(nr_notes, 1);
	assert_int_equal(severity, RECORD_SEVERITY_DEGRADED);
}

static void test_start_when_switched_off_then_nothing_is_asked(void **state)
{
	cupti_set_use(CUPTI_OFF);
	cupti_start();
	assert_false(cupti_is_on());
	assert_int_equal(fake.nr_registered, 0);
}

static void test_finalize_when_the_client_ends_cupti_then_we_begin_again(void **state)
{
	cupti_start();
	happen(CUPTI_KIND_MEMORY2, 0x1000);
	assert_int_equal(client_finalizes(13), CUPTI_SUCCESS);
	assert_int_equal(nr_seen, 1);
	assert_false(cupti_is_on());
	cupti_start();
	assert_true(cupti_is_on());
	happen(CUPTI_KIND_MEMORY2, 0x2000);
	flush();
	assert_int_equal(nr_seen, 2);
}

static void test_records_when_dropped_then_noted(void **state)
{
	cupti_start();
	fake.nr_dropped = 3;
	flush();
	assert_int_equal(nr_notes, 1);
	assert_int_equal(severity, RECORD_SEVERITY_DEGRADED);
}

static void test_buffers_when_all_are_out_then_noted(void **state)
{
	uint8_t *buffer = NULL;
	size_t size, max_records;
	unsigned nr = 0;

	cupti_start();
	do {
		fake.requested(&buffer, &size, &max_records);
	} while (buffer && ++nr < 1000);
	assert_null(buffer);
	flush();
	assert_int_equal(nr_notes, 1);
	assert_int_equal(severity, RECORD_SEVERITY_DEGRADED);
}

#define TEST(function) cmocka_unit_test_setup(function, set_up)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_start_when_alone_then_memory_is_seen),
	        TEST(test_client_when_it_profiles_after_us_then_both_have_theirs),
	        TEST(test_client_when_it_profiles_before_us_then_both_have_theirs),
	        TEST(test_client_when_it_wants_memory_too_then_it_gets_it_and_cannot_stop_ours),
	        TEST(test_client_when_its_buffers_are_small_then_each_goes_back_to_it),
	        TEST(test_client_when_another_registers_then_buffers_go_back_to_whom_they_are_from),
	        TEST(test_clock_when_the_client_has_one_then_time_is_still_ours),
	        TEST(test_finalize_when_the_client_ends_cupti_then_we_begin_again),
	        TEST(test_records_when_dropped_then_noted),
	        TEST(test_buffers_when_all_are_out_then_noted),
	        TEST(test_start_when_switched_off_then_nothing_is_asked),
	        TEST(test_start_when_cupti_refuses_then_the_client_has_it_as_before),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
