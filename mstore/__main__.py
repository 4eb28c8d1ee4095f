"""`python -m mstore` is the command `mstore`."""

import sys

from mstore.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
