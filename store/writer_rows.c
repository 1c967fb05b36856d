/* The rows of a run file: what the tagger tells, table by table; schema.sql says what the columns mean. */
#include "store/writer_internal.h"

#include <stdio.h>

static unsigned allocation_flags(const struct tag_allocation *allocation)
{
	return (allocation->provisional ? FLAG_PROVISIONAL : 0) | (allocation->recompute ? FLAG_RECOMPUTE : 0) |
	       (allocation->shared ? FLAG_SHARED : 0) | (allocation->free_lost ? FLAG_FREE_LOST : 0) |
	       (allocation->seen_forward ? FLAG_SEEN_FORWARD : 0) | (allocation->named_input ? FLAG_NAMED_INPUT : 0) |
	       (allocation->seed ? FLAG_SEED : 0) | (allocation->before_step ? FLAG_BEFORE_STEP : 0) |
	       (allocation->seen ? FLAG_SEEN : 0) | (allocation->into_step ? FLAG_INTO_STEP : 0);
}

static int write_allocation(void *arg, struct tag_allocation *allocation)
{
	struct writer *writer = arg;
	bool alive = allocation->free_seq == 0;
	struct row row;
	int r = row_begin(
	        writer,
	        "INSERT OR REPLACE INTO allocation (id, device, level, address, size_bytes, alloc_seq, alloc_ns, free_seq,"
	        " free_ns, thread, free_thread, stretch, free_stretch, phase, free_phase, category, rule, module, tensor,"
	        " stack, flags, episode, call, requested_bytes, caller)"
	        " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
	        &row);

	if (r)
		return r;
	row_u64(&row, allocation->id);
	row_u64(&row, allocation->device);
	row_u64(&row, allocation->level);
	row_u64(&row, allocation->address);
	row_u64(&row, allocation->size_bytes);
	row_u64(&row, allocation->alloc_seq);
	row_u64(&row, relative_ns(writer, allocation->alloc_ns));
	row_u64_unless(&row, alive, allocation->free_seq);
	row_u64_unless(&row, alive, relative_ns(writer, allocation->free_ns));
	row_u64(&row, allocation->thread);
	row_u64(&row, allocation->free_thread);
	row_u64(&row, allocation->stretch);
	row_u64(&row, allocation->free_stretch);
	row_u64(&row, allocation->phase);
	row_u64_unless(&row, alive, allocation->free_phase);
	row_u64(&row, allocation->category);
	row_u64(&row, allocation->rule);
	row_u64(&row, allocation->module);
	row_u64(&row, allocation->tensor);
	row_u64(&row, allocation->stack);
	row_u64(&row, allocation_flags(allocation));
	row_u64(&row, allocation->episode);
	row_u64(&row, allocation->call);
	row_u64(&row, allocation->requested_bytes);
	row_u64(&row, allocation->caller);
	r = row_end(&row);
	if (!r)
		allocation->stored = true;
	return r;
}

static int write_stretch(void *arg, uint64_t stretch, uint64_t step)
{
	struct row row;
	int r = row_begin(arg, "INSERT OR REPLACE INTO stretch (id, step) VALUES (?,?)", &row);

	if (r)
		return r;
	row_u64(&row, stretch);
	row_u64(&row, step);
	return row_end(&row);
}

static int write_step_phase(struct writer *writer, uint64_t step, uint16_t device, unsigned phase,
                            const struct tag_phase_totals *totals)
{
	struct row row;
	int r = row_begin(writer,
	                  "INSERT OR REPLACE INTO step_phase (step, device, phase, allocs, alloc_bytes, peak_bytes, end_bytes)"
	                  " VALUES (?,?,?,?,?,?,?)",
	                  &row);

	if (r)
		return r;
	row_u64(&row, step);
	row_u64(&row, device);
	row_u64(&row, phase);
	row_u64(&row, totals->allocs);
	row_u64(&row, totals->alloc_bytes);
	row_u64(&row, totals->peak_bytes);
	row_u64(&row, totals->end_bytes);
	return row_end(&row);
}

static int write_step_device(struct writer *writer, uint64_t step, const struct tag_step_device *device)
{
	struct row row;
	int r = row_begin(writer,
	                  "INSERT OR REPLACE INTO step_device (step, device, allocs, frees, alloc_bytes, start_bytes, peak_bytes,"
	                  " peak_seq, peak_phase, end_bytes) VALUES (?,?,?,?,?,?,?,?,?,?)",
	                  &row);

	if (r)
		return r;
	row_u64(&row, step);
	row_u64(&row, device->device);
	row_u64(&row, device->allocs);
	row_u64(&row, device->frees);
	row_u64(&row, device->alloc_bytes);
	row_u64(&row, device->start_bytes);
	row_u64(&row, device->peak_bytes);
	row_u64(&row, device->peak_seq);
	row_u64(&row, device->peak_phase);
	row_u64(&row, device->end_bytes);
	r = row_end(&row);
	for (unsigned phase = 0; phase < NR_PHASES && !r; phase++)
		if (device->phases[phase].seen)
			r = write_step_phase(writer, step, device->device, phase, &device->phases[phase]);
	return r;
}

