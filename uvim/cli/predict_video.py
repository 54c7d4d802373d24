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
from typing import Any, BinaryIO

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
  names_film = any(map(films.is_film, args.paths))
  if args.video or names_film:
    return True
  paths = map(pathlib.Path, args.paths)
  names_folder = any(path.is_dir() for path in paths)
  return names_folder and _sees_earlier_frames(args.checkpoint)


def _sees_earlier_frames(checkpoint: str) -> bool:
  """Whether the config of a run or a pack says so."""
  path = pathlib.Path(checkpoint) / "config.json"
  config = files.read_json(path) or {}
  model = config.get("model")
  if not isinstance(model, dict):
    return False
  return bool(model.get("frames_before"))


def load_model(checkpoint: str) -> Any:
  """Opens a checkpoint for inference."""
  # Imported late: `--help` need not wait for JAX.
  from uvim.inference.pix2seq_d_video import VideoPredictor
  return VideoPredictor.from_checkpoint(checkpoint)


def main(
    argv: Sequence[str] | None = None,
    *,
    program: str = "uvim predict",
    load: Loader = load_model,
) -> int:
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
    given = options.given_options(args, known)
    _predict(args, load, given)

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


def _predict(
    args: argparse.Namespace,
    load: Loader,
    options: dict[str, Any],
) -> None:
  """Checks all there is to check, predicts, and says what it did."""
  _check_number("--max_pixels", args.max_pixels, _PIXELS)
  _check_number("--rate", args.rate, _RATE)
  films.import_av()
  film = _open_film(args)
  out = pathlib.Path(args.out)
  _check_out(out, film)
  model = load(args.checkpoint)
  settings = model.check_options(seed=args.seed, **options)
  # A video gets one sample.
  settings.pop("num_samples")
  network = model.model.network
  _check_num_ids(network.num_ids)
  job = _Job(
      film=film,
      model=model,
      out=out,
      max_pixels=args.max_pixels,
      alone=args.alone,
      settings=settings,
  )
  if not args.alone and not model.sees_earlier_frames:
    print(
        "note: this model has learned from images alone, so ids do not stay "
        "from frame to frame",
        file=sys.stderr,
    )
  with lock.Lock(out / ".predict.lock", f"--out {args.out}"):
    (out / MASKS).mkdir(exist_ok=True)
    num_frames, num_tracks = job.run()
  where = one_line(args.out)
  print(f"{num_frames} frames predicted, {num_tracks} ids, in {where}")


def _open_film(args: argparse.Namespace) -> films.Film:
  film = films.open_film(args.video, max_pixels=args.max_pixels)
  if film.images is None:
    return film
  # A folder does not tell how fast it is.
  rate = fractions.Fraction(args.rate)
  short_rate = rate.limit_denominator(1000)
  return film._replace(rate=short_rate)


def _check_number(
    option: str,
    value: float,
    check: fields.Check,
) -> None:
  if not check.fits(value):
    raise ConfigError(f"{option} = {value}; it must be {check.allowed}.")


def _check_out(out: pathlib.Path, film: films.Film) -> None:
  """Raises a ConfigError if something there would be lost or mixed up."""
  for name in (FILM, MASKS, LIST):
    if (out / name).exists():
      raise ConfigError(
          f"--out {out}: holds {name} already. Choose another folder.")
  film_path = film.path.resolve()
  full_out = out.resolve()
  if full_out.is_relative_to(film_path):
    raise ConfigError(
        f"--out {out}: lies in the folder of the frames. Choose another "
        "folder.")


def _check_num_ids(num_ids: int) -> None:
  from uvim.inference import tracks
  if num_ids > tracks.NUM_IDS:
    raise ConfigError(
        f"The model has {num_ids} ids; the masks of a film hold "
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
    # Filled as frames are drawn.
    names = []
    drawn = self._draw_frames(found, names)
    films.write_film(self.out / FILM, drawn, self.film.rate)
    records = found.records()
    files.write_json(self.out / LIST, {
        "video": str(self.film.path),
        "model": self.model.fingerprint,
        "settings": {**self.settings, "alone": self.alone},
        "rate": float(self.film.rate),
        "frames": names,
        "tracks": records,
    })
    return len(names), len(records)

  def _draw_frames(self, found: Any, names: list[str]) -> Iterator[Any]:
    """Yields the frames of the overlay; writes the mask of each on its way.

    Args:
      found: `uvim.inference.tracks.Tracks`, to which the tracks are added.
      names: to which the names of the frames are added.
    """
    from uvim.inference import tracks
    # A film does not tell how many frames it has.
    known_names = list(self.film.images or ())
    pairs = progress.bar(
        self._predict_frames(),
        total=len(known_names) or None,
        label="Predicting",
        unit="frames",
    )
    for number, (frame, panoptic) in enumerate(pairs):
      found.add(number, panoptic)
      name = f"{number:06d}"
      if known_names:
        name = known_names[number]
      names.append(name)
      mask = tracks.make_mask(panoptic, found)
      self._write_mask(name, mask)
      yield tracks.draw_frame(frame, panoptic, found)

  def _predict_frames(self) -> Iterator[tuple[Any, Any]]:
    """Each frame with its classes and ids."""
    frames = films.read_frames(self.film, max_pixels=self.max_pixels)
    # One frame at a time waits for its mask.
    to_predict, to_draw = itertools.tee(frames)
    masks = self.model.predict_video(
        to_predict,
        alone=self.alone,
        **self.settings,
    )
    return zip(to_draw, masks, strict=True)

  def _write_mask(self, name: str, mask: Any) -> None:
    def write(file: BinaryIO) -> None:
      mask.save(file, "PNG")

    path = self.out / MASKS / f"{name}.png"
    files.replace_file(path, write)


if __name__ == "__main__":
  sys.exit(main())
