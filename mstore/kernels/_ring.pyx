"""The byte ring between one ingest worker and the persister, and atomic access to single shared words.

    RING_HEAD      bytes ever published       stored by the worker     SYNC POINT ring-head
    RING_DRAINED   bytes logged and applied   stored by the persister  SYNC POINT ring-drained
    RING_DURABLE   bytes fdatasynced          stored by the committer  SYNC POINT ring-durable; the ring's tail

Positions are 64-bit counts of bytes and are never reset; position p lies at byte p mod size. Always
durable <= drained <= head and head - durable <= size. A record is contiguous: one that does not fit before the end of
the ring is preceded by a PAD record up to the end. The worker writes only beyond the head it has published, so a worker
killed between any two stores leaves nothing but bytes beyond the head, which its successor overwrites.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mstore.kernels._atomics cimport *
from mstore.kernels._layout cimport *
from mstore.kernels._records cimport *
from mstore.kernels._segment cimport Segment

from mstore.errors import InvariantBroken

cdef uint64_t SIZE_MAX_BYTES = 1 << 31  # a PAD's length is 32 bits


cdef uint64_t checked_size(Segment segment) except 0:
    if segment.length < MS_RING_DATA:
        raise InvariantBroken(f"a ring of {segment.length} bytes has no room for its header")
    cdef uint64_t size = ms_load_relaxed_u64(segment.base + MS_RING_BYTES)
    if size < 64 or size & (size - 1) or size > SIZE_MAX_BYTES or size > segment.length - MS_RING_DATA:
        raise InvariantBroken(
            f"ring size {size} is not a power of two that fits a segment of {segment.length} bytes", size=size
        )
    return size


def create_ring_words(Segment segment, uint64_t ring_bytes, uint64_t position=0):
    """Make an empty ring of `ring_bytes` (a power of two); its three positions begin at `position`, a multiple of 8."""
    if not segment.writable:
        raise ValueError("the segment is mapped read-only")
    if ring_bytes < 64 or ring_bytes & (ring_bytes - 1) or ring_bytes > SIZE_MAX_BYTES or position % 8:
        raise ValueError(
            f"ring_bytes {ring_bytes} must be a power of two from 64 to 2 GiB, position {position} a multiple of 8"
        )
    if segment.length < MS_RING_DATA + ring_bytes:
        raise ValueError(f"a segment of {segment.length} bytes cannot hold a ring of {ring_bytes} bytes")
    ms_store_relaxed_u64(segment.base + MS_RING_BYTES, ring_bytes)
    ms_store_relaxed_u64(segment.base + MS_RING_DURABLE, position)
    ms_store_relaxed_u64(segment.base + MS_RING_DRAINED, position)
    ms_store_release_u64(segment.base + MS_RING_HEAD, position)


cdef class RingWriter:
    """The one writer of a ring. A new one continues at the published head, whatever its predecessor left beyond it."""

    def __init__(self, Segment segment not None):
        if not segment.writable:
            raise ValueError("the ring is mapped read-only")
        self.segment = segment
        self.size = checked_size(segment)
        self.data = segment.base + MS_RING_DATA
        self.private_head = ms_load_acquire_u64(segment.base + MS_RING_HEAD)
        self.tail = ms_load_acquire_u64(segment.base + MS_RING_DURABLE)
        if self.private_head - self.tail > self.size or self.private_head % 8:
            raise InvariantBroken(
                f"ring positions broken: head {self.private_head}, durable {self.tail}, size {self.size}",
                head=self.private_head, durable=self.tail, size=self.size,
            )

    cdef char* reserve(self, uint64_t n) noexcept nogil:
        cdef uint64_t at = self.private_head & (self.size - 1)
        cdef uint64_t to_end = self.size - at
        cdef uint64_t need = n if n <= to_end else n + to_end
        cdef uint64_t used = self.private_head - self.tail
        cdef ms_record* pad
        if used > self.size or need > self.size - used:
            # SYNC POINT (acquire) ring-durable: the readers are done with the bytes that are overwritten from here on.
            self.tail = ms_load_acquire_u64(self.segment.base + MS_RING_DURABLE)
            used = self.private_head - self.tail
            if used > self.size or need > self.size - used:  # a damaged durable position gives no room
                return NULL
        if n > to_end:
            pad = <ms_record*>(self.data + at)
            pad.type = MS_REC_PAD
            pad.vtype = 0
            pad.flags = 0
            pad.length = <uint32_t>to_end
            self.private_head += to_end
            at = 0
        return self.data + at

    cdef void advance(self, uint64_t n) noexcept nogil:
        self.private_head += n

    cdef void publish_c(self) noexcept nogil:
        # SYNC POINT (release) ring-head: whoever sees the head sees the records below it.
        ms_store_release_u64(self.segment.base + MS_RING_HEAD, self.private_head)

    def publish(self):
        """Make every record advanced over so far visible to the persister; returns the new head."""
        self.publish_c()
        return self.private_head

    def head(self):
        """The published head: a position in bytes."""
        return ms_load_relaxed_u64(self.segment.base + MS_RING_HEAD)

    def position(self):
        """Where the next record goes: the published head plus all that is not published yet."""
        return self.private_head

    def room(self):
        """Bytes that are free now; one record may need more than its length, for the PAD before the end of the ring."""
        self.tail = ms_load_acquire_u64(self.segment.base + MS_RING_DURABLE)
        cdef uint64_t used = self.private_head - self.tail
        return self.size - used if used <= self.size else 0

    def put(self, const unsigned char[::1] record not None):
        """Append one record (whole, its length a multiple of 8); False when there is no room now. Not yet published."""
        cdef uint64_t n = <uint64_t>record.shape[0]
        cdef char* to
        if n == 0 or n % 8 or n > self.size // 2:
            raise ValueError(f"a record has 8 to {self.size // 2} bytes, a multiple of 8; got {n}")
        to = self.reserve(n)
        if to == NULL:
            return False
        memcpy(to, &record[0], n)
        self.advance(n)
        return True


cdef class RingReader:
    """The persister's side, and everybody else's who looks at a ring. set_* need a writable mapping."""

    def __init__(self, Segment segment not None):
        self.segment = segment
        self.size = checked_size(segment)
        self.data = segment.base + MS_RING_DATA
        # A view of the owner keeps the mapping alive for as long as any slice of it lives.
        self._bytes = memoryview(segment._owner).cast("B").toreadonly()[MS_RING_DATA : MS_RING_DATA + self.size]

    def head(self):
        # SYNC POINT (acquire) ring-head
        return ms_load_acquire_u64(self.segment.base + MS_RING_HEAD)

    def drained(self):
        # SYNC POINT (acquire) ring-drained: an acknowledgement at level memory follows from it.
        return ms_load_acquire_u64(self.segment.base + MS_RING_DRAINED)

    def durable(self):
        # SYNC POINT (acquire) ring-durable
        return ms_load_acquire_u64(self.segment.base + MS_RING_DURABLE)

    def ring_bytes(self):
        return self.size

    def set_drained(self, uint64_t position):
        """Everything below `position` is in the log file and applied. Never moves backwards, never passes the head."""
        self._check_move(position, self.drained(), self.head(), "drained", "head")
        # SYNC POINT (release) ring-drained
        ms_store_release_u64(self.segment.base + MS_RING_DRAINED, position)

    def set_durable(self, uint64_t position):
        """Everything below `position` is fdatasynced: its room is the worker's again. Never passes drained."""
        self._check_move(position, self.durable(), self.drained(), "durable", "drained")
        # SYNC POINT (release) ring-durable
        ms_store_release_u64(self.segment.base + MS_RING_DURABLE, position)

    def _check_move(self, uint64_t position, uint64_t now, uint64_t upto, name, bound):
        if not self.segment.writable:
            raise ValueError("the ring is mapped read-only")
        if position < now or position > upto:
            raise InvariantBroken(
                f"{name} would go from {now} to {position}; {bound} is {upto}", now=now, position=position, upto=upto
            )

    cdef int64_t whole_records(self, uint64_t start, uint64_t stop, uint64_t limit, uint64_t* bad) noexcept nogil:
        cdef uint64_t at = start & (self.size - 1)
        cdef uint64_t span = stop - start
        cdef uint64_t done = 0
        cdef uint64_t n
        if span > self.size - at:
            span = self.size - at
        if span <= limit:  # records neither cross the end of the ring nor the head: all of them are whole
            return <int64_t>span
        while done < span:
            n = record_bytes(self.data + at + done, span - done)
            if n == 0:
                bad[0] = start + done
                return -1
            if done + n > limit:
                break
            done += n
        return <int64_t>done

    def view(self, uint64_t start, uint64_t limit):
        """Read-only bytes of the whole records from position `start` on: all that are published, or `limit` bytes of them.

        Ends at the end of the ring (a PAD there is included), so a second call is needed to go on from the ring's
        beginning. Empty only if `start` is the head. Its bytes stay until set_durable() passes them.
        Raises InvariantBroken when `start` is outside durable..head or a record is malformed, ValueError when not even
        the first record fits `limit`.
        """
        cdef uint64_t stop = self.head()
        cdef uint64_t bad = 0
        cdef int64_t n
        cdef uint64_t at = start & (self.size - 1)
        self._check_span(start, stop)
        with nogil:
            n = self.whole_records(start, stop, limit, &bad)
        if n < 0:
            raise self._malformed(bad, stop)
        if n == 0 and start != stop:
            raise ValueError(f"limit {limit} is shorter than the record at ring position {start}")
        return self._bytes[at : at + <uint64_t>n]

    def _malformed(self, uint64_t position, uint64_t stop):
        cdef uint64_t at = position & (self.size - 1)
        fault = record_fault(self._bytes[at : at + min(stop - position, self.size - at)])
        return InvariantBroken(f"malformed record at ring position {position}: {fault}", position=position)

    def _check_span(self, uint64_t start, uint64_t stop):
        cdef uint64_t durable = self.durable()
        cdef uint64_t head = self.head()
        if not durable <= start <= stop <= head or head - durable > self.size or start % 8 or stop % 8:
            raise InvariantBroken(
                f"ring positions broken: durable {durable}, start {start}, stop {stop}, head {head}, size {self.size}",
                durable=durable, start=start, stop=stop, head=head, size=self.size,
            )

    def validate(self, uint64_t start, uint64_t stop):
        """Check positions and every record of start..stop; returns how many records there are, PADs included."""
        cdef uint64_t position = start
        cdef uint64_t n, at, left
        cdef int64_t records = 0
        self._check_span(start, stop)
        if not self.durable() <= self.drained() <= self.head():
            raise InvariantBroken(
                f"ring positions broken: not durable {self.durable()} <= drained {self.drained()} <= head {self.head()}"
            )
        while position < stop:
            at = position & (self.size - 1)
            left = min(stop - position, self.size - at)
            n = record_bytes(self.data + at, left)
            if n == 0:
                raise self._malformed(position, stop)
            if (<const ms_record*>(self.data + at)).type == MS_REC_PAD and n != self.size - at:
                raise InvariantBroken(
                    f"PAD at ring position {position} does not reach the end of the ring", position=position
                )
            position += n
            records += 1
        return records


