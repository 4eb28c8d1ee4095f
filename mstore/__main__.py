"""The command `mstore`, also as `python -m mstore`."""

import sys

from mstore.cli import signals


def main() -> int:
    # Modules take a while to load, and a signal meanwhile would end the command with a traceback, or without a word.
    signals.hold()
    from mstore.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
