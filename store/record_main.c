/*
 * nnmem-record: the process that owns a run file.
 *
 * The hook starts it, in its own session and with nothing open, on a ring that already fills.  It reads the ring, commits
 * at least every COMMIT_NS, and leaves when the program has ended (orderly, by exec, or dead) and everything is in the
 * file.  It says what it is doing in the ring's header; there is nobody else to talk to.
 *
 * Signals that ask a program to end are ignored: whoever ends a job signals all of its processes, and the training may
 * still need seconds to end by itself.  The recorder ends with it.  SIGKILL is answered by recovery (store/recover.c).
 *
 * Files: the ring is unlinked when the run file is complete, or when there could not be one; when writing fails in
 * mid-run it stays, so that what is in it can be recovered once there is room again.
 */
#define _GNU_SOURCE
#include "store/program.h"
#include "store/recording.h"
#include "store/ring_file.h"

#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define COMMIT_NS      UINT64_C(80000000) /* and a sleep of SLEEP_BUSY_MS: at most 100 ms after the event */
#define SAMPLE_NS      UINT64_C(100000000)
#define IDLE_AFTER_NS  UINT64_C(1000000000) /* without records for so long: sleep longer */
#define STUCK_AFTER_NS UINT64_C(100000000)  /* the program said that it ended, but a slot stays unpublished */
#define SLEEP_BUSY_MS  20
#define SLEEP_IDLE_MS  100
#define SLOTS_PER_MS   2048u /* faster than any program fills a ring: how long a small one may be left alone */
#define PUMP_SLOTS     (1u << 15)
#define COMMAND_MAX    (1u << 15)
#define EXIT_FAILED    1
#define EXIT_USAGE     2

struct recorder {
	const char *ring_path;
	struct ring_file ring_file;
	struct ring *ring; /* of ring_file */
	struct program program;
	struct recording *recording;
	uint64_t commit_ns;   /* when the last commit was asked for */
	uint64_t sample_ns;   /* when the last sample was taken */
	uint64_t progress_ns; /* when a slot was last read */
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* ---- the ring's header */

static void say_state(struct recorder *recorder, enum ring_recorder state)
{
	/* Release pairs with the hook's acquire: path and message are there when the state is. */
	atomic32_store_release(&recorder->ring->recorder, state);
}

static void say_failed(struct recorder *recorder, const char *message)
{
	snprintf(recorder->ring->message, sizeof(recorder->ring->message), "%s", message);
	say_state(recorder, RECORDER_FAILED);
}

/* ---- beginning */

static int64_t rank_of_environment(void)
{
	const char *text = getenv("RANK");
	char *end;
	long long rank;

	if (!text || !*text)
		return -1;
	errno = 0;
	rank = strtoll(text, &end, 10);
	return errno == 0 && *end == '\0' && rank >= 0 ? rank : -1;
}

static int open_recording(struct recorder *recorder, char *message, size_t message_size)
{
	static char command[COMMAND_MAX];
	struct recording_origin origin = {
	        .out = getenv("NNMEM_OUT"),
	        .ring_path = recorder->ring_path,
	        .command = command,
	        .run_id = getenv("NNMEM_RUN_ID"),
	        .rank = rank_of_environment(),
	};

	program_read_command(&recorder->program, command, sizeof(command));
	return recording_create(recorder->ring, &origin, &recorder->recording, message, message_size);
}

/* ---- the loop */

/* In which files the code lies that called for memory. */
static int name_callers(struct recorder *recorder)
{
	uint64_t address, start, end;
	char file[COMMAND_MAX];
	int r = 0;

	while (!r && (address = recording_unknown_code(recorder->recording))) {
		if (!program_find_object(&recorder->program, address, &start, &end, file, sizeof(file))) {
			start = address;
			end = address + 1;
			file[0] = '\0';
		}
		r = recording_object(recorder->recording, start, end, file);
	}
	return r;
}

static int pump(struct recorder *recorder, bool commit, int64_t *ret_nr_slots)
{
	uint64_t now = now_ns();
	int64_t nr_slots;

	commit |= now - recorder->commit_ns >= COMMIT_NS;
	nr_slots = recording_pump(recorder->recording, now, PUMP_SLOTS, commit);
	if (nr_slots < 0)
		return (int)nr_slots;
	if (commit)
		recorder->commit_ns = now;
	if (nr_slots > 0)
		recorder->progress_ns = now;
	/* Read by hook_operation_begin() and follow_operations(), which need nothing else to go with it. */
	atomic32_store_relaxed(&recorder->ring->operations_known, recording_operations_known(recorder->recording));
	*ret_nr_slots = nr_slots;
	return name_callers(recorder);
}

static int sample(struct recorder *recorder)
{
	uint64_t now = now_ns();
	uint64_t rss_bytes, peak_rss_bytes;

	if (now - recorder->sample_ns < SAMPLE_NS)
		return 0;
	recorder->sample_ns = now;
	if (!program_read_rss(&recorder->program, &rss_bytes, &peak_rss_bytes))
		return 0;
	return recording_sample(recorder->recording, now, rss_bytes, peak_rss_bytes);
}

/* Nobody writes any more: read everything that is there. */
static int drain(struct recorder *recorder)
{
	int64_t nr_slots = 0;
	int r;

	recording_producers_gone(recorder->recording);
	do
		r = pump(recorder, false, &nr_slots);
	while (!r && nr_slots > 0);
	return r;
}

static int sleep_ms(const struct recorder *recorder)
{
	int longest = now_ns() - recorder->progress_ns > IDLE_AFTER_NS ? SLEEP_IDLE_MS : SLEEP_BUSY_MS;
	int safe = (int)(recorder->ring->capacity / SLOTS_PER_MS);

	return safe < 1 ? 1 : safe < longest ? safe : longest;
}

/*
 * Whether the program has said its last and nothing is left to read.
 * @producer was read before the last pump, so that everything that belongs to it has been read.
 */
static bool is_over(const struct recorder *recorder, uint32_t producer)
{
	if (producer != PRODUCER_ENDED && producer != PRODUCER_EXEC)
		return false;
	return recording_backlog(recorder->recording) == 0 || now_ns() - recorder->progress_ns > STUCK_AFTER_NS;
}

static int record(struct recorder *recorder)
{
	char ended[32];
	bool dead = false;

	for (;;) {
		uint32_t producer = atomic32_load_acquire(&recorder->ring->producer);
		int64_t nr_slots = 0;
		bool more;
		int r = pump(recorder, false, &nr_slots);

		if (!r)
			r = sample(recorder);
		if (r)
			return r;
		if (dead || (nr_slots == 0 && is_over(recorder, producer)))
			break;
		more = nr_slots == PUMP_SLOTS || (nr_slots > 0 && producer != PRODUCER_RUNNING);
		dead = program_wait(&recorder->program, more ? 0 : sleep_ms(recorder));
	}
	if (dead) {
		program_describe_end(&recorder->program, ended, sizeof(ended));
		recording_set_ended(recorder->recording, ended);
	}
	return drain(recorder);
}

/* Returns the exit status. */
static int record_to_the_end(struct recorder *recorder)
{
	char message[RING_MESSAGE_MAX];
	int r = record(recorder);

	if (!r)
		r = recording_finish(recorder->recording, message, sizeof(message));
	if (r) {
		snprintf(message, sizeof(message), "%s", recording_message(recorder->recording));
		recording_abandon(recorder->recording, message);
		say_failed(recorder, message);
		return EXIT_FAILED;
	}
	recording_close(recorder->recording);
	/* First: where the program was the container's first process, nothing runs after it. */
	ring_file_unlink(&recorder->ring_file);
	snprintf(recorder->ring->message, sizeof(recorder->ring->message), "%s", message);
	say_state(recorder, RECORDER_CLOSED);
	return EXIT_SUCCESS;
}

/* ---- main */

static void ignore_signals(void)
{
	static const int signals[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGPIPE, SIGALRM,  SIGUSR1,
	                              SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ, SIGVTALRM};
	sigset_t none;

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL); /* The mask was that of some thread of the program. */
}

