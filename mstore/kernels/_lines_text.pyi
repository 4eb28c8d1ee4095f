# Nothing for Python: cimported by _lines and _lines_batch.
