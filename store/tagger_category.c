/*
 * What a block is for.
 *
 * Names decide first: a storage that the adapter named is what it was named.  Else the phase of birth and what was over at
 * death decide; the rule that did is stored with the category.  A block that is alive has a provisional
 * category: what it would be if it were never freed, but in an episode that is still open what it is so far (in forward:
 * its layer's call has returned: activation, else temporary).
 *
 * - What was given to a root module's call is not always named input: name_input().
 * - The gradient of the loss that `.backward()` makes before the engine starts is an activation gradient, though it is born
 *   in forward and dies after backward.
 * - What autograd.grad() leaves is gradient too.
 * - A block of a GPU that was asked for without any storage's size having been computed is no tensor's: a library took it
 *   (cuBLAS, cuDNN, CUB) and keeps it as long as it likes.  Before training such blocks are also made for files that are loaded.
 * - What is made between a backward and the step() that follows on the thread, and is gone before a forward begins, prepares
 *   or is the update: norms of gradients and what clips and unscales them, an update that is written by hand.  Whether
 *   step() follows is not known when it is freed; before another micro-batch the same is said of what its loading leaves.
 *   What is still there in the next forward is kept for later (copies of gradients) and of no category: data is loaded after
 *   step(), or before another micro-batch, which is a forward before step().
 */
#include "store/tagger_internal.h"

struct verdict {
	enum category category;
	enum category_rule rule;
};

static const struct verdict named[] = {
        [RECORD_TENSOR_PARAMETER] = {CATEGORY_PARAMETER, RULE_NAMED_PARAMETER},
        [RECORD_TENSOR_BUFFER] = {CATEGORY_BUFFER, RULE_NAMED_BUFFER},
        [RECORD_TENSOR_STATE] = {CATEGORY_OPTIMIZER_STATE, RULE_NAMED_STATE},
        [RECORD_TENSOR_GRADIENT] = {CATEGORY_GRADIENT, RULE_NAMED_GRADIENT},
};

static bool is_dead(const struct live *live)
{
	return live->a.free_seq != 0;
}

static bool is_outside(uint8_t phase)
{
	return phase == PHASE_STATIC || phase == PHASE_OTHER;
}

/* Whether the episode of birth is over; of an unknown one, death in the same phase is taken for the same episode. */
static bool is_over(const struct tagger *tagger, const struct live *live)
{
	if (!live->a.episode)
		return !is_dead(live) || live->a.free_phase != live->a.phase;
	return !episodes_is_open(&tagger->episodes, live->a.episode);
}

static struct verdict static_verdict(const struct tagger *tagger, const struct live *live)
{
	bool in_setup = tagger->in_static && (is_outside(live->a.free_phase) || live->a.free_phase == PHASE_INFERENCE);

	if (is_dead(live) && in_setup)
		return (struct verdict){CATEGORY_UNKNOWN, RULE_STATIC_TEMPORARY};
	if (tagger->adapter)
		return (struct verdict){CATEGORY_INPUT, RULE_STATIC_DATA};
	return (struct verdict){CATEGORY_PARAMETER, RULE_STATIC_KEPT};
}

static struct verdict forward_verdict(const struct tagger *tagger, const struct live *live)
{
	bool kept = is_over(tagger, live);

	if (!kept && !is_dead(live))
		kept = live->a.module && !scope_module_is_open(tagger, live->a.thread, live->a.module);
	if (kept)
		return (struct verdict){CATEGORY_ACTIVATION, RULE_FORWARD_KEPT};
	return (struct verdict){CATEGORY_FORWARD_TEMPORARY, RULE_FORWARD_FREED};
}

static bool is_workspace(const struct tagger *tagger, const struct tag_allocation *a)
{
	return record_is_cuda(a->device) && tagger->requests && !a->requested_bytes && a->phase != PHASE_STATIC;
}

static struct verdict verdict_of(const struct tagger *tagger, const struct live *live)
{
	const struct tag_allocation *a = &live->a;

