/* The rows of a run file as they are: the run, its devices, steps, phases, spans, allocations, threads and notes. */
#include "store/reader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- the run */

void store_free_run_texts(struct store *store)
{
	for (size_t i = 0; i < sizeof(store->run_texts) / sizeof(store->run_texts[0]); i++) {
		free(store->run_texts[i]);
		store->run_texts[i] = NULL;
	}
}

/* Elements of a tensor of @shape ("32,3,3,3"; "" one element); false: not to be told. */
static bool shape_values(const char *shape, uint64_t *ret)
{
	uint64_t values = 1;

	for (const char *at = shape; *at;) {
		char *end;

		if (*at < '0' || *at > '9')
			return false;
		errno = 0;
		unsigned long long size = strtoull(at, &end, 10);

		if (errno || (*end && *end != ',') || (*end == ',' && !end[1]) ||
		    __builtin_mul_overflow(values, (uint64_t)size, &values))
			return false;
		at = *end ? end + 1 : end;
	}
	*ret = values;
	return true;
}

static int read_parameters(struct store *store, struct store_run *run)
{
	struct query query;
	bool known = true;

	query_open(store, &query, "parameter_storages");
	while (query_step(&query) == 1) {
		uint64_t values = 0;
		const char *shape = query_text_required(&query, 1);

		run->params_bytes += query_u64(&query, 0);
		known = known && shape && shape_values(shape, &values) &&
		        !__builtin_add_overflow(run->params_values, values, &run->params_values);
	}
	if (!known)
		run->params_values = 0;
	return query_close(&query);
}

int store_read_values(struct store *store, uint16_t device, struct store_values *ret)
{
	static const unsigned categories[] = {
	        [RECORD_TENSOR_PARAMETER] = CATEGORY_PARAMETER,
	        [RECORD_TENSOR_BUFFER] = CATEGORY_BUFFER,
	        [RECORD_TENSOR_STATE] = CATEGORY_OPTIMIZER_STATE,
	        [RECORD_TENSOR_GRADIENT] = CATEGORY_GRADIENT,
	};
	struct store_values values = {0};
	bool unknown[NR_CATEGORIES] = {false};
	struct query query;

	store_begin_call(store);
	if (!query_open(store, &query, "named_storages"))
		query_bind(&query, ":device", device);
	while (query_step(&query) == 1) {
		unsigned category = categories[query_code(&query, 0, sizeof(categories) / sizeof(categories[0]))];
		const char *shape = query_text_required(&query, 2);
		uint64_t elements = 0;

		values.bytes[category] += query_u64(&query, 1);
		unknown[category] |= !shape || !shape_values(shape, &elements) ||
		                     __builtin_add_overflow(values.values[category], elements, &values.values[category]);
	}
	for (unsigned i = 0; i < NR_CATEGORIES; i++)
		if (unknown[i])
			values.values[i] = 0;
	int r = query_close(&query);

	if (!r)
		*ret = values;
	return r;
}

static int read_lost(struct store *store, struct store_lost *lost)
{
	struct query query;

	query_open(store, &query, "lost");
	while (query_step(&query) == 1) {
		const char *cause = query_text_required(&query, 0);
		uint64_t count = query_u64(&query, 1);

		for (unsigned i = 0; cause && i < NR_LOST; i++)
			if (strcmp(cause, lost_name(i)) == 0)
				lost->count[i] += count;
		lost->total += count;
	}
	return query_close(&query);
}

static int read_totals(struct store *store, struct store_run *run)
{
	struct query query;

	if (!query_open(store, &query, "totals") && query_step(&query) == 1) {
		run->events = query_u64(&query, 0);
		run->audit_checks = query_u64(&query, 1);
		run->audit_failures = query_u64(&query, 2);
		run->steps = query_u64(&query, 3);
		run->external_bytes = query_u64(&query, 4);
		run->ooms = query_u64(&query, 5);
	}
	return query_close(&query);
}

