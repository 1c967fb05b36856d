/*
 * Which module made an autograd node, and from where: written when the node is made in the forward, read when it runs in the
 * backward.
 *
 * Data model.  A table of fixed size for the whole process, two 64-bit words an entry, keyed by what a Node holds: the number
 * that at::sequence_number gave it (counted per thread) and the number of that thread as PyTorch counts threads.  An entry
 * is {tag:40 module:24} and {tag:40 stack:24}: the tag is a hash of the key, so each word is whole or not there, and one that
 * was overwritten (65 536 nodes later on the same thread) is told; a wrong answer has a chance of 2^-40 a question.
 *
 * Where a Node holds its number is learnt by looking for a pair of words that are the key of an entry.  The thread lies a
 * fixed distance behind the number, because a thread's number is small (the main thread's is 1) and so can be told neither
 * from a reference count nor from a flag.
 * Source: torch/csrc/autograd/function.h (node.h since 2.13), 1.13 to 2.14: sequence_nr_, topological_nr_, has_parent_,
 * thread_id_, each in a word of its own.
 *
 * Thread: any, lock-free.  Signal: safe.  Allocates nothing.
 */
#ifndef NNMEM_HOOK_NODES_H
#define NNMEM_HOOK_NODES_H

#include <stdbool.h>
#include <stdint.h>

#define NODES_ENTRIES    (1u << 16)
#define NODES_MAX_MODULE ((1u << 24) - 1)
/* A Node of every version is at least this long. */
#define NODES_WORDS           12u
#define NODES_THREAD_DISTANCE 3u

struct nodes {
	uint64_t entries[NODES_ENTRIES];
	uint64_t stacks[NODES_ENTRIES];
	/* Learnt: the word that holds the number, 0 unknown; `candidate` was seen once, for number `candidate_number`. */
	uint32_t layout;
	uint32_t candidate;
	uint64_t candidate_number;
	uint32_t nr_tries;
};

/* What made a node: a module, a stack; 0: none. */
struct nodes_origin {
	uint32_t module, stack;
};

/* Node @number of PyTorch's thread @thread was made by @origin.  Ids above NODES_MAX_MODULE are taken as 0. */
void nodes_made(struct nodes *nodes, uint64_t thread, uint64_t number, struct nodes_origin origin);

/* Returns true and what made node @number of @thread, or false when that is not known (any more). */
bool nodes_find(const struct nodes *nodes, uint64_t thread, uint64_t number, struct nodes_origin *ret_origin);

/* How the layout stands after nodes_origin(). */
enum nodes_layout { NODES_LEARNING, NODES_KNOWN, NODES_GIVEN_UP };

/*
 * What made the live Node at @node, all 0 when that is not known.  Learns the layout from the first nodes it is
 * given: two with different numbers must agree.  After NODES_MAX_TRIES nodes in vain it gives up.
 */
#define NODES_MAX_TRIES 4096u
struct nodes_origin nodes_origin(struct nodes *nodes, const void *node);

enum nodes_layout nodes_layout(const struct nodes *nodes);

/* False for a live Node that is known to have no number of its own (AccumulateGrad). */
bool nodes_is_numbered(const struct nodes *nodes, const void *node);

#endif