/* What an open step was said to hold may belong to the step before it in the end. */
static int forget_step(struct writer *writer, const char *sql, uint64_t step)
{
	struct row row;
	int r = row_begin(writer, sql, &row);

	if (r)
		return r;
	row_u64(&row, step);
	return row_end(&row);
}

static int write_step(void *arg, const struct tag_step *step)
{
	struct writer *writer = arg;
	struct row row;
	int r = row_begin(writer,
	                  "INSERT OR REPLACE INTO step (step, kind, closed, start_seq, end_seq, start_ns, end_ns)"
	                  " VALUES (?,?,?,?,?,?,?)",
	                  &row);

	if (r)
		return r;
	row_u64(&row, step->step);
	row_u64(&row, step->kind);
	row_u64(&row, step->closed);
	row_u64(&row, step->start_seq);
	row_u64(&row, step->end_seq);
	row_u64(&row, relative_ns(writer, step->start_ns));
	row_u64(&row, relative_ns(writer, step->end_ns));
	r = row_end(&row);
	if (!r)
		r = forget_step(writer, "DELETE FROM step_device WHERE step = ?", step->step);
	if (!r)
		r = forget_step(writer, "DELETE FROM step_phase WHERE step = ?", step->step);
	for (size_t i = 0; i < step->nr_devices && !r; i++)
		r = write_step_device(writer, step->step, &step->devices[i]);
	return r;
}

/* Run totals speak of the first CUDA device, else of the first device at all (the CPU). */
static int choose_main_device(struct writer *writer, uint16_t device)
{
	struct row row;
	int r;

	if (writer->main_device == device)
		return 0;
	if (writer->main_device != NO_DEVICE && (record_is_cuda((uint16_t)writer->main_device) || !record_is_cuda(device)))
		return 0;
	writer->main_device = device;
	r = row_begin(writer, "UPDATE device SET is_main = 0", &row);
	return r ? r : row_end(&row);
}

static int write_device(void *arg, const struct tag_device *device)
{
	struct writer *writer = arg;
	char name[DEVICE_NAME_MAX];
	struct row row;
	int r = choose_main_device(writer, device->device);

	if (!r)
		r = row_begin(writer,
		              "INSERT OR REPLACE INTO device (id, name, is_main, allocs, frees, live_bytes, peak_bytes, peak_seq,"
		              " peak_stretch, peak_phase, reserved_peak_bytes, audit_checks, audit_failures, unknown_frees)"
		              " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
		              &row);
	if (r)
		return r;
	row_u64(&row, device->device);
	row_text(&row, device_name(device->device, name));
	row_u64(&row, writer->main_device == device->device);
	row_u64(&row, device->allocs);
	row_u64(&row, device->frees);
	row_u64(&row, device->live_bytes);
	row_u64(&row, device->peak_bytes);
	row_u64(&row, device->peak_seq);
	row_u64(&row, device->peak_stretch);
	row_u64(&row, device->peak_phase);
	row_u64(&row, device->reserved_peak_bytes);
	row_u64(&row, device->audit_checks);
	row_u64(&row, device->audit_failures);
	row_u64(&row, device->unknown_frees);
	return row_end(&row);
}

static int write_span(void *arg, const struct tag_span *span)
{
	struct writer *writer = arg;
	struct row row;
	int r = row_begin(
	        writer,
	        "INSERT OR REPLACE INTO span (id, stretch, thread, module, optimizer, phase, recompute, start_seq, end_seq,"
	        " start_ns, end_ns, start_bytes, peak_bytes, end_bytes) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
	        &row);

	if (r)
		return r;
	row_u64(&row, span->id);
	row_u64(&row, span->stretch);
	row_u64(&row, span->thread);
	row_u64(&row, span->module);
	row_u64(&row, span->optimizer);
	row_u64(&row, span->phase);
	row_u64(&row, span->recompute);
	row_u64(&row, span->start_seq);
	row_u64(&row, span->end_seq);
	row_u64(&row, relative_ns(writer, span->start_ns));
	row_u64(&row, relative_ns(writer, span->end_ns));
	row_u64(&row, span->start_bytes);
	row_u64(&row, span->peak_bytes);
	row_u64(&row, span->end_bytes);
	return row_end(&row);
}