const char *argp_program_version = "nnmem-record " NNMEM_VERSION;

static const struct argp_option options[] = {
        {"ring", 'r', "PATH", 0, "The ring to read: a file that libnnmemhook.so has made", 0},
        {0},
};

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
	struct recorder *recorder = state->input;

	switch (key) {
	case 'r':
		recorder->ring_path = argument;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument: %s", argument);
		return EINVAL;
	case ARGP_KEY_END:
		if (!recorder->ring_path)
			argp_error(state, "--ring is missing");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "--ring PATH",
        .doc = "Write what a program under libnnmemhook.so does with its memory into a run file."
               "\vThe library starts this program by itself; there is no need to run it by hand.  It ends with the program"
               " that is recorded.\n\n"
               "Environment:\n"
               "  NNMEM_OUT     the run file's name (run.db); %p is the pid, %r RANK, %h the host\n"
               "  NNMEM_RUN_ID  the id that the files of one run share\n"
               "  RANK          the rank in a distributed run",
};

int main(int argc, char **argv)
{
	struct recorder recorder = {0};
	char message[RING_MESSAGE_MAX];
	int r;

	argp_err_exit_status = EXIT_USAGE;
	argp_parse(&argp, argc, argv, 0, NULL, &recorder);
	ignore_signals();
	r = ring_file_open(recorder.ring_path, true, &recorder.ring_file);
	if (r) {
		fprintf(stderr, "nnmem-record: cannot read the ring %s: %s\n", recorder.ring_path,
		        r == -EINVAL            ? "it is not a ring"
		        : r == -EPROTONOSUPPORT ? "it was made by another version of nnmem"
		                                : strerror(-r));
		return EXIT_FAILED;
	}
	recorder.ring = recorder.ring_file.ring;
	if (atomic32_load_acquire(&recorder.ring->recorder) != RECORDER_STARTING) {
		fprintf(stderr, "nnmem-record: the ring %s has a recorder; nnmem-report takes up what a dead one left\n",
		        recorder.ring_path);
		return EXIT_FAILED;
	}
	atomic32_store_release(&recorder.ring->recorder_pid, (uint32_t)getpid());
	program_open(&recorder.program, recorder.ring->pid, recorder.ring->pid_start_ticks);
	recorder.progress_ns = now_ns();
	r = open_recording(&recorder, message, sizeof(message));
	if (r) {
		fprintf(stderr, "nnmem-record: %s\n", message);
		ring_file_unlink(&recorder.ring_file);
		say_failed(&recorder, message);
		r = EXIT_FAILED;
	} else {
		snprintf(recorder.ring->run_path, sizeof(recorder.ring->run_path), "%s", recording_path(recorder.recording));
		say_state(&recorder, RECORDER_READY);
		r = record_to_the_end(&recorder);
	}
	program_close(&recorder.program);
	ring_file_close(&recorder.ring_file);
	return r;
}
