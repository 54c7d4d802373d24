"""Uploads a pack to the Hugging Face hub.

  uvim push PACK OWNER/NAME

PACK is a folder that `uvim convert SRC PACK --pack` has made. Read its card,
README.md, first: it becomes the page of the model. Then anybody can say
`--checkpoint hf:OWNER/NAME`. `hf auth login` logs in; the hub keeps what was
there before as an older commit.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from uvim.cli import app


def main(argv: Sequence[str] | None = None, *,
         client: Any = None) -> int:
  """The command; returns the exit code.

  Args:
    argv: the arguments; None: those of the process.
    client: `uvim.store.hub.Client`; None: the package huggingface_hub.
  """
  def command(args: argparse.Namespace) -> None:
    # Imported late: a typo on the command line need not wait for JAX.
    from uvim.store import hub
    name = hub.push_pack(args.pack, args.repository, private=args.private,
                         client=client)
    print(f"pushed; open it as --checkpoint {name}")

  return app.run(make_parser(), command, argv)


def make_parser() -> argparse.ArgumentParser:
  """The options of the command."""
  parser = app.make_command_parser("uvim push", __doc__)
  parser.add_argument("pack", metavar="PACK")
  parser.add_argument("repository", metavar="OWNER/NAME")
  parser.add_argument("--private", action="store_true",
                      help="a new repository is for its owner's eyes alone")
  return parser


if __name__ == "__main__":
  sys.exit(main())
