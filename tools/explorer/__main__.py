"""`python -m tools.explorer` is `uvim explore` of a checkout.

It also shows images of the data set that the run learned from.
"""

import sys
from collections.abc import Sequence

from tools.explorer import examples
from uvim.cli import explore


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  return explore.main(argv, program="python -m tools.explorer",
                      find_examples=examples.find_examples)


if __name__ == "__main__":
  sys.exit(main())
