"""The archive: data that leaves memory, as Parquet that anybody reads, and back again for queries.

    names.py       where things are, and how names of levels become names of directories and scopes
    schema.py      the columns of every table
    manifest.py    which files belong to it, and up to where each metric is archived; mending.py: made again from them
    lives.py       series as the archive knows them: a life is one stretch of a series with one grid
    index.py       which of them hold something to archive, in the order of the archive
    leavers.py     what had to leave memory before it was archived, and what came after its time was
    rows.py        samples in memory -> sorted rows of a day
    writing.py     rows -> files that appear whole or not at all
    passes.py      one round: what is to leave is written, then the manifest says so
    bounds.py      the oldest days go when it grows too large
    switch.py      whether a question needs the archive at all
    scope.py       what of it a question needs
    reading.py     files -> rows of a question
    overlay.py     rows and memory together as a small store of their own, which any query can be asked of;
                   definitions.py: the records that define it
    questions.py   a Reader that asks memory, or both

docs/format/archive.md describes the files. pyarrow is needed and is an extra: mstore[archive].
"""
