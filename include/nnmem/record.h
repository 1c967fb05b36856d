/*
 * The slot format: what the hook says to the recorder, 64 bytes at a time.
 *
 * A record is one slot, or one slot followed by as many continuation slots as its text needs.  Every slot begins with
 * its own sequence number, so that each is published by itself.  Sequence numbers are positions in
 * the ring plus one: they are unique in a run, never 0, and they are the order of truth; time is for display.
 *
 * The hook writes records (hook/emit.c), the ring carries them (ring.h), the tagger (store/tagger.h) understands them.
 * Changing anything here raises RECORD_VERSION: recorder and reporter refuse a ring of another version.
 */
#ifndef NNMEM_RECORD_H
#define NNMEM_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_VERSION 5u

/* What a record says.  The comment names the fields it uses besides seq, time_ns, kind and thread; others are 0. */
enum record_kind {
	RECORD_NONE = 0, /* never written */

	/*
	 * Reports.  device, flags: NODE, NEW_NODE, TOLD, SHARED and the level (record_level()), stack, scope, address, size (> 0,
	 * bytes), a = total_allocated, b = total_reserved as PyTorch gave them after the event, in an ALLOC with the bytes that
	 * were asked for (record_reserved()).
	 * Of a level other than LEVEL_BLOCK it is a call that gave memory or takes it back (CUDA's), an ALLOC with a = the code
	 * address of the caller, 0 not known; of LEVEL_MAPPING a = the handle that is mapped there, whose device it is; b =
	 * time_ns when the call began, 0 where CUPTI does not see it.  A FREE then says only where (address; device and size are
	 * 0, its level is LEVEL_SEGMENT), since an address belongs to one such memory at a time.
	 */
	RECORD_ALLOC = 1,
	RECORD_FREE = 2,
	RECORD_OOM = 3, /* device, flags NODE, stack, scope, size = bytes asked for, a, b: totals; address 0 */
	/*
	 * What the driver says of a device (cudaMemGetInfo): device, a = bytes in use by anybody, b = bytes that there are.
	 * flags FIRST: asked before the first call that gives memory of the device.
	 */
	RECORD_USED = 4,
	/* A call for memory of the device was refused for lack of it: device, flags NODE, stack, scope, size = bytes asked for.
	 */
	RECORD_REFUSED = 5,
	/*
	 * A call that gave memory or took it back as CUPTI saw it, often long after it: device, flags: the level, address, size
	 * (> 0 in an ALLOC), a = code address of the caller, 0 not known, b = time_ns of the call.  An ALLOC or FREE may have
	 * told the same call.
	 */
	RECORD_SEEN_ALLOC = 6,
	RECORD_SEEN_FREE = 7,

	/*
	 * Scopes of the thread that sends them; they nest.
	 * MODULE_ENTER: scope = module id, flags ROOT, GRAD, TRAINING (the last two valid with ROOT only), NODE.
	 * MODULE_LEAVE: scope = module id, flags ROOT; a = autograd nodes made on this thread since the ENTER.
	 * BACKWARD_BEGIN: flags ACCUMULATE (`.backward()`, not `autograd.grad`), KEEP (the graph is kept for another one).
	 * OPTIMIZER_BEGIN/END: scope = optimizer id.
	 */
	RECORD_MODULE_ENTER = 10,
	RECORD_MODULE_LEAVE = 11,
	RECORD_BACKWARD_BEGIN = 12,
	RECORD_BACKWARD_END = 13,
	RECORD_OPTIMIZER_BEGIN = 14,
	RECORD_OPTIMIZER_END = 15,
	RECORD_SCALER_UPDATE = 16, /* GradScaler.update returned */
	RECORD_WORKER = 17,        /* this autograd worker now works for thread a (RECORD_NO_THREAD: for nobody) */
	/* A tensor is given to a root module call: address = its storage, size = bytes of that; flags GRAD: it requires
	   gradients. */
	RECORD_INPUT = 18,
	/*
	 * An autograd node was made on this thread outside every module call, backward and step(), and no root module call
	 * with gradients on has been made since the thread's last backward or step(): functional code begins its forward here.
	 */
	RECORD_FORWARD = 19,

	/* Manual marks (nnmem.h). */
	RECORD_MARK_STEP = 20,        /* a new step begins here */
	RECORD_MARK_PHASE_BEGIN = 21, /* a = enum record_phase */
	RECORD_MARK_PHASE_END = 22,

	RECORD_GRADIENT = 23, /* the gradient that a DEF_TENSOR gave the number a begins at address now */

	/*
	 * A stack, defined before its first use: stack = its id, scope = id of its innermost frame (DEF_FRAME), a = id of the
	 * stack that called it (0: none), b = id of the frame to show for it: the innermost of the user's own code (0: none),
	 * address = id of its operation's frame (0: none).  From outermost to innermost: frames of Python, then at most one
	 * operation, then native frames.
	 */
	RECORD_DEF_STACK = 24,

