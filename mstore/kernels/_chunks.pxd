from libc.stdint cimport int64_t, uint32_t, uint64_t

from mstore.kernels._atomics cimport *
from mstore.kernels._layout cimport *
from mstore.kernels._segment cimport Segment


cdef extern from *:
    """
    /* No sample is further from 1970 (s or ms), and no two values of a COLUMN further apart: sums below cannot overflow. */
    #define TIME_MAX (INT64_C(1) << 53)
    #define DT_MAX (INT64_C(1) << 40)
    """
    const int64_t TIME_MAX
    const int64_t DT_MAX

cdef enum:
    SLOTS_LOG2 = 9         # of MS_CHUNK_SLOTS
    CLASSES = 11
    TABLE_LOG2_MIN = 3     # link tables have 2^3, 2^5 ... 2^15 words
    TABLE_LOG2_STEP = 2

# Why a chunk could not be had.
cdef enum:
    DONE = 0
    NO_ROOM = 1        # no memory under the cap
    NO_PLACE = 2       # more than 2^15 chunks before the newest one

cdef struct extent:    # private to the writer
    uint32_t used      # chunks handed out
    uint32_t bump      # chunks from this index on were never handed out since the extent got its class
    uint32_t free_head # index + 1 of the last chunk given back; the chain runs through chunk.series
    uint32_t prev      # neighbours in the list of its class's extents with room, or of the free extents; index + 1
    uint32_t next
    uint32_t size_class  # CLASSES = free

cdef inline unsigned table_class(uint64_t log2) noexcept nogil:
    return CLASS_TABLE_8 + <unsigned>(log2 - TABLE_LOG2_MIN) / TABLE_LOG2_STEP

cdef inline bint is_table_log2(uint64_t log2) noexcept nogil:
    return TABLE_LOG2_MIN <= log2 <= TABLE_LOG2_MAX and (log2 - TABLE_LOG2_MIN) % TABLE_LOG2_STEP == 0

cdef inline uint64_t* link_place(char* base, ms_series* s, int64_t n) noexcept nogil:
    """Where the link of chunk n lies, or would lie."""
    if s.table == 0:
        return &s.link0
    return <uint64_t*>(base + (s.table >> 8)) + (<uint64_t>n & ((<uint64_t>1 << (s.table & 255)) - 1))

cdef inline ms_chunk* find_chunk(char* base, ms_series* s, int64_t n) noexcept nogil:
    cdef uint64_t word = link_place(base, s, n)[0]
    cdef ms_chunk* chunk
    if word == 0:
        return NULL
    chunk = <ms_chunk*>(base + MS_LINK_OFFSET(word))
    return chunk if chunk.n == n else NULL

cdef uint32_t SIZES[CLASSES]
cdef unsigned stamped_class(int64_t n, unsigned n_columns) noexcept nogil

cdef class Chunks:
    cdef readonly Segment directory
    cdef readonly Segment samples
    cdef char* base
    cdef ms_directory* words
    cdef ms_series* table
    cdef uint64_t n_series           # published series, refreshed when a higher slot is met
    cdef int fd
    cdef readonly int last_errno     # of the last commit that failed
    cdef extent* extents
    cdef uint32_t n_extents          # committed
    cdef uint32_t max_extents        # reserved
    cdef uint32_t cap_extents        # allowed by the cap
    cdef uint32_t used_extents
    cdef uint32_t free_extents       # list head, index + 1
    cdef uint32_t partial[CLASSES]   # list heads of extents with room, index + 1
    cdef uint64_t n_chunks[CLASSES]  # in use
    cdef uint64_t class_extents[CLASSES]
    cdef uint32_t stamp              # of the last link made, 24 bits
    cdef uint64_t n_out_of_span      # chunks dropped because a link table would have passed 2^15 words
    # What bounds every link table without a look at it; of all series that ever had a chunk, so never too small.
    cdef int64_t earliest_s          # start of a grid chunk; above latest_s: there was none
    cdef int64_t latest_s            # end of a grid chunk
    cdef uint32_t least_step_s       # of a grid series
    cdef int64_t most_stamped        # chunks from the first to the last of a stamped series

    cdef int commit_extent(self) noexcept nogil
    cdef uint64_t alloc(self, unsigned size_class) noexcept nogil
    cdef void give_back(self, uint64_t offset, unsigned size_class) noexcept nogil
    cdef uint64_t free_of_class(self, unsigned size_class) noexcept nogil
    cdef void list_push(self, uint32_t* head, uint32_t i) noexcept nogil
    cdef void list_remove(self, uint32_t* head, uint32_t i) noexcept nogil
    cdef ms_series* resolve(self, uint32_t* slot, uint32_t generation, int64_t t, int kind) noexcept nogil
    cdef uint64_t make_link(self, uint64_t offset, unsigned size_class) noexcept nogil
    cdef int make_place(self, uint32_t slot, ms_series* s, int64_t n) noexcept nogil
    cdef ms_chunk* new_chunk(self, uint32_t slot, ms_series* s, int64_t n, unsigned size_class, int* why) noexcept nogil
    cdef ms_chunk* promote(self, ms_series* s, int64_t n, unsigned size_class) noexcept nogil
    cdef int unlink(self, ms_series* s, int64_t n) noexcept nogil
    cdef void note_span(self, ms_series* s) noexcept nogil
    cdef uint64_t drop_range(self, uint32_t slot, ms_series* s, int64_t first, int64_t last) noexcept nogil
    cdef ms_series* live(self, uint64_t slot) noexcept nogil
    cdef int _take_links(self, char* taken, uint64_t slot, ms_series* s, uint32_t* newest) except -1
    cdef ms_chunk* _own(self, uint64_t slot, ms_series* s, int64_t n, uint64_t word) except NULL
    cdef int _take(self, char* taken, uint64_t slot, uint64_t offset, unsigned size_class) except -1
    cdef void adopt_extent(self, char* taken, uint32_t i) noexcept nogil
