/* Run files made by hand: see run_builder.h. */
#include "run_builder.h"

#include "store/schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void builder_exec(sqlite3 *db, const char *format, ...)
{
	char *error = NULL;
	va_list arguments;

	va_start(arguments, format);
	char *sql = sqlite3_vmprintf(format, arguments);
	va_end(arguments);
	if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK) {
		fprintf(stderr, "%s\n  in: %s\n", error, sql);
		abort();
	}
	sqlite3_free(sql);
}

static void insert_names(sqlite3 *db, const char *list, const char *(*name)(unsigned), unsigned first, unsigned nr)
{
	for (unsigned i = first; i < nr; i++)
		builder_exec(db, "INSERT INTO name VALUES (%Q, %u, %Q)", list, i, name(i));
}

sqlite3 *builder_create(const char *path)
{
	sqlite3 *db = NULL;

	remove(path);
	if (sqlite3_open(path, &db) != SQLITE_OK)
		abort();
	builder_exec(db, "PRAGMA synchronous = OFF");
	builder_exec(db, "BEGIN");
	if (sqlite3_exec(db, store_schema_sql, NULL, NULL, NULL) != SQLITE_OK)
		abort();
	insert_names(db, "phase", phase_name, 0, NR_PHASES);
	insert_names(db, "level", level_name, 0, NR_LEVELS);
	insert_names(db, "category", category_name, 0, NR_CATEGORIES);
	insert_names(db, "category_rule", category_rule_name, 0, NR_CATEGORY_RULES);
	insert_names(db, "step_kind", step_kind_name, 0, NR_STEP_KINDS);
	insert_names(db, "severity", severity_name, 0, RECORD_SEVERITY_ERROR + 1);
	insert_names(db, "tensor_kind", tensor_kind_name, RECORD_TENSOR_PARAMETER, RECORD_TENSOR_GRADIENT + 1);
	builder_exec(db,
	             "INSERT INTO run (id, run_id, nnmem_version, pid, hostname, command, ring_path, ring_start_ns, "
	             "start_realtime_ns, "
	             "ended, last_seq, last_ns, peak_rss_bytes) VALUES (1, 'run-1', '0.1.0', 4242, 'host', 'python train.py', "
	             "'/dev/shm/gone.ring', 7, 1000, 'exit 0', 0, 0, 123456)");
	builder_exec(db, "COMMIT");
	return db;
}

uint64_t builder_random(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static bool is_alive(const struct built_block *block, uint64_t seq)
{
	return block->level == LEVEL_BLOCK && block->alloc_seq <= seq && (!block->free_seq || block->free_seq > seq);
}

uint64_t built_live(const struct built_run *run, uint16_t device, uint64_t seq, int category, int64_t module)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < run->nr_blocks; i++) {
		const struct built_block *block = &run->blocks[i];

		if (block->device == device && is_alive(block, seq) && (category < 0 || block->category == category) &&
		    (module < 0 || block->module == module))
			bytes += block->size_bytes;
	}
	return bytes;
}

/* Calls of modules as the builder has them: each module has a new one every 20 records. */
int built_call(const struct built_block *block)
{
	return block->phase == PHASE_FORWARD ? (int)(block->alloc_seq / 20 + 1) : 0;
}

static void make_blocks(struct built_run *run, uint64_t *state)
{
	size_t live[BUILDER_MAX_BLOCKS];
	size_t nr_live = 0;

	for (uint64_t seq = 1; seq <= run->last_seq; seq++) {
		unsigned what = (unsigned)(builder_random(state) % 10);

		if (what < 5) {
			struct built_block *block = &run->blocks[run->nr_blocks];
			uint32_t module = (uint32_t)(builder_random(state) % (BUILDER_NR_MODULES + 2));

			*block = (struct built_block){
			        .size_bytes = 1 + builder_random(state) % 1000,
			        .alloc_seq = seq,
			        .module = module > BUILDER_NR_MODULES ? BUILDER_LOST_MODULE : module,
			        .device = builder_random(state) % 3 ? BUILDER_CUDA : BUILDER_CPU,
			        .category = (uint8_t)(builder_random(state) % NR_CATEGORIES),
			        .level = builder_random(state) % 8 ? LEVEL_BLOCK : LEVEL_SEGMENT,
			        .phase = (uint8_t)(builder_random(state) % NR_PHASES),
			};
			live[nr_live++] = run->nr_blocks++;
		} else if (what < 9 && nr_live) {
			size_t which = builder_random(state) % nr_live;

			run->blocks[live[which]].free_seq = seq;
			/* Now and then the address is given out again without a free: both happen at one seq. */
			if (builder_random(state) % 6 == 0) {
				struct built_block *block = &run->blocks[run->nr_blocks];

				*block = run->blocks[live[which]];
				block->alloc_seq = seq;
				block->free_seq = 0;
				live[which] = run->nr_blocks++;
			} else {
				live[which] = live[--nr_live];
			}
		}
	}
}

