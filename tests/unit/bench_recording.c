/*
 * How fast the recorder's side is: ring reader, tagger, SQLite, commits every 100 ms, on one core.
 *
 *	bench_recording [events] [layers] [temporaries]
 *
 * A synthetic training run (ring_filler.h) is played in pieces of a quarter of a ring; only the pumping is timed, in CPU time.
 * Exit status 1 when it sustains less than MIN_EVENTS_PER_S or closing takes longer than MAX_CLOSE_S.
 */
#include "ring_filler.h"
#include "store/recording.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CAPACITY         (1u << 18) /* 16 MiB, the default */
#define COMMIT_S         0.1
#define MIN_EVENTS_PER_S 500000.0
#define MAX_CLOSE_S      1.0

struct bench {
	struct ring_filler filler;
	struct recording *recording;
	double pumped_s, committed_s;
	uint64_t nr_slots;
};

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now); /* Whatever else the machine does. */
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void pump(void *arg)
{
	struct bench *bench = arg;
	bool commit = bench->pumped_s - bench->committed_s > COMMIT_S;
	double start_s = now_s();
	int64_t nr_slots = recording_pump(bench->recording, 0, CAPACITY / 4, commit);

	if (nr_slots < 0) {
		fprintf(stderr, "bench_recording: %s\n", recording_message(bench->recording));
		exit(2);
	}
	bench->nr_slots += (uint64_t)nr_slots;
	bench->pumped_s += now_s() - start_s;
	if (commit)
		bench->committed_s = bench->pumped_s;
}

int main(int argc, char **argv)
{
	static struct bench bench;
	uint64_t nr_events = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
	uint32_t nr_layers = argc > 2 ? (uint32_t)atoi(argv[2]) : 40;
	uint32_t nr_temporaries = argc > 3 ? (uint32_t)atoi(argv[3]) : 10;
	char folder[] = "/tmp/nnmem-bench-XXXXXX", path[64], message[512];
	struct recording_origin origin = {.out = path, .rank = -1};
	struct ring *ring = ring_filler_map(NULL, CAPACITY);
	struct rusage usage;
	struct stat status = {0};
	double start_s, close_s, rate;
	int r;

	if (!ring || !mkdtemp(folder))
		return 2;
	snprintf(path, sizeof(path), "%s/run.db", folder);
	if (recording_create(ring, &origin, &bench.recording, message, sizeof(message))) {
		fprintf(stderr, "bench_recording: %s\n", message);
		return 2;
	}
	ring_filler_init(&bench.filler, ring, nr_layers, nr_temporaries);
	bench.filler.make_room = pump;
	bench.filler.arg = &bench;
	ring_filler_setup(&bench.filler);
	while (bench.filler.nr_events < nr_events)
		ring_filler_train_step(&bench.filler);
	ring_filler_end(&bench.filler, 0);
	while (recording_backlog(bench.recording) > 0)
		pump(&bench);
	start_s = now_s();
	r = recording_close(bench.recording);
	close_s = now_s() - start_s;
	getrusage(RUSAGE_SELF, &usage);
	stat(path, &status);
	rate = (double)bench.filler.nr_events / (bench.pumped_s + close_s);
	printf("%" PRIu64 " events in %" PRIu64 " slots, %" PRIu64 " steps: %.0f events/s (%.0f ns an event), closed in %.3f s;"
	       " file %.1f bytes an event, peak RSS %.0f MiB (ring %u)\n",
	       bench.filler.nr_events, bench.nr_slots, bench.filler.nr_steps, rate, 1e9 / rate, close_s,
	       (double)status.st_size / (double)bench.filler.nr_events, (double)usage.ru_maxrss / 1024, CAPACITY * 64 >> 20);
	if (argc > 4)
		printf("kept: %s\n", path);
	else if (unlink(path) || rmdir(folder))
		perror(path);
	return r || rate < MIN_EVENTS_PER_S || close_s > MAX_CLOSE_S;
}
