/* Memory for a part of a shared-memory file that is mapped: there before anybody touches it, so that a full /dev/shm is an
 * errno here and nowhere a SIGBUS; and mapped at once, since a fault for each page costs several times as much.
 *
 *   advise     where /dev/shm is mounted with huge=advise, pages of 2 MiB: not for the first HUGE_FROM bytes of a region,
 *              because a small store would hold several MiB that it does not use. Without that option it changes nothing
 *   populate   allocates and maps, by what was advised (posix_fallocate knows no mapping, and takes pages of 4 KiB under
 *              huge=advise). A kernel before 5.14 cannot: then pages are mapped one by one, as they are touched
 *   allocate   what populate left out, and the answer: 0 or an errno
 */
#ifndef MSTORE_BACKING_H
#define MSTORE_BACKING_H
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#ifndef MADV_HUGEPAGE
#define MADV_HUGEPAGE 14
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#define MS_HUGE_BYTES ((uint64_t)2 << 20)
#define MS_HUGE_FROM ((uint64_t)16 << 20)

/* [at, at + n) of the file `fd` that is mapped at `base`; what is there already is kept. `region`: where the part of the
 * file that grows began. Another thread may write elsewhere in the file, and ask for the same meanwhile. */
static inline int ms_back(int fd, char *base, uint64_t region, uint64_t at, uint64_t n) {
    const uintptr_t from = (uintptr_t)(base + at) & ~(uintptr_t)(MS_HUGE_BYTES - 1);
    const uintptr_t upto = ((uintptr_t)(base + at + n) + MS_HUGE_BYTES - 1) & ~(uintptr_t)(MS_HUGE_BYTES - 1);
    int failed;
    if (at - region >= MS_HUGE_FROM)
        (void)madvise((void *)from, upto - from, MADV_HUGEPAGE);
    (void)madvise(base + at, n, MADV_POPULATE_WRITE);
    do
        failed = posix_fallocate(fd, (off_t)at, (off_t)n);
    while (failed == EINTR);
    return failed;
}

/* The same; when it fails, what nobody uses yet is given back, so that a failure changes nothing. */
static inline int ms_back_or_nothing(int fd, char *base, uint64_t region, uint64_t at, uint64_t n) {
    const int failed = ms_back(fd, base, region, at, n);
    if (failed)
        (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n);
    return failed;
}
#endif
