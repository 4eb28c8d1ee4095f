/* The only text with C11 atomics. Every shared word is read and written through these.
 *
 * Naming: load/store + order + width. A pair that must order other memory is labelled at both ends with the
 * same words:   SYNC POINT (release) <name>   ...   SYNC POINT (acquire) <name>
 * The table of shared words in ARCHITECTURE.md lists every label.
 */
#ifndef MSTORE_ATOMICS_H
#define MSTORE_ATOMICS_H
#include <stdint.h>

static inline uint64_t ms_load_acquire_u64(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE); }
static inline uint64_t ms_load_relaxed_u64(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED); }
static inline void ms_store_release_u64(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE); }
static inline void ms_store_relaxed_u64(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED); }
static inline uint32_t ms_load_acquire_u32(const void *p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE); }
static inline uint32_t ms_load_relaxed_u32(const void *p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED); }
static inline void ms_store_release_u32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELEASE); }
static inline void ms_store_relaxed_u32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED); }
static inline void ms_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void ms_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
static inline void ms_fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif
