"""`python -m uvim.cli` is the command `uvim`."""

import sys

from uvim.cli.main import main

if __name__ == "__main__":
  sys.exit(main())
