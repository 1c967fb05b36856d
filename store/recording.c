/* A recording: ring reader, tagger and writer joined.  See recording.h for the contract. */
#define _GNU_SOURCE
#include "store/recording.h"

#include "store/db.h"
#include "store/repeats.h"
#include "store/ring_reader.h"
#include "store/runfile.h"
#include "store/tagger.h"
#include "store/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A batch is committed when it holds this part of the ring, whatever the time: producers must not run into a full ring. */
#define BATCH_PART 4u
/* A sample is stored when it differs by 1 / SAMPLE_PART from the last one stored, or SAMPLE_MAX_NS after it. */
#define SAMPLE_PART   100u
#define SAMPLE_MAX_NS UINT64_C(10000000000)

struct sample {
	uint64_t ns;
	uint64_t rss_bytes;
	uint64_t peak_rss_bytes;
};

/* Files in the program's memory, of which code called for memory. */
#define MAX_OBJECTS 256u
struct object {
	uint64_t start, end;
};

struct recording {
	struct ring *ring;
	struct ring_reader reader;
	struct db *db;
	bool own_db;         /* opened here, not given to recording_reopen() */
	struct runfile file; /* fd -1: the lock is somebody else's business */
	struct writer *writer;
	struct tagger *tagger;
	struct repeats *repeats;
	uint64_t committed_position; /* of the reader at the last commit */
	uint64_t last_seq, last_ns;  /* of the last record fed */
	uint64_t start_position;     /* records before it were committed already: skipped */
	uint64_t ignored;            /* records that the tagger could not use, already noted */
	struct sample stored_sample; /* the last one written; ns 0: none */
	struct sample last_sample;   /* the last one seen */
	char ended[32];              /* by recording_set_ended() */
	struct object objects[MAX_OBJECTS];
	uint32_t nr_objects;
	uint64_t unknown_code[MAX_OBJECTS]; /* addresses in none of them */
	uint32_t nr_unknown_code;
	bool finished;
	int failed; /* the first error: nothing is written after it */
	char message[RING_MESSAGE_MAX + RING_PATH_MAX];
};

/* Keep the first error and its sentence. */
static int fail(struct recording *recording, int r)
{
	const char *what = recording->writer ? writer_message(recording->writer) : "";

	if (r >= 0 || recording->failed)
		return r;
	recording->failed = r;
	if (!what[0] || r == -ENOSPC || r == -EDQUOT || r == -EFBIG || r == -ENOMEM)
		what = strerror(-r);
	snprintf(recording->message, sizeof(recording->message), "cannot write %s: %s", recording->file.path, what);
	return r;
}

static void free_recording(struct recording *recording)
{
	if (!recording)
		return;
	tagger_free(recording->tagger);
	repeats_free(recording->repeats);
	writer_free(recording->writer);
	if (recording->own_db)
		db_close(recording->db);
	runfile_release(&recording->file); /* After the database: see runfile.h. */
	free(recording);
}

static struct recording *new_recording(struct ring *ring)
{
	struct recording *recording = calloc(1, sizeof(*recording));

	if (!recording)
		return NULL;
	if (repeats_new(&recording->repeats)) {
		free(recording);
		return NULL;
	}
	recording->ring = ring;
	recording->file.fd = -1;
	ring_reader_init(&recording->reader, ring);
	recording->committed_position = recording->reader.position;
	return recording;
}

/* ---- creating */

/* host-20261125T021500Z-4242-1a2b3c4d: readable, and not the same twice. */
static void make_run_id(char ret[128], const char *host, uint64_t realtime_ns, uint32_t pid)
{
	time_t seconds = (time_t)(realtime_ns / UINT64_C(1000000000));
	uint32_t random = 0;
	char when[32] = "";
	struct tm utc;

	if (gmtime_r(&seconds, &utc))
		strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &utc);
	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
		random = (uint32_t)realtime_ns;
	snprintf(ret, 128, "%.64s-%s-%u-%08x", host, when, pid, random);
}

static int create_tables(struct recording *recording, const struct recording_origin *origin, const char *host)
{
	const struct ring *ring = recording->ring;
	char made_id[128];
	struct writer_run run = {
	        .run_id = origin->run_id && origin->run_id[0] ? origin->run_id : made_id,
	        .pid = ring->pid,
	        .rank = origin->rank,
	        .hostname = host,
	        .command = origin->command,
	        .ring_path = origin->ring_path,
	        .ring_start_ns = ring->start_monotonic_ns,
	        .start_realtime_ns = ring->start_realtime_ns,
	};

	make_run_id(made_id, host, ring->start_realtime_ns, ring->pid);
	return writer_create(recording->db, recording->file.network, &run, &recording->writer);
}