static int write_layer_peaks(void *arg, uint16_t device, const struct tag_layer_peak *peaks, size_t nr_peaks)
{
	struct writer *writer = arg;
	struct row row;
	int r = row_begin(writer, "DELETE FROM layer_peak WHERE device = ?", &row);

	if (r)
		return r;
	row_u64(&row, device);
	r = row_end(&row);
	for (size_t i = 0; i < nr_peaks && !r; i++) {
		r = row_begin(writer,
		              "INSERT OR REPLACE INTO layer_peak (device, module, forward_peak_bytes, backward_peak_bytes)"
		              " VALUES (?,?,?,?)",
		              &row);
		if (r)
			return r;
		row_u64(&row, peaks[i].device);
		row_u64(&row, peaks[i].module);
		row_u64(&row, peaks[i].forward_peak_bytes);
		row_u64(&row, peaks[i].backward_peak_bytes);
		r = row_end(&row);
	}
	return r;
}

static int write_module(void *arg, const struct tag_module *module)
{
	struct row row;
	int r = row_begin(arg, "INSERT OR REPLACE INTO module (id, root, parent, fqn, class, root_name) VALUES (?,?,?,?,?,?)",
	                  &row);

	if (r)
		return r;
	row_u64(&row, module->id);
	row_u64(&row, module->root);
	row_u64(&row, module->parent);
	row_text_or_empty(&row, module->fqn);
	row_text_or_empty(&row, module->class_name);
	row_text_or_empty(&row, module->root_name);
	return row_end(&row);
}

static int write_tensor(void *arg, const struct tag_tensor *tensor)
{
	struct row row;
	int r = row_begin(arg,
	                  "INSERT OR REPLACE INTO tensor (id, kind, module, optimizer, name, dtype, shape, state_key, address,"
	                  " size_bytes, allocation) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
	                  &row);

	if (r)
		return r;
	row_u64(&row, tensor->id);
	row_u64(&row, tensor->kind);
	row_u64(&row, tensor->module);
	row_u64(&row, tensor->optimizer);
	row_text_or_empty(&row, tensor->name);
	row_text_or_empty(&row, tensor->dtype);
	row_text_or_empty(&row, tensor->shape);
	row_text(&row, tensor->state_key && tensor->state_key[0] ? tensor->state_key : NULL);
	row_u64(&row, tensor->address);
	row_u64(&row, tensor->size_bytes);
	row_u64_unless(&row, tensor->allocation == 0, tensor->allocation);
	return row_end(&row);
}

static int write_thread(void *arg, const struct tag_thread *thread)
{
	struct row row;
	int r = row_begin(arg, "INSERT OR REPLACE INTO thread (id, os_id, flags, name) VALUES (?,?,?,?)", &row);

	if (r)
		return r;
	row_u64(&row, thread->id);
	row_u64(&row, thread->os_id);
	row_u64(&row, thread->flags);
	row_text_or_empty(&row, thread->name);
	return row_end(&row);
}

static int write_optimizer(void *arg, const struct tag_optimizer *optimizer)
{
	struct row row;
	int r = row_begin(arg, "INSERT OR REPLACE INTO optimizer (id, class) VALUES (?,?)", &row);

	if (r)
		return r;
	row_u64(&row, optimizer->id);
	row_text_or_empty(&row, optimizer->class_name);
	return row_end(&row);
}

static int write_frame(void *arg, const struct tag_frame *frame)
{
	struct row row;
	int r = row_begin(arg,
	                  "INSERT OR REPLACE INTO frame (id, kind, file, function, line, internal, build_id, offset)"
	                  " VALUES (?,?,?,?,?,?,?,?)",
	                  &row);

	if (r)
		return r;
	row_u64(&row, frame->id);
	row_u64(&row, frame->kind);
	row_text_or_empty(&row, frame->file);
	row_text_or_empty(&row, frame->function);
	row_u64(&row, frame->line);
	row_u64(&row, frame->internal);
	row_text(&row, frame->build_id);
	row_u64_unless(&row, frame->kind != FRAME_NATIVE, frame->offset);
	return row_end(&row);
}

static int write_stack(void *arg, const struct tag_stack *stack)
{
	struct row row;
	int r = row_begin(arg, "INSERT OR REPLACE INTO stack (id, parent, frame, shown, operation) VALUES (?,?,?,?,?)", &row);

	if (r)
		return r;
	row_u64(&row, stack->id);
	row_u64(&row, stack->parent);
	row_u64(&row, stack->frame);
	row_u64(&row, stack->shown);
	row_u64(&row, stack->operation);
	return row_end(&row);
}

