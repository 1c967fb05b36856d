/*
 * How to get from a function to its caller, address by address, by libunwind.
 *
 * libunwind reads a call's unwind information and applies it to registers and memory that we give it: not real ones, but
 * tokens, each standing for "the stack pointer", "the frame pointer", "what lies at the stack pointer + 8".  What comes out is
 * a rule in terms of those, which holds for every frame at this address and is applied again and again without libunwind.
 * (Its own caches would allocate thread-local storage on each thread, wait for locks and keep a pipe open.)
 *
 * libunwind is loaded when it is first needed, with dlopen(RTLD_LOCAL): as something that a preloaded library is linked to, its
 * _Unwind_* would replace those by which the program throws C++ exceptions; its static library is not position independent.
 *
 * Source: libunwind 1.6.2, the interface for other processes' memory (unw_create_addr_space(), unw_init_remote()), used as
 * Linux' perf uses it (tools/perf/util/unwind-libunwind-local.c); System V ABI for x86-64 3.2; DWARF 5, 6.4.
 */
#ifndef NNMEM_HOOK_NATIVE_RULES_H
#define NNMEM_HOOK_NATIVE_RULES_H

#include "hook/native_objects.h"

enum native_rule_kind {
	NATIVE_RULE_NONE = 0,
	NATIVE_RULE_STEP,   /* there is a caller */
	NATIVE_RULE_SIGNAL, /* the same; it was interrupted, so its address is not that of a call's return */
	NATIVE_RULE_END,    /* nobody called: a thread begins here */
	NATIVE_RULE_LOST,   /* no unwind information, or none that a rule can be made of */
};

enum native_rule_place { NATIVE_PLACE_SAME, NATIVE_PLACE_CFA, NATIVE_PLACE_SP, NATIVE_PLACE_BP };

/*
 * With stack pointer SP and frame pointer BP of a frame:
 *   CFA (the caller's SP) = base + cfa_offset, or the word that lies there;
 *   the caller's address lies at CFA - 8, or of a SIGNAL at SP + ip_offset;
 *   the caller's BP is BP (SAME), or lies at bp_place + bp_offset.
 * Offsets in bytes, multiples of 8.
 */
struct native_rule {
	enum native_rule_kind kind;
	bool cfa_from_bp;
	bool cfa_is_stored;
	int32_t cfa_offset;
	enum native_rule_place bp_place;
	int32_t bp_offset;
	uint32_t ip_offset;
	uintptr_t function; /* where the function begins, 0: not known */
};

/*
 * Load libunwind; once.  Returns NULL, or why there are no rules (a constant).  Opens nothing that stays open.
 * Thread: any, one, with no lock held that the dynamic loader's user may want.  Signal: not safe.  Allocates.
 */
const char *native_rules_start(void);

/*
 * The rule for the instruction at @address of @object.  Microseconds.
 * Thread: any; waits for another thread's call to give a piece of memory back.  Signal: if it did not interrupt this.
 * Allocates nothing but, once in a while, a page.
 */
struct native_rule native_rule_of(const struct native_object *object, uintptr_t address);

#endif
