/* Native stacks: see native.h. */
#define _GNU_SOURCE
#include "hook/native.h"

#include "hook/native_rules.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_PROBES      32u
#define PAGE            UINT64_C(4096)
#define PAGES_AT_ONCE   64u
#define STACK_BYTES_MAX (UINT64_C(64) << 20) /* of a stack that is in use */

/* ---- addresses */

/*
 * An entry's value; 0: not known (any more).
 * {frame:17 | ip_offset / 8 + 1:9 | bp_offset / 8:12 | bp_place:2 | cfa_offset / 8:18 | cfa_is_stored:1 | cfa_from_bp:1 |
 *  is_interpreter:1 | kind:3}, from the top; ip_offset: 0 unless SIGNAL; frame 0: not shown.
 */
#define KIND_BITS   3u
#define INTERPRETER (UINT64_C(1) << 3)
#define CFA_FROM_BP (UINT64_C(1) << 4)
#define CFA_STORED  (UINT64_C(1) << 5)
#define CFA_SHIFT   6u
#define CFA_BITS    18u
#define PLACE_SHIFT 24u
#define PLACE_BITS  2u
#define BP_SHIFT    26u
#define BP_BITS     12u
#define IP_SHIFT    38u
#define IP_BITS     9u
#define FRAME_SHIFT 47u
_Static_assert(FRAME_SHIFT + STACKS_FRAME_BITS == 64, "a frame's id fits");

static struct {
	uint64_t address; /* never changes once it is not 0 */
	uint64_t value;
} entries[NATIVE_ADDRESSES];

/*
 * Whole stacks of late: {hash of the stack below and all frames:44 | stack:20}, overwritten by what falls on the same place.
 * A wrong one once in 2^58 questions.
 */
#define STACKS_OF_LATE (1u << 14)
static uint64_t of_late[STACKS_OF_LATE];

static uint32_t state; /* atomic: 0 not begun, 1 beginning, 2 on, 3 cannot be had */
static uintptr_t interpreter;

static inline uint64_t bits(uint64_t value, unsigned shift, unsigned count)
{
	return value >> shift & ((UINT64_C(1) << count) - 1);
}

/* Two's complement of @count bits at @shift, times 8. */
static inline int64_t offset_of(uint64_t value, unsigned shift, unsigned count)
{
	return ((int64_t)(value << (64 - shift - count)) >> (64 - count)) * 8;
}

static bool fits(int64_t offset, unsigned count)
{
	return offset % 8 == 0 && offset / 8 >= -(INT64_C(1) << (count - 1)) && offset / 8 < INT64_C(1) << (count - 1);
}

/* @rule without a frame; one that does not fit is LOST. */
static uint64_t pack(const struct native_rule *rule)
{
	if (rule->kind != NATIVE_RULE_STEP && rule->kind != NATIVE_RULE_SIGNAL)
		return rule->kind;
	if (!fits(rule->cfa_offset, CFA_BITS) || !fits(rule->bp_offset, BP_BITS) || rule->ip_offset % 8 ||
	    rule->ip_offset / 8 >= 1u << IP_BITS)
		return NATIVE_RULE_LOST;
	return (uint64_t)rule->kind | (rule->function && rule->function == interpreter ? INTERPRETER : 0) |
	       (rule->cfa_from_bp ? CFA_FROM_BP : 0) | (rule->cfa_is_stored ? CFA_STORED : 0) |
	       ((uint64_t)(rule->cfa_offset / 8) & ((1u << CFA_BITS) - 1)) << CFA_SHIFT |
	       (uint64_t)rule->bp_place << PLACE_SHIFT | ((uint64_t)(rule->bp_offset / 8) & ((1u << BP_BITS) - 1)) << BP_SHIFT |
	       (uint64_t)(rule->ip_offset / 8) << IP_SHIFT;
}

static inline uint32_t index_of(uintptr_t address)
{
	return (uint32_t)(address * UINT64_C(0x9e3779b97f4a7c15) >> 40) & (NATIVE_ADDRESSES - 1);
}

