"""`python -m tools.predict` is the command `uvim predict` of a checkout."""

import sys
from collections.abc import Sequence

from uvim.cli import predict


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  # The name in the messages is that of the command that was typed.
  return predict.main(argv, program="python -m tools.predict")


if __name__ == "__main__":
  sys.exit(main())