cdef class EpochWord:
    """A worker's epoch: odd while it holds references it has looked up, even while it holds none.

    Whoever removes a series first hides its keys, then waits until every epoch it saw odd has changed; from then on no
    worker can hold a reference it found before.
    """

    def __init__(self, Segment segment not None, size_t offset):
        if not segment.writable:
            raise ValueError("the segment is mapped read-only")
        check_word(segment, offset, 8)
        self.segment = segment
        self.word = segment.base + offset
        self.value = ms_load_relaxed_u64(self.word)
        if self.value & 1:  # a predecessor died busy: whatever it held died with it
            self.exit_c()

    cdef void enter_c(self) noexcept nogil:
        self.value += 1
        ms_store_relaxed_u64(self.word, self.value)
        # Store, then load: the look-ups that follow must not be served before the odd epoch is visible, and x86
        # reorders exactly this pair. SYNC POINT (full) worker-epoch
        ms_fence_full()

    cdef void exit_c(self) noexcept nogil:
        self.value += 1
        # SYNC POINT (release) worker-epoch: what was published under this epoch is visible before its end.
        ms_store_release_u64(self.word, self.value)

    def enter(self):
        if self.value & 1:
            raise InvariantBroken("the epoch is entered already")
        self.enter_c()

    def exit(self):
        if not self.value & 1:
            raise InvariantBroken("the epoch is not entered")
        self.exit_c()

    def busy(self):
        return bool(self.value & 1)


