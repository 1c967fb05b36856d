/*
 * The tagger on tables of events: phases, steps, categories, sums, audit, names, saving, and streams of nonsense.
 *
 * Events are written in a small language, one word each (play()):
 *   +x +x:100     block x is born (of 100 bytes; 8 without), -x it dies.  !x of 100 bytes: as +x, shared.  ?x: an unknown free
 *   F( F2( G( E( I(  a root call: training forward of module 1, of 2; with gradients but no nodes; evaluation; gradients off in
 *                 training mode.  M3( a call of module 3 inside one
 *   B( A( S( S2( P4(  .backward(), autograd.grad(), step() of optimizer 1, of 2, marked phase 4.  ) ends the innermost
 *   }M3 }B }S1    an end by itself, without regard to what is open;  x( forgets the innermost: its end is lost
 *   n3 n0         what follows runs in a node that module 3 made (0: a node of no module), n-: no node any more
 *   f o K U       RECORD_FORWARD, a node is made, a marked step, GradScaler.update
 *   t2 p2 a2 w1 w-  go on with thread 2; it is of the native pool; an autograd worker; it works for thread 1, for nobody
 *   d1 d0         go on with device cuda:0, with the cpu
 *   =x in=x gin=x parameter x (module 1) lies in block x; block x is given to a root call (by a tensor that requires gradients)
 *   X             the process ends by exit
 */
#include "store/tagger.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MAX_NAMES     64
#define MAX_OPEN      64
#define ADDRESS(name) (UINT64_C(0x10000) * ((name) + 1))
#define CUDA_0        0x0001u

struct seen_step {
	bool seen;
	struct tag_step step;
	struct tag_step_device devices[64];
};

/* The rows that a sink would have at the end, by key. */
struct rows {
	struct tag_allocation *allocations; /* by id */
	size_t nr_allocations;
	uint64_t *stretches; /* by id; step + 1, 0: not told */
	size_t nr_stretches;
	struct seen_step *steps;
	size_t nr_steps;
	struct tag_span *spans; /* by id */
	size_t nr_spans;
	struct tag_device devices[64];
	size_t nr_devices;
	struct tag_layer_peak *layers[64]; /* by device as in devices */
	size_t nr_layers[64];
	struct tag_tensor *tensors; /* by id; texts not kept */
	size_t nr_tensors;
	struct tag_module modules[64];
	size_t nr_modules;
	size_t nr_notes, nr_infos, nr_ooms, nr_ends, nr_threads, nr_frames, nr_stacks;
	struct tag_frame frame; /* the last; its texts in frame_text */
	struct tag_stack stack;
	char frame_text[128], build_id[16];
	struct tag_oom oom;
	int fail_with;
};

struct play {
	struct rows rows;
	struct tagger *tagger;
	uint64_t seq, now_ns;
	uint32_t thread;
	uint16_t device;
	uint8_t node_flags;
	bool new_node; /* a node was made: the next report says so */
	uint32_t node_scope;
	uint64_t total[2]; /* PyTorch's, cpu and cuda:0 */
	uint64_t size[MAX_NAMES];
	bool shared[MAX_NAMES];
	char names[MAX_NAMES][8];
	unsigned nr_names;
	char born[4096][8]; /* names by allocation id */
	struct {
		uint8_t kind;
		uint32_t id;
		uint8_t flags;
		uint64_t nodes;
	} open[8][MAX_OPEN];
	unsigned nr_open[8];
	bool cut; /* save and load after every word */
};

static size_t room_for(size_t nr)
{
	size_t room = 16;

	while (nr && room < nr)
		room *= 2;
	return nr ? room : 0;
}

/* @array of *@nr elements with room for @wanted; new ones are zero. */
static void *grown(void *array, size_t *nr, size_t wanted, size_t bytes)
{
	if (wanted <= *nr)
		return array;
	if (room_for(wanted) > room_for(*nr))
		array = realloc(array, room_for(wanted) * bytes);
	memset((char *)array + *nr * bytes, 0, (wanted - *nr) * bytes);
	*nr = wanted;
	return array;
}

static int on_allocation(void *arg, struct tag_allocation *allocation)
{
	struct rows *rows = arg;
	uint64_t id = allocation->id;

	rows->allocations = grown(rows->allocations, &rows->nr_allocations, id + 1, sizeof(*allocation));
	assert_int_equal(allocation->stored, rows->allocations[id].id != 0);
	allocation->stored = true;
	rows->allocations[id] = *allocation;
	return rows->fail_with;
}

static int on_stretch(void *arg, uint64_t stretch, uint64_t step)
{
	struct rows *rows = arg;

	rows->stretches = grown(rows->stretches, &rows->nr_stretches, stretch + 1, sizeof(uint64_t));
	rows->stretches[stretch] = step + 1;
	return 0;
}

/* Devices in the order in which steps list them. */
static size_t device_index(struct rows *rows, uint16_t device)
{
	for (size_t i = 0; i < rows->nr_devices; i++)
		if (rows->devices[i].device == device)
			return i;
	assert_true(rows->nr_devices < 64);
	rows->devices[rows->nr_devices] = (struct tag_device){.device = device};
	return rows->nr_devices++;
}

static int on_step(void *arg, const struct tag_step *step)
{
	struct rows *rows = arg;
	struct seen_step *seen;

	rows->steps = grown(rows->steps, &rows->nr_steps, step->step + 1, sizeof(*seen));
	seen = &rows->steps[step->step];
	assert_false(seen->seen && seen->step.closed);
	seen->seen = true;
	seen->step = *step;
	for (size_t i = 0; i < step->nr_devices; i++)
		assert_int_equal(device_index(rows, step->devices[i].device), i);
	seen->step.devices = NULL;
	memset(seen->devices, 0, sizeof(seen->devices));
	if (step->nr_devices)
		memcpy(seen->devices, step->devices, step->nr_devices * sizeof(*step->devices));
	return 0;
}

static int on_device(void *arg, const struct tag_device *device)
{
	struct rows *rows = arg;

	rows->devices[device_index(rows, device->device)] = *device;
	return 0;
}

static int on_span(void *arg, const struct tag_span *span)
{
	struct rows *rows = arg;

	rows->spans = grown(rows->spans, &rows->nr_spans, span->id + 1, sizeof(*span));
	rows->spans[span->id] = *span;
	return 0;
}

static int on_layer_peaks(void *arg, uint16_t device, const struct tag_layer_peak *peaks, size_t nr)
{
	struct rows *rows = arg;
	size_t at = device_index(rows, device);

	free(rows->layers[at]);
	rows->layers[at] = malloc((nr + 1) * sizeof(*peaks));
	if (nr)
		memcpy(rows->layers[at], peaks, nr * sizeof(*peaks));
	rows->nr_layers[at] = nr;
	return 0;
}

static int on_module(void *arg, const struct tag_module *module)
{
	struct rows *rows = arg;

	assert_non_null(module->fqn);
	if (module->id < 64)
		rows->modules[module->id] = *module;
	rows->nr_modules++;
	return 0;
}

static int on_tensor(void *arg, const struct tag_tensor *tensor)
{
	struct rows *rows = arg;

	assert_true(strlen(tensor->name) + strlen(tensor->dtype) + strlen(tensor->shape) + strlen(tensor->state_key) < 4096);
	rows->tensors = grown(rows->tensors, &rows->nr_tensors, tensor->id + 1, sizeof(*tensor));
	rows->tensors[tensor->id] = *tensor;
	rows->tensors[tensor->id].name = rows->tensors[tensor->id].dtype = NULL;
	rows->tensors[tensor->id].shape = rows->tensors[tensor->id].state_key = NULL;
	return 0;
}

static int on_thread(void *arg, const struct tag_thread *thread)
{
	((struct rows *)arg)->nr_threads += strlen(thread->name) < 5000;
	return 0;
}

static int on_oom(void *arg, const struct tag_oom *oom)
{
	((struct rows *)arg)->oom = *oom;
	((struct rows *)arg)->nr_ooms++;
	return 0;
}

static int on_frame(void *arg, const struct tag_frame *frame)
{
	struct rows *rows = arg;

	rows->frame = *frame;
	rows->nr_frames++;
	snprintf(rows->frame_text, sizeof(rows->frame_text), "%s|%s", frame->file, frame->function);
	snprintf(rows->build_id, sizeof(rows->build_id), "%s", frame->build_id ? frame->build_id : "");
	return rows->fail_with;
}

static int on_stack(void *arg, const struct tag_stack *stack)
{
	struct rows *rows = arg;

	rows->stack = *stack;
	rows->nr_stacks++;
	return rows->fail_with;
}

static int on_note(void *arg, const struct tag_note *note)
{
	((struct rows *)arg)->nr_notes += strlen(note->text) < 5000;
	return 0;
}

static int on_info(void *arg, const char *key, const char *value)
{
	((struct rows *)arg)->nr_infos += strlen(key) + strlen(value) < 5000;
	return 0;
}

static int on_end(void *arg, unsigned how, int64_t status, uint64_t peak_rss_bytes)
{
	((struct rows *)arg)->nr_ends++;
	return 0;
}

static struct tag_sink sink_of(struct rows *rows)
{
	return (struct tag_sink){
	        .arg = rows,
	        .allocation = on_allocation,
	        .stretch = on_stretch,
	        .step = on_step,
	        .device = on_device,
	        .span = on_span,
	        .layer_peaks = on_layer_peaks,
	        .module = on_module,
	        .tensor = on_tensor,
	        .thread = on_thread,
	        .frame = on_frame,
	        .stack = on_stack,
	        .oom = on_oom,
	        .note = on_note,
	        .info = on_info,
	        .end = on_end,
	};
}

static void rows_release(struct rows *rows)
{
	free(rows->allocations);
	free(rows->stretches);
	free(rows->steps);
	free(rows->spans);
	free(rows->tensors);
	for (size_t i = 0; i < 64; i++)
		free(rows->layers[i]);
	memset(rows, 0, sizeof(*rows));
}

/* ---- playing */

static struct play *play_new(void)
{
	struct play *p = calloc(1, sizeof(*p));
	struct tag_sink sink = sink_of(&p->rows);

	assert_int_equal(tagger_new(&sink, &p->tagger), 0);
	p->thread = 1;
	p->device = RECORD_DEVICE_CPU;
	return p;
}

static void play_free(struct play *p)
{
	tagger_free(p->tagger);
	rows_release(&p->rows);
	free(p);
}

static int feed(struct play *p, struct record record, const char *text)
{
	p->now_ns += 1000;
	record.seq = ++p->seq;
	record.time_ns = p->now_ns;
	record.thread = p->thread;
	if (record.kind == RECORD_ALLOC || record.kind == RECORD_FREE || record.kind == RECORD_MODULE_ENTER)
		record.flags |= p->node_flags;
	return tagger_feed(p->tagger, &record, text);
}

static void send(struct play *p, struct record record)
{
	assert_int_equal(feed(p, record, NULL), 0);
}

/* @text's fields are joined by '|'. */
static void define(struct play *p, struct record record, const char *text)
{
	char fields[256];

	snprintf(fields, sizeof(fields), "%s", text);
	record.stack = (uint32_t)strlen(fields);
	for (char *c = fields; *c; c++)
		if (*c == '|')
			*c = '\0';
	assert_int_equal(feed(p, record, fields), 0);
}

static unsigned name_of(struct play *p, const char *name)
{
	for (unsigned i = 0; i < p->nr_names; i++)
		if (!strcmp(p->names[i], name))
			return i;
	assert_true(p->nr_names < MAX_NAMES && strlen(name) < sizeof(p->names[0]));
	strcpy(p->names[p->nr_names], name);
	return p->nr_names++;
}

static uint32_t innermost_module(const struct play *p)
{
	for (unsigned i = p->nr_open[p->thread]; i-- > 0;)
		if (p->open[p->thread][i].kind == RECORD_MODULE_ENTER)
			return p->open[p->thread][i].id;
	return 0;
}

static uint64_t nr_born(const struct play *p)
{
	uint64_t n = 1;

	while (p->born[n][0])
		n++;
	return n;
}

static void report(struct play *p, uint8_t kind, unsigned name, uint64_t size)
{
	uint64_t *total = &p->total[p->device == CUDA_0];
	bool shared = p->shared[name];

	if (!shared)
		*total += kind == RECORD_ALLOC ? size : -size;
	send(p, (struct record){
	                .kind = kind,
	                .flags = (shared ? RECORD_F_SHARED : 0) | (p->new_node ? RECORD_F_NEW_NODE : 0),
	                .device = p->device,
	                .scope = p->node_scope ? p->node_scope : innermost_module(p),
	                .address = ADDRESS(name),
	                .size = size,
	                .a = shared ? 0 : *total,
	        });
	p->new_node = false;
}

static void birth(struct play *p, const char *word, bool shared)
{
	char name[8];
	unsigned long size = 8;
	unsigned n;

	sscanf(word, "%7[a-z0-9]:%lu", name, &size);
	n = name_of(p, name);
	p->size[n] = size;
	p->shared[n] = shared;
	strcpy(p->born[nr_born(p)], name);
	report(p, RECORD_ALLOC, n, size);
}

static void begin(struct play *p, uint8_t kind, uint32_t id, uint8_t flags, uint64_t nodes, uint64_t a)
{
	unsigned at = p->nr_open[p->thread]++;

	p->open[p->thread][at].kind = kind;
	p->open[p->thread][at].id = id;
	p->open[p->thread][at].flags = flags;
	p->open[p->thread][at].nodes = nodes;
	send(p, (struct record){.kind = kind, .scope = id, .flags = flags, .a = a});
}

static void end(struct play *p)
{
	unsigned at = --p->nr_open[p->thread];
	uint8_t kind = p->open[p->thread][at].kind;

	send(p, (struct record){
	                .kind = kind == RECORD_MARK_PHASE_BEGIN ? RECORD_MARK_PHASE_END : (uint8_t)(kind + 1),
	                .scope = p->open[p->thread][at].id,
	                .flags = p->open[p->thread][at].flags & RECORD_F_ROOT,
	                .a = p->open[p->thread][at].nodes,
	        });
}

static uint32_t number_in(const char *word, uint32_t missing)
{
	while (*word && (*word < '0' || *word > '9'))
		word++;
	return *word ? (uint32_t)strtoul(word, NULL, 10) : missing;
}

static void play_scope(struct play *p, const char *word)
{
	const uint8_t root = RECORD_F_ROOT;

	switch (word[0]) {
	case 'F':
		begin(p, RECORD_MODULE_ENTER, number_in(word, 1), root | RECORD_F_GRAD | RECORD_F_TRAINING, 5, 0);
		break;
	case 'G':
		begin(p, RECORD_MODULE_ENTER, number_in(word, 1), root | RECORD_F_GRAD | RECORD_F_TRAINING, 0, 0);
		break;
	case 'E':
		begin(p, RECORD_MODULE_ENTER, number_in(word, 1), root, 0, 0);
		break;
	case 'I':
		begin(p, RECORD_MODULE_ENTER, number_in(word, 1), root | RECORD_F_TRAINING, 0, 0);
		break;
	case 'M':
		begin(p, RECORD_MODULE_ENTER, number_in(word, 2), 0, 0, 0);
		break;
	case 'B':
		begin(p, RECORD_BACKWARD_BEGIN, 0, RECORD_F_ACCUMULATE, 0, 0);
		break;
	case 'A':
		begin(p, RECORD_BACKWARD_BEGIN, 0, 0, 0, 0);
		break;
	case 'K':
		begin(p, RECORD_BACKWARD_BEGIN, 0, RECORD_F_ACCUMULATE | RECORD_F_KEEP, 0, 0);
		break;
	case 'S':
		begin(p, RECORD_OPTIMIZER_BEGIN, number_in(word, 1), 0, 0, 0);
		break;
	case 'P':
		begin(p, RECORD_MARK_PHASE_BEGIN, 0, 0, 0, number_in(word, 0));
		break;
	case 'x':
		p->nr_open[p->thread]--;
		break;
	default:
		fail_msg("bad word %s", word);
	}
}

