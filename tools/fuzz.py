"""The command `python -m tools.fuzz`; see tools/stress/."""

import sys

from tools.stress.fuzz import main

if __name__ == "__main__":
  sys.exit(main())