static void make_steps(struct built_run *run, uint64_t *state)
{
	static const unsigned kinds[] = {STEP_SETUP, STEP_TRAIN, STEP_TRAIN, STEP_EVAL,
	                                 STEP_TRAIN, STEP_TRAIN, STEP_EVAL,  STEP_PARTIAL};
	size_t nr_steps = 2 + builder_random(state) % (sizeof(kinds) / sizeof(kinds[0]) - 1);

	for (size_t i = 0; i < nr_steps; i++) {
		uint64_t start = 1 + run->last_seq * i / nr_steps, end = run->last_seq * (i + 1) / nr_steps;

		run->steps[run->nr_steps++] = (struct built_step){.kind = kinds[i], .start_seq = start, .end_seq = end};
	}
}

static void insert_totals(sqlite3 *db, const struct built_run *run, uint16_t device)
{
	uint64_t peak = 0, peak_seq = 0, allocs = 0, frees = 0;
	size_t peak_step = 0;

	for (size_t i = 0; i < run->nr_steps; i++) {
		const struct built_step *step = &run->steps[i];
		uint64_t start_bytes = built_live(run, device, step->start_seq - 1, -1, -1);
		uint64_t step_peak = start_bytes, step_peak_seq = 0, phase_peak = 0;
		bool inference = false;

		for (uint64_t seq = step->start_seq; seq <= step->end_seq; seq++) {
			uint64_t bytes = built_live(run, device, seq, -1, -1);

			if (bytes > step_peak) {
				step_peak = bytes;
				step_peak_seq = seq;
			}
			if (bytes > peak) {
				peak = bytes;
				peak_seq = seq;
				peak_step = i;
			}
			if (run->inference[seq]) {
				inference = true;
				phase_peak = bytes > phase_peak ? bytes : phase_peak;
			}
		}
		builder_exec(db, "INSERT INTO step_device VALUES (%d, %d, 3, 2, 1000, %lld, %lld, %lld, %d, %lld)", (int)i,
		             device, (long long)start_bytes, (long long)step_peak, (long long)step_peak_seq, PHASE_BACKWARD,
		             (long long)built_live(run, device, step->end_seq, -1, -1));
		builder_exec(db, "INSERT INTO step_phase VALUES (%d, %d, %d, 3, 1000, %lld, 1)", (int)i, device, PHASE_OTHER,
		             (long long)step_peak);
		if (inference)
			builder_exec(db, "INSERT INTO step_phase VALUES (%d, %d, %d, 3, 1000, %lld, 1)", (int)i, device,
			             PHASE_INFERENCE, (long long)phase_peak);
	}
	for (size_t i = 0; i < run->nr_blocks; i++) {
		const struct built_block *block = &run->blocks[i];

		if (block->device == device && block->level == LEVEL_BLOCK) {
			allocs++;
			frees += block->free_seq != 0;
		}
	}
	builder_exec(db, "INSERT INTO device VALUES (%d, %Q, %d, %lld, %lld, %lld, %lld, %lld, %d, %d, 0, 5, 0, 0)", device,
	             device == BUILDER_CPU ? "cpu" : "cuda:0", device == BUILDER_CUDA, (long long)allocs, (long long)frees,
	             (long long)built_live(run, device, run->last_seq, -1, -1), (long long)peak, (long long)peak_seq,
	             (int)(100 + peak_step), PHASE_FORWARD);
	for (unsigned module = 1; module <= BUILDER_NR_MODULES; module += 2)
		builder_exec(db, "INSERT INTO layer_peak VALUES (%d, %u, %u, %u)", device, module, 100 * module, 200 * module);
}

/* Inference spans: in evaluation steps, on two threads, overlapping now and then. */
static void insert_spans(sqlite3 *db, struct built_run *run, uint64_t *state)
{
	int id = 0;

	for (size_t i = 0; i < run->nr_steps; i++) {
		const struct built_step *step = &run->steps[i];
		uint64_t width = (step->end_seq - step->start_seq) / 4 + 1;

		for (uint64_t start = step->start_seq; step->kind == STEP_EVAL && start + 1 < step->end_seq;
		     start += 1 + builder_random(state) % width) {
			uint64_t end = start + 1 + builder_random(state) % width;

			if (end > step->end_seq)
				end = step->end_seq;
			for (uint64_t seq = start; seq <= end; seq++)
				run->inference[seq] = true;
			id++;
			builder_exec(db, "INSERT INTO span VALUES (%d, %d, %d, 1, 0, %d, 0, %lld, %lld, %lld, %lld, 1, 2, 3)", id,
			             (int)(100 + i), 1 + id % 2, PHASE_INFERENCE, (long long)start, (long long)end,
			             (long long)start * 10, (long long)end * 10);
		}
	}
}