def fence_full():
    """The other half of SYNC POINT (full) worker-epoch: call between hiding something and reading the epochs."""
    ms_fence_full()


cdef int check_word(Segment segment, size_t offset, size_t width) except -1:
    if offset % width or segment.length < width or offset > segment.length - width:
        raise IndexError(f"no {width}-byte word at offset {offset} of a segment of {segment.length} bytes")
    return 0


def load_u64(Segment segment not None, size_t offset):
    """The word at `offset`, with acquire order."""
    check_word(segment, offset, 8)
    return ms_load_acquire_u64(segment.base + offset)


def load_u32(Segment segment not None, size_t offset):
    check_word(segment, offset, 4)
    return ms_load_acquire_u32(segment.base + offset)


def store_u64(Segment segment not None, size_t offset, uint64_t value):
    """Store the word at `offset` with release order."""
    check_word(segment, offset, 8)
    if not segment.writable:
        raise ValueError("the segment is mapped read-only")
    ms_store_release_u64(segment.base + offset, value)


def store_u32(Segment segment not None, size_t offset, uint32_t value):
    check_word(segment, offset, 4)
    if not segment.writable:
        raise ValueError("the segment is mapped read-only")
    ms_store_release_u32(segment.base + offset, value)


def record_length(const unsigned char[::1] record not None):
    """Bytes of the record that `record` begins with, 0 when it is malformed or not all there."""
    return record_bytes(<const char*>&record[0], <uint64_t>record.shape[0]) if record.shape[0] else 0


