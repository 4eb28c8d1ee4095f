"""The commit thread, and the pre-writing of log segments: waiting for the disk without the GIL.

    persister (Python)                          commit thread (C, no GIL)
      pwrite block to fd                          sleep until a group waits
      note_written(fd, seq, ring, to) --queue-->  take the oldest group
                                                  fsync(directory) if the file's name is new
                                                  fdatasync(fd)
                                                  store durable positions and sequence (release)
                                                  write the workers' eventfds

A group is: all blocks of one file noted before its fdatasync began. Blocks noted later, or in another file, form
the next group, so a position is stored as durable only after an fdatasync that began after its block was
written to that same file. Groups are taken in order of sequence, so a durable block has only durable ones before it.

The first failed sync ends acknowledging: the queue is dropped, nothing more is stored, notify_fd is written, and
the thread sleeps until restart(). No descriptor is synced again after it failed; the log sees to that by writing
every block that is not durable to a new file before it calls restart().
"""

from libc.errno cimport EINVAL, EIO, errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset
from posix.signal cimport SIG_SETMASK, sigfillset, sigset_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.types cimport off_t
from posix.unistd cimport fdatasync, fsync, pwrite, usleep, write

from mstore.kernels._atomics cimport ms_load_acquire_u64, ms_store_release_u64
from mstore.kernels._layout cimport MS_PAGE, MS_RING_DURABLE, MS_STORE_DURABLE, MS_STORE_WRITTEN
from mstore.kernels._segment cimport Segment


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct pthread_condattr_t:
        pass
    int pthread_mutex_init(pthread_mutex_t*, void*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_condattr_init(pthread_condattr_t*)
    int pthread_condattr_setclock(pthread_condattr_t*, int clock)
    int pthread_cond_init(pthread_cond_t*, pthread_condattr_t*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_timedwait(pthread_cond_t*, pthread_mutex_t*, const timespec*)
    int pthread_cond_broadcast(pthread_cond_t*)
    int pthread_cond_destroy(pthread_cond_t*)
    int pthread_sigmask(int how, const sigset_t* set, sigset_t* old)

cdef enum:
    RINGS_MAX = 64
    GROUPS_MAX = 64              # files with unsynced blocks; a 64 MiB segment each, so never reached in practice
    PREWRITE_STEP = 256 * 1024   # with a pause, so that the log's own fdatasync is not starved
    PREWRITE_PAUSE_US = 300

cdef uint8_t[PREWRITE_STEP] ZEROS
memset(ZEROS, 0, PREWRITE_STEP)

cdef struct Group:
    int fd
    bint new_name                # the file's directory entry is not durable yet
    uint64_t seq                 # of its last block
    uint64_t position[RINGS_MAX]


cdef class Committer:
    """Group commit. One thread calls run(), the persister calls everything else."""

    cdef Segment control
    cdef list rings              # keeps the mappings alive
    cdef char* ring_base[RINGS_MAX]
    cdef int eventfd[RINGS_MAX]
    cdef uint64_t published[RINGS_MAX]
    cdef uint64_t noted[RINGS_MAX]
    cdef int n_rings
    cdef int notify_fd
    cdef int dir_fd
    cdef pthread_mutex_t mutex
    cdef pthread_cond_t changed
    cdef Group queue[GROUPS_MAX]
    cdef int first
    cdef int count
    cdef int error               # errno of the failure that stopped us, 0 = none
    cdef int first_error         # errno of the first failure ever
    cdef bint stopping
    cdef bint running
    cdef bint syncing            # a group is on its way, without the mutex
    cdef uint64_t durable_seq
    cdef uint64_t n_fsyncs
    cdef uint64_t us_total
    cdef int64_t inject_after    # fault hook: syncs until failures start; -1 = off
    cdef int64_t inject_times
    cdef int inject_errno

    def __cinit__(self, Segment control not None, list rings, list eventfds, int notify_fd, uint64_t durable, int dir_fd):
        cdef Segment ring
        cdef pthread_condattr_t attributes
        if len(rings) > RINGS_MAX or len(eventfds) != len(rings):
            raise ValueError(f"at most {RINGS_MAX} rings, with one eventfd each (-1 = none)")
        if not control.writable or control.length < 2 * MS_PAGE:
            raise ValueError("the control segment must be writable and hold the store's words")
        pthread_mutex_init(&self.mutex, NULL)
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(&self.changed, &attributes)
        self.control = control
        self.rings = rings
        self.n_rings = len(rings)
        for i, ring in enumerate(rings):
            if not ring.writable or ring.length < 2 * MS_PAGE:
                raise ValueError(f"ring {i} must be writable and hold its words")
            self.ring_base[i] = ring.base
            self.eventfd[i] = eventfds[i]
            self.published[i] = ms_load_acquire_u64(ring.base + MS_RING_DURABLE)
            self.noted[i] = self.published[i]
        self.notify_fd = notify_fd
        self.dir_fd = dir_fd
        self.inject_after = -1
        self.durable_seq = durable
        ms_store_release_u64(control.base + MS_STORE_WRITTEN, durable)
        ms_store_release_u64(control.base + MS_STORE_DURABLE, durable)

    def __dealloc__(self):
        pthread_cond_destroy(&self.changed)
        pthread_mutex_destroy(&self.mutex)

    cpdef wrote(self, uint64_t seq):
        """Publish that block `seq` is in the log, before it is applied; the word never goes back."""
        if seq > ms_load_acquire_u64(self.control.base + MS_STORE_WRITTEN):
            ms_store_release_u64(self.control.base + MS_STORE_WRITTEN, seq)

    def note_written(self, int fd, uint64_t seq, int ring, uint64_t stop, bint new_name) -> bool:
        """A block is in the file: make it durable soon. False after a failure (the block is not queued).

        fd, seq   the file, and the block's sequence: higher than any before
        ring      index of the ring it came from, -1 = catalog
        stop      position in that ring after the block
        new_name  it is the first block of a file whose directory entry is not durable
        """
        cdef bint queued
        if ring >= self.n_rings:
            raise IndexError(f"ring {ring} of {self.n_rings}")
        self.wrote(seq)
        with nogil:
            pthread_mutex_lock(&self.mutex)
            queued = self.enqueue(fd, seq, ring, stop, new_name)
            pthread_mutex_unlock(&self.mutex)
        return queued

    cdef bint enqueue(self, int fd, uint64_t seq, int ring, uint64_t stop, bint new_name) noexcept nogil:
        cdef Group* group
        if ring >= 0:
            self.noted[ring] = stop
        while self.count == GROUPS_MAX and not self.error:
            pthread_cond_wait(&self.changed, &self.mutex)
        if self.error:
            return False
        group = &self.queue[(self.first + self.count - 1) % GROUPS_MAX]
        if self.count == 0 or group.fd != fd:
            group = &self.queue[(self.first + self.count) % GROUPS_MAX]
            self.count += 1
            group.fd = fd
            group.new_name = False
        group.new_name = group.new_name or new_name
        group.seq = seq
        memcpy(group.position, self.noted, sizeof(self.noted))
        pthread_cond_broadcast(&self.changed)
        return True

    def run(self) -> None:
        """Commit until stop(). The calling thread gives up the GIL for good and blocks all signals."""
        cdef sigset_t everything
        cdef Group group
        cdef int error
        cdef uint64_t started
        if self.running:
            raise RuntimeError("run() is called once")
        self.running = True
        with nogil:
            sigfillset(&everything)
            pthread_sigmask(SIG_SETMASK, &everything, NULL)
            pthread_mutex_lock(&self.mutex)
            while True:
                while not self.stopping and (self.count == 0 or self.error):
                    pthread_cond_wait(&self.changed, &self.mutex)
                if self.count == 0 or self.error:
                    break                      # stopping, and nothing left that could be made durable
                group = self.queue[self.first]
                self.first = (self.first + 1) % GROUPS_MAX
                self.count -= 1
                self.syncing = True
                pthread_mutex_unlock(&self.mutex)
                started = now_us()
                error = self.sync(&group)
                pthread_mutex_lock(&self.mutex)
                self.syncing = False
                self.n_fsyncs += 1
                self.us_total += now_us() - started
                if error:
                    self.fail(error)
                else:
                    self.publish(&group)
                pthread_cond_broadcast(&self.changed)
            pthread_mutex_unlock(&self.mutex)

    cdef int sync(self, Group* group) noexcept nogil:
        if self.inject_after > 0:
            self.inject_after -= 1
        elif self.inject_after == 0 and self.inject_times > 0:
            self.inject_times -= 1
            return self.inject_errno
        # The name first: a block is found again only in a file whose name survived.
        if group.new_name and fsync(self.dir_fd):
            return errno or EIO
        if fdatasync(group.fd):
            return errno or EIO
        return 0

    cdef void fail(self, int error) noexcept nogil:
        self.error = error
        if not self.first_error:
            self.first_error = error
        self.count = 0
        wake(self.notify_fd)

    cdef void publish(self, Group* group) noexcept nogil:
        cdef int i
        for i in range(self.n_rings):
            if group.position[i] != self.published[i]:
                # SYNC POINT (release) ring durable: the writer reuses these bytes, a worker acknowledges them
                ms_store_release_u64(self.ring_base[i] + MS_RING_DURABLE, group.position[i])
        self.durable_seq = group.seq
        # SYNC POINT (release) store durable
        ms_store_release_u64(self.control.base + MS_STORE_DURABLE, group.seq)
        for i in range(self.n_rings):
            if group.position[i] != self.published[i]:
                self.published[i] = group.position[i]
                wake(self.eventfd[i])

    def wait(self, uint64_t seq, double timeout_s) -> bool:
        """Sleep, without the GIL, until block `seq` is durable; False on failure, stop or after timeout_s."""
        cdef timespec until
        cdef bint done
        clock_gettime(CLOCK_MONOTONIC, &until)
        until.tv_sec += <long>timeout_s
        until.tv_nsec += <long>((timeout_s - <long>timeout_s) * 1e9)
        if until.tv_nsec >= 1000000000:
            until.tv_nsec -= 1000000000
            until.tv_sec += 1
        with nogil:
            pthread_mutex_lock(&self.mutex)
            while self.durable_seq < seq and not self.error:
                if pthread_cond_timedwait(&self.changed, &self.mutex, &until):
                    break
            done = self.durable_seq >= seq
            pthread_mutex_unlock(&self.mutex)
        return done

    def durable(self) -> int:
        """Sequence of the last durable block."""
        # SYNC POINT (acquire) store durable
        return ms_load_acquire_u64(self.control.base + MS_STORE_DURABLE)

    def failed(self) -> int:
        """errno of the failure that stopped acknowledging; 0 while all is well."""
        return self.error

    def abandon(self, int error) -> None:
        """Stop acknowledging as after a failed sync with that errno; nothing is published any more once this returns."""
        if error <= 0:
            raise ValueError("an errno is positive")
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.error = error
            self.count = 0
            pthread_cond_broadcast(&self.changed)
            while self.syncing:
                pthread_cond_wait(&self.changed, &self.mutex)
            pthread_mutex_unlock(&self.mutex)

    def restart(self, int dir_fd) -> None:
        """Go on after a failure. The caller moved every block that is not durable to a new file, and notes them again."""
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.error = 0
            self.count = 0
            self.dir_fd = dir_fd
            memcpy(self.noted, self.published, sizeof(self.noted))
            pthread_mutex_unlock(&self.mutex)

    def stop(self) -> None:
        """Let run() return once everything noted is durable, or at once after a failure."""
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.stopping = True
            pthread_cond_broadcast(&self.changed)
            pthread_mutex_unlock(&self.mutex)

    def status(self) -> tuple[int, int, int, int]:
        """(errno of the first failure ever, durable sequence, number of commits, microseconds spent in them)"""
        return self.first_error, self.durable_seq, self.n_fsyncs, self.us_total

    def inject(self, int64_t after, int error, int64_t times=1) -> None:
        """Fault hook: after `after` more commits, let the next `times` fail with errno `error`, without syncing."""
        if error <= 0:
            raise ValueError("an errno is positive")
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.inject_errno = error
            self.inject_times = times
            self.inject_after = after
            pthread_mutex_unlock(&self.mutex)


cdef void wake(int fd) noexcept nogil:
    cdef uint64_t one = 1
    if fd >= 0:
        # A full eventfd (EAGAIN) wakes its reader all the same, and a closed one has no reader.
        if write(fd, &one, sizeof(one)) < 0:
            pass


cdef uint64_t now_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000


def prewrite(int fd, int64_t start, int64_t stop, int64_t pause_us=PREWRITE_PAUSE_US) -> int:
    """Write zeros to [start, stop) of a file and fdatasync each step. Returns 0 or an errno.

    Blocks overwritten later need no journal commit at their fdatasync: neither size nor extents change.
    """
    cdef int64_t at = start
    cdef ssize_t n
    cdef int error = 0
    if start < 0 or stop < start:
        return EINVAL
    with nogil:
        while at < stop and not error:
            n = pwrite(fd, ZEROS, <size_t>min(<int64_t>PREWRITE_STEP, stop - at), <off_t>at)
            if n <= 0:
                error = errno or EIO
            else:
                at += n
                if fdatasync(fd):
                    error = errno or EIO
                elif pause_us and at < stop:
                    usleep(<unsigned int>pause_us)
    return error