static void play_end(struct play *p, const char *word)
{
	if (word[1] == 'M')
		send(p, (struct record){.kind = RECORD_MODULE_LEAVE, .scope = number_in(word, 0), .a = 5});
	else if (word[1] == 'B')
		send(p, (struct record){.kind = RECORD_BACKWARD_END});
	else
		send(p, (struct record){.kind = RECORD_OPTIMIZER_END, .scope = number_in(word, 1)});
}

static void play_thread(struct play *p, const char *word)
{
	p->thread = number_in(word, 1);
	if (word[0] == 't')
		return;
	define(p, (struct record){.kind = RECORD_DEF_THREAD, .flags = word[0] == 'a' ? RECORD_F_AUTOGRAD : 0, .a = 77}, "name");
}

static void play_word(struct play *p, const char *word)
{
	unsigned name;

	if (strstr(word, "in=")) {
		name = name_of(p, strchr(word, '=') + 1);
		send(p, (struct record){.kind = RECORD_INPUT,
		                        .flags = word[0] == 'g' ? RECORD_F_GRAD : 0,
		                        .address = ADDRESS(name),
		                        .size = p->size[name]});
		return;
	}
	if (word[strlen(word) - 1] == '(') {
		play_scope(p, word);
		return;
	}
	switch (word[0]) {
	case '+':
	case '!':
		birth(p, word + 1, word[0] == '!');
		break;
	case '-':
		name = name_of(p, word + 1);
		report(p, RECORD_FREE, name, p->size[name]);
		break;
	case '?':
		report(p, RECORD_FREE, name_of(p, word + 1), 8);
		break;
	case ')':
		end(p);
		break;
	case '}':
		play_end(p, word);
		break;
	case '=':
		name = name_of(p, word + 1);
		define(p,
		       (struct record){.kind = RECORD_DEF_TENSOR,
		                       .scope = 1,
		                       .address = ADDRESS(name),
		                       .size = 8,
		                       .a = RECORD_TENSOR_PARAMETER},
		       "weight|float32|2|");
		break;
	case 'n':
		p->node_flags = word[1] == '-' ? 0 : RECORD_F_NODE;
		p->node_scope = word[1] == '-' ? 0 : number_in(word, 0);
		break;
	case 'f':
		send(p, (struct record){.kind = RECORD_FORWARD});
		break;
	case 'o':
		p->new_node = true;
		break;
	case 'K':
		send(p, (struct record){.kind = RECORD_MARK_STEP});
		break;
	case 'U':
		send(p, (struct record){.kind = RECORD_SCALER_UPDATE});
		break;
	case 't':
	case 'p':
	case 'a':
		play_thread(p, word);
		break;
	case 'w':
		send(p, (struct record){.kind = RECORD_WORKER, .a = word[1] == '-' ? RECORD_NO_THREAD : number_in(word, 0)});
		break;
	case 'd':
		p->device = word[1] == '1' ? CUDA_0 : RECORD_DEVICE_CPU;
		break;
	case 'X':
		send(p, (struct record){.kind = RECORD_END, .a = RECORD_END_EXIT});
		break;
	default:
		fail_msg("bad word %s", word);
	}
}

/* Replace the tagger by one that is rebuilt from what it saved and from the rows of what is alive. */
static void cut_here(struct rows *rows, struct tagger **tagger)
{
	struct tag_sink sink = sink_of(rows);
	unsigned char *bytes, *again;
	size_t size, size_again;
	uint64_t nr_live = tagger_nr_live(*tagger);

	assert_int_equal(tagger_flush(*tagger), 0);
	assert_int_equal(tagger_save(*tagger, &bytes, &size), 0);
	tagger_free(*tagger);
	assert_int_equal(tagger_load(&sink, bytes, size, tagger), 0);
	for (size_t i = rows->nr_allocations; i-- > 1;) /* in another order than they came */
		if (rows->allocations[i].id && !rows->allocations[i].free_seq)
			assert_int_equal(tagger_load_allocation(*tagger, &rows->allocations[i]), 0);
	assert_int_equal(tagger_nr_live(*tagger), nr_live);
	assert_int_equal(tagger_save(*tagger, &again, &size_again), 0);
	assert_int_equal(size, size_again);
	assert_memory_equal(bytes, again, size);
	free(bytes);
	free(again);
}

static void play(struct play *p, const char *events)
{
	char *words = strdup(events), *rest = NULL;

	for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
		play_word(p, word);
		if (p->cut)
			cut_here(&p->rows, &p->tagger);
	}
	free(words);
}

static void finish(struct play *p)
{
	assert_int_equal(tagger_finish(p->tagger), 0);
}

/* ---- what was said, in words */

static void append(char *out, size_t size, const char *format, ...)
{
	size_t nr = strlen(out);
	va_list args;

	va_start(args, format);
	vsnprintf(out + nr, size - nr, format, args);
	va_end(args);
}

/* "setup(a b) train(c)": which blocks were born in which step. */
static void say_steps(struct play *p, char *out, size_t size)
{
	out[0] = '\0';
	for (size_t step = 0; step < p->rows.nr_steps; step++) {
		const char *blank = "";

		assert_true(p->rows.steps[step].seen);
		append(out, size, "%s%s(", step ? " " : "", step_kind_name(p->rows.steps[step].step.kind));
		for (size_t id = 1; id < p->rows.nr_allocations; id++) {
			uint64_t stretch = p->rows.allocations[id].stretch;

			assert_true(stretch < p->rows.nr_stretches && p->rows.stretches[stretch]);
			if (p->rows.stretches[stretch] - 1 != step)
				continue;
			append(out, size, "%s%s", blank, p->born[id]);
			blank = " ";
		}
		append(out, size, ")");
	}
}

static void say_phases(struct play *p, char *out, size_t size)
{
	out[0] = '\0';
	for (size_t id = 1; id < p->rows.nr_allocations; id++)
		append(out, size, "%s%s=%s%s", id > 1 ? " " : "", p->born[id], phase_name(p->rows.allocations[id].phase),
		       p->rows.allocations[id].recompute ? "*" : "");
}

static void say_categories(struct play *p, char *out, size_t size)
{
	out[0] = '\0';
	for (size_t id = 1; id < p->rows.nr_allocations; id++)
		append(out, size, "%s%s=%s%s", id > 1 ? " " : "", p->born[id], category_rule_name(p->rows.allocations[id].rule),
		       p->rows.allocations[id].provisional ? "~" : "");
}

static void say_calls(struct play *p, char *out, size_t size)
{
	out[0] = '\0';
	for (size_t id = 1; id < p->rows.nr_allocations; id++)
		append(out, size, "%s%s=%u", id > 1 ? " " : "", p->born[id], (unsigned)p->rows.allocations[id].call);
}

typedef void say(struct play *p, char *out, size_t size);

/* Play @events, whole and cut at every word; what is said at the end is @expected. */
static void expect(say *what, const char *events, const char *expected)
{
	char said[4096];

	for (int cut = 0; cut < 2; cut++) {
		struct play *p = play_new();

		p->cut = cut;
		play(p, events);
		finish(p);
		what(p, said, sizeof(said));
		if (strcmp(said, expected))
			fail_msg("%s%s\n   said %s\n wanted %s", cut ? "cut: " : "", events, said, expected);
		play_free(p);
	}
}

#define expect_steps(events, expected)  expect(say_steps, events, expected)
#define expect_phases(events, expected) expect(say_phases, events, expected)
#define expect_rules(events, expected)  expect(say_categories, events, expected)

static void expect_layer(struct play *p, uint32_t module, uint64_t forward, uint64_t backward)
{
	for (size_t i = 0; i < p->rows.nr_layers[0]; i++) {
		if (p->rows.layers[0][i].module != module)
			continue;
		assert_int_equal(p->rows.layers[0][i].forward_peak_bytes, forward);
		assert_int_equal(p->rows.layers[0][i].backward_peak_bytes, backward);
		return;
	}
	fail_msg("no marks of module %u", module);
}

/* ---- steps */

static void test_steps_when_plain_loop_then_begin_at_each_forward(void **state)
{
	expect_steps("+w F( +a ) +l B( +g ) S( +m ) -g +x F( +b ) B( +h ) S( ) -h +y F( +c ) B( ) S( ) +z X",
	             "setup(w) train(a l g m x) train(b h y) train(c z)");
}

static void test_steps_when_nothing_is_trained_then_all_is_setup(void **state)
{
	expect_steps("+w I( +a ) G( +b ) +c X", "setup(w a b c)");
}

static void test_steps_when_forward_made_no_nodes_then_it_is_no_training_forward(void **state)
{
	expect_steps("+w G( +a ) +b F( +c ) B( ) S( ) +d G( +e ) +f F( +g ) B( ) S( ) X", "setup(w a b) train(c d e f) train(g)");
}

static void test_steps_when_gradients_accumulate_then_micro_batches_are_one_step(void **state)
{
	expect_steps("+w F( +a ) B( ) F( +b ) B( ) S( ) F( +c ) B( ) +x F( +d ) B( ) S( ) F( +e ) B( ) F( +f ) B( ) S( ) X",
	             "setup(w) train(a b) train(c x d) train(e f)");
}

static void test_steps_when_gan_then_both_optimizers_are_in_one_step(void **state)
{
	expect_steps("+w F( +a ) F2( +b ) B( ) S( ) +x F2( +c ) B( ) S2( ) +y F( +d ) B( ) S( ) F2( +e ) B( ) S2( ) "
	             "F( +f ) B( ) S( ) F2( +g ) B( ) S2( ) X",
	             "setup(w) train(a b x c y) train(d e) train(f g)");
}

static void test_steps_when_gan_is_killed_between_its_optimizers_then_last_is_partial(void **state)
{
	expect_steps("F( ) B( ) S( ) F2( +c ) B( ) S2( ) F( +d ) B( ) S( ) F2( +e ) B( ) S2( ) F( +f ) B( ) S( ) F2( +g ) B( )",
	             "setup() train(c) train(d e) partial(f g)");
}

static void test_steps_when_other_optimizer_steps_twice_then_it_leads(void **state)
{
	/* 9 warms up and is never seen again; from the second step() of 2 on, 2 leads, and did so at its first. */
	expect_steps("F( +a ) B( ) S9( ) F( +b ) B( ) S2( ) F( +c ) B( ) S2( ) F( +d ) B( ) S2( ) F( +e ) B( ) S2( ) X",
	             "setup() train(a) train(b) train(c) train(d) train(e)");
	/* A step in which the old one stepped too; an evaluation before the new one's first. */
	expect_steps("F( +a ) B( ) S( ) S2( ) F( +b ) B( ) S2( ) F( +c ) B( ) S2( ) X", "setup() train(a) train(b) train(c)");
	expect_steps("F( +a ) B( ) S( ) E( +e ) F( +b ) B( ) S2( ) F( +c ) B( ) S2( ) X",
	             "setup() train(a) eval(e) train(b) train(c)");
}

static void test_steps_when_candidate_is_older_than_leads_step_then_nothing_ends(void **state)
{
	/* 1 takes the lead with its second step(), but no forward came since its first. */
	expect_steps("F( +a ) B( ) S2( ) F( +b ) B( ) S( ) B( +c S( ) ) F( +d ) B( ) S( ) X",
	             "setup() train(a) train(b c) train(d)");
}

static void test_steps_when_lead_comes_between_then_it_keeps_the_lead(void **state)
{
	expect_steps("F( +a ) B( ) S( ) S2( ) F( +b ) B( ) S( ) S2( ) F( +c ) B( ) S( ) S2( ) X",
	             "setup() train(a) train(b) train(c)");
}

static void test_steps_when_several_optimizers_step_together_then_one_step(void **state)
{
	expect_steps("F( +a ) B( ) S( ) S2( ) S3( ) F( +b ) B( ) S2( ) S( ) S3( ) F( +c ) B( ) S3( ) S2( ) S( ) X",
	             "setup() train(a) train(b) train(c)");
}

static void test_steps_when_scaler_skips_then_update_counts_as_step(void **state)
{
	expect_steps("F( +a ) B( ) U F( +b ) B( ) U F( +c ) B( ) S( ) U F( +d ) B( ) U F( +e ) B( ) S( ) U F( +f ) B( ) S( ) U X",
	             "setup() train(a) train(b) train(c) train(d) train(e) train(f)");
}

static void test_steps_when_update_follows_a_step_then_it_is_none(void **state)
{
	/* Two networks, one scaler: the second update is none of the lead's steps. */
	expect_steps(
	        "F( +a ) B( ) S( ) U F2( +b ) B( ) S2( ) U F( +c ) B( ) S( ) U U F2( +d ) B( ) S2( ) U F( +e ) B( ) S( ) U X",
	        "setup() train(a b) train(c d) train(e)");
}

static void test_steps_when_scaler_skips_one_of_two_optimizers_then_no_step_is_cut(void **state)
{
	/* The lead's second step is skipped, so 2 leads from then on: its steps begin at the last forward before it. */
	expect_steps("F( +a ) B( ) S( ) F2( +b ) B( ) S2( ) U F( +c ) B( ) F2( +d ) B( ) S2( ) U "
	             "F( +e ) B( ) S( ) F2( +f ) B( ) S2( ) U X",
	             "setup() train(a b) train(c d e) train(f)");
	/* 2 takes over for good. */
	expect_steps("F( +a ) B( ) S( ) U F( +b ) B( ) S2( ) U F( +c ) B( ) S2( ) U X", "setup() train(a) train(b) train(c)");
}

static void test_steps_when_closure_runs_the_forward_then_end_where_step_begins(void **state)
{
	expect_steps("+w S( F( +a ) B( ) F( +b ) B( ) +m ) +x S( F( +c ) B( ) F( +d ) B( ) ) +y S( F( +e ) B( ) ) +z X",
	             "setup(w) train(a b m x) train(c d y) train(e z)");
}

static void test_steps_when_closure_follows_micro_batches_then_end_at_the_first(void **state)
{
	/* Lightning: batches that do not step run outside optimizer.step(). */
	expect_steps("+w F( +a ) B( ) S( F( +b ) B( ) ) +x F( +c ) B( ) +y S( F( +d ) B( ) ) X",
	             "setup(w) train(a b x) train(c y d)");
}

static void test_steps_when_validated_before_training_then_it_is_setup(void **state)
{
	expect_steps("+w E( +a ) E( ) +b S( F( +c ) B( ) ) S( F( +d ) B( ) ) X", "setup(w a b) train(c) train(d)");
}

static void test_steps_when_no_optimizer_is_seen_then_end_at_forward_after_backward(void **state)
{
	expect_steps("+w F( +a ) F( +b ) B( ) +u F( +c ) F( +d ) B( ) +x F( +e ) B( ) X",
	             "setup(w) train(a b u) train(c d x) train(e)");
	expect_steps("F( +a ) B( ) F( +b ) B( ) E( +v ) F( +c ) B( ) E( +z ) X",
	             "setup() train(a) train(b) eval(v) train(c) eval(z)");
}

static void test_steps_when_optimizer_comes_late_then_backwards_were_micro_batches(void **state)
{
	expect_steps("F( +a ) B( ) F( +b ) B( ) E( +v ) F( +c ) B( ) S( ) F( +d ) B( ) F( +e ) B( ) S( ) X",
	             "setup() train(a b v c) train(d e)");
}

static void test_steps_when_no_optimizer_for_long_then_steps_are_told_meanwhile(void **state)
{
	struct play *p = play_new();

	for (int i = 0; i < 2000; i++)
		play(p, "F( +a ) B( ) -a");
	assert_int_equal(tagger_flush(p->tagger), 0);
	assert_in_range(p->rows.nr_steps, 1700, 2001);
	finish(p);
	assert_int_equal(p->rows.nr_steps, 2001);
	for (size_t i = 1; i <= 2000; i++)
		assert_int_equal(p->rows.steps[i].devices[0].allocs, 1);
	play_free(p);
}

static void test_steps_when_optimizers_step_in_backward_then_nothing_ends_inside(void **state)
{
	expect_steps("+w F( +a ) B( n0 +g S2( +m ) -g +h S( ) n- ) +x F( +b ) B( n0 S2( ) +i S( ) n- ) +y F( +c ) B( n0 S2( ) S( "
	             ") n- ) X",
	             "setup(w) train(a g m h x) train(b i y) train(c)");
	/* Two backwards of one graph, so no forward comes between: it ends where the second backward begins. */
	expect_steps("F( +a ) B( +g S( ) +h ) +x B( +i S( ) +j ) X", "setup() train(a g h x) train(i j)");
}