/* What is worth knowing about where the file came to lie. */
static int note_circumstances(struct recording *recording)
{
	int r = 0;

	if (recording->file.network)
		r = writer_note(recording->writer, 0, RECORD_SEVERITY_INFO,
		                "The run file lies on a network file system: it can be read when the run has ended.");
	if (!r && !recording->file.locked)
		r = writer_note(recording->writer, 0, RECORD_SEVERITY_DEGRADED,
		                "The run file's file system knows no locks: whether a recorder is alive cannot be told.");
	return r;
}

int recording_create(struct ring *ring, const struct recording_origin *origin, struct recording **ret, char *message,
                     size_t message_size)
{
	struct recording *recording = new_recording(ring);
	char host[HOST_NAME_MAX + 1] = "";
	struct runfile_origin file_origin = {.out = origin->out, .pid = (pid_t)ring->pid, .rank = origin->rank, .host = host};
	struct tag_sink sink;
	int r;

	if (!recording) {
		snprintf(message, message_size, "cannot record: %s", strerror(ENOMEM));
		return -ENOMEM;
	}
	if (gethostname(host, sizeof(host)) != 0 || !host[0])
		strcpy(host, "localhost");
	host[HOST_NAME_MAX] = '\0';
	r = runfile_create(&file_origin, &recording->file, message, message_size);
	if (r)
		goto out;
	recording->own_db = true;
	r = db_open(recording->file.path, DB_WRITE, &recording->db, recording->message, sizeof(recording->message));
	if (!r)
		r = create_tables(recording, origin, host);
	if (!r)
		r = note_circumstances(recording);
	if (!r) {
		sink = writer_sink(recording->writer);
		r = tagger_new(&sink, &recording->tagger);
	}
	if (!r) {
		*ret = recording;
		return 0;
	}
	if (recording->db && r != -ENOMEM && db_message(recording->db)[0])
		snprintf(message, message_size, "cannot write %s: %s", recording->file.path, db_message(recording->db));
	else
		snprintf(message, message_size, "cannot write %s: %s", recording->file.path, strerror(-r));
	unlink(recording->file.path); /* Ours and without anything in it. */
out:
	free_recording(recording);
	return r;
}

/* ---- taking up */

static int load_open(void *arg, const struct tag_allocation *allocation)
{
	return tagger_load_allocation(arg, allocation);
}

static int load_tagger(struct recording *recording)
{
	struct tag_sink sink = writer_sink(recording->writer);
	unsigned char *state = NULL;
	size_t state_bytes;
	int r;

	/* The recorder died before its first commit: everything is still in the ring. */
	if (writer_last_seq(recording->writer) == 0)
		return tagger_new(&sink, &recording->tagger);
	r = writer_read_state(recording->writer, &state, &state_bytes);
	if (!r)
		r = tagger_load(&sink, state, state_bytes, &recording->tagger);
	if (!r)
		r = writer_each_open(recording->writer, load_open, recording->tagger);
	free(state);
	return r == -EINVAL ? -EBADMSG : r;
}

int recording_reopen(struct db *db, struct ring *ring, struct recording **ret, char *message, size_t message_size)
{
	struct recording *recording = new_recording(ring);
	const struct writer_run *run;
	int r = recording ? 0 : -ENOMEM;

	if (r)
		goto out;
	recording->db = db;
	snprintf(recording->file.path, sizeof(recording->file.path), "%s", "the run file");
	r = writer_resume(db, &recording->writer);
	if (r)
		goto out;
	run = writer_run(recording->writer);
	if (run->ring_start_ns != ring->start_monotonic_ns || run->start_realtime_ns != ring->start_realtime_ns ||
	    run->pid != ring->pid) {
		r = -ESTALE;
		goto out;
	}
	r = load_tagger(recording);
	if (r)
		goto out;
	/* The recorder may have died between its commit and moving the tail. */
	recording->last_seq = recording->start_position = writer_last_seq(recording->writer);
	recording->last_ns = writer_last_ns(recording->writer);
	*ret = recording;
	return 0;
out:
	if (r == -ESTALE)
		snprintf(message, message_size, "the ring is not that of this run");
	else if (r == -EALREADY)
		snprintf(message, message_size, "the run was closed");
	else if (r == -EBADMSG)
		snprintf(message, message_size, "the file is damaged");
	else
		snprintf(message, message_size, "%s", strerror(-r));
	free_recording(recording);
	return r;
}

