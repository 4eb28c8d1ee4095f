"""mstore.model.Reason for the kernels; tests/unit/test_layout.py compares them."""

cdef enum:
    BAD_SYNTAX = 1
    BAD_VALUE = 2
    OUT_OF_RANGE = 3
    BAD_TIMESTAMP = 4
    BAD_ENCODING = 5
    UNKNOWN_FIELD = 6
    NO_HOST = 7
    NO_CLUSTER = 8
    UNKNOWN_METRIC = 9
    TOO_LATE = 10
    TOO_FAR_AHEAD = 11
    TOO_LONG = 12
    SERIES_LIMIT = 13
    STORE_FULL = 14
    N_REASONS = 16
