"""The command `python -m tools.prepare_data`; see tools/prepare/."""

import sys

from tools.prepare.__main__ import main

if __name__ == "__main__":
  sys.exit(main())
