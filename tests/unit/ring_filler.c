/* A synthetic training run, played into a ring: see ring_filler.h. */
#include "ring_filler.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define THREAD        1u
#define ROOT          1u
#define OPTIMIZER     1u
#define NS_PER_RECORD 1000u
#define ROOM_SLOTS    (2u + RECORD_TEXT_MAX / RECORD_TEXT_BYTES)

static uint64_t clock_ns;

static uint64_t filler_now(void)
{
	return clock_ns += NS_PER_RECORD;
}

static void filler_pause(uint64_t ns)
{
	clock_ns += ns;
}

static bool filler_recorder_alive(uint32_t pid)
{
	(void)pid;
	return true;
}

static const struct emit_env filler_env = {filler_now, filler_pause, filler_recorder_alive};

void ring_filler_init(struct ring_filler *filler, struct ring *ring, uint32_t nr_layers, uint32_t nr_temporaries)
{
	if (nr_layers > RING_FILLER_MAX_LAYERS)
		abort();
	memset(filler, 0, sizeof(*filler));
	filler->emitter = (struct emitter){.ring = ring, .env = &filler_env};
	filler->nr_layers = nr_layers;
	filler->nr_temporaries = nr_temporaries;
	filler->next_address = UINT64_C(0x7f0000000000);
	clock_ns = ring->start_monotonic_ns;
}