	if (a->level != LEVEL_BLOCK)
		return (struct verdict){CATEGORY_UNKNOWN, RULE_NONE};
	if (a->tensor)
		return named[tagger->tensors[a->tensor - 1].kind];
	if (a->named_input)
		return (struct verdict){CATEGORY_INPUT, RULE_NAMED_INPUT};
	if (a->seed)
		return (struct verdict){CATEGORY_BACKWARD_TEMPORARY, RULE_BACKWARD_SEED};
	if (is_workspace(tagger, a))
		return (struct verdict){CATEGORY_WORKSPACE, RULE_NO_TENSOR};
	if (a->recompute)
		return (struct verdict){CATEGORY_RECOMPUTE, RULE_RECOMPUTE};
	switch (a->phase) {
	case PHASE_STATIC:
		return static_verdict(tagger, live);
	case PHASE_FORWARD:
		return forward_verdict(tagger, live);
	case PHASE_BACKWARD:
		if (is_over(tagger, live))
			return (struct verdict){CATEGORY_GRADIENT, RULE_BACKWARD_KEPT};
		return (struct verdict){CATEGORY_BACKWARD_TEMPORARY, RULE_BACKWARD_FREED};
	case PHASE_OPTIMIZER:
		if (is_over(tagger, live))
			return (struct verdict){CATEGORY_OPTIMIZER_STATE, RULE_OPTIMIZER_KEPT};
		return (struct verdict){CATEGORY_OPTIMIZER_TEMPORARY, RULE_OPTIMIZER_FREED};
	case PHASE_INFERENCE:
		return (struct verdict){CATEGORY_FORWARD_TEMPORARY, RULE_INFERENCE};
	default:
		if (a->seen_forward && a->into_step)
			return (struct verdict){CATEGORY_UNKNOWN, RULE_BEFORE_STEP_KEPT};
		if (a->seen_forward)
			return (struct verdict){CATEGORY_INPUT, RULE_BEFORE_FORWARD};
		if (a->before_step && is_dead(live))
			return (struct verdict){CATEGORY_OPTIMIZER_TEMPORARY, RULE_BEFORE_STEP};
		return (struct verdict){CATEGORY_UNKNOWN, RULE_BETWEEN_PHASES};
	}
}

void category_decide(const struct tagger *tagger, struct live *live)
{
	struct verdict verdict;

	if (live->a.phase == PHASE_OTHER && tagger->nr_forwards > live->forwards)
		live->a.seen_forward = true;
	verdict = verdict_of(tagger, live);
	live->a.category = (uint8_t)verdict.category;
	live->a.rule = (uint8_t)verdict.rule;
	live->a.provisional = !is_dead(live);
}

/* One that was born between a backward of @thread and the step() that begins now, with no forward in between. */
static void goes_into_step(struct tagger *tagger, const struct thread *thread, uint32_t index)
{
	struct live *live = &tagger->live.pool[index];

	if (!live->a.before_step || live->a.into_step || live->a.thread != thread->id || live->forwards != tagger->nr_forwards)
		return;
	live->a.into_step = live->named = true;
	live_move(&tagger->live, index, LIVE_YOUNG);
}

/* Whether a name or step() has moved it to the end of its list, where otherwise what was born last is. */
static bool was_moved(const struct live *live)
{
	return live->named || live->a.tensor || live->a.named_input || live->a.seed || live->a.into_step;
}

/* A step() of @thread begins.  Looks at what was born since the thread owes it: no later step() looks at that again. */
void category_step(struct tagger *tagger, const struct thread *thread)
{
	static const enum live_list lists[] = {LIVE_YOUNG, LIVE_IDLE};

	for (unsigned i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		uint32_t before;

		for (uint32_t at = tagger->live.tail[lists[i]]; at != NONE; at = before) {
			const struct live *live = &tagger->live.pool[at];

			before = live->prev;
			if (!was_moved(live) && live->a.alloc_seq < thread->owes_step_seq)
				break;
			goes_into_step(tagger, thread, at);
		}
	}
}

/* Whether the category can only change by a name or by death. */
bool category_is_settled(const struct tagger *tagger, const struct live *live)
{
	const struct tag_allocation *a = &live->a;

	if (a->level != LEVEL_BLOCK || a->tensor || a->recompute || a->seed)
		return true;
	switch (a->phase) {
	case PHASE_STATIC:
	case PHASE_INFERENCE:
		return true;
	case PHASE_OTHER:
		return a->seen_forward;
	default:
		return !a->episode || !episodes_is_open(&tagger->episodes, a->episode);
	}
}