def record_fault(const unsigned char[::1] record not None):
    """What is wrong with the record that `record` begins with, in words; "" when it is whole and well formed."""
    cdef uint64_t length, left = <uint64_t>record.shape[0]
    cdef int fault = measure(<const char*>&record[0], left, &length) if left else FAULT_CUT
    cdef const ms_run* run = <const ms_run*>&record[0] if left else NULL
    if fault == SOUND:
        return ""
    if fault == FAULT_LENGTH:
        length = (<const ms_record*>run).length
        return f"type {run.type} with a length of {length}: expected a multiple of 8, 8 or more"
    if fault == FAULT_TYPE:
        return f"type {run.type} does not exist"
    if fault == FAULT_VTYPE:
        return f"type {run.type} with values of type {run.vtype}: expected {<int>TYPE_F32} to {<int>TYPE_U64}"
    if fault == FAULT_COUNT:
        return f"type {run.type} with a count of {run.count}: expected 1 to {<int>COUNT_MAX}"
    if fault == FAULT_COLUMNS:
        return f"type {run.type} with {run.vtype} columns: expected 1 to {<int>COLUMNS_MAX}"
    if left < sizeof(ms_record):
        return f"cut short: {left} bytes are left"
    return f"type {run.type} cut short: {left} bytes are left"
