"""Predicts a film: a mask for each frame, in which things keep their ids.

  uvim predict --checkpoint W --out DIR film.mp4
  uvim predict --checkpoint W --out DIR --video folder/

W is the workdir or a pack of a run of Pix2Seq-D that sees earlier frames. With
one that has learned from images alone, or with --alone, each frame is predicted
by itself, and ids mean nothing from one frame to the next. A folder holds the
frames as images, in the order of their names.

DIR gets overlay.mp4, to look at; masks/NAME.png, the id of each pixel as 8 bits
with a palette, as DAVIS has it; and tracks.json, what each id is. A track has
one color in all of them. Films need the package av: pip install '.[video]'.
"""

import argparse
import dataclasses
import fractions
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from uvim import fields, files, lock, opener, progress
from uvim.cli import app
from uvim.inference import films
from uvim.registry import ConfigError, one_line

# What is written to DIR.
FILM = "overlay.mp4"
MASKS = "masks"
LIST = "tracks.json"
_PIXELS = fields.integer(1, 2**31 - 1)
_RATE = fields.number(0.01, below=1000)

# Checkpoint → `uvim.inference.pix2seq_d_video.VideoPredictor`.
Loader = Callable[[str], Any]


def is_for_video(argv: Sequence[str]) -> bool:
  """Whether arguments of `uvim predict` are meant for this command.

  They are if they name a film, say --video, or name a checkpoint that sees
  earlier frames and a folder.
  """
  parser = argparse.ArgumentParser(
      add_help=False, allow_abbrev=False, exit_on_error=False)
  parser.add_argument("paths", nargs="*")
  parser.add_argument("--checkpoint", default="")
  parser.add_argument("--out")
  parser.add_argument("--video", action="store_true")
  try:
    # What this parser does not know it takes for paths, which does no harm.
    args, _ = parser.parse_known_args(argv)
  except argparse.ArgumentError:
    # The parser of the command says what is wrong.
    return False
  if args.video or any(map(films.is_film, args.paths)):
    return True
  names_folder = any(pathlib.Path(path).is_dir() for path in args.paths)
  return names_folder and _sees_earlier_frames(args.checkpoint)


def _sees_earlier_frames(checkpoint: str) -> bool:
  """Whether the config of a run or a pack says so."""
  config = files.read_json(pathlib.Path(checkpoint) / "config.json") or {}
  model = config.get("model")
  return isinstance(model, dict) and bool(model.get("frames_before"))


def load_model(checkpoint: str) -> Any:
  """Opens a checkpoint for inference."""
  # Imported late: `--help` need not wait for JAX.
  from uvim.inference.pix2seq_d_video import VideoPredictor
  return VideoPredictor.from_checkpoint(checkpoint)


def main(argv: Sequence[str] | None = None, *, program: str = "uvim predict",
         load: Loader = load_model) -> int:
  """The command; returns the exit code.

  Args:
    argv: the arguments; None: those of the process.
    program: what the user typed to start it.
    load: opens a checkpoint.
  """
  # Imported late: they import JAX.
  from uvim.cli import options
  from uvim.inference.pix2seq_d_video import VideoPredictor
  known = {}
  for name, option in VideoPredictor.options.items():
    known[name] = {"": option}
  parser = _make_parser(program)
  options.add_options(parser, "how masks are drawn", known)

  def command(args):
    _predict(args, load, options.given_options(args, known))

  return app.run(parser, command, argv)


def _make_parser(program: str) -> argparse.ArgumentParser:
  parser = app.make_command_parser(program, __doc__)
  add = parser.add_argument
  add("video", metavar="VIDEO",
      help=f"a film ({', '.join(films.READERS)}) or a folder of frames")
  add("--checkpoint", required=True, help="a workdir or pack of Pix2Seq-D")
  add("--out", required=True, help="folder to write to")
  add("--video", action="store_true", dest="is_video",
      help="says that a folder holds the frames of a video; a checkpoint that "
      "sees earlier frames takes a folder for one anyway")
  add("--alone", action="store_true",
      help="predicts each frame as an image of its own, to compare")
  add("--rate", type=float, default=films.FOLDER_RATE,
      help="frames a second of a folder; a film has its own; "
      f"default: {films.FOLDER_RATE}")
  add("--seed", type=int, default=0, help="of the masks; default: 0")
  add("--max_pixels", type=int, default=opener.MAX_PIXELS,
      help="larger frames are refused; "
      f"default: {opener.MAX_PIXELS // 10**6} million")
  return parser


