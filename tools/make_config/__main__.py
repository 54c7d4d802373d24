"""Writes a config pair for a data set: stage I and stage II, ready to run.

  python -m tools.make_config --name mydata [--data_dir DIR] [--out my]
      [--minutes 60] [--overwrite]

It looks at the images to train on, times this machine, and writes
OUT/vqvae_NAME.py and OUT/lm_NAME.py. A comment at each choice says what was
measured. Then it prints the commands to run next and how long they take.

The task follows from the data: segments (`tools.prepare_data masks`,
`instances`, `coco`, …), depth (`rgbd`), or colorization of images alone
(`images`). Without a split 'validation', a tenth of 'train' is held out.
"""

import argparse
import sys
from collections.abc import Sequence

from tools.make_config import recipe
from uvim.cli import app

OUT = "my"


def make_parser() -> argparse.ArgumentParser:
  """The options."""
  parser = app.make_parser("tools.make_config", __doc__)
  add = parser.add_argument
  add("--name", required=True, help="TFDS name of a prepared data set")
  add("--data_dir", help="TFDS's root folder (default: $TFDS_DATA_DIR or "
      "~/tensorflow_datasets)")
  add("--out", default=OUT, metavar="DIR",
      help="folder below the current one (default: %(default)s)")
  add("--minutes", type=float, default=recipe.MINUTES,
      help="for both stages on this machine (default: %(default)s)")
  add("--overwrite", action="store_true",
      help="replace the files if they are there")
  return parser


def command(args: argparse.Namespace) -> None:
  """Writes the pair.

  Raises:
    ConfigError: see `pair.make_pair`; files that are there.
  """
  # TensorFlow takes seconds to import; --help does without.
  from tools.make_config import pair
  target = pair.make_target(args.out, args.name)
  if not args.overwrite:
    pair.check_absent(target, remedy="--overwrite replaces it.")
  pair.make_pair(args.name, args.data_dir, target, args.minutes)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; 0, or 2 after a mistake that the message explains."""
  return app.run(make_parser(), command, argv)


if __name__ == "__main__":
  sys.exit(main())