static int write_refused_request(struct writer *writer, const char *sql, const struct tag_oom *oom)
{
	struct row row;
	int r = row_begin(writer, sql, &row);

	if (r)
		return r;
	row_u64(&row, oom->seq);
	row_u64(&row, relative_ns(writer, oom->ns));
	row_u64(&row, oom->stretch);
	row_u64(&row, oom->thread);
	row_u64(&row, oom->module);
	row_u64(&row, oom->device);
	row_u64(&row, oom->phase);
	row_u64(&row, oom->size_bytes);
	row_u64(&row, oom->allocated_bytes);
	row_u64(&row, oom->reserved_bytes);
	row_u64(&row, oom->stack);
	return row_end(&row);
}

#define REFUSED_COLUMNS                                                                                                          \
	" (seq, ns, stretch, thread, module, device, phase, size_bytes, allocated_bytes, reserved_bytes, stack)"                 \
	" VALUES (?,?,?,?,?,?,?,?,?,?,?)"

static int write_oom(void *arg, const struct tag_oom *oom)
{
	return write_refused_request(arg, "INSERT OR REPLACE INTO oom" REFUSED_COLUMNS, oom);
}

static int write_refused(void *arg, const struct tag_oom *refusal)
{
	return write_refused_request(arg, "INSERT OR REPLACE INTO refusal" REFUSED_COLUMNS, refusal);
}

static int write_used(void *arg, const struct tag_used *used)
{
	struct writer *writer = arg;
	struct row row;
	int r = row_begin(writer,
	                  "INSERT OR REPLACE INTO driver (device, seq, last_seq, ns, used_bytes, total_bytes, segment_bytes,"
	                  " reserved_bytes, first) VALUES (?,?,?,?,?,?,?,?,?)",
	                  &row);

	if (r)
		return r;
	row_u64(&row, used->device);
	row_u64(&row, used->seq);
	row_u64(&row, used->last_seq);
	row_u64(&row, relative_ns(writer, used->ns));
	row_u64(&row, used->used_bytes);
	row_u64(&row, used->total_bytes);
	row_u64(&row, used->segment_bytes);
	row_u64(&row, used->reserved_bytes);
	row_u64(&row, used->first);
	return row_end(&row);
}

int writer_object(struct writer *writer, uint64_t start, uint64_t end, const char *file)
{
	struct row row;
	int r = row_begin(writer, "INSERT OR REPLACE INTO object (start, end, file) VALUES (?,?,?)", &row);

	if (r)
		return r;
	row_u64(&row, start);
	row_u64(&row, end);
	row_text_or_empty(&row, file);
	return row_end(&row);
}

int writer_note(struct writer *writer, uint64_t seq, enum record_severity severity, const char *what)
{
	struct row row;
	int r = row_begin(writer, "INSERT INTO note (seq, severity, what) VALUES (?,?,?)", &row);

	if (r)
		return r;
	row_u64(&row, seq);
	row_u64(&row, severity);
	row_text_or_empty(&row, what);
	return row_end(&row);
}

static int write_note(void *arg, const struct tag_note *note)
{
	return writer_note(arg, note->seq, note->severity, note->text);
}

static int write_info(void *arg, const char *key, const char *value)
{
	struct row row;
	int r = row_begin(arg, "INSERT OR REPLACE INTO fact (key, value) VALUES (?,?)", &row);

	if (r)
		return r;
	row_text_or_empty(&row, key);
	row_text_or_empty(&row, value);
	return row_end(&row);
}

static int write_end(void *arg, unsigned how, int64_t status, uint64_t peak_rss_bytes)
{
	struct writer *writer = arg;
	struct row row;

	if (how == RECORD_END_EXEC)
		snprintf(writer->told_end, sizeof(writer->told_end), "exec");
	else
		snprintf(writer->told_end, sizeof(writer->told_end), "exit %lld", (long long)status);
	if (peak_rss_bytes > writer->peak_rss_bytes)
		writer->peak_rss_bytes = peak_rss_bytes;
	/* Nothing to write by itself, but there is something to commit. */
	return row_begin(writer, "SELECT 1", &row);
}

struct tag_sink writer_sink(struct writer *writer)
{
	return (struct tag_sink){
	        .arg = writer,
	        .allocation = write_allocation,
	        .stretch = write_stretch,
	        .step = write_step,
	        .device = write_device,
	        .span = write_span,
	        .layer_peaks = write_layer_peaks,
	        .module = write_module,
	        .tensor = write_tensor,
	        .thread = write_thread,
	        .optimizer = write_optimizer,
	        .frame = write_frame,
	        .stack = write_stack,
	        .oom = write_oom,
	        .refused = write_refused,
	        .used = write_used,
	        .note = write_note,
	        .info = write_info,
	        .end = write_end,
	};
}
