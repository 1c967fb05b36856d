/*
 * The closed lists that a run file and the reports use, with their names as stored and shown.
 *
 * A name is part of the public contract (views, JSON): append, never rename.  Each *_name() returns a static string,
 * "?" for a value outside its list.
 */
#ifndef NNMEM_STORE_NAMES_H
#define NNMEM_STORE_NAMES_H

#include "nnmem/record.h"
#include "nnmem/ring.h"

#include <stddef.h>

/* What a block is for. */
enum category {
	CATEGORY_UNKNOWN = 0,
	CATEGORY_PARAMETER,
	CATEGORY_BUFFER,
	CATEGORY_GRADIENT,
	CATEGORY_OPTIMIZER_STATE,
	CATEGORY_ACTIVATION, /* saved for backward */
	CATEGORY_INPUT,
	CATEGORY_FORWARD_TEMPORARY,
	CATEGORY_BACKWARD_TEMPORARY, /* activation gradients among them */
	CATEGORY_OPTIMIZER_TEMPORARY,
	CATEGORY_RECOMPUTE,
	CATEGORY_WORKSPACE,
	CATEGORY_COMMUNICATION,
	NR_CATEGORIES
};

/* The rule that decided a category: by a pointer that the adapter named, or by phase of birth and death. */
enum category_rule {
	RULE_NONE = 0,        /* category unknown */
	RULE_NAMED_PARAMETER, /* storage named by the Python adapter */
	RULE_NAMED_BUFFER,
	RULE_NAMED_STATE,
	RULE_NAMED_GRADIENT,
	RULE_NAMED_INPUT,      /* storage was given to a root module call */
	RULE_STATIC_KEPT,      /* born before step 1, kept; no adapter to say whose: parameter */
	RULE_STATIC_DATA,      /* born before step 1, kept, and no module or optimizer owns it: input */
	RULE_STATIC_TEMPORARY, /* born and freed before step 1: unknown */
	RULE_BEFORE_FORWARD,   /* born outside the phases, lived into a forward: input */
	RULE_BETWEEN_PHASES,   /* born and freed outside the phases: unknown */
	RULE_FORWARD_KEPT,     /* born in forward, alive when the forward ended: activation */
	RULE_FORWARD_FREED,    /* born and freed in one forward: forward_temporary */
	RULE_INFERENCE,        /* born with gradients off: forward_temporary */
	RULE_BACKWARD_KEPT,    /* born in backward, alive when it ended: gradient */
	RULE_BACKWARD_FREED,   /* born and freed in one backward: backward_temporary */
	RULE_RECOMPUTE,        /* born in a module call inside backward: recompute */
	RULE_OPTIMIZER_KEPT,   /* born in step(), alive when it ended: optimizer_state */
	RULE_OPTIMIZER_FREED,  /* born and freed in one step(): optimizer_temporary */
	RULE_BACKWARD_SEED,    /* the gradient of the loss, made just before backward began: backward_temporary */
	RULE_BEFORE_STEP,      /* born between backward and step(), freed before the next forward: optimizer_temporary */
	RULE_NO_TENSOR,        /* memory of a GPU that no tensor asked for: workspace */
	RULE_BEFORE_STEP_KEPT, /* as RULE_BEFORE_STEP, but alive in the next forward: unknown */
	NR_CATEGORY_RULES
};

/* What a frame of a stack is. */
enum frame_kind { FRAME_PYTHON = 0, FRAME_OPERATION = 1, FRAME_NATIVE = 2, NR_FRAME_KINDS };

enum step_kind { STEP_SETUP = 0, STEP_TRAIN = 1, STEP_EVAL = 2, STEP_PARTIAL = 3, NR_STEP_KINDS };

const char *phase_name(unsigned phase);
const char *level_name(unsigned level);
const char *category_name(unsigned category);
const char *category_rule_name(unsigned rule);
const char *step_kind_name(unsigned kind);
const char *lost_name(unsigned lost);
const char *severity_name(unsigned severity);
const char *frame_kind_name(unsigned kind);
const char *tensor_kind_name(unsigned kind); /* parameter, buffer, optimizer_state, gradient */

#define DEVICE_NAME_MAX 24
/* "cpu", "cuda:0", "type42:1": as PyTorch writes devices; @ret is filled and returned. */
const char *device_name(uint16_t device, char ret[DEVICE_NAME_MAX]);

#endif