static void read_device_row(struct query *query, struct store_device *device, bool *ret_main)
{
	device->device = (uint16_t)query_u64_max(query, 0, UINT16_MAX);
	*ret_main = query_u64_max(query, 1, 1) != 0;
	device->peak_bytes = query_u64(query, 2);
	device->peak_step = query_u64(query, 3);
	device->peak_seq = query_u64(query, 4);
	device->allocs = query_u64(query, 5);
	device->frees = query_u64(query, 6);
	device->live_at_end_bytes = query_u64(query, 7);
	device->reserved_peak_bytes = query_u64(query, 8);
	device->peak_phase = query_code(query, 9, NR_PHASES);
}

static int read_main_device(struct store *store, struct store_run *run)
{
	struct query query;

	run->peak_device_id = RECORD_DEVICE_CPU;
	query_open(store, &query, "device");
	while (query_step(&query) == 1) {
		struct store_device device = {0};
		bool is_main;

		read_device_row(&query, &device, &is_main);
		if (!query_ok(&query) || !is_main)
			continue;
		run->peak_device_id = device.device;
		run->peak_bytes = device.peak_bytes;
		run->peak_seq = device.peak_seq;
		run->peak_step = device.peak_step;
		run->peak_phase = device.peak_phase;
	}
	run->peak_device = device_name(run->peak_device_id, store->peak_device);
	return query_close(&query);
}

static const char *keep_text(struct store *store, unsigned i, const char *text)
{
	store->run_texts[i] = text ? strdup(text) : NULL;
	return store->run_texts[i];
}

int store_read_run(struct store *store, struct store_run *ret_run)
{
	struct store_run run = {.schema_version = store->schema_version,
	                        .recovery = store->recovery,
	                        .recovered_events = store->recovered_events};
	struct query query;

	store_begin_call(store);
	store_free_run_texts(store);
	if (!query_open(store, &query, "run") && query_step(&query) == 1) {
		run.run_id = keep_text(store, 0, query_text_required(&query, 0));
		run.nnmem_version = keep_text(store, 1, query_text_required(&query, 1));
		run.pid = query_i64(&query, 2);
		run.rank = query_i64(&query, 3);
		run.hostname = keep_text(store, 2, query_text(&query, 4));
		run.command = keep_text(store, 3, query_text(&query, 5));
		run.start_realtime_ns = query_u64(&query, 8);
		const char *ended = query_text_required(&query, 9);
		const char *told_end = query_text(&query, 15);

		/* Nobody is left to find out more. */
		if (store->recovery == STORE_RING_GONE)
			ended = told_end ? told_end : "killed";
		run.ended = keep_text(store, 4, ended);
		run.last_seq = query_u64(&query, 10);
		run.duration_ns = query_u64(&query, 11);
		run.peak_rss_bytes = query_u64(&query, 12);
		run.torch_version = keep_text(store, 5, query_text(&query, 13));
		run.python_version = keep_text(store, 6, query_text(&query, 14));
		if (query_ok(&query) && (!run.run_id || !run.nnmem_version || !run.ended))
			query.error = store_fail(store, -ENOMEM, "takes more memory to read than there is");
	}
	int r = query_close(&query);

	if (!r)
		r = read_totals(store, &run);
	if (!r)
		r = read_parameters(store, &run);
	if (!r)
		r = read_lost(store, &run.lost);
	if (!r)
		r = read_main_device(store, &run);
	if (!r && store->recovery == STORE_RING_GONE && store->recovery_reason[0])
		run.recovery_reason = store->recovery_reason;
	if (!r)
		*ret_run = run;
	return r;
}

