/* A block as programs get it: see block_row.h. */
#include "report/block_row.h"

#include "store/names.h"

void block_row(struct rows *rows, const struct store_allocation *allocation)
{
	char device[DEVICE_NAME_MAX];

	row_count(rows, "id", allocation->id);
	row_text(rows, "device", device_name(allocation->device, device));
	row_count(rows, "size_bytes", allocation->size_bytes);
	row_text(rows, "category", category_name(allocation->category));
	row_text(rows, "category_rule", category_rule_name(allocation->rule));
	row_bool(rows, "provisional", allocation->provisional);
	row_text(rows, "root", allocation->root);
	row_text(rows, "layer", allocation->layer);
	row_text(rows, "parameter", allocation->parameter);
	row_text(rows, "state_key", allocation->state_key);
	row_text(rows, "shape", allocation->shape);
	row_text(rows, "dtype", allocation->dtype);
	row_text(rows, "operation", allocation->operation);
	row_text(rows, "line", allocation->line);
	row_count(rows, "step", allocation->step);
	row_text(rows, "phase", phase_name(allocation->phase));
	row_bool(rows, "recompute", allocation->recompute);
	row_count(rows, "thread", allocation->thread);
	row_count(rows, "alloc_seq", allocation->alloc_seq);
	row_count(rows, "alloc_ns", allocation->alloc_ns);
	if (allocation->free_seq) {
		row_count(rows, "free_seq", allocation->free_seq);
		row_count(rows, "free_ns", allocation->free_ns);
		row_text(rows, "free_phase", phase_name(allocation->free_phase));
	}
}
