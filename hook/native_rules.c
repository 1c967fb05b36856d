/* How to get from a function to its caller: see native_rules.h. */
#define _GNU_SOURCE
#include "hook/native_rules.h"

#include "hook/sys.h"

#if defined(__x86_64__)

#include <dlfcn.h>
#include <errno.h>
#include <libunwind.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define LIBUNWIND        "libunwind-x86_64.so.8"

#define STACK_BYTES      (64u << 10)
#define SIGNAL_SET_BYTES 8 /* the kernel's */

#define STRING(x)        #x
#define STRING_OF(x)     STRING(x)
#define UNWIND_NAME(x)   STRING_OF(UNW_OBJ(x))

/* What we use of it; `search` is exported, but only libunwind's own headers have it. */
static struct {
	unw_addr_space_t (*create)(unw_accessors_t *, int);
	int (*set_caching)(unw_addr_space_t, unw_caching_policy_t);
	int (*init)(unw_cursor_t *, unw_addr_space_t, void *);
	int (*step)(unw_cursor_t *);
	int (*get)(unw_cursor_t *, int, unw_word_t *);
	int (*search)(unw_addr_space_t, unw_word_t, unw_dyn_info_t *, unw_proc_info_t *, int, void *);
} unwind;

static unw_addr_space_t space;

/* ---- tokens */

/*
 * A token is a word that is no address (not canonical); what it stands for, plus or minus up to TOKEN_REACH, is in its range.
 * [0] is the stack pointer, [1] the frame pointer, the others words in memory, in the order in which they were read, but
 * for TOKEN_OTHER, all other registers.
 */
#define TOKEN_FIRST (UINT64_C(0x5a) << 56)
#define TOKEN_SHIFT 40
#define TOKEN_REACH (INT64_C(1) << 30)
#define NR_TOKENS   24u
#define TOKEN_SP    0u
#define TOKEN_BP    1u
#define TOKEN_OTHER 2u
#define TOKEN_NONE  UINT32_MAX

struct place {
	uint32_t token;
	int32_t offset;
};

struct question {
	const struct native_object *object;
	uintptr_t address;
	uintptr_t function;
	bool has_info;                  /* there is unwind information */
	uint32_t nr_tokens;             /* used */
	struct place places[NR_TOKENS]; /* where the word lies that a token stands for */
};

static uint64_t token_word(uint32_t token)
{
	return TOKEN_FIRST + ((uint64_t)token << TOKEN_SHIFT);
}

/* What @word is in terms of the tokens of @question; token TOKEN_NONE: nothing. */
static struct place place_of(const struct question *question, uint64_t word)
{
	uint64_t distance = word + (uint64_t)TOKEN_REACH - TOKEN_FIRST;
	uint32_t token = (uint32_t)(distance >> TOKEN_SHIFT);
	int64_t offset = (int64_t)(distance & ((UINT64_C(1) << TOKEN_SHIFT) - 1)) - TOKEN_REACH;

	if (distance >> TOKEN_SHIFT >= question->nr_tokens || offset > TOKEN_REACH)
		return (struct place){.token = TOKEN_NONE};
	return (struct place){.token = token, .offset = (int32_t)offset};
}

/* ---- what libunwind asks */

static int access_mem(unw_addr_space_t as, unw_word_t address, unw_word_t *word, int write, void *arg)
{
	struct question *question = arg;
	struct place place = place_of(question, address);
	uint32_t token;

	if (write)
		return -UNW_EREADONLYREG;
	/* Words of unwind information; they are read whole and aligned, so at its end up to a page's end. */
	if (question->object && address >= (question->object->unwind_start & ~(uintptr_t)7) &&
	    address < question->object->unwind_end) {
		memcpy(word, (const void *)(address & ~(uintptr_t)7), sizeof(*word));
		return 0;
	}
	if (place.token == TOKEN_NONE) {
		/* What a pointer to a personality routine points to, and the like: of no account here. */
		*word = token_word(TOKEN_OTHER);
		return 0;
	}
	for (token = TOKEN_OTHER + 1; token < question->nr_tokens; token++) {
		if (question->places[token].token == place.token && question->places[token].offset == place.offset)
			break;
	}
	if (token == NR_TOKENS)
		return -UNW_ENOMEM;
	if (token == question->nr_tokens)
		question->places[question->nr_tokens++] = place;
	*word = token_word(token);
	return 0;
}

static int access_reg(unw_addr_space_t as, unw_regnum_t reg, unw_word_t *word, int write, void *arg)
{
	const struct question *question = arg;

	if (write)
		return -UNW_EREADONLYREG;
	if (reg == UNW_X86_64_RIP)
		*word = question->address;
	else
		*word = token_word(reg == UNW_X86_64_RSP ? TOKEN_SP : reg == UNW_X86_64_RBP ? TOKEN_BP : TOKEN_OTHER);
	return 0;
}