def _predict(args: argparse.Namespace, load: Loader, options: dict) -> None:
  """Checks all there is to check, predicts, and says what it did."""
  _check_number("--max_pixels", args.max_pixels, _PIXELS)
  _check_number("--rate", args.rate, _RATE)
  films.import_av()
  film = films.open_film(args.video, max_pixels=args.max_pixels)
  if film.images is not None:
    rate = fractions.Fraction(args.rate).limit_denominator(1000)
    film = film._replace(rate=rate)
  out = pathlib.Path(args.out)
  _check_out(out, film)
  model = load(args.checkpoint)
  settings = model.check_options(seed=args.seed, **options)
  settings.pop("num_samples")
  _check_num_ids(model.model.network.num_ids)
  job = _Job(film, model, out, args.max_pixels, args.alone, settings)
  if not args.alone and not model.sees_earlier_frames:
    print("note: this model has learned from images alone, so ids do not stay "
          "from frame to frame", file=sys.stderr)
  with lock.Lock(out / ".predict.lock", f"--out {args.out}"):
    (out / MASKS).mkdir(exist_ok=True)
    num_frames, num_tracks = job.run()
  print(f"{num_frames} frames predicted, {num_tracks} ids, in "
        f"{one_line(args.out)}")


def _check_number(option: str, value: float, check: fields.Check) -> None:
  if not check.fits(value):
    raise ConfigError(f"{option} = {value}; it must be {check.allowed}.")


def _check_out(out: pathlib.Path, film: films.Film) -> None:
  """Raises a ConfigError if something there would be lost or mixed up."""
  for name in (FILM, MASKS, LIST):
    if (out / name).exists():
      raise ConfigError(f"--out {out}: holds {name} already. Choose another "
                        "folder.")
  if film.path.resolve() in (out.resolve(), *out.resolve().parents):
    raise ConfigError(f"--out {out}: lies in the folder of the frames. Choose "
                      "another folder.")


def _check_num_ids(num_ids: int) -> None:
  from uvim.inference import tracks
  if num_ids > tracks.NUM_IDS:
    raise ConfigError(f"The model has {num_ids} ids; the masks of a film hold "
                      f"{tracks.NUM_IDS}.")


@dataclasses.dataclass
class _Job:
  """A film to predict, and where to.

  Attributes:
    film: its frames.
    model: `VideoPredictor`.
    out: the folder.
    max_pixels: of a frame.
    alone: see `VideoPredictor.predict_video`.
    settings: its options.
  """
  film: films.Film
  model: Any
  out: pathlib.Path
  max_pixels: int
  alone: bool
  settings: dict[str, Any]

  def run(self) -> tuple[int, int]:
    """Writes all files; returns how many frames and tracks there were."""
    from uvim.inference import tracks
    found = tracks.Tracks(self.model.categories or None)
    names = []
    films.write_film(
        self.out / FILM, self._draw_frames(found, names), self.film.rate)
    files.write_json(self.out / LIST, {
        "video": str(self.film.path),
        "model": self.model.fingerprint,
        "settings": {**self.settings, "alone": self.alone},
        "rate": float(self.film.rate),
        "frames": names,
        "tracks": found.records(),
    })
    return len(names), len(found.records())

  def _draw_frames(self, found, names: list[str]) -> Iterator[Any]:
    """The frames of the overlay; writes the mask of each on its way."""
    from uvim.inference import tracks
    # One frame at a time waits for its mask.
    to_predict, to_draw = itertools.tee(
        films.read_frames(self.film, max_pixels=self.max_pixels))
    masks = self.model.predict_video(
        to_predict, alone=self.alone, **self.settings)
    # Of a film, nobody knows how many there are.
    known_names = list(self.film.images or ())
    shown = progress.bar(
        zip(to_draw, masks, strict=True), total=len(known_names) or None,
        label="Predicting", unit="frames")
    for number, (frame, panoptic) in enumerate(shown):
      found.add(number, panoptic)
      name = f"{number:06d}"
      if known_names:
        name = known_names[number]
      names.append(name)
      mask = tracks.make_mask(panoptic, found)
      files.replace_file(
          self.out / MASKS / f"{name}.png",
          lambda file, mask=mask: mask.save(file, "PNG"))
      yield tracks.draw_frame(frame, panoptic, found)


if __name__ == "__main__":
  sys.exit(main())
