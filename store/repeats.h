/*
 * Names of operators for what happens again, and whether the program must go on telling them.
 *
 * The program tells operators only for a while, because that is dear (hook/operations.h).  But training repeats itself: an
 * allocation that comes after the same allocations of its thread, from the same stacks, since the same kind of boundary, is
 * made by the same operator.  So what was told once is given to what is not told, and as long as everything is known in
 * this way, nothing need be told.  Where sizes agree too, that counts more; but they need not, or batches of ever different
 * lengths would have to be told for ever.  (What this gets wrong: two operators of one line that take turns by what is in the
 * tensors, and allocate equally often.)
 *
 * Data model.  For each thread two hashes of the allocations since its last boundary (the end of a root module call, of a
 * backward, of a step()), with sizes and without; a table from such hashes to stacks, of fixed size, the newest replacing
 * what is in its place; hashes of different histories are equal with a chance of 2^-64 a question.  It lives with the
 * recorder: one that takes up a dead one's work begins anew, and what it reads has the names that it came with.
 */
#ifndef NNMEM_STORE_REPEATS_H
#define NNMEM_STORE_REPEATS_H

#include "nnmem/record.h"

#include <stdbool.h>

struct repeats;

/* Owner: caller, repeats_free().  Errors: -ENOMEM. */
int repeats_new(struct repeats **ret);
void repeats_free(struct repeats *repeats);

/*
 * Take one record, in the order of the ring; an allocation without an operation gets the stack with the one that it has
 * always had.  Errors: none; without memory fewer names are given.
 */
void repeats_feed(struct repeats *repeats, struct record *record);

/* Whether everything that happens now is known, so that operators need not be told. */
bool repeats_all_known(const struct repeats *repeats);

#endif