static int access_fpreg(unw_addr_space_t as, unw_regnum_t reg, unw_fpreg_t *value, int write, void *arg)
{
	return -UNW_EBADREG;
}

static int get_dyn_info_list_addr(unw_addr_space_t as, unw_word_t *address, void *arg)
{
	return -UNW_ENOINFO;
}

static void put_unwind_info(unw_addr_space_t as, unw_proc_info_t *info, void *arg)
{
}

static int resume(unw_addr_space_t as, unw_cursor_t *cursor, void *arg)
{
	return -UNW_EINVAL;
}

static int get_proc_name(unw_addr_space_t as, unw_word_t address, char *name, size_t size, unw_word_t *offset, void *arg)
{
	return -UNW_EINVAL;
}

/*
 * The table of .eh_frame_hdr, as all linkers in use write it.
 * Source: Linux Standard Base 5.0, 10.6.2; pcrel|sdata4, udata4, datarel|sdata4.
 */
static bool describe_table(const struct native_object *object, unw_dyn_info_t *ret)
{
	static const unsigned char usual[4] = {1, 0x1b, 0x03, 0x3b};
	uint32_t nr_entries;

	if (!object->unwind_start || object->unwind_end - object->unwind < 12 ||
	    memcmp((const void *)object->unwind, usual, sizeof(usual)) != 0)
		return false;
	memcpy(&nr_entries, (const void *)(object->unwind + 8), sizeof(nr_entries));
	if (nr_entries > (object->unwind_end - object->unwind - 12) / 8)
		return false;
	*ret = (unw_dyn_info_t){.start_ip = object->start, .end_ip = object->end, .format = UNW_INFO_FORMAT_REMOTE_TABLE};
	ret->u.rti.segbase = object->unwind;
	ret->u.rti.table_data = object->unwind + 12;
	ret->u.rti.table_len = nr_entries * 8 / sizeof(unw_word_t);
	return true;
}

static int find_proc_info(unw_addr_space_t as, unw_word_t address, unw_proc_info_t *info, int need_unwind_info, void *arg)
{
	struct question *question = arg;
	unw_dyn_info_t table;
	int r;

	if (!question->object || address < question->object->start || address >= question->object->end ||
	    !describe_table(question->object, &table))
		return -UNW_ENOINFO;
	/* The table says where functions begin, not where the last one before the address ends.  Without a copy of it to free. */
	r = unwind.search(as, address, &table, info, 0, arg);
	if (r < 0 || address < info->start_ip || address >= info->end_ip)
		return -UNW_ENOINFO;
	r = unwind.search(as, address, &table, info, need_unwind_info, arg);
	if (r >= 0) {
		question->has_info = true;
		question->function = info->start_ip;
	}
	return r;
}

/* ---- rules */

static bool find_cfa(const struct question *question, uint64_t cfa, struct native_rule *rule)
{
	struct place place = place_of(question, cfa);

	if (place.token == TOKEN_NONE || place.token == TOKEN_OTHER)
		return false;
	if (place.token > TOKEN_OTHER) {
		if (place.offset)
			return false;
		rule->cfa_is_stored = true;
		place = question->places[place.token];
	}
	rule->cfa_from_bp = place.token == TOKEN_BP;
	rule->cfa_offset = place.offset;
	return place.token <= TOKEN_BP;
}

/* Where the word lies that @word stands for: at the CFA plus *@ret, or at SP or BP plus it. */
static bool find_place(const struct question *question, uint64_t cfa, uint64_t word, enum native_rule_place *ret_place,
                       int32_t *ret)
{
	struct place value = place_of(question, word), base = place_of(question, cfa), place;

	if (value.token == TOKEN_NONE || value.token <= TOKEN_OTHER || value.offset)
		return false;
	place = question->places[value.token];
	if (place.token == base.token) {
		*ret_place = NATIVE_PLACE_CFA;
		*ret = place.offset - base.offset;
		return true;
	}
	*ret_place = place.token == TOKEN_SP ? NATIVE_PLACE_SP : NATIVE_PLACE_BP;
	*ret = place.offset;
	return place.token <= TOKEN_BP;
}