static void test_steps_when_worker_steps_in_backward_then_the_caller_paces(void **state)
{
	expect_steps("a3 w1 t1 F( +a ) B( t3 S2( ) S( ) t1 ) +x F( +b ) B( t3 S2( ) S( ) t1 ) +y F( +c ) B( t3 S2( ) S( ) t1 ) X",
	             "setup() train(a x) train(b y) train(c)");
}

static void test_steps_when_recomputed_in_backward_then_no_candidate(void **state)
{
	expect_steps("F( +a ) B( n0 F( +r ) n- ) S( ) +x F( +b ) B( n0 F( +s ) n- ) S( ) F( +c ) B( n0 F( +t ) n- S( ) ) X",
	             "setup() train(a r x) train(b s) train(c t)");
}

static void test_steps_when_evaluated_between_then_kind_eval(void **state)
{
	expect_steps("F( +a ) B( ) S( ) E( +v ) +o E( +u ) +x F( +b ) B( ) S( ) F( +c ) B( ) S( ) E( +y ) X",
	             "setup() train(a) eval(v o u x) train(b) train(c) eval(y)");
}

static void test_steps_when_evaluated_inside_a_step_then_it_stays_whole(void **state)
{
	/* Between micro-batches, and between the two halves of a GAN's step. */
	expect_steps("F( +a ) B( ) E( +v ) F( +b ) B( ) S( ) F( +c ) B( ) F( +d ) B( ) S( ) X",
	             "setup() train(a v b) train(c d)");
	expect_steps("F( +a ) B( ) S( ) E( +v ) F2( +b ) B( ) S2( ) E( +u ) F( +c ) B( ) S( ) F2( +d ) B( ) S2( ) X",
	             "setup() train(a v b) eval(u) train(c d)");
}

static void test_steps_when_gradients_are_off_in_training_mode_then_no_eval(void **state)
{
	expect_steps("F( +a ) B( ) S( ) I( +v ) F( +b ) B( ) S( ) X", "setup() train(a v) train(b)");
}

static void test_steps_when_only_evaluated_then_setup_and_eval(void **state)
{
	expect_steps("+w E( +a ) +x E( +b ) +y X", "setup(w) eval(a x b y)");
	expect_steps("+w I( +a ) E( +b )", "setup(w a) eval(b)");
}

static void test_steps_when_evaluated_before_closure_then_eval_ends_at_step(void **state)
{
	expect_steps("S( F( +a ) B( ) ) E( +v ) +x S( F( +b ) B( ) ) S( F( +c ) B( ) ) X",
	             "setup() train(a) eval(v x) train(b) train(c)");
}

static void test_steps_when_marked_then_only_marks_count(void **state)
{
	expect_steps("+w F( +a ) B( ) S( ) F( +b ) K +c B( ) S( ) F( +d ) B( ) S( ) K E( +e ) K F( +f ) B( ) S( ) X",
	             "setup(w) train(a b) train(c d) eval(e) train(f)");
	expect_steps("+w K +a K +b", "setup(w) train(a) partial(b)");
}

static void test_steps_when_cut_off_then_last_is_partial(void **state)
{
	expect_steps("+w F( +a", "setup(w) partial(a)");
	expect_steps("+w F( +a ) B( +g", "setup(w) partial(a g)");
	expect_steps("F( +a ) B( ) S( ) +x F( +b", "setup() train(a x) partial(b)");
	expect_steps("F( +a ) B( ) S( ) +x F( +b ) B( +g", "setup() train(a x) partial(b g)");
	expect_steps("F( +a ) B( ) S( ) +x F( +b ) B( ) S( +m", "setup() train(a x) partial(b m)");
	expect_steps("+w S( F( +a", "setup(w) partial(a)");
	expect_steps("F( +a ) B( ) F( +b", "setup() train(a) partial(b)");
}

static void test_steps_when_other_threads_run_then_they_end_nothing(void **state)
{
	expect_steps("F( +a ) B( ) S( ) t2 +p E( +q ) F( +r ) t1 +x F( +b ) t2 E( +s ) t1 B( ) S( ) F( +c ) B( ) S( ) X",
	             "setup() train(a p q r x) train(b s) train(c)");
}

static void test_steps_when_several_threads_train_then_the_lead_paces(void **state)
{
	expect_steps("F( +a ) B( ) t2 F( +p ) B( ) t1 S( ) t2 S2( ) t1 F( +b ) t2 F( +q ) t1 B( ) S( ) t2 B( ) S2( ) "
	             "t1 F( +c ) B( ) t2 F( +r ) t1 S( ) t2 B( ) S2( ) X",
	             "setup() train(a p) train(b q) train(c r)");
}

static void test_steps_when_functional_then_forward_is_announced(void **state)
{
	expect_steps("+w f +a B( ) S( ) +x f +b B( ) S( ) +y f +c B( ) S( ) X", "setup(w) train(a x) train(b y) train(c)");
	/* A loss module without parameters is part of a functional forward. */
	expect_steps("+w f +a F9( ) B( ) S( ) +x f +b F9( ) B( ) S( ) X", "setup(w) train(a x) train(b)");
}

static void test_steps_when_stray_nodes_are_made_then_forward_of_the_module_counts(void **state)
{
	/* Nodes while the model is built, and `total += loss` after step(). */
	static const char events[] = "+w f +v M9( ) =w F( +a ) B( ) S( ) f +t +x F( +b ) B( ) S( ) f +u F( +c ) B( ) S( ) X";
	struct play *p = play_new();
	char said[512];

	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 1, .a = 1}, "|Net|Net");
	play(p, events);
	finish(p);
	say_steps(p, said, sizeof(said));
	assert_string_equal(said, "setup(w v) train(a t x) train(b u) train(c)");
	say_phases(p, said, sizeof(said));
	assert_string_equal(said, "w=static v=forward a=forward t=other x=other b=forward u=other c=forward");
	play_free(p);
}

/* ---- phases */

static void test_phase_when_nested_then_innermost_counts(void **state)
{
	expect_phases("+a F( +b M( +c ) ) +d B( +e n0 +f n- ) +g S( +h F( +i ) +j B( +k ) +l ) +m F( +n",
	              "a=static b=forward c=forward d=forward e=backward f=backward g=other h=optimizer i=forward j=forward "
	              "k=backward l=optimizer m=other n=forward");
}

static void test_phase_when_gradients_off_then_inference(void **state)
{
	expect_phases(
	        "E( +a M( +b ) ) +c F( +d E2( +e ) I( +f M( +g ) ) +h ) +i I( +j ) +k B( ) +l E( +m ) +n",
	        "a=inference b=inference c=other d=forward e=inference f=inference g=inference h=forward i=forward j=inference "
	        "k=forward l=other m=inference n=other");
}

static void test_phase_when_optimizer_steps_in_backward_then_optimizer(void **state)
{
	expect_phases("F( ) B( n0 +a S( +b ) +c n- +d )", "a=backward b=optimizer c=backward d=backward");
}

static void test_phase_when_module_runs_in_backward_then_recompute(void **state)
{
	expect_phases("F( ) B( n0 +a F( +b M( +c ) ) +d n- F( +e ) B( F( +f ) +g ) +h )",
	              "a=backward b=backward* c=backward* d=backward e=backward* f=backward* g=backward h=backward");
}

static void test_phase_when_autograd_worker_then_backward(void **state)
{
	expect_phases("t1 F( ) B( a2 w1 n3 +a n0 F( +b ) n- +c B( +d ) +e w- +f S( +g ) t1 +h )",
	              "a=backward b=backward* c=backward d=backward e=backward f=backward g=optimizer h=backward");
}

static void test_phase_when_pool_thread_then_that_of_the_one_busy_thread(void **state)
{
	expect_phases("p2 +a t1 F( t2 +b t1 ) t2 +c t1 B( t2 +d t1 ) t2 +e t1 S( t2 +f t1 ) t2 +g t1 F( t3 E( t2 +h t1 ) t2 +i",
	              "a=static b=forward c=forward d=backward e=other f=optimizer g=other h=other i=other");
}

static void test_phase_when_python_thread_is_idle_then_other(void **state)
{
	expect_phases("t3 +a t1 F( t3 +b t1 ) B( t3 +c", "a=static b=other c=other");
}

static void test_phase_when_functional_then_forward_until_backward(void **state)
{
	expect_phases("+a f +b B( +c ) +d S( ) +e f +f B( ) +g",
	              "a=static b=forward c=backward d=other e=other f=forward g=other");
}

static void test_phase_when_grad_penalty_then_forward_goes_on(void **state)
{
	struct play *p = play_new();
	char said[512];

	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 1, .a = 1}, "|Net|Net");
	play(p, "+w =w F( +a ) +b A( +c ) +d f +e B( +f ) f +g S( ) f +h");
	say_phases(p, said, sizeof(said));
	finish(p);
	say_phases(p, said, sizeof(said));
	assert_string_equal(said, "w=static a=forward b=forward c=backward d=other e=forward f=backward g=other h=other");
	play_free(p);
}

static void test_phase_when_graph_is_kept_then_code_after_it_begins_a_forward(void **state)
{
	struct play *p = play_new();
	char said[512];

	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 1, .a = 1}, "|Net|Net");
	play(p, "+w =w F( +a ) +b K( +c ) +d f +e B( +f ) f +g S( ) f +h");
	finish(p);
	say_phases(p, said, sizeof(said));
	assert_string_equal(said, "w=static a=forward b=forward c=backward d=other e=forward f=backward g=other h=other");
	play_free(p);
}

/* What a checkpoint runs again where it was called outside all modules. */
static void test_phase_when_no_module_runs_again_in_backward_then_recompute(void **state)
{
	expect_phases("F( +a ) +b B( M0( +c M2( +d ) +e ) +f ) S( )",
	              "a=forward b=forward c=backward* d=backward* e=backward* f=backward");
}

static void test_phase_when_marked_then_mark_counts(void **state)
{
	expect_phases("P1( +a ) +b F( P4( +c M( +d ) ) +e ) P5( +f B( +g ) +h )",
	              "a=forward b=static c=inference d=forward e=forward f=other g=backward h=other");
}

static void test_phase_when_marks_do_not_nest_then_only_the_mark_ends(void **state)
{
	struct play *p = play_new();
	char said[512];

	play(p, "P4( x( F( ");
	send(p, (struct record){.kind = RECORD_MARK_PHASE_END});
	play(p, "+a M( +b ) ) +c");
	finish(p);
	say_phases(p, said, sizeof(said));
	assert_string_equal(said, "a=forward b=forward c=forward");
	play_free(p);
}

static void test_phase_when_forward_and_backward_are_inside_a_root_call_then_known(void **state)
{
	expect_phases("+w F( +a B( +b ) +c S( +d ) +e ) +f",
	              "w=static a=forward b=backward c=forward d=optimizer e=forward f=forward");
	expect_rules("F( +a B( -a ) +c S( -c ) +e -e ) X", "a=forward_kept c=forward_kept e=forward_freed");
	expect_steps("+w F( +a B( ) S( ) +b ) F( +c B( ) S( ) ) X", "setup(w) train(a b) train(c)");
}

static void test_phase_when_ends_are_lost_then_recovers(void **state)
{
	/* M3's leave, a backward's end inside a step(), a root's leave. */
	expect_phases("F( M3( x( +a ) +b B( ) +c S( B( x( +d ) +e F( +f x( F( +g ) B( ) S( ) +h",
	              "a=forward b=forward c=other d=backward e=other f=forward g=forward h=other");
	/* Ends that nothing began. */
	expect_phases("}M3 }B }S7 +a F( }M3 }B }S7 +b ) B( }M1 +c ) +d", "a=static b=forward c=backward d=other");
	/* A node runs though no backward was seen to begin. */
	expect_phases("F( ) n3 +a n- +b S( ) n0 +c", "a=backward b=forward c=backward");
}

/* ---- categories */

static void test_category_when_static_then_kept_or_temporary(void **state)
{
	expect_rules("+a +b -b F( +c ) B( ) -a X", "a=static_kept b=static_temporary c=forward_kept");
	expect_rules("+a +b -b +c =c F( -c ) B( ) +d", "a=static_data b=static_temporary c=named_parameter d=between_phases");
}

static void test_category_when_marked_then_phase_of_death_decides(void **state)
{
	expect_rules("+a P5( -a ) X", "a=static_temporary");
	/* A node runs though no backward was seen to begin. */
	expect_rules("F( ) n3 +a +b -b n- -a X", "a=backward_kept b=backward_freed");
	expect_rules("P1( +a +b -b ) -a P2( +c +d -d ) -c P3( +e +f -f ) -e X",
	             "a=forward_kept b=forward_freed c=backward_kept d=backward_freed e=optimizer_kept f=optimizer_freed");
}

static void test_category_when_freed_while_evaluating_before_training_then_temporary(void **state)
{
	expect_rules("+a I( -a ) X", "a=static_temporary");
}

static void test_category_when_no_block_then_unknown(void **state)
{
	struct play *p = play_new();

	send(p, (struct record){.kind = RECORD_ALLOC,
	                        .flags = LEVEL_SEGMENT << RECORD_LEVEL_SHIFT,
	                        .device = CUDA_0,
	                        .address = 0x200000,
	                        .size = 64});
	finish(p);
	assert_int_equal(p->rows.allocations[1].rule, RULE_NONE);
	assert_int_equal(p->rows.allocations[1].category, CATEGORY_UNKNOWN);
	play_free(p);
}

static void test_category_when_forward_then_kept_or_freed(void **state)
{
	expect_rules("F( +a +b -b M( +c +d -d ) -c ) +e +f -f B( -a ) -e X",
	             "a=forward_kept b=forward_freed c=forward_freed d=forward_freed e=forward_kept f=forward_freed");
	/* Freed in a later forward: it outlived its own. */
	expect_rules("F( +a ) F( -a ) F2( +b ) F3( -b ) B( ) F( +c ) B( ) F( -c ) X",
	             "a=forward_kept b=forward_freed c=forward_kept");
	expect_rules("E( +a ) -a I( +b -b ) I( +c ) X", "a=inference b=inference c=inference");
}

static void test_category_when_backward_then_kept_or_freed(void **state)
{
	expect_rules("F( ) B( +a +b -b n0 +c F( +d +r ) -d n- B( +e ) -e ) -a X",
	             "a=backward_kept b=backward_freed c=backward_kept d=recompute r=recompute e=backward_freed");
	expect_rules("t1 F( ) B( a2 w1 +a +b -b t1 ) t2 -a t1 X", "a=backward_kept b=backward_freed");
	expect_rules("F( ) B( +a ) F( ) B( -a ) X", "a=backward_kept");
}

static void test_category_when_made_just_before_backward_then_seed(void **state)
{
	/* The loss `l` belongs to a node, what `.backward()` makes for it does not; it dies after the engine has ended. */
	expect_rules("+w F( o +a ) o +l +s B( +b -b -a ) -s S( ) -l X",
	             "w=static_kept a=forward_kept l=forward_kept s=backward_seed b=backward_freed");
	expect_rules("F( o +a ) o +l B( ) +s B( ) -s -l X", "a=forward_kept l=forward_kept s=backward_seed");
	/* Not the last report before it; not of this thread; made by a step() or in a backward. */
	expect_rules("F( o +a ) +s +b -b B( ) X", "a=forward_kept s=forward_kept b=forward_freed");
	expect_rules("F( o +a ) t2 +s t1 B( ) X", "a=forward_kept s=between_phases");
	expect_rules("F( ) B( ) S( +s ) B( ) X", "s=optimizer_kept");
	expect_rules("F( ) B( +s ) B( ) X", "s=backward_kept");
	expect_rules("F( o +a ) +s F( ) B( ) X", "a=forward_kept s=forward_kept");
}

static void test_category_when_optimizer_then_kept_or_freed(void **state)
{
	expect_rules("F( ) B( ) S( +a +b -b S2( +c ) -c F( +d ) B( -d ) +e ) -e X",
	             "a=optimizer_kept b=optimizer_freed c=optimizer_freed d=forward_kept e=optimizer_kept");
}

