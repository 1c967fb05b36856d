/*
 * Stacks as numbers: what a thread is executing, sent once in words and from then on by id.  Python frames, on top of them at
 * most one operation (an operator or the class of a node), and on top of that native frames (native.h).
 *
 * Data model.  Four tables of fixed size, process-wide, lock-free, never shrinking:
 * - `seen`: (code object, its proof, offset) -> frame id.  A cache: an entry is overwritten by the next that falls on it,
 *   so code objects may come and go without end.
 * - `frames`: a frame is a file, a function and a line, or the name of an operation, or a place in an ELF object; its id is
 *   its place in the table, from 1.  By content, so that the same source compiled a thousand times is one frame.
 * - `stacks`: a prefix tree; a stack is (the stack below, one more frame), its id its place, from 1; 0: no stack.
 * - `shown`: for each stack the frame to show for it: the innermost that is the user's own, else of a package that is
 *   installed, else of PyTorch or of Python's library.
 * Each entry of `frames` and `stacks` says whether its definition was written; whoever meets one that was not, writes it
 * (again), so a definition always precedes its first use in the ring, and none is lost for good.
 *
 * Chances.  A `seen` entry holds 46 bits of a hash, a `frames` entry 63: a wrong frame once in 2^46 questions.
 *
 * Thread: any.  Signal: as for records, only inside hook_enter().  Allocates nothing, takes no lock, keeps errno.
 */
#ifndef NNMEM_HOOK_STACKS_H
#define NNMEM_HOOK_STACKS_H

#include "hook/emit.h"
#include "hook/frames.h"

#define STACKS_SEEN   (1u << 14)
#define STACKS_FRAMES (1u << 16)
#define STACKS_STACKS (1u << 19)
/* Ids fit so many bits. */
#define STACKS_FRAME_BITS 17u
#define STACKS_STACK_BITS 20u

#define STACKS_FOLDER_MAX 512u

struct stacks {
	uint64_t seen[STACKS_SEEN];
	uint64_t frames[STACKS_FRAMES]; /* 63 bits of the content's hash, and whether it was defined */
	uint64_t stacks[STACKS_STACKS]; /* parent and frame, and whether it was defined */
	uint32_t shown[STACKS_STACKS];
	uint8_t flags[STACKS_FRAMES]; /* of its definition, and above them whose code it is */
	uint32_t is_on;               /* atomic; release: layout and folder are set */
	uint32_t is_full;             /* atomic: a table was full: stacks were cut */
	struct frames_layout layout;
	char torch[STACKS_FOLDER_MAX], library[STACKS_FOLDER_MAX]; /* folders, with a slash at the end */
};

/*
 * From now on there are stacks, by @layout, which frames_check() approved; @torch, @library: the folders of PyTorch and of
 * Python's own library, cut when too long; "": not known.  Once.
 */
void stacks_start(struct stacks *stacks, const struct frames_layout *layout, const char *torch, const char *library);

static inline bool stacks_are_on(const struct stacks *stacks)
{
	return atomic32_load_acquire(&stacks->is_on);
}

/*
 * The id of the calling thread's stack, whose PyThreadState is @thread; 0: it runs no Python, or there is no room.
 * Definitions that are needed are written to @emitter in the name of thread number @number.
 */
uint32_t stacks_capture(struct stacks *stacks, struct emitter *emitter, uint32_t number, const void *thread);

/*
 * The frame of the operation @name (cut at STACKS_NAME_MAX bytes); @mangled: as C++ does.  0: no room.  And the stack of
 * @frame on top of @stack: @stack itself when there is no room.  Both work without stacks_start().
 */
#define STACKS_NAME_MAX 255u
uint32_t stacks_operation(struct stacks *stacks, struct emitter *emitter, uint32_t number, const char *name, bool mangled);
uint32_t stacks_on(struct stacks *stacks, struct emitter *emitter, uint32_t number, uint32_t stack, uint32_t frame);

/*
 * The frame of native code at @offset (an address as its object was linked) of the object @file (cut when too long) with
 * @build_id (hexadecimal digits, "" none).  0: no room.  Works without stacks_start().
 */
uint32_t stacks_native(struct stacks *stacks, struct emitter *emitter, uint32_t number, const char *file, const char *build_id,
                       uint64_t offset);

#endif