static bool make_rule(const struct question *question, unw_cursor_t *cursor, struct native_rule *rule)
{
	unw_word_t cfa, ip, bp;
	enum native_rule_place ip_place;
	int32_t ip_offset;

	if (unwind.get(cursor, UNW_X86_64_RSP, &cfa) < 0 || unwind.get(cursor, UNW_X86_64_RIP, &ip) < 0 ||
	    unwind.get(cursor, UNW_X86_64_RBP, &bp) < 0)
		return false;
	if (!find_cfa(question, cfa, rule) || !find_place(question, cfa, ip, &ip_place, &ip_offset))
		return false;
	if (bp == token_word(TOKEN_BP))
		rule->bp_place = NATIVE_PLACE_SAME;
	else if (!find_place(question, cfa, bp, &rule->bp_place, &rule->bp_offset))
		return false;
	if (ip_place == NATIVE_PLACE_CFA && ip_offset == -8) {
		rule->kind = NATIVE_RULE_STEP;
		return true;
	}
	/* Only what the kernel puts there for a signal handler has it elsewhere. */
	rule->kind = NATIVE_RULE_SIGNAL;
	rule->ip_offset = (uint32_t)ip_offset;
	return ip_place == NATIVE_PLACE_SP && ip_offset >= 0;
}

struct native_rule native_rule_of(const struct native_object *object, uintptr_t address)
{
	struct question question = {.object = object, .address = address, .nr_tokens = TOKEN_OTHER + 1};
	struct native_rule rule = {.kind = NATIVE_RULE_LOST};
	int saved_errno = errno, r = -1;
	unw_cursor_t cursor;

	if (unwind.init(&cursor, space, &question) >= 0)
		r = unwind.step(&cursor);
	/* Where there is no information, libunwind guesses. */
	if (question.has_info && r == 0)
		rule.kind = NATIVE_RULE_END;
	else if (question.has_info && r > 0 && !make_rule(&question, &cursor, &rule))
		rule = (struct native_rule){.kind = NATIVE_RULE_LOST};
	rule.function = question.function;
	errno = saved_errno;
	return rule;
}

/* ---- the start */

static bool find_functions(void *library)
{
	static const char *const names[] = {UNWIND_NAME(create_addr_space), UNWIND_NAME(set_caching_policy),
	                                    UNWIND_NAME(init_remote),       UNWIND_NAME(step),
	                                    UNWIND_NAME(get_reg),           UNWIND_NAME(dwarf_search_unwind_table)};
	void *found[sizeof(names) / sizeof(names[0])];

	_Static_assert(sizeof(found) == sizeof(unwind), "one name for each function");
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		found[i] = dlsym(library, names[i]);
		if (!found[i])
			return false;
	}
	memcpy(&unwind, found, sizeof(unwind));
	return true;
}

static int set_up_apart(void *unused)
{
	/* Without its caches: it would wait for a lock at each question. */
	unwind.set_caching(space, UNW_CACHE_NONE);
	sys_call(__NR_exit_group, 0, 0, 0, 0, 0);
	return 0;
}

/*
 * Its first use opens a pipe, by which it would look into memory of its own process, which we do not let it do.  So that the
 * program's descriptors stay as they are, that is done with a table of descriptors that ends with its process (no
 * CLONE_FILES); all else is shared, and we wait.  No signal may come meanwhile, and none tells of its end.
 */
static bool initialize_apart(void)
{
	static const uint64_t all_signals = UINT64_MAX;
	char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	uint64_t old_signals;
	int apart;

	if (stack == MAP_FAILED)
		return false;
	sys_call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&all_signals, (long)&old_signals, SIGNAL_SET_BYTES, 0);
	apart = clone(set_up_apart, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK, NULL);
	if (apart > 0)
		sys_call(__NR_wait4, apart, 0, __WALL, 0, 0);
	sys_call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&old_signals, 0, SIGNAL_SET_BYTES, 0);
	munmap(stack, STACK_BYTES);
	return apart > 0;
}

const char *native_rules_start(void)
{
	static unw_accessors_t accessors = {
	        .find_proc_info = find_proc_info,
	        .put_unwind_info = put_unwind_info,
	        .get_dyn_info_list_addr = get_dyn_info_list_addr,
	        .access_mem = access_mem,
	        .access_reg = access_reg,
	        .access_fpreg = access_fpreg,
	        .resume = resume,
	        .get_proc_name = get_proc_name,
	};
	/* Never closed: what we point to must stay. */
	void *library = dlopen(LIBUNWIND, RTLD_NOW | RTLD_LOCAL);

	if (!library)
		return LIBUNWIND " cannot be loaded (Debian's package libunwind8)";
	if (!find_functions(library))
		return LIBUNWIND " is of another version: functions are missing in it";
	space = unwind.create(&accessors, 0);
	if (!space)
		return "no memory";
	return initialize_apart() ? NULL : "no process could be made to set up " LIBUNWIND;
}

#else

const char *native_rules_start(void)
{
	return "they are not built for this kind of machine";
}

struct native_rule native_rule_of(const struct native_object *object, uintptr_t address)
{
	return (struct native_rule){.kind = NATIVE_RULE_LOST};
}

#endif
