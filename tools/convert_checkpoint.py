"""`python -m tools.convert_checkpoint` is `uvim convert` of a checkout."""

import sys
from collections.abc import Sequence

from uvim.cli import convert


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  # The name in the messages is that of the command that was typed.
  return convert.main(argv, program="python -m tools.convert_checkpoint")


if __name__ == "__main__":
  sys.exit(main())