static void test_category_when_other_then_input_or_unknown(void **state)
{
	expect_rules("F( ) B( ) +a -a +b S( ) +c F( -b ) -c B( ) +d t2 +e t1 E( ) -d t2 -e X",
	             "a=before_step b=before_step_kept c=before_forward d=before_forward e=before_forward");
}

/* Copies of gradients; beside them what a prefetching loader made for the next step, and another micro-batch. */
static void test_category_when_made_before_step_and_kept_then_no_input(void **state)
{
	expect_rules("F( ) B( ) +a S( ) +b F( ) B( ) -a -b +c S( ) S2( ) +d -d F( ) -c B( ) X",
	             "a=before_step_kept b=before_forward c=before_step_kept d=between_phases");
	expect_rules("F( ) B( ) +a F( ) B( ) +b S( ) F( -a -b ) X", "a=before_forward b=before_step_kept");
	expect_rules("F( ) B( ) +a +b S( ) in=b F( -a -b ) X", "a=before_step_kept b=named_input");
	expect_rules("F( ) B( ) +a U F( -a ) X", "a=before_step_kept");
	expect_rules("F( t2 F( ) B( ) +a t1 ) B( ) +b S( ) F( -a -b ) X", "a=before_forward b=before_step_kept");
	/* Nothing is born after the step: what follows it is looked at no more.  By hand there is none. */
	expect_rules("F( ) B( ) S( ) +a S( ) F( -a ) X", "a=before_forward");
	expect_rules("F( ) B( ) +a F( ) B( ) -a +b X", "a=before_forward b=between_phases");
	/* A name has moved an older one to the end. */
	expect_rules("F( ) B( ) S( ) +o +p F( ) B( ) +a =p S( ) F( -a ) X",
	             "o=before_forward p=named_parameter a=before_step_kept");
}

/* Clipping of gradients, GradScaler.unscale_(), an update by hand; D and G of a GAN; accumulation; a skipped step. */
static void test_category_when_between_backward_and_step_then_optimizer_temporary(void **state)
{
	expect_rules("F( ) B( ) +a +b -a S( ) -b +c -c X", "a=before_step b=before_step c=between_phases");
	expect_rules("F( ) B( ) +a -a S( ) +b -b F( ) B( ) +c -c S2( ) +d -d X",
	             "a=before_step b=between_phases c=before_step d=between_phases");
	expect_rules("F( ) B( ) +x F( -x ) B( ) +a -a S( ) X", "x=before_forward a=before_step");
	expect_rules("F( ) B( ) +a -a U +b -b X", "a=before_step b=between_phases");
	expect_rules("F( ) B( S( ) ) +a -a X", "a=between_phases");
	expect_rules("F( ) B( ) +a -a F( ) B( ) +b -b X", "a=before_step b=before_step");
	expect_rules("F( ) B( ) t2 +a -a t1 S( ) X", "a=between_phases");
	expect_rules("K F( ) B( ) +a -a S( ) +b -b K F( ) B( ) +c -c S( ) X", "a=before_step b=between_phases c=before_step");
}

static void test_category_when_named_then_names_decide(void **state)
{
	struct play *p = play_new();
	char said[512];

	play(p, "+a +b +x in=x F( +c +z in=z ) B( +g ) S( +m");
	define(p,
	       (struct record){
	               .kind = RECORD_DEF_TENSOR, .scope = 7, .address = ADDRESS(1), .size = 8, .a = RECORD_TENSOR_BUFFER},
	       "running_mean|float32|2|");
	define(p,
	       (struct record){.kind = RECORD_DEF_TENSOR,
	                       .scope = 7,
	                       .address = ADDRESS(name_of(p, "g")),
	                       .size = 8,
	                       .a = RECORD_TENSOR_GRADIENT},
	       "weight|float32|2|");
	define(p,
	       (struct record){.kind = RECORD_DEF_TENSOR,
	                       .scope = 7,
	                       .address = ADDRESS(name_of(p, "m")),
	                       .size = 8,
	                       .a = RECORD_TENSOR_STATE,
	                       .b = 1},
	       "weight|float32|2|exp_avg");
	play(p, "=a -z ) F( ) -x X");
	finish(p);
	say_categories(p, said, sizeof(said));
	assert_string_equal(said, "a=named_parameter b=named_buffer x=named_input c=forward_kept z=forward_kept g=named_gradient "
	                          "m=named_state");
	assert_int_equal(p->rows.allocations[1].module, 1);
	assert_int_equal(p->rows.allocations[2].module, 7);
	assert_int_equal(p->rows.allocations[2].tensor, 1);
	assert_int_equal(p->rows.tensors[1].allocation, 2);
	assert_int_equal(p->rows.tensors[3].optimizer, 1);
	play_free(p);
}

static void test_category_when_alive_then_provisional_by_open_layer(void **state)
{
	struct play *p = play_new();
	char said[512];

	play(p, "+w F( M2( +a M3( +b ) ) M4( +c");
	assert_int_equal(tagger_flush(p->tagger), 0);
	say_categories(p, said, sizeof(said));
	assert_string_equal(said, "w=static_kept~ a=forward_kept~ b=forward_kept~ c=forward_freed~");
	finish(p); /* killed in M4 */
	say_categories(p, said, sizeof(said));
	assert_string_equal(said, "w=static_kept a=forward_kept~ b=forward_kept~ c=forward_freed~");
	play_free(p);
	expect_rules("F( +a ) B( +g", "a=forward_kept g=backward_freed~");
	expect_rules("f +a", "a=forward_freed~");
	expect_rules("F( +a ) B( ) S( +m", "a=forward_kept m=optimizer_freed~");
}

static void test_flush_when_nothing_changed_then_tells_no_allocation_again(void **state)
{
	struct play *p = play_new();

	play(p, "+w F( +a ) B( +g ) S( +m ) F( +b");
	assert_int_equal(tagger_flush(p->tagger), 0);
	for (size_t id = 1; id < p->rows.nr_allocations; id++)
		p->rows.allocations[id].category = 99;
	assert_int_equal(tagger_flush(p->tagger), 0);
	for (size_t id = 1; id < p->rows.nr_allocations; id++)
		assert_int_equal(p->rows.allocations[id].category, 99);
	play(p, ")");
	assert_int_equal(tagger_flush(p->tagger), 0);
	assert_int_equal(p->rows.allocations[5].category, CATEGORY_ACTIVATION);
	assert_int_equal(p->rows.allocations[4].category, 99);
	play_free(p);
}

static void test_flush_when_what_others_wait_for_happens_then_tells_them_again(void **state)
{
	struct play *p = play_new();

	play(p, "+w F( +a ) B( ) S( ) +x t2 +y t1");
	assert_int_equal(tagger_flush(p->tagger), 0);
	assert_int_equal(p->rows.allocations[1].rule, RULE_STATIC_KEPT);
	assert_int_equal(p->rows.allocations[3].rule, RULE_BETWEEN_PHASES);
	play(p, "F( ) t2 -y t1");
	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 1, .a = 1}, "|Net|Net");
	assert_int_equal(tagger_flush(p->tagger), 0);
	assert_int_equal(p->rows.allocations[1].rule, RULE_STATIC_DATA);
	assert_int_equal(p->rows.allocations[3].rule, RULE_BEFORE_FORWARD);
	assert_int_equal(p->rows.allocations[4].rule, RULE_BEFORE_FORWARD);
	play_free(p);
}

static void test_input_when_in_shared_memory_then_its_header_is_skipped(void **state)
{
	struct play *p = play_new();

	play(p, "!s:200 +t:200");
	send(p, (struct record){.kind = RECORD_INPUT, .address = ADDRESS(0) + 64, .size = 136});
	send(p, (struct record){.kind = RECORD_INPUT, .address = ADDRESS(1) + 64, .size = 136});
	finish(p);
	assert_int_equal(p->rows.allocations[1].rule, RULE_NAMED_INPUT);
	assert_true(p->rows.allocations[1].shared);
	assert_int_equal(p->rows.allocations[2].rule, RULE_STATIC_KEPT);
	play_free(p);
}

static void test_flush_when_the_peak_step_is_open_then_tells_its_layers(void **state)
{
	struct play *p = play_new();

	play(p, "F( M2( +a:5 ) ) B( ) S( )");
	assert_int_equal(tagger_flush(p->tagger), 0);
	expect_layer(p, 2, 5, 0);
	p->rows.nr_layers[0] = 0;
	assert_int_equal(tagger_flush(p->tagger), 0);
	assert_int_equal(p->rows.nr_layers[0], 0); /* as told */
	play(p, "F( M2( +b:7 ) )");
	assert_int_equal(tagger_flush(p->tagger), 0);
	expect_layer(p, 2, 12, 0);
	play_free(p);
}

/* ---- names */

static void test_input_when_made_in_forward_then_only_if_no_module_made_it_from_weights(void **state)
{
	/* D(real), then noise, G(noise), D(fake): only the noise is input; nor is what depends on weights outside of modules. */
	expect_rules("+x =x F( +a ) +z in=z F2( +f ) gin=f in=f F( +b ) +y gin=y F( ) B( ) X",
	             "x=named_parameter a=forward_kept z=named_input f=forward_kept b=forward_kept y=forward_kept");
	/* What is made without gradients, in backward or in step() is no input. */
	expect_rules("I( +a ) in=a F( ) B( +b in=b ) S( +c in=c ) X", "a=inference b=backward_kept c=optimizer_kept");
}

static void test_tensor_when_redefined_elsewhere_then_moves(void **state)
{
	struct play *p = play_new();

	/* Old weights that are still alive stay what they were. */
	play(p, "+a +b =a =b F( ) B( )");
	finish(p);
	assert_int_equal(p->rows.allocations[1].rule, RULE_NAMED_PARAMETER);
	assert_int_equal(p->rows.allocations[2].rule, RULE_NAMED_PARAMETER);
	assert_int_equal(p->rows.tensors[1].allocation, 2);
	assert_int_equal(p->rows.nr_tensors, 2);
	play_free(p);
}

/* Give the first 8 bytes of block @name a name: parameter, buffer, ... (enum record_tensor) @text of module 7. */
static void give_name(struct play *p, const char *name, uint64_t kind, uint64_t number, const char *text)
{
	define(p,
	       (struct record){.kind = RECORD_DEF_TENSOR,
	                       .scope = 7,
	                       .address = name ? ADDRESS(name_of(p, name)) : 0,
	                       .size = name ? 8 : 0,
	                       .a = kind,
	                       .b = number},
	       text);
}

static void test_tensor_when_it_moved_then_another_takes_its_block(void **state)
{
	struct play *p = play_new();

	play(p, "+a +b");
	give_name(p, "a", RECORD_TENSOR_PARAMETER, 0, "first|float32|2|");
	give_name(p, "b", RECORD_TENSOR_PARAMETER, 0, "first|float32|2|");
	give_name(p, "a", RECORD_TENSOR_PARAMETER, 0, "second|float32|2|");
	/* Tied: the first name stays. */
	give_name(p, "b", RECORD_TENSOR_PARAMETER, 0, "tied|float32|2|");
	finish(p);
	assert_int_equal(p->rows.allocations[1].tensor, 2);
	assert_int_equal(p->rows.allocations[2].tensor, 1);
	play_free(p);
}

static void test_tensor_when_its_name_is_taken_back_then_block_goes_by_the_next(void **state)
{
	for (int cut = 0; cut < 2; cut++) {
		struct play *p = play_new();

		p->cut = cut;
		play(p, "+a +b");
		give_name(p, "a", RECORD_TENSOR_PARAMETER, 0, "wrong|float32|2|");
		give_name(p, "b", RECORD_TENSOR_PARAMETER, 0, "never|float32|2|");
		give_name(p, NULL, RECORD_TENSOR_PARAMETER, 0, "wrong|||");
		give_name(p, NULL, RECORD_TENSOR_PARAMETER, 0, "never|||");
		give_name(p, "a", RECORD_TENSOR_PARAMETER, 0, "right|float32|2|");
		play(p, "F( ) X");
		finish(p);
		assert_int_equal(p->rows.allocations[1].rule, RULE_NAMED_PARAMETER);
		assert_int_equal(p->rows.allocations[1].tensor, 3);
		assert_int_equal(p->rows.allocations[2].rule, RULE_STATIC_DATA);
		assert_int_equal(p->rows.allocations[2].tensor, 0);
		assert_int_equal(p->rows.tensors[1].size_bytes, 0);
		play_free(p);
	}
}

static void send_gradient(struct play *p, uint64_t number, const char *name)
{
	send(p, (struct record){.kind = RECORD_GRADIENT, .address = ADDRESS(name_of(p, name)), .a = number});
}

static void test_gradient_when_told_by_number_then_block_has_its_name(void **state)
{
	for (int cut = 0; cut < 2; cut++) {
		struct play *p = play_new();

		p->cut = cut;
		play(p, "F( ) B( +g +h )");
		give_name(p, "g", RECORD_TENSOR_GRADIENT, 5, "weight|float32|2|");
		give_name(p, "h", RECORD_TENSOR_GRADIENT, 6, "bias|float32|2|");
		play(p, "S( ) -g -h F( +x ) B( +i +j +k )");
		send_gradient(p, 5, "j");
		send_gradient(p, 6, "i");
		send_gradient(p, 6, "i");
		send_gradient(p, 9, "k");
		send_gradient(p, UINT64_MAX, "k");
		send_gradient(p, 5, "g");
		play(p, "S( ) -i -j F( ) B( +l ) X");
		/* The number means another one from now on. */
		give_name(p, NULL, RECORD_TENSOR_GRADIENT, 5, "other|float32|2|");
		send_gradient(p, 5, "l");
		finish(p);
		assert_int_equal(p->rows.allocations[4].rule, RULE_NAMED_GRADIENT);
		assert_int_equal(p->rows.allocations[4].tensor, 2);
		assert_int_equal(p->rows.allocations[4].module, 7);
		assert_int_equal(p->rows.allocations[5].tensor, 1);
		assert_int_equal(p->rows.allocations[6].rule, RULE_BACKWARD_KEPT);
		assert_int_equal(p->rows.allocations[7].tensor, 3);
		assert_int_equal(p->rows.tensors[1].optimizer, 0);
		play_free(p);
	}
}

static void test_tensor_when_no_block_then_external(void **state)
{
	struct play *p = play_new();

	play(p, "+a -a =a");
	assert_int_equal(p->rows.tensors[1].allocation, 0);
	assert_int_equal(p->rows.tensors[1].address, ADDRESS(0));
	play_free(p);
}

static void test_tensor_when_its_block_comes_soon_then_named(void **state)
{
	for (int cut = 0; cut < 2; cut++) {
		struct play *p = play_new();

		p->cut = cut;
		play(p, "=b +c +b");
		finish(p);
		assert_int_equal(p->rows.allocations[2].rule, RULE_NAMED_PARAMETER);
		assert_int_equal(p->rows.tensors[1].allocation, 2);
		play_free(p);
	}
}

static void test_tensor_when_address_is_reused_later_then_not_named(void **state)
{
	struct play *p = play_new();

	play(p, "=b");
	for (int i = 0; i < 200; i++)
		play(p, "+c -c");
	play(p, "+b");
	assert_int_equal(p->rows.tensors[1].allocation, 0);
	play(p, "+a =a -a F( +a");
	finish(p);
	assert_int_equal(p->rows.allocations[201].rule, RULE_STATIC_DATA);
	assert_int_equal(p->rows.allocations[203].tensor, 0); /* a parameter died; its address lives on in forward */
	assert_int_equal(p->rows.allocations[203].rule, RULE_FORWARD_FREED);
	play_free(p);
}