int store_find_device(struct store *store, const char *name, uint16_t *ret_device)
{
	struct query query;
	bool found = false;

	store_begin_call(store);
	query_open(store, &query, "device");
	while (query_step(&query) == 1) {
		uint16_t device = (uint16_t)query_u64_max(&query, 0, UINT16_MAX);
		char device_text[DEVICE_NAME_MAX];

		if (!query_ok(&query) || strcmp(name, device_name(device, device_text)))
			continue;
		*ret_device = device;
		found = true;
	}
	int r = query_close(&query);

	if (!r && !found)
		r = store_fail(store, -ENOENT, "has no device %s", name);
	return r;
}

/* ---------------------------------------------------------------- rows */

int store_each_device(struct store *store, int (*each)(const struct store_device *, void *), void *arg)
{
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	query_open(store, &query, "device");
	while (!stopped && query_step(&query) == 1) {
		struct store_device device = {0};
		char name[DEVICE_NAME_MAX];
		bool is_main;

		read_device_row(&query, &device, &is_main);
		device.name = device_name(device.device, name);
		if (query_ok(&query))
			stopped = each(&device, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

int store_each_step(struct store *store, uint16_t device, int (*each)(const struct store_step *, void *), void *arg)
{
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	query_open(store, &query, "step");
	query_bind(&query, ":device", device);
	while (!stopped && query_step(&query) == 1) {
		const struct store_step step = {
		        .step = query_u64(&query, 0),
		        .kind = query_code(&query, 1, NR_STEP_KINDS),
		        .device = device,
		        .start_seq = query_u64(&query, 3),
		        .end_seq = query_u64(&query, 4),
		        .start_ns = query_u64(&query, 5),
		        .end_ns = query_u64(&query, 6),
		        .allocs = query_u64(&query, 7),
		        .frees = query_u64(&query, 8),
		        .alloc_bytes = query_u64(&query, 9),
		        .start_bytes = query_u64(&query, 10),
		        .peak_bytes = query_u64(&query, 11),
		        .peak_seq = query_u64(&query, 12),
		        .end_bytes = query_u64(&query, 13),
		        .peak_phase = query_code(&query, 14, NR_PHASES),
		};

		if (query_ok(&query))
			stopped = each(&step, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

int store_each_phase(struct store *store, uint16_t device, int (*each)(const struct store_phase *, void *), void *arg)
{
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	query_open(store, &query, "phase");
	query_bind(&query, ":device", device);
	while (!stopped && query_step(&query) == 1) {
		const struct store_phase phase = {
		        .step = query_u64(&query, 0),
		        .phase = query_code(&query, 1, NR_PHASES),
		        .device = device,
		        .allocs = query_u64(&query, 3),
		        .alloc_bytes = query_u64(&query, 4),
		        .peak_bytes = query_u64(&query, 5),
		        .end_bytes = query_u64(&query, 6),
		};

		if (query_ok(&query))
			stopped = each(&phase, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

int store_each_span(struct store *store, uint64_t start_seq, uint64_t end_seq, int (*each)(const struct store_span *, void *),
                    void *arg)
{
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	query_open(store, &query, "span");
	query_bind(&query, ":start", start_seq);
	query_bind(&query, ":end", end_seq);
	while (!stopped && query_step(&query) == 1) {
		const struct store_span span = {
		        .id = query_u64(&query, 0),
		        .step = query_u64(&query, 1),
		        .thread = (uint32_t)query_u64_max(&query, 2, UINT32_MAX),
		        .phase = query_code(&query, 3, NR_PHASES),
		        .recompute = query_u64_max(&query, 4, 1) != 0,
		        .root = query_text(&query, 5),
		        .start_seq = query_u64(&query, 6),
		        .end_seq = query_u64(&query, 7),
		        .start_ns = query_u64(&query, 8),
		        .end_ns = query_u64(&query, 9),
		        .start_bytes = query_u64(&query, 10),
		        .peak_bytes = query_u64(&query, 11),
		        .end_bytes = query_u64(&query, 12),
		};

		if (query_ok(&query))
			stopped = each(&span, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

static void read_allocation_row(struct query *query, struct store_allocation *ret)
{
	uint64_t flags = query_u64(query, 14);

	*ret = (struct store_allocation){
	        .id = query_u64(query, 0),
	        .size_bytes = query_u64(query, 1),
	        .alloc_seq = query_u64(query, 2),
	        .free_seq = query_u64(query, 3),
	        .alloc_ns = query_u64(query, 4),
	        .free_ns = query_u64(query, 5),
	        .step = query_u64(query, 6),
	        .thread = (uint32_t)query_u64_max(query, 7, UINT32_MAX),
	        .device = (uint16_t)query_u64_max(query, 8, UINT16_MAX),
	        .level = query_code(query, 9, NR_LEVELS),
	        .phase = query_code(query, 10, NR_PHASES),
	        .free_phase = query_code(query, 11, NR_PHASES),
	        .category = query_code(query, 12, NR_CATEGORIES),
	        .rule = query_code(query, 13, NR_CATEGORY_RULES),
	        .provisional = flags & 1,
	        .recompute = (flags >> 1) & 1,
	        .root = query_text(query, 15),
	        .layer = query_text(query, 16),
	        .parameter = query_text(query, 17),
	        .state_key = query_text(query, 18),
	        .shape = query_text(query, 19),
	        .dtype = query_text(query, 20),
	        .line = query_text(query, 21),
	        .operation = query_text(query, 22),
	        .free_step = query_u64(query, 23),
	        .address = (uint64_t)query_i64(query, 24),
	        .requested_bytes = query_u64(query, 25),
	};
}

static int check_layer(struct store *store, const struct store_filter *filter)
{
	struct query query;
	bool found = true;

	query_open(store, &query, "has_layer");
	query_bind_layer(&query, filter);
	if (query_step(&query) == 1)
		found = query_u64(&query, 0) != 0;
	int r = query_close(&query);

	if (!r && !found)
		r = store_fail(store, -ENOENT, "has no layer '%.200s'; the view layers lists those that it has", filter->layer);
	return r;
}

static int check_step(struct store *store, const struct store_filter *filter)
{
	struct query query;
	uint64_t nr_steps = 0, last = 0;
	bool found = true;

	query_open(store, &query, "steps");
	query_bind(&query, ":step", filter->step);
	if (query_step(&query) == 1) {
		nr_steps = query_u64(&query, 0);
		last = query_u64(&query, 1);
		found = query_u64(&query, 2) != 0;
	}
	int r = query_close(&query);

	if (!r && !nr_steps)
		r = store_fail(store, -ENOENT, "has no step: nothing was recorded");
	else if (!r && !found)
		r = store_fail(store, -ENOENT, "has no step %llu; its steps are 0 to %llu", (unsigned long long)filter->step,
		               (unsigned long long)last);
	return r;
}

int store_check_filter(struct store *store, const struct store_filter *filter)
{
	int r = 0;

	store_begin_call(store);
	if (filter->layer)
		r = check_layer(store, filter);
	if (!r && filter->step != UINT64_MAX)
		r = check_step(store, filter);
	return r;
}

/* The allocations whose ids @ids gives.  Closes @ids. */
static int each_of_ids(struct store *store, struct query *ids, int (*each)(const struct store_allocation *, void *), void *arg)
{
	struct query query;
	int stopped = 0;

	query_open(store, &query, "allocation");
	while (!stopped && query_ok(&query) && query_step(ids) == 1) {
		struct store_allocation allocation;

		query_bind(&query, ":id", query_u64(ids, 0));
		if (!query_ok(ids) || query_step(&query) != 1)
			break;
		read_allocation_row(&query, &allocation);
		if (query_ok(&query))
			stopped = each(&allocation, arg);
		query_reset(&query);
	}
	int r = query_close(ids);
	int r2 = query_close(&query);

	return stopped ? stopped : r ? r : r2;
}

int store_each_live(struct store *store, uint16_t device, uint64_t seq, const struct store_filter *filter,
                    int (*each)(const struct store_allocation *, void *), void *arg)
{
	struct query ids;

	store_begin_call(store);
	query_open(store, &ids, "live");
	query_bind(&ids, ":device", device);
	query_bind(&ids, ":seq", seq);
	query_bind_filter(&ids, filter);
	return each_of_ids(store, &ids, each, arg);
}

int store_each_life(struct store *store, uint16_t device, uint64_t start_seq, uint64_t end_seq, const struct store_filter *filter,
                    int (*each)(const struct store_allocation *, void *), void *arg)
{
	struct query ids;

	store_begin_call(store);
	query_open(store, &ids, "lives");
	query_bind(&ids, ":device", device);
	query_bind(&ids, ":start", start_seq);
	query_bind(&ids, ":end", end_seq);
	query_bind_filter(&ids, filter);
	return each_of_ids(store, &ids, each, arg);
}

int store_each_thread(struct store *store, int (*each)(const struct store_thread *, void *), void *arg)
{
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	query_open(store, &query, "thread");
	while (!stopped && query_step(&query) == 1) {
		uint64_t flags = query_u64(&query, 2);
		const struct store_thread thread = {
		        .id = (uint32_t)query_u64_max(&query, 0, UINT32_MAX),
		        .os_id = query_u64(&query, 1),
		        .python = flags & RECORD_F_PYTHON,
		        .autograd = flags & RECORD_F_AUTOGRAD,
		        .name = query_text_required(&query, 3),
		};

		if (query_ok(&query))
			stopped = each(&thread, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

void query_read_oom(struct query *query, struct store_oom *ret)
{
	*ret = (struct store_oom){
	        .seq = query_u64(query, 0),
	        .ns = query_u64(query, 1),
	        .step = query_u64(query, 2),
	        .thread = (uint32_t)query_u64_max(query, 3, UINT32_MAX),
	        .device = (uint16_t)query_u64_max(query, 4, UINT16_MAX),
	        .phase = query_code(query, 5, NR_PHASES),
	        .root = query_text(query, 6),
	        .layer = query_text(query, 7),
	        .size_bytes = query_u64(query, 8),
	        .allocated_bytes = query_u64(query, 9),
	        .reserved_bytes = query_u64(query, 10),
	        .line = query_text(query, 11),
	        .operation = query_text(query, 12),
	};
}

int store_each_oom(struct store *store, int (*each)(const struct store_oom *, void *), void *arg)
{
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	query_open(store, &query, "oom");
	while (!stopped && query_step(&query) == 1) {
		struct store_oom oom;

		query_read_oom(&query, &oom);
		if (query_ok(&query))
			stopped = each(&oom, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

int store_one_allocation(struct store *store, uint64_t id, int (*each)(const struct store_allocation *, void *), void *arg)
{
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	query_open(store, &query, "allocation");
	query_bind(&query, ":id", id);
	if (query_step(&query) == 1) {
		struct store_allocation allocation;

		read_allocation_row(&query, &allocation);
		if (query_ok(&query))
			stopped = each(&allocation, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

int store_each_note(struct store *store, int (*each)(const struct store_note *, void *), void *arg)
{
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	query_open(store, &query, "note");
	while (!stopped && query_step(&query) == 1) {
		const struct store_note note = {
		        .seq = query_u64(&query, 0),
		        .severity = query_code(&query, 1, RECORD_SEVERITY_ERROR + 1),
		        .text = query_text_required(&query, 2),
		};

		if (query_ok(&query))
			stopped = each(&note, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}

int store_each_fact(struct store *store, int (*each)(const char *key, const char *value, void *arg), void *arg)
{
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	query_open(store, &query, "fact");
	while (!stopped && query_step(&query) == 1) {
		const char *key = query_text_required(&query, 0);
		const char *value = query_text_required(&query, 1);

		if (query_ok(&query))
			stopped = each(key, value, arg);
	}
	int r = query_close(&query);

	return stopped ? stopped : r;
}
