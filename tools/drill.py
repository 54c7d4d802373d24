"""The command `python -m tools.drill`; see tools/stress/."""

import sys

from tools.stress.drill import main

if __name__ == "__main__":
  sys.exit(main())
