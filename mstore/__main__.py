"""The command `mstore`, also as `python -m mstore`."""

import os
import sys

from mstore.cli import signals


def main() -> int:
    # Nothing here multiplies matrices: the threads that numpy's library for that starts, one a core, cost each start
    # 0.1 s of processor time on two cores, and more on more.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Modules take a while to load, and a signal meanwhile would end the command with a traceback, or without a word.
    signals.hold()
    from mstore.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