/* What is known of @address; 0: nothing. */
static inline uint64_t value_of(uintptr_t address)
{
	uint32_t index = index_of(address);

	for (uint32_t probe = 0; probe < MAX_PROBES; probe++, index = (index + 1) & (NATIVE_ADDRESSES - 1)) {
		uint64_t found = atomic64_load_relaxed(&entries[index].address);

		/* Acquire pairs with the release in remember(): the frame is defined. */
		if (found == address)
			return atomic64_load_acquire(&entries[index].value);
		if (!found)
			return 0;
	}
	return 0;
}

static void remember(uintptr_t address, uint64_t value)
{
	uint32_t index = index_of(address);

	for (uint32_t probe = 0; probe < MAX_PROBES; probe++, index = (index + 1) & (NATIVE_ADDRESSES - 1)) {
		uint64_t found = atomic64_load_relaxed(&entries[index].address);

		if (!found && atomic64_cas_acq_rel(&entries[index].address, &found, address))
			found = address;
		if (found == address) {
			atomic64_store_release(&entries[index].value, value);
			return;
		}
	}
}

static void forget(uintptr_t start, uintptr_t end)
{
	for (uint32_t i = 0; i < NATIVE_ADDRESSES; i++) {
		uint64_t address = atomic64_load_relaxed(&entries[i].address);

		if (start <= address && address < end)
			atomic64_store_relaxed(&entries[i].value, 0);
	}
}

/* ---- what of a stack may be read */

/* Whether every page of [@start, @end) can be read now, asked of the kernel. */
static bool is_readable(uintptr_t start, uintptr_t end)
{
	struct iovec pages[PAGES_AT_ONCE];
	char read[PAGES_AT_ONCE];

	while (start < end) {
		struct iovec into = {.iov_base = read};
		unsigned long nr = 0;

		for (; nr < PAGES_AT_ONCE && start < end; nr++, start = (start & ~(PAGE - 1)) + PAGE)
			pages[nr] = (struct iovec){.iov_base = (void *)start, .iov_len = 1};
		into.iov_len = nr;
		if (process_vm_readv(getpid(), &into, 1, pages, nr, 0) != (ssize_t)nr)
			return false;
	}
	return true;
}

/*
 * A thread's stack ends below its thread control block; the main thread's, whose block lies elsewhere, below what the kernel
 * put there at the start (AT_RANDOM).  Source: glibc 2.31 to 2.41, nptl/allocatestack.c; Linux fs/binfmt_elf.c.
 */
static __attribute__((noinline)) bool learn_stack(struct native_thread *thread, uintptr_t sp)
{
	uintptr_t high = (uintptr_t)pthread_self(), low = sp & ~(PAGE - 1);
	int saved_errno = errno;
	bool readable;

	if (thread->high && sp < thread->low && thread->low - low <= STACK_BYTES_MAX) {
		readable = is_readable(low, thread->low); /* It has grown. */
		high = thread->high;
	} else {
		if (high <= sp)
			high = getauxval(AT_RANDOM);
		readable = sp < high && high - low <= STACK_BYTES_MAX && is_readable(low, high);
	}
	if (readable)
		*thread = (struct native_thread){.low = low, .high = high};
	errno = saved_errno;
	return readable;
}

/* ---- walking */

struct registers {
	uintptr_t address, sp, bp;
};

/* How a walk went on, or why it ended. */
enum walk { WALK_ON, WALK_END, WALK_LOST };

/* Not looked at by sanitizers: it reads what lies between variables. */
static inline __attribute__((no_sanitize("address", "thread"))) bool load(const struct native_thread *thread, uintptr_t from,
                                                                          uintptr_t *ret)
{
	if (from < thread->low || from > thread->high - sizeof(*ret) || from % sizeof(*ret))
		return false;
	*ret = *(const volatile uintptr_t *)from;
	return true;
}