	/*
	 * Definitions: sent once, before the first use of the id.  Records from here on carry text in continuation slots:
	 * `stack` holds its length in bytes, the fields are joined by NULs (n fields, n - 1 NULs), UTF-8, never trusted.
	 */
	RECORD_DEF_THREAD = 30,    /* thread; a = OS thread id; flags PYTHON, AUTOGRAD; text: name */
	RECORD_DEF_MODULE = 31,    /* scope = module id; a = id of its root (own id: is root); text: fqn, class, root */
	RECORD_DEF_OPTIMIZER = 32, /* scope = optimizer id; text: class */
	/*
	 * A tensor known by name.  scope = module id (0: none), address = storage base, size = storage bytes,
	 * a = enum record_tensor, b = optimizer id for RECORD_TENSOR_STATE, a number for RECORD_TENSOR_GRADIENT (0: none);
	 * size 0: nothing goes by this name any more, what did is defined by another;
	 * text: name (a parameter's or buffer's path below its root), dtype ("float32"), shape ("32,3,3,3"), state key.
	 */
	RECORD_DEF_TENSOR = 33,
	/*
	 * A frame: scope = its id.
	 * Of Python: flags INTERNAL; a = line, 0 not known; text: file, function.
	 *
	 * Flags OPERATION, MANGLED: text: file (empty), function: an operator (`aten::conv2d`) or a node's class, as Python has
	 * it or, MANGLED, as C++ does (`N5torch8autograd14AccumulateGradE`).
	 *
	 * Flags NATIVE: a = address in the object as it was linked: of a call the last byte's, so that it lies in the caller's
	 * line; text: the object's file, its build id in hexadecimal digits (empty: it has none).  Where a stack is cut, file
	 * says why ("<...>", hook/native.h) and a is 0.
	 */
	RECORD_DEF_FRAME = 34,

	/* Facts about the run. */
	RECORD_INFO = 40, /* text: key, value (torch_version, python_version, adapter, ...) */
	RECORD_NOTE = 41, /* a = enum record_severity; text: one sentence */
	RECORD_END = 42,  /* the process ends: a = enum record_end, b = exit status, size = peak RSS in bytes */

	RECORD_TEXT = 63, /* a continuation slot (struct record_text), never seen outside the ring */
};

enum record_tensor { RECORD_TENSOR_PARAMETER = 1, RECORD_TENSOR_BUFFER = 2, RECORD_TENSOR_STATE = 3, RECORD_TENSOR_GRADIENT = 4 };
enum record_severity { RECORD_SEVERITY_INFO = 0, RECORD_SEVERITY_DEGRADED = 1, RECORD_SEVERITY_ERROR = 2 };
enum record_end { RECORD_END_EXIT = 1, RECORD_END_EXEC = 2 };

/* The phases of training, as stored; names by store/names.h. */
enum record_phase {
	PHASE_STATIC = 0,
	PHASE_FORWARD = 1,
	PHASE_BACKWARD = 2,
	PHASE_OPTIMIZER = 3,
	PHASE_INFERENCE = 4,
	PHASE_OTHER = 5,
	NR_PHASES = 6,
};

/* What kind of memory an ALLOC or FREE speaks of. */
enum record_level {
	LEVEL_BLOCK = 0,
	LEVEL_SEGMENT = 1,
	LEVEL_PINNED = 2,
	LEVEL_MANAGED = 3,
	LEVEL_MAPPING = 4, /* addresses at which a segment that is known by a handle can be used: no memory of its own */
	NR_LEVELS = 5
};

/* record.flags; a bit may mean different things in different kinds only where the comment says so. */
#define RECORD_F_NODE       0x01u /* sent while the thread runs an autograd node (so: in backward) */
#define RECORD_F_FIRST      0x01u /* USED: before the first memory was given */
#define RECORD_F_GRAD       0x02u /* gradients are on; INPUT: the tensor requires them */
#define RECORD_F_TRAINING   0x04u /* the module is in training mode */
#define RECORD_F_ROOT       0x08u /* no other module call is open on this thread */
#define RECORD_F_NEW_NODE   0x08u /* ALLOC, FREE: an autograd node was made on this thread since its last report */
#define RECORD_F_TOLD       0x10u /* ALLOC: operators are told: if the stack names none, none ran */
#define RECORD_F_ACCUMULATE 0x10u /* BACKWARD_BEGIN: gradients are accumulated into .grad */
#define RECORD_F_KEEP       0x20u /* BACKWARD_BEGIN: retain_graph or create_graph */
#define RECORD_F_PYTHON     0x20u /* DEF_THREAD: the thread has a Python thread state */
#define RECORD_F_AUTOGRAD   0x40u /* DEF_THREAD: an autograd worker thread */
#define RECORD_F_INTERNAL   0x01u /* DEF_FRAME: not the user's own code */
#define RECORD_F_OPERATION  0x02u /* DEF_FRAME: what PyTorch does there */
#define RECORD_F_NATIVE     0x04u /* DEF_FRAME: a frame of compiled code */
#define RECORD_F_MANGLED    0x08u /* DEF_FRAME: an operation's name as type_info has it */
#define RECORD_F_HANDLE     0x40u /* ALLOC of a level other than LEVEL_BLOCK: its address is a handle, no place in memory */
#define RECORD_F_SHARED     0x80u /* ALLOC, FREE: PyTorch reported no total (shared or mapped memory) */

