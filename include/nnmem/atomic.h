/*
 * Atomic operations with the memory order in the name.
 *
 * The ring is shared between processes, so every word that two sides touch goes through these: plain GCC builtins on
 * naturally aligned 32 and 64-bit words, which are lock-free on every supported machine (asserted below) and need no
 * support library.  Each release names the acquire that it pairs with, at the place where it is used.
 *
 * Thread: any.  Signal: safe.
 */
#ifndef NNMEM_ATOMIC_H
#define NNMEM_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

_Static_assert(__atomic_always_lock_free(sizeof(uint64_t), 0), "64-bit words must be lock-free across processes");
_Static_assert(__atomic_always_lock_free(sizeof(uint32_t), 0), "32-bit words must be lock-free across processes");

static inline uint64_t atomic64_load_relaxed(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline uint64_t atomic64_load_acquire(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void atomic64_store_relaxed(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void atomic64_store_release(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Returns the value before the addition. */
static inline uint64_t atomic64_add_relaxed(uint64_t *word, uint64_t value)
{
	return __atomic_fetch_add(word, value, __ATOMIC_RELAXED);
}

/* Strong; on failure *@expected holds what was found.  Success releases and acquires, failure acquires. */
static inline bool atomic64_cas_acq_rel(uint64_t *word, uint64_t *expected, uint64_t desired)
{
	return __atomic_compare_exchange_n(word, expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* May fail spuriously (loop); on failure *@expected holds what was found.  No ordering. */
static inline bool atomic64_cas_weak_relaxed(uint64_t *word, uint64_t *expected, uint64_t desired)
{
	return __atomic_compare_exchange_n(word, expected, desired, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static inline uint32_t atomic32_load_relaxed(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline uint32_t atomic32_load_acquire(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void atomic32_store_relaxed(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void atomic32_store_release(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Returns the value before the addition. */
static inline uint32_t atomic32_add_relaxed(uint32_t *word, uint32_t value)
{
	return __atomic_fetch_add(word, value, __ATOMIC_RELAXED);
}

/* Strong; on failure *@expected holds what was found.  Success releases and acquires, failure acquires. */
static inline bool atomic32_cas_acq_rel(uint32_t *word, uint32_t *expected, uint32_t desired)
{
	return __atomic_compare_exchange_n(word, expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

#endif
