/* The names of the closed lists of names.h, in the order of their enums. */
#include "store/names.h"

#include <stdio.h>

#define NAME_OF(list, value) ((value) < sizeof(list) / sizeof((list)[0]) && (list)[value] ? (list)[value] : "?")

static const char *const phase_names[NR_PHASES] = {
        [PHASE_STATIC] = "static",       [PHASE_FORWARD] = "forward",     [PHASE_BACKWARD] = "backward",
        [PHASE_OPTIMIZER] = "optimizer", [PHASE_INFERENCE] = "inference", [PHASE_OTHER] = "other",
};

static const char *const level_names[NR_LEVELS] = {
        [LEVEL_BLOCK] = "block",     [LEVEL_SEGMENT] = "segment", [LEVEL_PINNED] = "pinned",
        [LEVEL_MANAGED] = "managed", [LEVEL_MAPPING] = "mapping",
};

static const char *const category_names[NR_CATEGORIES] = {
        [CATEGORY_UNKNOWN] = "unknown",
        [CATEGORY_PARAMETER] = "parameter",
        [CATEGORY_BUFFER] = "buffer",
        [CATEGORY_GRADIENT] = "gradient",
        [CATEGORY_OPTIMIZER_STATE] = "optimizer_state",
        [CATEGORY_ACTIVATION] = "activation",
        [CATEGORY_INPUT] = "input",
        [CATEGORY_FORWARD_TEMPORARY] = "forward_temporary",
        [CATEGORY_BACKWARD_TEMPORARY] = "backward_temporary",
        [CATEGORY_OPTIMIZER_TEMPORARY] = "optimizer_temporary",
        [CATEGORY_RECOMPUTE] = "recompute",
        [CATEGORY_WORKSPACE] = "workspace",
        [CATEGORY_COMMUNICATION] = "communication",
};

static const char *const category_rule_names[NR_CATEGORY_RULES] = {
        [RULE_NONE] = "none",
        [RULE_NAMED_PARAMETER] = "named_parameter",
        [RULE_NAMED_BUFFER] = "named_buffer",
        [RULE_NAMED_STATE] = "named_state",
        [RULE_NAMED_GRADIENT] = "named_gradient",
        [RULE_NAMED_INPUT] = "named_input",
        [RULE_STATIC_KEPT] = "static_kept",
        [RULE_STATIC_DATA] = "static_data",
        [RULE_STATIC_TEMPORARY] = "static_temporary",
        [RULE_BEFORE_FORWARD] = "before_forward",
        [RULE_BETWEEN_PHASES] = "between_phases",
        [RULE_FORWARD_KEPT] = "forward_kept",
        [RULE_FORWARD_FREED] = "forward_freed",
        [RULE_INFERENCE] = "inference",
        [RULE_BACKWARD_KEPT] = "backward_kept",
        [RULE_BACKWARD_FREED] = "backward_freed",
        [RULE_RECOMPUTE] = "recompute",
        [RULE_OPTIMIZER_KEPT] = "optimizer_kept",
        [RULE_OPTIMIZER_FREED] = "optimizer_freed",
        [RULE_BACKWARD_SEED] = "backward_seed",
        [RULE_BEFORE_STEP] = "before_step",
        [RULE_NO_TENSOR] = "no_tensor",
        [RULE_BEFORE_STEP_KEPT] = "before_step_kept",
};

static const char *const step_kind_names[NR_STEP_KINDS] = {
        [STEP_SETUP] = "setup",
        [STEP_TRAIN] = "train",
        [STEP_EVAL] = "eval",
        [STEP_PARTIAL] = "partial",
};

static const char *const frame_kind_names[NR_FRAME_KINDS] = {
        [FRAME_PYTHON] = "python",
        [FRAME_OPERATION] = "operation",
        [FRAME_NATIVE] = "native",
};

static const char *const lost_names[NR_LOST] = {
        [LOST_FULL] = "ring_full",       [LOST_TORN] = "torn", [LOST_RECORDER] = "recorder_dead", [LOST_REENTERED] = "reentered",
        [LOST_DEEP] = "nested_too_deep",
};

static const char *const severity_names[] = {
        [RECORD_SEVERITY_INFO] = "info",
        [RECORD_SEVERITY_DEGRADED] = "degraded",
        [RECORD_SEVERITY_ERROR] = "error",
};

static const char *const tensor_kind_names[] = {
        [RECORD_TENSOR_PARAMETER] = "parameter",
        [RECORD_TENSOR_BUFFER] = "buffer",
        [RECORD_TENSOR_STATE] = "optimizer_state",
        [RECORD_TENSOR_GRADIENT] = "gradient",
};

const char *phase_name(unsigned phase)
{
	return NAME_OF(phase_names, phase);
}

const char *level_name(unsigned level)
{
	return NAME_OF(level_names, level);
}

const char *category_name(unsigned category)
{
	return NAME_OF(category_names, category);
}

const char *category_rule_name(unsigned rule)
{
	return NAME_OF(category_rule_names, rule);
}

const char *step_kind_name(unsigned kind)
{
	return NAME_OF(step_kind_names, kind);
}

const char *frame_kind_name(unsigned kind)
{
	return NAME_OF(frame_kind_names, kind);
}

const char *lost_name(unsigned lost)
{
	return NAME_OF(lost_names, lost);
}

const char *severity_name(unsigned severity)
{
	return NAME_OF(severity_names, severity);
}

const char *tensor_kind_name(unsigned kind)
{
	return NAME_OF(tensor_kind_names, kind);
}

/* Source: c10/core/DeviceType.h, PyTorch 2.14 (numbers are never reused). */
static const char *const device_type_names[] = {
        [0] = "cpu",  [1] = "cuda", [2] = "mkldnn", [5] = "ideep", [6] = "hip",   [9] = "xla",
        [12] = "xpu", [13] = "mps", [14] = "meta",  [15] = "hpu",  [19] = "mtia", [20] = "privateuseone",
};

const char *device_name(uint16_t device, char ret[DEVICE_NAME_MAX])
{
	unsigned type = device & 0xffu;
	unsigned index = device >> 8;
	const char *name = type < sizeof(device_type_names) / sizeof(device_type_names[0]) ? device_type_names[type] : NULL;
	char unnamed[12];

	if (!name) {
		snprintf(unnamed, sizeof(unnamed), "type%u", type);
		name = unnamed;
	}
	if (index == 0xff || type == 0)
		snprintf(ret, DEVICE_NAME_MAX, "%s", name);
	else
		snprintf(ret, DEVICE_NAME_MAX, "%s:%u", name, index);
	return ret;
}