static void test_tensor_when_inside_a_block_then_found(void **state)
{
	struct play *p = play_new();

	play(p, "+a:100 +b:200 +c:100 -c");
	define(p,
	       (struct record){.kind = RECORD_DEF_TENSOR,
	                       .scope = 1,
	                       .address = ADDRESS(1) + 64,
	                       .size = 136,
	                       .a = RECORD_TENSOR_PARAMETER},
	       "inner|float32|34|");
	define(p,
	       (struct record){.kind = RECORD_DEF_TENSOR,
	                       .scope = 1,
	                       .address = ADDRESS(1) + 200,
	                       .size = 8,
	                       .a = RECORD_TENSOR_PARAMETER},
	       "outside|float32|2|");
	define(p,
	       (struct record){
	               .kind = RECORD_DEF_TENSOR, .scope = 1, .address = ADDRESS(2) + 4, .size = 8, .a = RECORD_TENSOR_PARAMETER},
	       "dead|float32|2|");
	assert_int_equal(p->rows.tensors[1].allocation, 2);
	assert_int_equal(p->rows.tensors[2].allocation, 0);
	assert_int_equal(p->rows.tensors[3].allocation, 0);
	play_free(p);
}

static void test_tensor_when_two_names_share_a_block_then_the_more_telling_wins(void **state)
{
	struct play *p = play_new();

	play(p, "+a");
	define(p,
	       (struct record){
	               .kind = RECORD_DEF_TENSOR, .scope = 3, .address = ADDRESS(0), .size = 8, .a = RECORD_TENSOR_BUFFER},
	       "cache|float32|2|");
	play(p, "=a");
	define(p,
	       (struct record){
	               .kind = RECORD_DEF_TENSOR, .scope = 4, .address = ADDRESS(0), .size = 8, .a = RECORD_TENSOR_PARAMETER},
	       "tied|float32|2|");
	finish(p);
	assert_int_equal(p->rows.allocations[1].rule, RULE_NAMED_PARAMETER);
	assert_int_equal(p->rows.allocations[1].tensor, 2);
	assert_int_equal(p->rows.allocations[1].module, 1);
	assert_int_equal(p->rows.tensors[3].allocation, 1);
	play_free(p);
}

static void test_module_when_defined_then_parent_is_the_nearest_above(void **state)
{
	struct play *p = play_new();

	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 1, .a = 1}, "|Net|Net");
	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 2, .a = 1}, "a|Block|Net");
	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 3, .a = 1}, "a.b.c|Linear|Net");
	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 4, .a = 1}, "ab|Linear|Net");
	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 5, .a = 5}, "|Head|Head");
	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 6, .a = 5}, "a.d|Linear|Head");
	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 5, .a = 1}, "a.head|Head|Net");
	assert_int_equal(p->rows.modules[1].parent, 0);
	assert_int_equal(p->rows.modules[2].parent, 1);
	assert_int_equal(p->rows.modules[3].parent, 2);
	assert_int_equal(p->rows.modules[4].parent, 1);
	assert_int_equal(p->rows.modules[6].parent, 5);
	assert_int_equal(p->rows.modules[5].parent, 2);
	play_free(p);
}

/* ---- sums */

static const struct tag_step_device *device_of_step(struct play *p, uint64_t step, size_t device)
{
	return &p->rows.steps[step].devices[device];
}

static void test_sums_when_stepping_then_are_those_of_each_step(void **state)
{
	for (int cut = 0; cut < 2; cut++) {
		struct play *p = play_new();
		const struct tag_step_device *d;

		p->cut = cut;
		play(p, "+w:100 F( +a:50 +t:30 -t ) +l:5 B( +g:60 -a -l ) -g S( ) +x:7 F( +b:200 ) B( -b ) S( ) X");
		finish(p);
		d = device_of_step(p, 1, 0);
		assert_int_equal(d->allocs, 5);
		assert_int_equal(d->frees, 4);
		assert_int_equal(d->alloc_bytes, 152);
		assert_int_equal(d->start_bytes, 100);
		assert_int_equal(d->end_bytes, 107);
		assert_int_equal(d->peak_bytes, 215);
		assert_int_equal(d->peak_seq, 9);
		assert_int_equal(d->peak_phase, PHASE_BACKWARD);
		assert_int_equal(d->phases[PHASE_FORWARD].allocs, 3);
		assert_int_equal(d->phases[PHASE_FORWARD].alloc_bytes, 85);
		assert_int_equal(d->phases[PHASE_FORWARD].peak_bytes, 180);
		assert_int_equal(d->phases[PHASE_FORWARD].end_bytes, 155);
		assert_int_equal(d->phases[PHASE_BACKWARD].peak_bytes, 215);
		assert_int_equal(d->phases[PHASE_BACKWARD].end_bytes, 160);
		assert_int_equal(d->phases[PHASE_OPTIMIZER].peak_bytes, 100);
		assert_int_equal(d->phases[PHASE_OTHER].peak_bytes, 160);
		assert_false(d->phases[PHASE_STATIC].seen);
		assert_false(d->phases[PHASE_INFERENCE].seen);
		d = device_of_step(p, 2, 0);
		assert_int_equal(d->start_bytes, 107);
		assert_int_equal(d->peak_bytes, 307);
		assert_int_equal(d->end_bytes, 107);
		assert_int_equal(p->rows.devices[0].peak_bytes, 307);
		assert_int_equal(p->rows.devices[0].live_bytes, 107);
		assert_int_equal(p->rows.devices[0].peak_phase, PHASE_FORWARD);
		assert_int_equal(p->rows.stretches[p->rows.devices[0].peak_stretch] - 1, 2);
		/* Steps tile the run. */
		for (size_t i = 1; i < p->rows.nr_steps; i++)
			assert_int_equal(p->rows.steps[i].step.start_seq, p->rows.steps[i - 1].step.end_seq + 1);
		assert_int_equal(p->rows.steps[p->rows.nr_steps - 1].step.end_seq, p->seq);
		assert_int_equal(p->rows.steps[0].step.start_seq, 1);
		play_free(p);
	}
}

static void test_sums_when_open_then_flush_tells_the_whole_open_step(void **state)
{
	struct play *p = play_new();

	play(p, "+w:100 F( +a:50 ) B( -a ) S( ) F( +b:70 )"); /* the second forward may become a step of its own */
	assert_int_equal(tagger_flush(p->tagger), 0);
	assert_int_equal(p->rows.nr_steps, 2);
	assert_int_equal(device_of_step(p, 1, 0)->allocs, 2);
	assert_int_equal(device_of_step(p, 1, 0)->start_bytes, 100);
	assert_int_equal(device_of_step(p, 1, 0)->peak_bytes, 170);
	assert_int_equal(p->rows.steps[1].step.kind, STEP_TRAIN);
	assert_false(p->rows.steps[1].step.closed);
	play(p, "B( ) S( )");
	finish(p);
	assert_int_equal(device_of_step(p, 1, 0)->allocs, 1);
	assert_int_equal(device_of_step(p, 1, 0)->peak_bytes, 150);
	assert_int_equal(device_of_step(p, 2, 0)->peak_bytes, 170);
	assert_true(p->rows.steps[1].step.closed);
	play_free(p);
}

static void test_sums_when_devices_differ_then_apart(void **state)
{
	struct play *p = play_new();

	play(p, "d0 +a:10 d1 +b:20 d0 +c:5 d1 -b +e:7 X");
	finish(p);
	assert_int_equal(p->rows.nr_devices, 2);
	assert_int_equal(p->rows.devices[0].device, RECORD_DEVICE_CPU);
	assert_int_equal(p->rows.devices[0].peak_bytes, 15);
	assert_int_equal(p->rows.devices[1].peak_bytes, 20);
	assert_int_equal(p->rows.devices[1].live_bytes, 7);
	assert_int_equal(device_of_step(p, 0, 1)->allocs, 2);
	play_free(p);
}

static void test_sums_when_level_is_not_block_then_not_counted(void **state)
{
	struct play *p = play_new();
	struct record segment = {.kind = RECORD_ALLOC,
	                         .device = CUDA_0,
	                         .address = ADDRESS(0),
	                         .size = 1000,
	                         .flags = LEVEL_SEGMENT << RECORD_LEVEL_SHIFT};

	send(p, segment); /* its first block begins where it does */
	strcpy(p->born[1], "seg");
	play(p, "d1 +a:10 -a +b:20");
	segment.kind = RECORD_FREE;
	send(p, segment);
	finish(p);
	assert_int_equal(p->rows.devices[0].peak_bytes, 20);
	assert_int_equal(p->rows.devices[0].allocs, 2);
	assert_int_equal(p->rows.devices[0].unknown_frees, 0);
	assert_int_equal(p->rows.allocations[1].level, LEVEL_SEGMENT);
	assert_int_not_equal(p->rows.allocations[1].free_seq, 0);
	assert_int_equal(p->rows.allocations[1].category, CATEGORY_UNKNOWN);
	play_free(p);
}

static void test_pairing_when_a_call_takes_memory_then_its_address_tells_which(void **state)
{
	struct play *p = play_new();
	struct record managed = {.kind = RECORD_ALLOC,
	                         .device = CUDA_0 + 0x100,
	                         .address = ADDRESS(0),
	                         .size = 1000,
	                         .flags = LEVEL_MANAGED << RECORD_LEVEL_SHIFT};
	struct record taken = {.kind = RECORD_FREE, .address = ADDRESS(5), .flags = LEVEL_SEGMENT << RECORD_LEVEL_SHIFT};

	send(p, managed);
	strcpy(p->born[1], "man");
	play(p, "d1 +a:10");
	send(p, taken); /* nothing of ours: it is older than the recording */
	taken.address = ADDRESS(0);
	send(p, taken);
	send(p, taken); /* gone by now: the block at the same address stays */
	play(p, "-a");
	finish(p);
	assert_int_equal(p->rows.nr_allocations - 1, 2);
	assert_int_equal(p->rows.allocations[1].level, LEVEL_MANAGED);
	assert_int_equal(p->rows.allocations[1].device, CUDA_0 + 0x100);
	assert_int_not_equal(p->rows.allocations[1].free_seq, 0);
	assert_false(p->rows.allocations[1].free_lost);
	assert_true(p->rows.allocations[2].free_seq > p->rows.allocations[1].free_seq);
	assert_int_equal(p->rows.nr_devices, 2); /* also the one without a block */
	for (size_t i = 0; i < p->rows.nr_devices; i++)
		assert_int_equal(p->rows.devices[i].unknown_frees, 0);
	play_free(p);
}

static void test_pairing_when_address_is_given_out_again_then_free_was_lost(void **state)
{
	struct play *p = play_new();

	play(p, "+a:10 F( +a:30 -a ?z");
	finish(p);
	assert_true(p->rows.allocations[1].free_lost);
	assert_int_equal(p->rows.allocations[1].free_seq, 3);
	assert_int_equal(p->rows.allocations[1].free_phase, PHASE_FORWARD);
	assert_false(p->rows.allocations[2].free_lost);
	assert_int_equal(p->rows.allocations[2].size_bytes, 30);
	assert_int_equal(p->rows.devices[0].peak_bytes, 30);
	assert_int_equal(p->rows.devices[0].live_bytes, 0);
	assert_int_equal(p->rows.devices[0].unknown_frees, 1);
	assert_int_equal(p->rows.devices[0].frees, 2);
	play_free(p);
}

static void test_pairing_when_frees_come_from_other_threads_and_phases_then_paired(void **state)
{
	struct play *p = play_new();

	play(p, "F( +a ) B( t2 -a t1 )");
	finish(p);
	assert_int_equal(p->rows.allocations[1].thread, 1);
	assert_int_equal(p->rows.allocations[1].free_thread, 2);
	assert_int_equal(p->rows.allocations[1].free_phase, PHASE_OTHER);
	assert_int_equal(p->rows.allocations[1].rule, RULE_FORWARD_KEPT);
	play_free(p);
}

/* ---- spans */

static void say_spans(struct play *p, char *out, size_t size)
{
	out[0] = '\0';
	for (size_t i = 1; i < p->rows.nr_spans; i++) {
		const struct tag_span *span = &p->rows.spans[i];

		if (!span->id)
			continue;
		assert_true(span->end_seq >= span->start_seq);
		append(out, size, "%s%s%s/%u:%lu-%lu^%lu", i > 1 ? " " : "", phase_name(span->phase), span->recompute ? "*" : "",
		       span->thread, (unsigned long)span->start_bytes, (unsigned long)span->end_bytes,
		       (unsigned long)span->peak_bytes);
	}
}

static void test_spans_when_training_then_one_for_each_stay(void **state)
{
	expect(say_spans, "+w:10 F( +a:5 M( +b:7 -b ) ) +l:1 B( n0 -l F( +r:9 -r ) n- +g:3 ) S( +m:4 ) F( ) X",
	       "static/1:0-10^10 forward/1:10-16^22 backward/1:16-15^16 backward*/1:15-15^24 backward/1:15-18^18 "
	       "optimizer/1:18-22^22 forward/1:22-22^22");
}

static void test_spans_when_other_threads_allocate_then_their_bytes_count(void **state)
{
	/* A worker's and a neighbour's blocks are part of how high the device stood during the caller's backward. */
	expect(say_spans, "t1 F( ) B( a2 w1 +a:50 -a t3 +b:9 -b t1 ) S( )",
	       "forward/1:0-0^0 backward/1:0-0^50 other/3:0-0^9 optimizer/1:0-0^0");
}

static void test_spans_when_nothing_happens_outside_then_no_row(void **state)
{
	expect(say_spans, "F( ) B( ) S( ) F( ) B( ) S( ) X",
	       "forward/1:0-0^0 backward/1:0-0^0 optimizer/1:0-0^0 forward/1:0-0^0 backward/1:0-0^0 optimizer/1:0-0^0");
}

/* ---- layers */

static void test_layer_peaks_when_training_then_of_the_peak_step(void **state)
{
	for (int cut = 0; cut < 2; cut++) {
		struct play *p = play_new();

		p->cut = cut;
		define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 1, .a = 1}, "|Net|Net");
		define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 2, .a = 1}, "a|Block|Net");
		define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 3, .a = 1}, "a.b|Linear|Net");
		define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 4, .a = 1}, "c|Linear|Net");
		play(p, "+w:10 F( M2( M3( +a:5 +t:20 -t ) ) M4( +b:7 ) ) B( ) S( ) -a -b "); /* 35 */
		play(p, "F( M2( +q:1 M3( +a:50 t2 +z:3 -z t1 ) -q ) M4( +b:7 +u:90 -u ) ) "
		        "B( n4 +e:30 n3 -b +f:11 n- -e -f -a ) S( ) "); /* 157 */
		play(p, "F( M2( M3( +a:50 ) ) ) B( ) S( ) X");
		finish(p);
		assert_int_equal(p->rows.devices[0].peak_bytes, 157);
		expect_layer(p, 1, 157, 101);
		expect_layer(p, 2, 64, 101);
		expect_layer(p, 3, 64, 101);
		expect_layer(p, 4, 157, 97);
		play_free(p);
	}
}

static void test_call_when_a_module_is_called_again_then_another(void **state)
{
	expect(say_calls, "+w F( +a M2( +b ) +c M2( +d M2( +e ) +f ) ) +l B( n2 +g n- ) S( +s ) F( M2( +h ) ) X",
	       "w=0 a=1 b=2 c=1 d=3 e=4 f=3 l=0 g=0 s=0 h=6");
}

static void test_call_when_a_checkpoint_runs_it_again_then_another(void **state)
{
	expect(say_calls, "F( M2( +a ) ) B( n0 M2( +b ) n2 +c n- ) X", "a=2 b=3 c=0");
}

/* ---- audit */

static void test_audit_when_totals_agree_then_checks_and_no_failure(void **state)
{
	for (int device = 0; device < 2; device++) {
		struct play *p = play_new();

		p->total[device] = 12345; /* recording begins in mid-life */
		play(p, device ? "d1" : "d0");
		play(p, "+a +b -a t2 +c t1 -b !s -s -c +a");
		finish(p);
		assert_int_equal(p->rows.devices[0].audit_checks, 6);
		assert_int_equal(p->rows.devices[0].audit_failures, 0);
		play_free(p);
	}
}

static void test_audit_when_a_report_is_lost_then_one_failure(void **state)
{
	for (int device = 0; device < 2; device++) {
		struct play *p = play_new();

		play(p, device ? "d1 +a +b" : "d0 +a +b");
		p->total[device] += 64; /* an allocation that was never reported */
		play(p, "+c -c +e -e +c");
		finish(p);
		assert_int_equal(p->rows.devices[0].audit_failures, 1);
		/* The CPU's could still have come from another thread, until the end. */
		assert_int_equal(p->rows.devices[0].audit_checks, device ? 6 : 2);
		play_free(p);
	}
}