static void insert_model(sqlite3 *db)
{
	builder_exec(db, "INSERT INTO module VALUES (1, 1, 0, '', 'Net', 'Net'), (2, 1, 1, 'a', 'Block', 'Net'), "
	                 "(4, 1, 1, 'c', 'Linear', 'Net'), (3, 1, 2, 'a.b', 'Linear', 'Net'), (5, 5, 0, '', 'Other', 'Other')");
	/* Two names for one storage, an external one, one of no known module, a buffer, a state. */
	builder_exec(db, "INSERT INTO tensor VALUES (1, 1, 3, 0, 'a.b.weight', 'float32', '5,2', NULL, 640, 40, 1), "
	                 "(2, 1, 4, 0, 'c.weight', 'float32', '5,2', NULL, 640, 40, 1), "
	                 "(3, 1, 4, 0, 'c.bias', 'float32', '3', NULL, 1280, 12, NULL), "
	                 "(4, 1, 77, 0, 'lost', 'float32', '', NULL, 1920, 4, 2), "
	                 "(5, 2, 2, 0, 'a.mean', 'float32', '7', NULL, 2560, 28, 3), "
	                 "(6, 3, 3, 1, 'a.b.weight', 'float32', '5,2', 'momentum_buffer', 3200, 40, 4)");
	builder_exec(db, "INSERT INTO thread VALUES (1, 4242, 32, 'MainThread'), (2, 4243, 64, 'pt_autograd_0')");
	builder_exec(db, "INSERT INTO optimizer VALUES (1, 'SGD')");
	builder_exec(db, "INSERT INTO fact VALUES ('torch_version', '2.13.0'), ('python_version', '3.13.1')");
	builder_exec(db, "INSERT INTO lost VALUES ('ring_full', 3), ('torn', 2), ('of_the_future', 4)");
	builder_exec(db, "INSERT INTO note VALUES (1, 5, 1, 'stacks are off'), (2, 9, 0, 'second')");
	builder_exec(db, "INSERT INTO oom VALUES (11, 110, 101, 1, 3, 1, 1, 1 << 40, 500, 600, 0)");
}

void builder_make_random(const char *path, uint64_t seed, struct built_run *ret)
{
	uint64_t state = seed;
	sqlite3 *db = builder_create(path);

	memset(ret, 0, sizeof(*ret));
	ret->last_seq = 40 + builder_random(&state) % (BUILDER_MAX_SEQ - 40);
	make_blocks(ret, &state);
	make_steps(ret, &state);
	builder_exec(db, "BEGIN");
	insert_model(db);
	insert_spans(db, ret, &state);
	for (size_t i = 0; i < ret->nr_steps; i++) {
		const struct built_step *step = &ret->steps[i];

		builder_exec(db, "INSERT INTO stretch VALUES (%d, %d)", (int)(100 + i), (int)i);
		builder_exec(db, "INSERT INTO step VALUES (%d, %u, 1, %lld, %lld, %lld, %lld)", (int)i, step->kind,
		             (long long)step->start_seq, (long long)step->end_seq, (long long)step->start_seq * 10,
		             (long long)step->end_seq * 10);
	}
	insert_totals(db, ret, BUILDER_CUDA);
	insert_totals(db, ret, BUILDER_CPU);
	for (size_t i = 0; i < ret->nr_blocks; i++) {
		const struct built_block *block = &ret->blocks[i];
		size_t step = 0;

		while (step + 1 < ret->nr_steps && ret->steps[step].end_seq < block->alloc_seq)
			step++;
		builder_exec(db,
		             BUILDER_ALLOCATION "(%d, %d, %d, %d, %lld, %lld, %lld, nullif(%lld, 0), nullif(%lld, 0), "
		                                "1, %d, "
		                                "%d, %d, %d, %s, %d, %d, %u, %d, 0, %d, 0, %d)",
		             (int)i + 1, block->device, block->level, 64 * ((int)i + 10), (long long)block->size_bytes,
		             (long long)block->alloc_seq, (long long)block->alloc_seq * 10, (long long)block->free_seq,
		             (long long)block->free_seq * 10, block->free_seq ? 1 : 0, (int)(100 + step),
		             block->free_seq ? 100 : 0, block->phase, block->free_seq ? "2" : "NULL", block->category,
		             (int)block->category % NR_CATEGORY_RULES, block->module, i % 9 < 6 ? (int)(i % 9) : 0, (int)(i % 4),
		             built_call(block));
	}
	builder_exec(db, "UPDATE run SET last_seq = %lld, last_ns = %lld", (long long)ret->last_seq,
	             (long long)ret->last_seq * 10);
	builder_exec(db, "COMMIT");
	sqlite3_close(db);
}
