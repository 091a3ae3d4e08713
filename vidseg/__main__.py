"""``python -m vidseg``."""

import sys

from vidseg.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