static void totals(struct play *p, uint16_t device, uint8_t kind, unsigned name, uint64_t size, uint64_t total)
{
	send(p, (struct record){.kind = kind, .device = device, .address = ADDRESS(name), .size = size, .a = total});
}

static void test_audit_when_cpu_reports_cross_then_no_failure(void **state)
{
	struct play *p = play_new();

	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 0, 100, 100);
	p->thread = 2;
	/* In the order of totals: thread 1 +1 10, thread 2 +2 20, thread 2 -1, thread 1 +3 5, thread 1 -2. */
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 2, 20, 130);
	p->thread = 1;
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 1, 10, 110);
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 3, 5, 125);
	p->thread = 2;
	totals(p, RECORD_DEVICE_CPU, RECORD_FREE, 1, 10, 120);
	p->thread = 1;
	totals(p, RECORD_DEVICE_CPU, RECORD_FREE, 2, 20, 105);
	finish(p);
	assert_int_equal(p->rows.devices[0].audit_failures, 0);
	assert_int_equal(p->rows.devices[0].audit_checks, 3);
	play_free(p);
}

static void test_audit_when_the_first_reports_cross_then_no_failure(void **state)
{
	struct play *p = play_new();

	/* In the order of totals: thread 1 +0 100, thread 2 +1 20, thread 3 +2 7. */
	p->thread = 2;
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 1, 20, 120);
	p->thread = 3;
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 2, 7, 127);
	p->thread = 1;
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 0, 100, 100);
	for (unsigned i = 3; i < 103; i++) {
		p->thread = 1 + i % 3;
		totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, i, 1, 125 + i);
	}
	finish(p);
	assert_int_equal(p->rows.devices[0].audit_failures, 0);
	assert_int_equal(p->rows.devices[0].audit_checks, 102);
	play_free(p);
}

/* The thread whose total was the first lost its processor before its report. */
static void test_audit_when_the_first_report_is_overtaken_by_thousands_then_no_failure(void **state)
{
	struct play *p = play_new();

	p->thread = 2;
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 1, 32, 64);
	for (unsigned i = 0; i < 3000; i++) {
		totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 2, 32, 96);
		totals(p, RECORD_DEVICE_CPU, RECORD_FREE, 2, 32, 64);
	}
	p->thread = 1;
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 0, 32, 32);
	for (unsigned i = 2; i < 102; i++) {
		p->thread = 1 + i % 2;
		totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, i, 1, 63 + i);
	}
	finish(p);
	assert_int_equal(p->rows.devices[0].audit_failures, 0);
	assert_int_equal(p->rows.devices[0].audit_checks, 6101);
	play_free(p);
}

static void test_audit_when_a_second_thread_is_about_to_report_then_no_failure(void **state)
{
	struct play *p = play_new();

	/* In the order of totals: thread 1 +0 100, +1 10, thread 2 +2 7, thread 1 +3 5. */
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 0, 100, 100);
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 1, 10, 110);
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 3, 5, 122);
	p->thread = 2;
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 2, 7, 117);
	finish(p);
	assert_int_equal(p->rows.devices[0].audit_failures, 0);
	assert_int_equal(p->rows.devices[0].audit_checks, 2);
	play_free(p);
}

/* Where all sizes are equal, agreeing may take one thread's step for another's, and the way goes on where none begins. */
static void test_audit_when_equal_steps_were_mistaken_then_agrees_again(void **state)
{
	struct play *p = play_new();

	for (unsigned i = 0; i < 2100; i++) { /* until there is no doubt any more about where recording began */
		totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 0, 32, 32);
		totals(p, RECORD_DEVICE_CPU, RECORD_FREE, 0, 32, 0);
		p->now_ns += UINT64_C(10000000);
	}
	for (unsigned i = 0; i < 3; i++)
		totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, i, 32, 32 * (i + 1));
	/* In the order of totals: thread 2 +3, thread 3 -0, thread 1 -1, thread 2 +4, thread 3 -2. */
	totals(p, RECORD_DEVICE_CPU, RECORD_FREE, 1, 32, 64);
	p->thread = 3;
	totals(p, RECORD_DEVICE_CPU, RECORD_FREE, 0, 32, 96);
	p->thread = 2;
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 3, 32, 128);
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 4, 32, 96);
	p->thread = 3;
	totals(p, RECORD_DEVICE_CPU, RECORD_FREE, 2, 32, 64);
	finish(p);
	assert_int_equal(p->rows.devices[0].audit_failures, 0);
	assert_int_equal(p->rows.devices[0].audit_checks, 2 * 2100 - 1 + 3 + 1 + 2);
	play_free(p);
}

static void test_audit_when_cpu_totals_form_no_way_then_not_agreed(void **state)
{
	struct play *p = play_new();

	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 0, 100, 100);
	p->thread = 2;
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 1, 7, 122); /* from 115: something was not reported */
	p->thread = 1;
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 2, 10, 110);
	totals(p, RECORD_DEVICE_CPU, RECORD_ALLOC, 3, 3, 120); /* from 117: the sum is as expected, but by chance */
	finish(p);
	assert_int_equal(p->rows.devices[0].audit_checks, 0);
	play_free(p);
}

static void test_audit_when_cuda_reports_cross_then_failures(void **state)
{
	struct play *p = play_new();

	totals(p, CUDA_0, RECORD_ALLOC, 0, 100, 100);
	p->thread = 2;
	totals(p, CUDA_0, RECORD_ALLOC, 2, 20, 130);
	p->thread = 1;
	totals(p, CUDA_0, RECORD_ALLOC, 1, 10, 110);
	finish(p);
	assert_true(p->rows.devices[0].audit_failures > 0);
	play_free(p);
}

static void test_audit_when_cpu_report_stays_away_then_failure_at_the_end(void **state)
{
	struct play *p = play_new();

	play(p, "t2 +a t1 +b");
	p->total[0] -= 5; /* a free that was never reported */
	for (int i = 0; i < 100; i++)
		play(p, "+c t2 +e -c t1 -e");
	play(p, "X");
	finish(p);
	assert_int_equal(p->rows.devices[0].audit_failures, 1);
	play_free(p);
}

static void test_audit_when_killed_with_a_report_on_its_way_then_no_failure(void **state)
{
	struct play *p = play_new();

	play(p, "t2 +a t1 +b");
	p->total[0] += 5; /* thread 2 was stopped between PyTorch's count and its report, and killed there */
	for (int i = 0; i < 100; i++)
		play(p, "+c -c");
	finish(p);
	assert_int_equal(p->rows.devices[0].audit_failures, 0);
	play_free(p);

	p = play_new(); /* one thread has nobody to wait for */
	play(p, "+a");
	p->total[0] += 5;
	play(p, "+b");
	finish(p);
	assert_int_equal(p->rows.devices[0].audit_failures, 1);
	play_free(p);
}

static void test_audit_when_a_free_pairs_with_another_size_then_failure(void **state)
{
	struct play *p = play_new();

	totals(p, CUDA_0, RECORD_ALLOC, 0, 100, 100);
	totals(p, CUDA_0, RECORD_ALLOC, 1, 50, 150);
	totals(p, CUDA_0, RECORD_FREE, 1, 60, 90); /* PyTorch's own sums agree, ours do not */
	finish(p);
	assert_int_equal(p->rows.devices[0].audit_failures, 1);
	play_free(p);
}

/* ---- other records */

static void test_oom_when_reported_then_told_with_phase_and_layer(void **state)
{
	struct play *p = play_new();

	play(p, "F( M3(");
	send(p, (struct record){.kind = RECORD_OOM, .device = CUDA_0, .stack = 4, .size = 999, .scope = 3, .a = 5, .b = 6});
	assert_int_equal(p->rows.nr_ooms, 1);
	assert_int_equal(p->rows.oom.phase, PHASE_FORWARD);
	assert_int_equal(p->rows.oom.module, 3);
	assert_int_equal(p->rows.oom.stack, 4);
	assert_int_equal(p->rows.oom.size_bytes, 999);
	assert_int_equal(p->rows.oom.reserved_bytes, 6);
	play_free(p);
}

static void test_stack_when_defined_then_told_and_blocks_name_it(void **state)
{
	struct play *p = play_new();

	define(p, (struct record){.kind = RECORD_DEF_FRAME, .flags = RECORD_F_INTERNAL, .scope = 7, .a = 12},
	       "a/b.py|Net.forward");
	assert_int_equal(p->rows.frame.id, 7);
	assert_int_equal(p->rows.frame.line, 12);
	assert_true(p->rows.frame.internal);
	assert_string_equal(p->rows.frame_text, "a/b.py|Net.forward");
	define(p, (struct record){.kind = RECORD_DEF_FRAME, .scope = 8, .a = UINT64_MAX}, "|");
	assert_int_equal(p->rows.frame.line, 0);
	assert_false(p->rows.frame.internal);
	define(p, (struct record){.kind = RECORD_DEF_FRAME, .flags = RECORD_F_OPERATION, .scope = 9}, "|aten::relu");
	assert_int_equal(p->rows.frame.kind, FRAME_OPERATION);
	assert_true(p->rows.frame.internal);
	assert_string_equal(p->rows.frame_text, "|aten::relu");
	define(p, (struct record){.kind = RECORD_DEF_FRAME, .flags = RECORD_F_NATIVE, .scope = 10, .a = UINT64_MAX},
	       "/a.so|00ff");
	assert_int_equal(p->rows.frame.kind, FRAME_NATIVE);
	assert_int_equal(p->rows.frame.line, 0);
	assert_true(p->rows.frame.offset == UINT64_MAX);
	assert_string_equal(p->rows.frame_text, "/a.so|");
	assert_string_equal(p->rows.build_id, "00ff");
	send(p, (struct record){.kind = RECORD_DEF_STACK, .stack = 5, .scope = 7, .a = 4, .b = 8, .address = 9});
	assert_int_equal(p->rows.stack.id, 5);
	assert_int_equal(p->rows.stack.parent, 4);
	assert_int_equal(p->rows.stack.frame, 7);
	assert_int_equal(p->rows.stack.shown, 8);
	assert_int_equal(p->rows.stack.operation, 9);
	send(p, (struct record){.kind = RECORD_ALLOC, .device = CUDA_0, .stack = 5, .address = 64, .size = 8, .a = 8, .b = 8});
	finish(p);
	assert_int_equal(p->rows.allocations[1].stack, 5);
	play_free(p);
}

static void test_stack_when_ids_are_none_then_ignored_and_counted(void **state)
{
	struct play *p = play_new();

	send(p, (struct record){.kind = RECORD_DEF_STACK, .scope = 7, .b = 7});
	send(p, (struct record){.kind = RECORD_DEF_STACK, .stack = 5, .b = 7});
	send(p, (struct record){.kind = RECORD_DEF_STACK, .stack = 5, .scope = 7, .a = UINT64_C(1) << 32, .b = 7});
	send(p, (struct record){.kind = RECORD_DEF_STACK, .stack = 5, .scope = 7, .b = UINT64_C(1) << 32});
	send(p, (struct record){.kind = RECORD_DEF_STACK, .stack = 5, .scope = 7, .address = UINT64_C(1) << 32});
	define(p, (struct record){.kind = RECORD_DEF_FRAME, .scope = 7}, "only a file");
	assert_int_equal(p->rows.nr_stacks + p->rows.nr_frames, 0);
	assert_int_equal(tagger_ignored(p->tagger), 6);
	play_free(p);
}

static void test_feed_when_text_lacks_fields_then_ignored_and_counted(void **state)
{
	struct play *p = play_new();

	define(p, (struct record){.kind = RECORD_DEF_MODULE, .scope = 1, .a = 1}, "fqn|class");
	define(p, (struct record){.kind = RECORD_DEF_TENSOR, .scope = 1, .a = 1}, "name|float32|");
	define(p, (struct record){.kind = RECORD_INFO}, "key");
	assert_int_equal(feed(p, (struct record){.kind = RECORD_NOTE, .stack = 5}, NULL), 0);
	assert_int_equal(feed(p, (struct record){.kind = 35, .stack = 0}, ""), 0);
	assert_int_equal(feed(p, (struct record){.kind = 99}, NULL), 0);
	assert_int_equal(tagger_ignored(p->tagger), 6);
	assert_int_equal(p->rows.nr_modules + p->rows.nr_tensors + p->rows.nr_infos + p->rows.nr_notes, 0);
	define(p, (struct record){.kind = RECORD_INFO}, "key|value");
	define(p, (struct record){.kind = RECORD_NOTE}, "a sentence");
	assert_int_equal(p->rows.nr_infos, 1);
	assert_int_equal(p->rows.nr_notes, 1);
	play_free(p);
}

static void test_feed_when_seq_does_not_grow_then_ignored(void **state)
{
	struct play *p = play_new();

	play(p, "+a");
	p->seq = 0;
	play(p, "+b");
	assert_int_equal(tagger_nr_live(p->tagger), 1);
	assert_int_equal(tagger_ignored(p->tagger), 1);
	play_free(p);
}

static void test_feed_when_the_sink_fails_then_its_error_is_returned(void **state)
{
	struct play *p = play_new();

	play(p, "+a");
	p->rows.fail_with = -EIO;
	assert_int_equal(feed(p,
	                      (struct record){.kind = RECORD_FREE, .device = RECORD_DEVICE_CPU, .address = ADDRESS(0), .size = 8},
	                      NULL),
	                 -EIO);
	assert_int_equal(tagger_nr_live(p->tagger), 0);
	play_free(p);
}

/* ---- saving, and streams of anything */

static uint64_t random_state;

static uint32_t random_below(uint32_t end)
{
	random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(random_state >> 33) % end;
}

struct item {
	struct record record;
	char text[40];
};

struct stream {
	struct item *items;
	size_t nr, size;
	uint64_t seq;
	uint32_t thread;
	uint64_t live[64];
};

static void add(struct stream *s, struct record record, const char *text)
{
	if (s->nr == s->size) {
		s->size = s->size ? s->size * 2 : 256;
		s->items = realloc(s->items, s->size * sizeof(*s->items));
	}
	record.seq = ++s->seq;
	record.time_ns = s->seq * 10;
	record.thread = s->thread;
	memset(&s->items[s->nr], 0, sizeof(s->items[0]));
	if (text) {
		snprintf(s->items[s->nr].text, sizeof(s->items[0].text), "%s", text);
		record.stack = (uint32_t)strlen(s->items[s->nr].text);
		for (char *c = s->items[s->nr].text; *c; c++)
			if (*c == '|')
				*c = '\0';
	}
	s->items[s->nr++].record = record;
}

static void add_reports(struct stream *s, uint8_t flags)
{
	for (uint32_t i = random_below(5); i-- > 0;) {
		uint32_t at = random_below(64);
		struct record record = {.device = at % 8 ? RECORD_DEVICE_CPU : CUDA_0,
		                        .address = ADDRESS(at),
		                        .scope = random_below(6),
		                        .flags = flags | (random_below(3) ? RECORD_F_NEW_NODE : 0)};

		record.kind = s->live[at] ? RECORD_FREE : RECORD_ALLOC;
		record.size = s->live[at] ? s->live[at] : 1 + random_below(1000);
		s->live[at] = s->live[at] ? 0 : record.size;
		record.a = s->seq; /* the audit fails, and must fail the same way */
		if (random_below(50))
			add(s, record, NULL);
	}
}

static void add_call(struct stream *s, uint32_t depth, uint8_t flags)
{
	uint32_t module = 1 + random_below(5);

	if (random_below(60))
		add(s, (struct record){.kind = RECORD_MODULE_ENTER, .scope = module, .flags = flags}, NULL);
	add_reports(s, flags & RECORD_F_NODE);
	while (depth && random_below(2))
		add_call(s, --depth, flags & RECORD_F_NODE);
	if (random_below(60))
		add(s,
		    (struct record){
		            .kind = RECORD_MODULE_LEAVE, .scope = module, .flags = flags & RECORD_F_ROOT, .a = random_below(4)},
		    NULL);
}

