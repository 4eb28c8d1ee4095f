"""Files of ClusterCockpit's metric store: read, written, imported and exported.

    contents.py         what all of them hold: values of metrics at the levels of one host
    json_checkpoint.py  <from>.json        bytes <-> Checkpoint
    bin_snapshot.py     <from>.bin         bytes <-> Checkpoint
    wal.py              current.wal        bytes <-> Points
    parquet.py          *.parquet          needs pyarrow (the extra `archive`)
    phases.py           where the samples of a checkpoint really lay
    names.py            level names <-> type and id
    walk.py             which files of a directory are whose
    reading.py          any file -> samples by the paths of their series
    importing.py        samples -> a store, through a client's columns; imported.py: what that found and did
    exporting.py        a store -> a directory that the reference, and importing.py, can load
    source.py, sinks.py where an export reads, where it goes; tidying.py: exports that are too old

The four formats are pure: bytes in, arrays out, and back. docs/format/ccms-files.md has the tables.
"""