/* ---- recording */

const char *recording_path(const struct recording *recording)
{
	return recording->file.path;
}

const char *recording_message(const struct recording *recording)
{
	return recording->message;
}

void recording_producers_gone(struct recording *recording)
{
	ring_reader_producers_gone(&recording->reader);
}

bool recording_operations_known(const struct recording *recording)
{
	return repeats_all_known(recording->repeats);
}

uint64_t recording_backlog(const struct recording *recording)
{
	return ring_reader_backlog(&recording->reader);
}

static int note_ignored(struct recording *recording)
{
	uint64_t ignored = tagger_ignored(recording->tagger);
	char what[128];

	if (ignored == 0 || ignored == recording->ignored)
		return 0;
	snprintf(what, sizeof(what), "%llu records were damaged or of an unknown kind and were left out.",
	         (unsigned long long)ignored);
	return writer_note(recording->writer, recording->last_seq, RECORD_SEVERITY_DEGRADED, what);
}

/* Something was read since the last commit, if only torn slots. */
static bool has_moved(const struct recording *recording)
{
	return recording->reader.position != recording->committed_position;
}

static int commit(struct recording *recording)
{
	struct writer_commit commit = {
	        .last_seq = recording->last_seq, .last_ns = recording->last_ns, .lost = recording->ring->lost};
	unsigned char *state = NULL;
	int r;

	if (!writer_is_dirty(recording->writer) && !has_moved(recording))
		return 0;
	r = tagger_flush(recording->tagger);
	if (!r)
		r = tagger_save(recording->tagger, &state, &commit.state_bytes);
	commit.state = state;
	if (!r)
		r = writer_commit(recording->writer, &commit);
	free(state);
	if (r)
		return r;
	ring_reader_release(&recording->reader);
	recording->committed_position = recording->reader.position;
	return 0;
}

/* Remember the code that called for memory where it lies in no file that is known. */
static void note_caller(struct recording *recording, const struct record *record)
{
	if ((record->kind != RECORD_ALLOC && record->kind != RECORD_SEEN_ALLOC) || record_level(record->flags) == LEVEL_BLOCK ||
	    record_level(record->flags) == LEVEL_MAPPING || !record->a || record->a > INT64_MAX ||
	    recording->nr_unknown_code == MAX_OBJECTS)
		return;
	for (uint32_t i = 0; i < recording->nr_objects; i++)
		if (record->a >= recording->objects[i].start && record->a < recording->objects[i].end)
			return;
	for (uint32_t i = 0; i < recording->nr_unknown_code; i++)
		if (recording->unknown_code[i] == record->a)
			return;
	recording->unknown_code[recording->nr_unknown_code++] = record->a;
}

uint64_t recording_unknown_code(struct recording *recording)
{
	while (recording->nr_unknown_code) {
		uint64_t address = recording->unknown_code[--recording->nr_unknown_code];
		bool known = recording->nr_objects == MAX_OBJECTS;

		for (uint32_t i = 0; i < recording->nr_objects && !known; i++)
			known = address >= recording->objects[i].start && address < recording->objects[i].end;
		if (!known)
			return address;
	}
	return 0;
}

int recording_object(struct recording *recording, uint64_t start, uint64_t end, const char *file)
{
	if (recording->failed || recording->nr_objects == MAX_OBJECTS)
		return recording->failed;
	recording->objects[recording->nr_objects++] = (struct object){start, end};
	return fail(recording, writer_object(recording->writer, start, end, file));
}

int64_t recording_pump(struct recording *recording, uint64_t now_ns, uint32_t max_slots, bool commit_now)
{
	uint64_t first = recording->reader.position;
	uint32_t batch_slots = recording->reader.capacity / BATCH_PART;
	int r = recording->failed;

	while (!r && recording->reader.position - first < max_slots) {
		struct ring_item item;

		if (ring_reader_next(&recording->reader, now_ns, &item) != 1)
			break;
		if (item.record.seq <= recording->start_position)
			continue; /* Committed before the recorder died. */
		repeats_feed(recording->repeats, &item.record);
		r = tagger_feed(recording->tagger, &item.record, item.text);
		note_caller(recording, &item.record);
		recording->last_seq = item.record.seq;
		if (item.record.time_ns > recording->last_ns)
			recording->last_ns = item.record.time_ns;
		if (!r && recording->reader.position - recording->committed_position >= batch_slots)
			r = commit(recording);
	}
	if (!r && commit_now)
		r = commit(recording);
	if (r < 0)
		return fail(recording, r);
	return (int64_t)(recording->reader.position - first);
}