/* From a frame to its caller, by the rule in @value. */
static inline enum walk step(const struct native_thread *thread, uint64_t value, struct registers *at)
{
	enum native_rule_kind kind = (enum native_rule_kind)bits(value, 0, KIND_BITS);
	enum native_rule_place place = (enum native_rule_place)bits(value, PLACE_SHIFT, PLACE_BITS);
	uintptr_t cfa, ip, bp = at->bp;

	if (kind == NATIVE_RULE_END)
		return WALK_END;
	if (kind == NATIVE_RULE_LOST)
		return WALK_LOST;
	cfa = (value & CFA_FROM_BP ? at->bp : at->sp) + (uintptr_t)offset_of(value, CFA_SHIFT, CFA_BITS);
	if ((value & CFA_STORED) && !load(thread, cfa, &cfa))
		return WALK_LOST;
	/* Each frame lies above the last, so a walk ends. */
	if (cfa <= at->sp)
		return WALK_LOST;
	if (place != NATIVE_PLACE_SAME) {
		uintptr_t base = place == NATIVE_PLACE_CFA ? cfa : place == NATIVE_PLACE_SP ? at->sp : at->bp;

		if (!load(thread, base + (uintptr_t)offset_of(value, BP_SHIFT, BP_BITS), &bp))
			return WALK_LOST;
	}
	if (!load(thread, kind == NATIVE_RULE_SIGNAL ? at->sp + 8 * bits(value, IP_SHIFT, IP_BITS) : cfa - 8, &ip))
		return WALK_LOST;
	if (!ip)
		return WALK_END;
	/* The address of a return may be the first of another function; that before it is the call's. */
	at->address = kind == NATIVE_RULE_SIGNAL ? ip : ip - 1;
	at->sp = cfa;
	at->bp = bp;
	return WALK_ON;
}

#if defined(__x86_64__)
#define HERE(registers)                                                                                                          \
	__asm__ volatile("lea 0f(%%rip), %0\n\tmov %%rsp, %1\n\tmov %%rbp, %2\n0:"                                               \
	                 : "=&r"((registers).address), "=&r"((registers).sp), "=r"((registers).bp))
#else
#define HERE(registers) ((registers) = (struct registers){0})
#endif

/* ---- frames */

/* What @address is, found out; 0: it is in no object (*@ret_mark), or there is no room, or not now (NULL). */
static __attribute__((noinline)) uint64_t find_out(struct stacks *stacks, struct emitter *emitter, uint32_t number,
                                                   uintptr_t address, const char **ret_mark)
{
	bool busy;
	const struct native_object *object = native_object_of(address, &busy);
	struct native_rule rule;
	uint32_t frame = 0;
	uint64_t value;

	*ret_mark = object || busy ? NULL : NATIVE_CODE_MADE;
	if (!object)
		return 0;
	if (!object->is_ours && stacks) {
		frame = stacks_native(stacks, emitter, number, object->name, object->build_id, address - object->bias);
		if (!frame)
			return 0;
	}
	rule = native_rule_of(object, address);
	value = pack(&rule) | (uint64_t)frame << FRAME_SHIFT;
	if (stacks)
		remember(address, value);
	return value;
}

struct walked {
	uint32_t nr;
	uint64_t hash;
	bool no_room;
	const char *mark; /* why it is cut; NULL: it is not */
	uint32_t frames[NATIVE_FRAMES_MAX];
};

static void walk(const struct native_thread *thread, struct stacks *stacks, struct emitter *emitter, uint32_t number,
                 struct registers at, bool to_python, struct walked *ret)
{
	enum walk went = WALK_ON;

	while (went == WALK_ON) {
		uint64_t value = value_of(at.address);

		if (__builtin_expect(!value, 0)) {
			value = find_out(stacks, emitter, number, at.address, &ret->mark);
			if (!value) {
				ret->no_room = !ret->mark;
				return;
			}
		}
		if (to_python && (value & INTERPRETER))
			return;
		if (value >> FRAME_SHIFT) {
			if (ret->nr == NATIVE_FRAMES_MAX) {
				ret->mark = NATIVE_MORE;
				return;
			}
			ret->frames[ret->nr++] = (uint32_t)(value >> FRAME_SHIFT);
			ret->hash = (ret->hash ^ value >> FRAME_SHIFT) * UINT64_C(0x9e3779b97f4a7c15);
			ret->hash ^= ret->hash >> 32;
		}
		went = step(thread, value, &at);
	}
	if (went == WALK_LOST)
		ret->mark = NATIVE_CALLERS_UNKNOWN;
}

