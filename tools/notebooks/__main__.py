"""Makes the .ipynb files of the .py files beside this one.

  python -m tools.notebooks panoptic new_task own_masks
  python -m tools.notebooks --empty depth colorization

Whoever changes a notebook edits the .py. The first command runs the notebooks
and stores what they show, so that it can be read without running them; --empty
stores no outputs, for notebooks that need weights from elsewhere.
"""

import argparse
import base64
import io
import pathlib
import sys
from collections.abc import Sequence

from uvim.cli import app

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[1]
# A drawing needs no more, and its file is a third as large.
_NUM_COLORS = 256


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.notebooks", __doc__)
  names = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
  parser.add_argument("names", nargs="+", choices=names, metavar="NAME",
                      help=", ".join(names))
  parser.add_argument("--empty", action="store_true", help="do not run them")
  return app.run(parser, command, argv)


def command(args: argparse.Namespace) -> None:
  """What the command does."""
  for name in args.names:
    make(name, is_run=not args.empty)
    print(f"wrote {name}.ipynb")


def make(name: str, *, is_run: bool) -> None:
  """Writes one .ipynb; a cell that fails raises."""
  import jupytext
  import nbclient
  notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
  if is_run:
    # Without times, which would change the file each time. What it writes goes
    # to `workdirs` of the checkout.
    client = nbclient.NotebookClient(
        notebook, timeout=None, record_timing=False,
        resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    for cell in notebook.cells:
      for output in cell.get("outputs", ()):
        shrink(output)
  jupytext.write(notebook, FOLDER / f"{name}.ipynb")


def shrink(output: dict) -> None:
  """Makes an image of an output small; PIL shows it as JPEG and as PNG."""
  from PIL import Image

  from uvim.opener import open_image
  data = output.get("data", {})
  data.pop("image/jpeg", None)
  if "image/png" not in data:
    return
  stored = io.BytesIO(base64.b64decode(data["image/png"]))
  with open_image(stored, "an output") as image:
    # No dither: it would double the size.
    reduced = image.convert("RGB").quantize(
        _NUM_COLORS, dither=Image.Dither.NONE)
  file = io.BytesIO()
  reduced.save(file, "PNG", optimize=True)
  data["image/png"] = base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
  sys.exit(main())