static void add_names(struct stream *s)
{
	static const char *const paths[] = {"|Net|Net", "a|A|Net", "a.b|B|Net", "c|C|Net", "c.d.e|E|Net"};
	uint32_t at = random_below(64), kind = 1 + random_below(4), n = random_below(5);
	char text[32];

	add(s, (struct record){.kind = RECORD_DEF_MODULE, .scope = 1 + n, .a = 1 + (n && !random_below(3))}, paths[n]);
	snprintf(text, sizeof(text), "p%u|float32|2|k", random_below(8));
	add(s,
	    (struct record){.kind = RECORD_DEF_TENSOR,
	                    .scope = 1 + n,
	                    .address = ADDRESS(at) + 8 * random_below(2),
	                    .size = 8,
	                    .a = kind},
	    text);
	add(s, (struct record){.kind = RECORD_INPUT, .address = ADDRESS(random_below(64)), .size = 8}, NULL);
}

static void add_iteration(struct stream *s);

static void add_something(struct stream *s)
{
	switch (random_below(12)) {
	case 0:
		add_call(s, 3, RECORD_F_ROOT); /* evaluation */
		break;
	case 1:
		add_call(s, 2, RECORD_F_ROOT | RECORD_F_TRAINING);
		break;
	case 2:
		add(s, (struct record){.kind = RECORD_SCALER_UPDATE}, NULL);
		break;
	case 3:
		add(s, (struct record){.kind = RECORD_FORWARD}, NULL);
		break;
	case 4:
		add_names(s);
		break;
	case 5:
		s->thread = 1 + random_below(5);
		add(s,
		    (struct record){.kind = RECORD_DEF_THREAD,
		                    .flags = s->thread == 4   ? 0
		                             : s->thread == 5 ? RECORD_F_AUTOGRAD
		                                              : RECORD_F_PYTHON},
		    "name");
		break;
	case 6:
		if (!random_below(40))
			add(s, (struct record){.kind = RECORD_MARK_STEP}, NULL);
		break;
	case 7:
		add(s,
		    (struct record){.kind = random_below(2) ? RECORD_MARK_PHASE_BEGIN : RECORD_MARK_PHASE_END,
		                    .a = random_below(7)},
		    NULL);
		break;
	case 8:
		if (s->thread == 5)
			add(s, (struct record){.kind = RECORD_WORKER, .a = random_below(5)}, NULL);
		break;
	default:
		add_reports(s, 0);
	}
}

static void add_iteration(struct stream *s)
{
	for (uint32_t i = random_below(3); i-- > 0;)
		add_something(s);
	add_call(s, 3, RECORD_F_ROOT | RECORD_F_GRAD | RECORD_F_TRAINING);
	add_reports(s, 0);
	if (random_below(30))
		add(s,
		    (struct record){.kind = RECORD_BACKWARD_BEGIN,
		                    .flags = random_below(5) ? RECORD_F_ACCUMULATE : RECORD_F_KEEP},
		    NULL);
	add_reports(s, RECORD_F_NODE);
	if (!random_below(4))
		add_call(s, 2, RECORD_F_ROOT | RECORD_F_GRAD | RECORD_F_NODE);
	add_reports(s, RECORD_F_NODE);
	if (random_below(30))
		add(s, (struct record){.kind = RECORD_BACKWARD_END}, NULL);
	for (uint32_t o = 1; o < 3; o++) {
		if (!random_below(3))
			continue;
		add(s, (struct record){.kind = RECORD_OPTIMIZER_BEGIN, .scope = o}, NULL);
		add_reports(s, 0);
		if (!random_below(6))
			add_iteration(s);
		if (random_below(30))
			add(s, (struct record){.kind = RECORD_OPTIMIZER_END, .scope = o}, NULL);
	}
}

static struct stream plausible_stream(uint64_t seed)
{
	struct stream s = {.thread = 1};

	random_state = seed;
	for (int i = 0; i < 60; i++)
		add_iteration(&s);
	return s;
}

/* Feed @stream to @rows, cutting at one record in @cut_every (0: never). */
static void feed_stream(const struct stream *stream, struct rows *rows, uint32_t cut_every)
{
	struct tag_sink sink = sink_of(rows);
	struct tagger *tagger;

	assert_int_equal(tagger_new(&sink, &tagger), 0);
	for (size_t i = 0; i < stream->nr; i++) {
		const struct item *item = &stream->items[i];

		assert_int_equal(tagger_feed(tagger, &item->record, record_has_text(item->record.kind) ? item->text : NULL), 0);
		if (cut_every && !random_below(cut_every))
			cut_here(rows, &tagger);
	}
	assert_int_equal(tagger_finish(tagger), 0);
	tagger_free(tagger);
}

static int compare_layers(const void *a, const void *b)
{
	const struct tag_layer_peak *x = a, *y = b;

	return (x->module > y->module) - (x->module < y->module);
}

#define assert_same(a, b, field) assert_int_equal((a)->field, (b)->field)

static void assert_same_allocation(const struct tag_allocation *a, const struct tag_allocation *b)
{
	assert_same(a, b, id);
	assert_same(a, b, address);
	assert_same(a, b, size_bytes);
	assert_same(a, b, alloc_seq);
	assert_same(a, b, free_seq);
	assert_same(a, b, stretch);
	assert_same(a, b, free_stretch);
	assert_same(a, b, thread);
	assert_same(a, b, free_thread);
	assert_same(a, b, module);
	assert_same(a, b, tensor);
	assert_same(a, b, phase);
	assert_same(a, b, free_phase);
	assert_same(a, b, category);
	assert_same(a, b, rule);
	assert_same(a, b, provisional);
	assert_same(a, b, recompute);
	assert_same(a, b, free_lost);
	assert_same(a, b, episode);
	assert_same(a, b, seen_forward);
	assert_same(a, b, named_input);
	assert_same(a, b, seed);
	assert_same(a, b, before_step);
	assert_same(a, b, into_step);
}

static void assert_same_step(const struct seen_step *a, const struct seen_step *b)
{
	assert_same(a, b, seen);
	assert_same(a, b, step.kind);
	assert_same(a, b, step.closed);
	assert_same(a, b, step.start_seq);
	assert_same(a, b, step.end_seq);
	assert_same(a, b, step.start_ns);
	assert_same(a, b, step.end_ns);
	assert_same(a, b, step.nr_devices);
	for (size_t i = 0; i < a->step.nr_devices; i++) {
		const struct tag_step_device *x = &a->devices[i], *y = &b->devices[i];

		assert_same(x, y, device);
		assert_same(x, y, allocs);
		assert_same(x, y, frees);
		assert_same(x, y, alloc_bytes);
		assert_same(x, y, start_bytes);
		assert_same(x, y, peak_bytes);
		assert_same(x, y, peak_seq);
		assert_same(x, y, peak_phase);
		assert_same(x, y, end_bytes);
		for (unsigned phase = 0; phase < NR_PHASES; phase++) {
			assert_same(x, y, phases[phase].seen);
			assert_same(x, y, phases[phase].allocs);
			assert_same(x, y, phases[phase].peak_bytes);
			assert_same(x, y, phases[phase].end_bytes);
		}
	}
}

static void assert_same_rows(struct rows *a, struct rows *b)
{
	assert_same(a, b, nr_allocations);
	for (size_t i = 1; i < a->nr_allocations; i++)
		assert_same_allocation(&a->allocations[i], &b->allocations[i]);
	assert_same(a, b, nr_stretches);
	assert_memory_equal(a->stretches, b->stretches, a->nr_stretches * sizeof(uint64_t));
	assert_same(a, b, nr_steps);
	for (size_t i = 0; i < a->nr_steps; i++)
		assert_same_step(&a->steps[i], &b->steps[i]);
	assert_same(a, b, nr_spans);
	for (size_t i = 1; i < a->nr_spans; i++) {
		assert_same(a, b, spans[i].phase);
		assert_same(a, b, spans[i].module);
		assert_same(a, b, spans[i].stretch);
		assert_same(a, b, spans[i].start_seq);
		assert_same(a, b, spans[i].end_seq);
		assert_same(a, b, spans[i].start_bytes);
		assert_same(a, b, spans[i].peak_bytes);
		assert_same(a, b, spans[i].end_bytes);
	}
	assert_same(a, b, nr_devices);
	for (size_t d = 0; d < a->nr_devices; d++) {
		const struct tag_device *x = &a->devices[d], *y = &b->devices[d];

		assert_same(x, y, device);
		assert_same(x, y, allocs);
		assert_same(x, y, frees);
		assert_same(x, y, live_bytes);
		assert_same(x, y, peak_bytes);
		assert_same(x, y, peak_seq);
		assert_same(x, y, peak_stretch);
		assert_same(x, y, peak_phase);
		assert_same(x, y, audit_checks);
		assert_same(x, y, audit_failures);
		assert_same(x, y, unknown_frees);
		assert_same(a, b, nr_layers[d]);
		qsort(a->layers[d], a->nr_layers[d], sizeof(*a->layers[d]), compare_layers);
		qsort(b->layers[d], b->nr_layers[d], sizeof(*b->layers[d]), compare_layers);
		for (size_t i = 0; i < a->nr_layers[d]; i++) {
			assert_same(a, b, layers[d][i].module);
			assert_same(a, b, layers[d][i].forward_peak_bytes);
			assert_same(a, b, layers[d][i].backward_peak_bytes);
		}
	}
	assert_same(a, b, nr_tensors);
	for (size_t i = 1; i < a->nr_tensors; i++) {
		assert_same(a, b, tensors[i].address);
		assert_same(a, b, tensors[i].allocation);
	}
}

static void test_load_when_a_run_is_cut_anywhere_then_rows_equal_the_uncut_run(void **state)
{
	size_t nr_steps = 0;

	for (uint64_t seed = 1; seed <= 40; seed++) {
		struct stream stream = plausible_stream(seed);
		struct rows whole = {0}, cut = {0};

		feed_stream(&stream, &whole, 0);
		feed_stream(&stream, &cut, seed % 4 ? 50 : 3);
		assert_same_rows(&whole, &cut);
		nr_steps += whole.nr_steps;
		rows_release(&whole);
		rows_release(&cut);
		free(stream.items);
	}
	assert_true(nr_steps > 500); /* else the streams are too poor */
}

/* The sums of a stream, found the simple way: by replaying its allocations. */
static void test_sums_when_stream_is_random_then_equal_a_replay_of_its_rows(void **state)
{
	for (uint64_t seed = 100; seed < 120; seed++) {
		struct stream stream = plausible_stream(seed);
		struct rows rows = {0};

		feed_stream(&stream, &rows, 0);
		for (size_t d = 0; d < rows.nr_devices; d++) {
			uint64_t live = 0, peak = 0, peak_seq = 0;
			size_t step = 0;
			uint64_t step_peak = 0, step_allocs = 0;

			for (uint64_t seq = 1; seq <= stream.seq; seq++) {
				if (seq > rows.steps[step].step.end_seq) {
					if (d < rows.steps[step].step.nr_devices) {
						assert_int_equal(rows.steps[step].devices[d].peak_bytes, step_peak);
						assert_int_equal(rows.steps[step].devices[d].allocs, step_allocs);
						assert_int_equal(rows.steps[step].devices[d].end_bytes, live);
					}
					step++;
					step_peak = live;
					step_allocs = 0;
				}
				for (size_t i = 1; i < rows.nr_allocations; i++) {
					const struct tag_allocation *a = &rows.allocations[i];

					if (a->device != rows.devices[d].device)
						continue;
					if (a->free_seq == seq)
						live -= a->size_bytes;
				}
				for (size_t i = 1; i < rows.nr_allocations; i++) {
					const struct tag_allocation *a = &rows.allocations[i];

					if (a->device != rows.devices[d].device || a->alloc_seq != seq)
						continue;
					live += a->size_bytes;
					step_allocs++;
					assert_int_equal(rows.stretches[a->stretch] - 1, step);
				}
				if (live > peak) {
					peak = live;
					peak_seq = seq;
				}
				if (live > step_peak)
					step_peak = live;
			}
			assert_int_equal(rows.devices[d].live_bytes, live);
			assert_int_equal(rows.devices[d].peak_bytes, peak);
			assert_int_equal(rows.devices[d].peak_seq, peak_seq);
		}
		rows_release(&rows);
		free(stream.items);
	}
}

static void seal(unsigned char *bytes, size_t size)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < size - 8; i++)
		hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
	for (unsigned i = 0; i < 8; i++)
		bytes[size - 8 + i] = (unsigned char)(hash >> (8 * i));
}

/* Load @bytes; if that works, the tagger must live through allocations, records and all. */
static bool try_load(const unsigned char *bytes, size_t size, const struct rows *open, const struct stream *more)
{
	const struct tag_sink deaf = {0};
	struct tagger *tagger;
	unsigned char *copy = malloc(size + 1); /* exact, so that the sanitizer sees every read outside */
	unsigned char *saved;
	size_t saved_size;
	int r;

	copy = realloc(copy, size ? size : 1);
	memcpy(copy, bytes, size);
	r = tagger_load(&deaf, copy, size, &tagger);
	free(copy);
	if (r < 0) {
		assert_int_equal(r, -EINVAL);
		return false;
	}
	for (size_t i = 1; i < open->nr_allocations; i++)
		if (open->allocations[i].id && !open->allocations[i].free_seq)
			tagger_load_allocation(tagger, &open->allocations[i]);
	for (size_t i = 0; i < more->nr; i++)
		tagger_feed(tagger, &more->items[i].record,
		            record_has_text(more->items[i].record.kind) ? more->items[i].text : NULL);
	assert_int_equal(tagger_flush(tagger), 0);
	assert_int_equal(tagger_save(tagger, &saved, &saved_size), 0);
	free(saved);
	assert_int_equal(tagger_finish(tagger), 0);
	tagger_free(tagger);
	return true;
}

static void test_load_when_bytes_are_damaged_then_refused_or_harmless(void **state)
{
	struct stream stream = plausible_stream(7), more;
	struct rows rows = {0};
	struct tag_sink sink = sink_of(&rows);
	struct tagger *tagger;
	unsigned char *bytes, *damaged;
	size_t size;
	int nr_loaded = 0;

	assert_int_equal(tagger_new(&sink, &tagger), 0);
	for (size_t i = 0; i < stream.nr; i++)
		tagger_feed(tagger, &stream.items[i].record,
		            record_has_text(stream.items[i].record.kind) ? stream.items[i].text : NULL);
	assert_int_equal(tagger_flush(tagger), 0);
	assert_int_equal(tagger_save(tagger, &bytes, &size), 0);
	tagger_free(tagger);
	more = plausible_stream(8);
	for (size_t i = 0; i < more.nr; i++)
		more.items[i].record.seq += stream.seq;
	more.nr = more.nr > 300 ? 300 : more.nr;
	assert_true(try_load(bytes, size, &rows, &more));
	damaged = malloc(size + 64);
	for (int i = 0; i < 3000; i++) {
		size_t n = size;

		memcpy(damaged, bytes, size);
		if (!random_below(4))
			n = random_below((uint32_t)size);
		for (uint32_t k = 1 + random_below(3); k-- > 0 && n;)
			damaged[random_below((uint32_t)n)] = random_below(3) ? (unsigned char)random_below(256) : 0xff;
		if (i % 10 == 0)
			assert_false(memcmp(damaged, bytes, n) && try_load(damaged, n, &rows, &more)); /* the hash tells */
		if (n < 8)
			continue;
		seal(damaged, n);
		nr_loaded += try_load(damaged, n, &rows, &more);
	}
	for (int i = 0; i < 200; i++) {
		size_t n = random_below(200);

		for (size_t k = 0; k < n; k++)
			damaged[k % (size + 64)] = (unsigned char)random_below(256);
		if (n >= 8)
			seal(damaged, n);
		assert_false(try_load(damaged, n, &rows, &more));
	}
	assert_true(nr_loaded > 100); /* else nothing was tried behind the checks */
	free(damaged);
	free(bytes);
	rows_release(&rows);
	free(stream.items);
	free(more.items);
}