int recording_set_ended(struct recording *recording, const char *ended)
{
	snprintf(recording->ended, sizeof(recording->ended), "%s", ended);
	return 0;
}

static int store_sample(struct recording *recording, const struct sample *sample)
{
	int r = writer_sample(recording->writer, sample->ns, sample->rss_bytes, sample->peak_rss_bytes);

	if (!r)
		recording->stored_sample = *sample;
	return r;
}

int recording_sample(struct recording *recording, uint64_t now_ns, uint64_t rss_bytes, uint64_t peak_rss_bytes)
{
	const struct sample *before = &recording->stored_sample;
	struct sample sample = {now_ns, rss_bytes, peak_rss_bytes};
	uint64_t change = rss_bytes > before->rss_bytes ? rss_bytes - before->rss_bytes : before->rss_bytes - rss_bytes;

	if (recording->failed)
		return recording->failed;
	recording->last_sample = sample;
	if (before->ns != 0 && change <= before->rss_bytes / SAMPLE_PART && now_ns - before->ns < SAMPLE_MAX_NS)
		return 0;
	return fail(recording, store_sample(recording, &sample));
}

/* How the run ended: as the program said it, unless it went on after that; else as was observed from outside. */
static const char *how_it_ended(const struct recording *recording)
{
	uint32_t producer = atomic32_load_acquire(&recording->ring->producer);
	const char *told = writer_told_end(recording->writer);

	if (told && producer != PRODUCER_RUNNING)
		return told;
	if (producer == PRODUCER_EXEC)
		return "exec";
	return recording->ended[0] ? recording->ended : "killed";
}

static int finish(struct recording *recording)
{
	struct writer_commit commit = {.lost = recording->ring->lost};
	int r = tagger_finish(recording->tagger);

	if (!r)
		r = note_ignored(recording);
	if (!r && recording->last_sample.ns != recording->stored_sample.ns)
		r = store_sample(recording, &recording->last_sample);
	if (r)
		return r;
	commit.last_seq = recording->last_seq;
	commit.last_ns = recording->last_ns;
	r = writer_finish(recording->writer, &commit, how_it_ended(recording));
	if (!r) {
		ring_reader_release(&recording->reader);
		recording->committed_position = recording->reader.position;
	}
	return r;
}

/* 1234567 as "1 234 567". */
static const char *group_digits(uint64_t value, char ret[32])
{
	char digits[24];
	int nr_digits = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)value);
	char *end = ret;

	for (int i = 0; i < nr_digits; i++) {
		if (i > 0 && (nr_digits - i) % 3 == 0)
			*end++ = ' ';
		*end++ = digits[i];
	}
	*end = '\0';
	return ret;
}

static int describe(struct recording *recording, char *ret, size_t size)
{
	char events[32], steps[32], lost[32];
	struct writer_totals totals;
	int r = writer_read_totals(recording->writer, &totals);
	int length;

	if (r)
		return r;
	length = snprintf(ret, size, "%s event%s, %s step%s", group_digits(totals.events, events), totals.events == 1 ? "" : "s",
	                  group_digits(totals.steps, steps), totals.steps == 1 ? "" : "s");
	if (totals.lost && length >= 0 && (size_t)length < size)
		snprintf(ret + length, size - (size_t)length, ", %s lost", group_digits(totals.lost, lost));
	return 0;
}

int recording_finish(struct recording *recording, char *ret_summary, size_t summary_size)
{
	int r = recording->failed;

	if (!r && !recording->finished) {
		r = finish(recording);
		recording->finished = r == 0;
	}
	if (!r && ret_summary)
		r = describe(recording, ret_summary, summary_size);
	return fail(recording, r);
}

int recording_close(struct recording *recording)
{
	int r = recording_finish(recording, NULL, 0);

	free_recording(recording);
	return r;
}

void recording_abandon(struct recording *recording, const char *why)
{
	writer_rollback(recording->writer);
	/* A transaction of one row may fit where a batch did not. */
	if (why && writer_note(recording->writer, recording->last_seq, RECORD_SEVERITY_ERROR, why) == 0 &&
	    db_commit(recording->db) != 0)
		writer_rollback(recording->writer);
	free_recording(recording);
}