/* The level of a report, in bits that other kinds of records use otherwise. */
#define RECORD_LEVEL_SHIFT 1u
#define RECORD_LEVEL_MASK  0x06u
#define RECORD_LEVEL_HIGH  0x20u
static inline uint8_t record_level_flags(enum record_level level)
{
	return (uint8_t)((level & 3u) << RECORD_LEVEL_SHIFT | (level & 4u ? RECORD_LEVEL_HIGH : 0));
}
static inline unsigned record_level(uint8_t flags)
{
	return (flags & RECORD_LEVEL_MASK) >> RECORD_LEVEL_SHIFT | (flags & RECORD_LEVEL_HIGH ? 4u : 0);
}

/*
 * How an ALLOC's b holds two numbers: PyTorch's total_reserved below, and above it one more than the bytes of the block that
 * nobody asked for, 0 where it is not known how many were asked for.
 */
#define RECORD_RESERVED_BITS 42u
#define RECORD_SPARE_MAX     ((UINT64_C(1) << (64 - RECORD_RESERVED_BITS)) - 2)
static inline uint64_t record_pack_reserved(uint64_t reserved_bytes, uint64_t size_bytes, uint64_t requested_bytes)
{
	const uint64_t most = (UINT64_C(1) << RECORD_RESERVED_BITS) - 1;
	uint64_t spare = size_bytes - requested_bytes;
	bool known = requested_bytes && requested_bytes <= size_bytes && spare <= RECORD_SPARE_MAX;

	return (reserved_bytes < most ? reserved_bytes : most) | (known ? spare + 1 : 0) << RECORD_RESERVED_BITS;
}
static inline uint64_t record_reserved(uint64_t b)
{
	return b & ((UINT64_C(1) << RECORD_RESERVED_BITS) - 1);
}
/* The bytes of a block of @size_bytes that were asked for; 0: not known. */
static inline uint64_t record_requested(uint64_t b, uint64_t size_bytes)
{
	uint64_t spare = b >> RECORD_RESERVED_BITS;

	return spare && spare <= size_bytes ? size_bytes - (spare - 1) : 0;
}

/*
 * Devices as PyTorch's c10::Device packs them: low byte type, high byte index, 0xff = no index; the CPU is 0xff00.
 * Source: c10/core/Device.h and DeviceType.h, 1.13 to 2.14.
 */
#define RECORD_DEVICE_CPU       0xff00u
#define RECORD_DEVICE_TYPE_CUDA 1u
static inline int record_is_cuda(uint16_t device)
{
	return (device & 0xffu) == RECORD_DEVICE_TYPE_CUDA;
}

#define RECORD_NO_THREAD UINT64_MAX

/* One slot.  All fields in host byte order: a ring never leaves its machine. */
struct record {
	uint64_t seq;     /* position + 1; what ring.h's protocol publishes */
	uint64_t time_ns; /* CLOCK_MONOTONIC */
	uint8_t kind;     /* enum record_kind */
	uint8_t flags;    /* RECORD_F_* */
	uint16_t device;
	uint32_t thread; /* the hook's number for the thread, from 1 */
	uint32_t stack;  /* reports: stack id, 0 none captured; kinds with text: bytes of text that follow */
	uint32_t scope;  /* innermost module (in backward: the module that made the node), 0 none; or an id */
	uint64_t address;
	uint64_t size; /* bytes */
	uint64_t a;
	uint64_t b;
};
_Static_assert(sizeof(struct record) == 64, "a slot is one cache line");

/*
 * A continuation slot: text of the record before it.  It names its record, and its kind lies where a record's does, so
 * that a reader that lost the record itself skips the text instead of taking it for records.
 */
#define RECORD_TEXT_BYTES 47u
struct record_text {
	uint64_t seq;
	uint64_t record_seq; /* of the record that the text belongs to */
	uint8_t kind;        /* RECORD_TEXT */
	uint8_t bytes[RECORD_TEXT_BYTES];
};
_Static_assert(sizeof(struct record_text) == 64, "a slot is one cache line");
_Static_assert(offsetof(struct record_text, kind) == offsetof(struct record, kind), "a continuation is told by its kind");

/* The longest text of one record, all fields and their NULs together; a longer one is cut, never dropped. */
#define RECORD_TEXT_MAX 4042u /* 86 continuation slots */

/* Whether records of a kind carry text. */
static inline int record_has_text(uint8_t kind)
{
	return kind >= RECORD_DEF_THREAD && kind <= RECORD_NOTE;
}

/* Continuation slots for text_bytes of text. */
static inline uint32_t record_text_slots(uint32_t text_bytes)
{
	return (text_bytes + RECORD_TEXT_BYTES - 1) / RECORD_TEXT_BYTES;
}

#endif
