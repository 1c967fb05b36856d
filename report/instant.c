/* The moment that a view looks at: see instant.h. */
#include "report/instant.h"

#include "report/live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

struct search {
	struct instant *instant;
	uint64_t wanted, seen;
	uint16_t device;
	bool found;
};

static int each_step(const struct store_step *step, void *arg)
{
	struct search *search = arg;

	if (step->step != search->wanted)
		return 0;
	search->found = true;
	search->instant->seq = step->peak_seq ? step->peak_seq : step->start_seq ? step->start_seq - 1 : 0;
	snprintf(search->instant->words, sizeof(search->instant->words), "at the highest point of step %" PRIu64 ", %s",
	         step->step, phase_name(step->peak_phase));
	return 1;
}

static int each_oom(const struct store_oom *oom, void *arg)
{
	struct search *search = arg;

	if (oom->device != search->device || ++search->seen != search->wanted)
		return 0;
	search->found = true;
	search->instant->seq = oom->seq;
	snprintf(search->instant->words, sizeof(search->instant->words),
	         "when it was out of memory (no. %" PRIu64 "), step %" PRIu64 ", %s", search->wanted, oom->step,
	         phase_name(oom->phase));
	return 1;
}

/* Where PyTorch reports no blocks: the answer of the driver that was given when most was seen to be taken. */
static int each_answer(const struct store_driver *said, void *arg)
{
	struct search *search = arg;

	if (search->found && said->segment_bytes <= search->seen)
		return 0;
	search->found = true;
	search->seen = said->segment_bytes;
	search->instant->seq = said->seq;
	return 0;
}

static int find_most(struct report *report, struct instant *ret)
{
	struct search search = {.instant = ret};

	snprintf(ret->words, sizeof(ret->words), "when it was seen to have most");
	return store_each_driver(report->store, report->device, each_answer, &search);
}

static int find_peak(struct report *report, struct instant *ret)
{
	struct store_device device;
	int error = report_read_device(report, &device);

	if (error)
		return error;
	if (!device.allocs && !device.frees)
		return find_most(report, ret);
	ret->seq = device.peak_seq;
	snprintf(ret->words, sizeof(ret->words), "at the peak in step %" PRIu64 ", %s", device.peak_step,
	         phase_name(device.peak_phase));
	return 0;
}

int instant_find(struct report *report, struct instant *ret)
{
	static const char *const names[] = {"peak", "end", "step", "oom"};
	const struct arguments *arguments = report->arguments;
	struct search search = {.instant = ret, .wanted = arguments->at_number, .device = report->device};
	int error = 0;

	*ret = (struct instant){.name = names[arguments->at], .number = arguments->at_number};
	switch (arguments->at) {
	case INSTANT_END:
		ret->seq = report->run.last_seq;
		snprintf(ret->words, sizeof(ret->words), "at the end");
		return 0;
	case INSTANT_STEP:
		error = store_each_step(report->store, report->device, each_step, &search);
		break;
	case INSTANT_OOM:
		error = store_each_oom(report->store, each_oom, &search);
		break;
	default:
		return find_peak(report, ret);
	}
	if (error < 0 || search.found)
		return error < 0 ? error : 0;
	if (arguments->at == INSTANT_STEP)
		snprintf(ret->words, sizeof(ret->words), "%s has no step %" PRIu64, report->device_name, search.wanted);
	else
		snprintf(ret->words, sizeof(ret->words), "%s was out of memory %" PRIu64 " time%s", report->device_name,
		         search.seen, search.seen == 1 ? "" : "s");
	return -ENOENT;
}

bool report_has_device_memory(struct report *report)
{
	if (report->has_device && record_is_cuda(report->device))
		return true;
	if (!report_is_for_people(report))
		return false;
	if (report->arguments->device)
		fprintf(report->out, "%s has no device memory: this view is of GPUs.\n", report->device_name);
	else
		fprintf(report->out, "This run has no device memory: it used no GPU.\n");
	return false;
}
