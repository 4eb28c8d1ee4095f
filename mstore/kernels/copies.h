/* Copies of memory that another process writes or reads meanwhile, word by word: memcpy promises nothing about words that
 * change under it, not even that each is copied as one. What the copy is worth is decided afterwards, between fences. */
#ifndef MSTORE_COPIES_H
#define MSTORE_COPIES_H
#include <stdint.h>
#include <stddef.h>
#include <string.h>
#include "atomics.h"

/* Out of shared memory; both lengths and places are multiples of 4. */
static inline void ms_copy_out(void *to, const void *from, size_t bytes) {
    char *out = (char *)to;
    const char *in = (const char *)from;
    const char *stop = in + bytes;
    uint32_t half;
    uint64_t word;
    if (((uintptr_t)in & 4) && in < stop) {
        half = ms_load_relaxed_u32(in);
        memcpy(out, &half, 4);
        in += 4, out += 4;
    }
    for (uint64_t a, b, c, d; stop - in >= 32; in += 32, out += 32) { /* one by one takes twice as long */
        a = ms_load_relaxed_u64(in);
        b = ms_load_relaxed_u64(in + 8);
        c = ms_load_relaxed_u64(in + 16);
        d = ms_load_relaxed_u64(in + 24);
        memcpy(out, &a, 8);
        memcpy(out + 8, &b, 8);
        memcpy(out + 16, &c, 8);
        memcpy(out + 24, &d, 8);
    }
    for (; stop - in >= 8; in += 8, out += 8) {
        word = ms_load_relaxed_u64(in);
        memcpy(out, &word, 8);
    }
    if (in < stop) {
        half = ms_load_relaxed_u32(in);
        memcpy(out, &half, 4);
    }
}

/* Into shared memory, where a reader may still be looking at what was there; n words of 8 bytes. */
static inline void ms_copy_in(void *to, const void *from, size_t n) {
    uint64_t word;
    for (size_t i = 0; i < n; i++) {
        memcpy(&word, (const char *)from + 8 * i, 8);
        ms_store_relaxed_u64((char *)to + 8 * i, word);
    }
}

static inline void ms_fill_in(void *to, uint64_t word, size_t n) {
    for (size_t i = 0; i < n; i++)
        ms_store_relaxed_u64((char *)to + 8 * i, word);
}
#endif