/* The stack of what was walked on top of @stack, frame by frame; *@ret_whole: none is missing for want of room. */
static __attribute__((noinline)) uint32_t put_on(struct stacks *stacks, struct emitter *emitter, uint32_t number, uint32_t stack,
                                                 const struct walked *walked, bool *ret_whole)
{
	uint32_t nr = walked->nr, mark = 0, below = stack;

	*ret_whole = true;
	if (walked->mark) {
		mark = stacks_native(stacks, emitter, number, walked->mark, "", 0);
		stack = mark ? stacks_on(stacks, emitter, number, stack, mark) : stack;
		*ret_whole = stack != below;
	}
	while (nr > 0) {
		below = stack;
		stack = stacks_on(stacks, emitter, number, stack, walked->frames[--nr]);
		*ret_whole &= stack != below;
	}
	return stack;
}

__attribute__((noinline)) uint32_t native_capture(struct native_thread *thread, struct stacks *stacks, struct emitter *emitter,
                                                  uint32_t number, uint32_t stack, bool to_python)
{
	struct walked walked;
	struct registers here;
	uint64_t *entry, word;
	uint32_t found;
	bool is_whole;

	if (!native_is_on())
		return stack;
	HERE(here);
	if (__builtin_expect(here.sp < thread->low || here.sp >= thread->high, 0) && !learn_stack(thread, here.sp))
		return stack;
	walked.nr = 0;
	walked.hash = stack;
	walked.no_room = false;
	walked.mark = NULL;
	walk(thread, stacks, emitter, number, here, to_python, &walked);
	if (walked.no_room)
		return stack;
	walked.hash = (walked.hash ^ (uintptr_t)walked.mark) * UINT64_C(0x94d049bb133111eb);
	walked.hash ^= walked.hash >> 29;
	entry = &of_late[walked.hash & (STACKS_OF_LATE - 1)];
	word = atomic64_load_relaxed(entry);
	if (__builtin_expect((word ^ walked.hash) >> STACKS_STACK_BITS == 0 && word, 1))
		return word & ((1u << STACKS_STACK_BITS) - 1);
	found = put_on(stacks, emitter, number, stack, &walked, &is_whole);
	if (is_whole && found)
		atomic64_store_relaxed(entry, walked.hash >> STACKS_STACK_BITS << STACKS_STACK_BITS | found);
	return found;
}

__attribute__((noinline)) uint32_t native_walk(struct native_thread *thread, uintptr_t addresses[NATIVE_FRAMES_MAX])
{
	struct registers at;
	uint32_t nr = 0;
	enum walk went = WALK_ON;

	HERE(at);
	if ((at.sp < thread->low || at.sp >= thread->high) && !learn_stack(thread, at.sp))
		return 0;
	while (went == WALK_ON && nr < NATIVE_FRAMES_MAX) {
		const char *mark;
		uint64_t value = find_out(NULL, NULL, 0, at.address, &mark);

		if (!value)
			break;
		addresses[nr++] = at.address;
		went = step(thread, value, &at);
	}
	return nr;
}

void native_forget_all(void)
{
	forget(0, UINTPTR_MAX);
	for (uint32_t i = 0; i < STACKS_OF_LATE; i++)
		atomic64_store_relaxed(&of_late[i], 0);
}

/* ---- the start */

bool native_is_on(void)
{
	/* Acquire pairs with the release in native_start(). */
	return atomic32_load_acquire(&state) == 2;
}

const char *native_start(const void *own)
{
	int saved_errno = errno;
	uint32_t expected = 0;
	const char *why;

	if (!atomic32_cas_acq_rel(&state, &expected, 1))
		return NULL;
	why = native_rules_start();
	if (!why) {
		interpreter = (uintptr_t)dlsym(RTLD_DEFAULT, "_PyEval_EvalFrameDefault");
		native_objects_start(own, forget);
	}
	atomic32_store_release(&state, why ? 3 : 2);
	errno = saved_errno;
	return why;
}