static void test_load_allocation_when_row_is_impossible_then_refused(void **state)
{
	struct play *p = play_new();
	struct tag_allocation a, bad;

	play(p, "+a +b -b");
	assert_int_equal(tagger_flush(p->tagger), 0);
	a = p->rows.allocations[1];
	cut_here(&p->rows, &p->tagger);
	assert_int_equal(tagger_load_allocation(p->tagger, &a), -EINVAL); /* twice */
#define assert_refused(field, value)                                                                                             \
	do {                                                                                                                     \
		bad = a;                                                                                                         \
		bad.address = 0x5000;                                                                                            \
		bad.field = value;                                                                                               \
		assert_int_equal(tagger_load_allocation(p->tagger, &bad), -EINVAL);                                              \
	} while (0)
	assert_refused(id, 0);
	assert_refused(id, 77);
	assert_refused(free_seq, 3);
	assert_refused(level, NR_LEVELS);
	assert_refused(phase, NR_PHASES);
	assert_refused(category, NR_CATEGORIES);
	assert_refused(rule, NR_CATEGORY_RULES);
	assert_refused(tensor, 1);
	assert_refused(size_bytes, 0);
	play_free(p);
}

static uint64_t random_number(void)
{
	switch (random_below(6)) {
	case 0:
		return random_below(4);
	case 1:
		return UINT64_MAX - random_below(3);
	case 2:
		return (uint64_t)random_below(UINT32_MAX) << 32 | random_below(UINT32_MAX);
	case 3:
		return UINT64_C(1) << random_below(64);
	default:
		return random_below(64);
	}
}

static void test_feed_when_records_are_garbage_then_survives(void **state)
{
	static const uint8_t kinds[] = {1,  1,  2,  3,  10, 10, 11, 12, 13, 14, 15, 16, 17, 18,
	                                19, 20, 21, 22, 30, 31, 32, 33, 40, 41, 42, 63, 99};

	for (uint64_t seed = 1; seed <= 8; seed++) {
		struct rows rows = {0};
		struct tag_sink sink = sink_of(&rows);
		struct tagger *tagger;
		bool wild = seed % 2;
		uint64_t seq = 0;

		random_state = seed;
		assert_int_equal(tagger_new(&sink, &tagger), 0);
		for (int i = 0; i < 20000; i++) {
			char text[64];
			uint32_t length = random_below(sizeof(text) - 1);
			struct record record;

			seq += 1 + !random_below(100);
			record = (struct record){
			        .seq = seq,
			        .time_ns = wild ? random_number() : seq,
			        .kind = kinds[random_below(sizeof(kinds))],
			        .flags = (uint8_t)random_below(256),
			        .device = wild ? (uint16_t)random_number() : RECORD_DEVICE_CPU,
			        .thread = (uint32_t)(wild ? random_number() : random_below(4)),
			        .scope = (uint32_t)random_number(),
			        .address = random_number(),
			        .size = random_number(),
			        .a = random_number(),
			        .b = random_number(),
			};

			for (uint32_t k = 0; k < length; k++)
				text[k] = random_below(3) ? "ab."[random_below(3)] : '\0';
			text[length] = '\0';
			if (record_has_text(record.kind))
				record.stack = length;
			assert_int_equal(tagger_feed(tagger, &record, record_has_text(record.kind) ? text : NULL), 0);
			if (!random_below(500))
				assert_int_equal(tagger_flush(tagger), 0);
			if (!random_below(2000))
				cut_here(&rows, &tagger);
		}
		assert_int_equal(tagger_finish(tagger), 0);
		assert_int_equal(tagger_finish(tagger), 0);
		tagger_free(tagger);
		rows_release(&rows);
	}
}

static void test_feed_when_scopes_are_endless_then_bounded(void **state)
{
	struct play *p = play_new();

	for (int i = 0; i < 50000; i++)
		send(p, (struct record){.kind = i % 3   ? RECORD_MODULE_ENTER
		                                : i % 2 ? RECORD_BACKWARD_BEGIN
		                                        : RECORD_OPTIMIZER_BEGIN,
		                        .scope = (uint32_t)i});
	play(p, "+a");
	for (int i = 0; i < 60000; i++)
		send(p, (struct record){.kind = RECORD_BACKWARD_END});
	play(p, "F( +b ) B( +c )");
	finish(p);
	assert_int_equal(p->rows.allocations[2].phase, PHASE_FORWARD);
	assert_int_equal(p->rows.allocations[3].phase, PHASE_BACKWARD);
	play_free(p);
}

static void test_feed_when_sizes_are_absurd_then_totals_stay_in_range(void **state)
{
	struct play *p = play_new();

	for (unsigned i = 0; i < 300; i++)
		totals(p, CUDA_0, RECORD_ALLOC, i, UINT64_C(1) << 56, 0);
	totals(p, CUDA_0, RECORD_ALLOC, 1000, UINT64_MAX, 0);
	totals(p, CUDA_0, RECORD_ALLOC, 1000, 0, 0);
	finish(p);
	assert_int_equal(p->rows.devices[0].peak_bytes, INT64_MAX);
	assert_int_equal(tagger_ignored(p->tagger), 2);
	play_free(p);
}

static void test_feed_when_devices_are_too_many_then_ignored(void **state)
{
	struct play *p = play_new();

	for (unsigned i = 0; i < 100; i++)
		totals(p, (uint16_t)(i << 8 | 1), RECORD_ALLOC, i, 8, 8);
	finish(p);
	assert_int_equal(p->rows.nr_devices, 64);
	assert_int_equal(tagger_ignored(p->tagger), 36);
	play_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_steps_when_plain_loop_then_begin_at_each_forward),
	        cmocka_unit_test(test_steps_when_nothing_is_trained_then_all_is_setup),
	        cmocka_unit_test(test_steps_when_forward_made_no_nodes_then_it_is_no_training_forward),
	        cmocka_unit_test(test_steps_when_gradients_accumulate_then_micro_batches_are_one_step),
	        cmocka_unit_test(test_steps_when_gan_then_both_optimizers_are_in_one_step),
	        cmocka_unit_test(test_steps_when_gan_is_killed_between_its_optimizers_then_last_is_partial),
	        cmocka_unit_test(test_steps_when_other_optimizer_steps_twice_then_it_leads),
	        cmocka_unit_test(test_steps_when_candidate_is_older_than_leads_step_then_nothing_ends),
	        cmocka_unit_test(test_steps_when_lead_comes_between_then_it_keeps_the_lead),
	        cmocka_unit_test(test_steps_when_several_optimizers_step_together_then_one_step),
	        cmocka_unit_test(test_steps_when_scaler_skips_then_update_counts_as_step),
	        cmocka_unit_test(test_steps_when_scaler_skips_one_of_two_optimizers_then_no_step_is_cut),
	        cmocka_unit_test(test_steps_when_update_follows_a_step_then_it_is_none),
	        cmocka_unit_test(test_steps_when_closure_runs_the_forward_then_end_where_step_begins),
	        cmocka_unit_test(test_steps_when_closure_follows_micro_batches_then_end_at_the_first),
	        cmocka_unit_test(test_steps_when_validated_before_training_then_it_is_setup),
	        cmocka_unit_test(test_steps_when_no_optimizer_is_seen_then_end_at_forward_after_backward),
	        cmocka_unit_test(test_steps_when_optimizer_comes_late_then_backwards_were_micro_batches),
	        cmocka_unit_test(test_steps_when_no_optimizer_for_long_then_steps_are_told_meanwhile),
	        cmocka_unit_test(test_steps_when_optimizers_step_in_backward_then_nothing_ends_inside),
	        cmocka_unit_test(test_steps_when_worker_steps_in_backward_then_the_caller_paces),
	        cmocka_unit_test(test_steps_when_recomputed_in_backward_then_no_candidate),
	        cmocka_unit_test(test_steps_when_evaluated_between_then_kind_eval),
	        cmocka_unit_test(test_steps_when_evaluated_inside_a_step_then_it_stays_whole),
	        cmocka_unit_test(test_steps_when_gradients_are_off_in_training_mode_then_no_eval),
	        cmocka_unit_test(test_steps_when_only_evaluated_then_setup_and_eval),
	        cmocka_unit_test(test_steps_when_evaluated_before_closure_then_eval_ends_at_step),
	        cmocka_unit_test(test_steps_when_marked_then_only_marks_count),
	        cmocka_unit_test(test_steps_when_cut_off_then_last_is_partial),
	        cmocka_unit_test(test_steps_when_other_threads_run_then_they_end_nothing),
	        cmocka_unit_test(test_steps_when_several_threads_train_then_the_lead_paces),
	        cmocka_unit_test(test_steps_when_functional_then_forward_is_announced),
	        cmocka_unit_test(test_steps_when_stray_nodes_are_made_then_forward_of_the_module_counts),
	        cmocka_unit_test(test_phase_when_nested_then_innermost_counts),
	        cmocka_unit_test(test_phase_when_gradients_off_then_inference),
	        cmocka_unit_test(test_phase_when_optimizer_steps_in_backward_then_optimizer),
	        cmocka_unit_test(test_phase_when_module_runs_in_backward_then_recompute),
	        cmocka_unit_test(test_phase_when_autograd_worker_then_backward),
	        cmocka_unit_test(test_phase_when_pool_thread_then_that_of_the_one_busy_thread),
	        cmocka_unit_test(test_phase_when_python_thread_is_idle_then_other),
	        cmocka_unit_test(test_phase_when_functional_then_forward_until_backward),
	        cmocka_unit_test(test_phase_when_grad_penalty_then_forward_goes_on),
	        cmocka_unit_test(test_phase_when_graph_is_kept_then_code_after_it_begins_a_forward),
	        cmocka_unit_test(test_phase_when_no_module_runs_again_in_backward_then_recompute),
	        cmocka_unit_test(test_phase_when_marked_then_mark_counts),
	        cmocka_unit_test(test_phase_when_marks_do_not_nest_then_only_the_mark_ends),
	        cmocka_unit_test(test_phase_when_forward_and_backward_are_inside_a_root_call_then_known),
	        cmocka_unit_test(test_phase_when_ends_are_lost_then_recovers),
	        cmocka_unit_test(test_category_when_static_then_kept_or_temporary),
	        cmocka_unit_test(test_category_when_marked_then_phase_of_death_decides),
	        cmocka_unit_test(test_category_when_freed_while_evaluating_before_training_then_temporary),
	        cmocka_unit_test(test_category_when_no_block_then_unknown),
	        cmocka_unit_test(test_category_when_forward_then_kept_or_freed),
	        cmocka_unit_test(test_category_when_backward_then_kept_or_freed),
	        cmocka_unit_test(test_category_when_made_just_before_backward_then_seed),
	        cmocka_unit_test(test_category_when_optimizer_then_kept_or_freed),
	        cmocka_unit_test(test_category_when_other_then_input_or_unknown),
	        cmocka_unit_test(test_category_when_made_before_step_and_kept_then_no_input),
	        cmocka_unit_test(test_category_when_made_before_step_and_kept_then_no_input),
	        cmocka_unit_test(test_category_when_between_backward_and_step_then_optimizer_temporary),
	        cmocka_unit_test(test_category_when_named_then_names_decide),
	        cmocka_unit_test(test_category_when_alive_then_provisional_by_open_layer),
	        cmocka_unit_test(test_flush_when_nothing_changed_then_tells_no_allocation_again),
	        cmocka_unit_test(test_flush_when_what_others_wait_for_happens_then_tells_them_again),
	        cmocka_unit_test(test_input_when_in_shared_memory_then_its_header_is_skipped),
	        cmocka_unit_test(test_flush_when_the_peak_step_is_open_then_tells_its_layers),
	        cmocka_unit_test(test_input_when_made_in_forward_then_only_if_no_module_made_it_from_weights),
	        cmocka_unit_test(test_tensor_when_redefined_elsewhere_then_moves),
	        cmocka_unit_test(test_tensor_when_it_moved_then_another_takes_its_block),
	        cmocka_unit_test(test_tensor_when_its_name_is_taken_back_then_block_goes_by_the_next),
	        cmocka_unit_test(test_gradient_when_told_by_number_then_block_has_its_name),
	        cmocka_unit_test(test_tensor_when_no_block_then_external),
	        cmocka_unit_test(test_tensor_when_its_block_comes_soon_then_named),
	        cmocka_unit_test(test_tensor_when_address_is_reused_later_then_not_named),
	        cmocka_unit_test(test_tensor_when_inside_a_block_then_found),
	        cmocka_unit_test(test_tensor_when_two_names_share_a_block_then_the_more_telling_wins),
	        cmocka_unit_test(test_module_when_defined_then_parent_is_the_nearest_above),
	        cmocka_unit_test(test_sums_when_stepping_then_are_those_of_each_step),
	        cmocka_unit_test(test_sums_when_open_then_flush_tells_the_whole_open_step),
	        cmocka_unit_test(test_sums_when_devices_differ_then_apart),
	        cmocka_unit_test(test_sums_when_level_is_not_block_then_not_counted),
	        cmocka_unit_test(test_pairing_when_a_call_takes_memory_then_its_address_tells_which),
	        cmocka_unit_test(test_pairing_when_address_is_given_out_again_then_free_was_lost),
	        cmocka_unit_test(test_pairing_when_frees_come_from_other_threads_and_phases_then_paired),
	        cmocka_unit_test(test_spans_when_training_then_one_for_each_stay),
	        cmocka_unit_test(test_spans_when_other_threads_allocate_then_their_bytes_count),
	        cmocka_unit_test(test_spans_when_nothing_happens_outside_then_no_row),
	        cmocka_unit_test(test_layer_peaks_when_training_then_of_the_peak_step),
	        cmocka_unit_test(test_call_when_a_module_is_called_again_then_another),
	        cmocka_unit_test(test_call_when_a_checkpoint_runs_it_again_then_another),
	        cmocka_unit_test(test_audit_when_totals_agree_then_checks_and_no_failure),
	        cmocka_unit_test(test_audit_when_a_report_is_lost_then_one_failure),
	        cmocka_unit_test(test_audit_when_cpu_reports_cross_then_no_failure),
	        cmocka_unit_test(test_audit_when_the_first_reports_cross_then_no_failure),
	        cmocka_unit_test(test_audit_when_the_first_report_is_overtaken_by_thousands_then_no_failure),
	        cmocka_unit_test(test_audit_when_a_second_thread_is_about_to_report_then_no_failure),
	        cmocka_unit_test(test_audit_when_equal_steps_were_mistaken_then_agrees_again),
	        cmocka_unit_test(test_audit_when_cpu_totals_form_no_way_then_not_agreed),
	        cmocka_unit_test(test_audit_when_cuda_reports_cross_then_failures),
	        cmocka_unit_test(test_audit_when_cpu_report_stays_away_then_failure_at_the_end),
	        cmocka_unit_test(test_audit_when_killed_with_a_report_on_its_way_then_no_failure),
	        cmocka_unit_test(test_audit_when_a_free_pairs_with_another_size_then_failure),
	        cmocka_unit_test(test_oom_when_reported_then_told_with_phase_and_layer),
	        cmocka_unit_test(test_stack_when_defined_then_told_and_blocks_name_it),
	        cmocka_unit_test(test_stack_when_ids_are_none_then_ignored_and_counted),
	        cmocka_unit_test(test_feed_when_text_lacks_fields_then_ignored_and_counted),
	        cmocka_unit_test(test_feed_when_seq_does_not_grow_then_ignored),
	        cmocka_unit_test(test_feed_when_the_sink_fails_then_its_error_is_returned),
	        cmocka_unit_test(test_load_when_a_run_is_cut_anywhere_then_rows_equal_the_uncut_run),
	        cmocka_unit_test(test_sums_when_stream_is_random_then_equal_a_replay_of_its_rows),
	        cmocka_unit_test(test_load_when_bytes_are_damaged_then_refused_or_harmless),
	        cmocka_unit_test(test_load_allocation_when_row_is_impossible_then_refused),
	        cmocka_unit_test(test_feed_when_records_are_garbage_then_survives),
	        cmocka_unit_test(test_feed_when_scopes_are_endless_then_bounded),
	        cmocka_unit_test(test_feed_when_sizes_are_absurd_then_totals_stay_in_range),
	        cmocka_unit_test(test_feed_when_devices_are_too_many_then_ignored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