static void wait_for_room(struct ring_filler *filler)
{
	struct ring *ring = filler->emitter.ring;

	while (ring->head + ROOM_SLOTS - atomic64_load_acquire(&ring->tail) > ring->capacity) {
		if (filler->make_room)
			filler->make_room(filler->arg);
		else
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
}

static void send(struct ring_filler *filler, struct record record)
{
	wait_for_room(filler);
	record.thread = THREAD;
	if (!emit_record(&filler->emitter, &record))
		abort();
}

static void send_text(struct ring_filler *filler, struct record record, const char *text, size_t text_bytes)
{
	wait_for_room(filler);
	record.thread = THREAD;
	if (!emit_record_text(&filler->emitter, &record, text, (uint32_t)text_bytes))
		abort();
}

/* Text with NULs between its fields, from a literal: the literal's own last NUL is not part of it. */
#define SEND_LITERAL(filler, record, literal) send_text(filler, record, literal, sizeof(literal) - 1)

static uint64_t allocate(struct ring_filler *filler, uint64_t size_bytes, uint32_t module, uint8_t flags)
{
	uint64_t address = filler->next_address;

	filler->next_address += (size_bytes + 63) & ~UINT64_C(63);
	filler->live_bytes += size_bytes;
	if (filler->live_bytes > filler->peak_bytes)
		filler->peak_bytes = filler->live_bytes;
	filler->nr_events++;
	send(filler, (struct record){.kind = RECORD_ALLOC,
	                             .flags = flags,
	                             .device = RECORD_DEVICE_CPU,
	                             .scope = module,
	                             .address = address,
	                             .size = size_bytes,
	                             .a = filler->live_bytes});
	return address;
}

static void release(struct ring_filler *filler, uint64_t address, uint64_t size_bytes, uint32_t module, uint8_t flags)
{
	filler->live_bytes -= size_bytes;
	filler->nr_events++;
	send(filler, (struct record){.kind = RECORD_FREE,
	                             .flags = flags,
	                             .device = RECORD_DEVICE_CPU,
	                             .scope = module,
	                             .address = address,
	                             .size = size_bytes,
	                             .a = filler->live_bytes});
}

/* Blocks that die at once, each before the next is born, so that their addresses come again. */
static void use_temporaries(struct ring_filler *filler, uint32_t nr, uint32_t module, uint8_t flags)
{
	for (uint32_t i = 0; i < nr; i++) {
		uint64_t before = filler->next_address;
		uint64_t address = allocate(filler, RING_FILLER_TEMPORARY_BYTES, module, flags);

		release(filler, address, RING_FILLER_TEMPORARY_BYTES, module, flags);
		filler->next_address = before;
	}
}

static uint64_t parameter_bytes(uint32_t parameter)
{
	return parameter % 2 ? RING_FILLER_BIAS_BYTES : RING_FILLER_WEIGHT_BYTES;
}

static uint32_t module_of(uint32_t parameter)
{
	return ROOT + 1 + parameter / 2;
}

static void define_tensor(struct ring_filler *filler, uint32_t parameter, enum record_tensor kind, uint64_t address)
{
	struct record record = {.kind = RECORD_DEF_TENSOR,
	                        .scope = module_of(parameter),
	                        .address = address,
	                        .size = parameter_bytes(parameter),
	                        .a = kind,
	                        .b = kind == RECORD_TENSOR_STATE ? OPTIMIZER : 0};
	char text[128];
	int length =
	        snprintf(text, sizeof(text), "layers.%u.%s%cfloat32%c%s%c%s", parameter / 2, parameter % 2 ? "bias" : "weight", 0,
	                 0, parameter % 2 ? "32" : "32,32", 0, kind == RECORD_TENSOR_STATE ? "momentum_buffer" : "");

	send_text(filler, record, text, (size_t)length);
}

void ring_filler_setup(struct ring_filler *filler)
{
	SEND_LITERAL(filler, ((struct record){.kind = RECORD_DEF_THREAD, .flags = RECORD_F_PYTHON, .a = 4242}), "MainThread");
	SEND_LITERAL(filler, ((struct record){.kind = RECORD_INFO}), "torch_version\0002.14.1");
	SEND_LITERAL(filler, ((struct record){.kind = RECORD_INFO}), "python_version\0003.11.2");
	SEND_LITERAL(filler, ((struct record){.kind = RECORD_DEF_MODULE, .scope = ROOT, .a = ROOT}), "\0Net\0Net");
	for (uint32_t i = 0; i < filler->nr_layers; i++) {
		char text[64];
		int length = snprintf(text, sizeof(text), "layers.%u%cLinear%cNet", i, 0, 0);

		send_text(filler, (struct record){.kind = RECORD_DEF_MODULE, .scope = ROOT + 1 + i, .a = ROOT}, text,
		          (size_t)length);
	}
	for (uint32_t i = 0; i < 2 * filler->nr_layers; i++) {
		filler->parameters[i] = allocate(filler, parameter_bytes(i), 0, 0);
		define_tensor(filler, i, RECORD_TENSOR_PARAMETER, filler->parameters[i]);
	}
	SEND_LITERAL(filler, ((struct record){.kind = RECORD_DEF_OPTIMIZER, .scope = OPTIMIZER}), "SGD");
}

static void enter(struct ring_filler *filler, uint32_t module, uint8_t flags)
{
	send(filler, (struct record){.kind = RECORD_MODULE_ENTER, .scope = module, .flags = flags});
}

static void leave(struct ring_filler *filler, uint32_t module, uint8_t flags, uint64_t nr_nodes)
{
	send(filler,
	     (struct record){.kind = RECORD_MODULE_LEAVE, .scope = module, .flags = flags & RECORD_F_ROOT, .a = nr_nodes});
}

/* A root call; activations stay alive when @grad. */
static void forward(struct ring_filler *filler, uint64_t input, bool grad)
{
	uint8_t flags = RECORD_F_ROOT | (grad ? RECORD_F_GRAD | RECORD_F_TRAINING : 0);

	enter(filler, ROOT, flags);
	send(filler, (struct record){.kind = RECORD_INPUT, .scope = ROOT, .address = input, .size = RING_FILLER_INPUT_BYTES});
	for (uint32_t i = 0; i < filler->nr_layers; i++) {
		uint32_t module = ROOT + 1 + i;

		enter(filler, module, grad ? RECORD_F_GRAD | RECORD_F_TRAINING : 0);
		use_temporaries(filler, filler->nr_temporaries, module, 0);
		filler->activations[i] = allocate(filler, RING_FILLER_ACTIVATION_BYTES, module, 0);
		leave(filler, module, 0, grad ? 2 : 0);
		if (!grad && i > 0)
			release(filler, filler->activations[i - 1], RING_FILLER_ACTIVATION_BYTES, ROOT, 0);
	}
	leave(filler, ROOT, flags, grad ? 2 * filler->nr_layers : 0);
}

static void backward(struct ring_filler *filler)
{
	send(filler, (struct record){.kind = RECORD_BACKWARD_BEGIN, .flags = RECORD_F_ACCUMULATE, .a = 1 + filler->nr_steps});
	for (uint32_t i = filler->nr_layers; i-- > 0;) {
		uint32_t module = ROOT + 1 + i;

		use_temporaries(filler, filler->nr_temporaries, module, RECORD_F_NODE);
		for (uint32_t p = 2 * i; p < 2 * i + 2; p++)
			filler->gradients[p] = allocate(filler, parameter_bytes(p), module, RECORD_F_NODE);
		release(filler, filler->activations[i], RING_FILLER_ACTIVATION_BYTES, module, RECORD_F_NODE);
	}
	send(filler, (struct record){.kind = RECORD_BACKWARD_END});
}

static void optimize(struct ring_filler *filler)
{
	bool first = filler->nr_steps == 0;

	send(filler, (struct record){.kind = RECORD_OPTIMIZER_BEGIN, .scope = OPTIMIZER});
	for (uint32_t p = 0; p < 2 * filler->nr_layers; p++) {
		if (first)
			filler->momenta[p] = allocate(filler, parameter_bytes(p), 0, 0);
		use_temporaries(filler, 1, 0, 0);
	}
	send(filler, (struct record){.kind = RECORD_OPTIMIZER_END, .scope = OPTIMIZER});
	for (uint32_t p = 0; first && p < 2 * filler->nr_layers; p++)
		define_tensor(filler, p, RECORD_TENSOR_STATE, filler->momenta[p]);
}

void ring_filler_train_step(struct ring_filler *filler)
{
	uint64_t before, input, loss;

	/* What is kept from the first step on must not share addresses with what dies in it. */
	if (filler->nr_steps == 0)
		filler->next_address += UINT64_C(1) << 32;
	before = filler->next_address;
	input = allocate(filler, RING_FILLER_INPUT_BYTES, 0, 0);
	forward(filler, input, true);
	loss = allocate(filler, RING_FILLER_LOSS_BYTES, 0, 0);
	backward(filler);
	if (filler->nr_steps == 0) {
		uint64_t here = filler->next_address;

		filler->next_address = before - (UINT64_C(1) << 31);
		optimize(filler);
		filler->next_address = here;
	} else {
		optimize(filler);
	}
	for (uint32_t p = 0; p < 2 * filler->nr_layers; p++)
		release(filler, filler->gradients[p], parameter_bytes(p), 0, 0);
	release(filler, loss, RING_FILLER_LOSS_BYTES, 0, 0);
	release(filler, input, RING_FILLER_INPUT_BYTES, 0, 0);
	filler->next_address = before; /* Every step reuses the addresses of the one before. */
	filler->nr_steps++;
}

void ring_filler_evaluate(struct ring_filler *filler)
{
	uint64_t before = filler->next_address;
	uint64_t input = allocate(filler, RING_FILLER_INPUT_BYTES, 0, 0);

	forward(filler, input, false);
	if (filler->nr_layers > 0)
		release(filler, filler->activations[filler->nr_layers - 1], RING_FILLER_ACTIVATION_BYTES, 0, 0);
	release(filler, input, RING_FILLER_INPUT_BYTES, 0, 0);
	filler->next_address = before;
}

void ring_filler_end(struct ring_filler *filler, int status)
{
	send(filler, (struct record){.kind = RECORD_END, .a = RECORD_END_EXIT, .b = (uint64_t)status, .size = 123456789});
	atomic32_store_release(&filler->emitter.ring->producer, PRODUCER_ENDED);
}

/* Field 22 of /proc/self/stat. */
static uint64_t own_start_ticks(void)
{
	char line[1024];
	FILE *file = fopen("/proc/self/stat", "r");
	unsigned long long ticks = 0;
	char *rest;

	if (!file)
		return 0;
	if (fgets(line, sizeof(line), file) && (rest = strrchr(line, ')')))
		(void)sscanf(rest + 1, " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
		             &ticks);
	fclose(file);
	return ticks;
}

static uint64_t clock_read_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

struct ring *ring_filler_map(const char *path, uint32_t capacity)
{
	size_t size = ring_file_bytes(capacity);
	int fd = path ? open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
	void *memory = MAP_FAILED;
	struct ring *ring;

	if (!path)
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	else if (fd >= 0 && posix_fallocate(fd, 0, (off_t)size) == 0)
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	if (memory == MAP_FAILED)
		return NULL;
	ring = memory;
	ring_format(ring, capacity, clock_read_ns(CLOCK_REALTIME), clock_read_ns(CLOCK_MONOTONIC));
	ring->pid = (uint32_t)getpid();
	ring->pid_start_ticks = own_start_ticks();
	return ring;
}

void ring_filler_unmap(struct ring *ring)
{
	if (ring)
		munmap(ring, ring_file_bytes(ring->capacity));
}
