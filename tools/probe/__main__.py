"""Scores a simple rival: a small head on features of a frozen encoder.

  python -m tools.probe --config configs/vqvae_….py --encoder PATH --out DIR
      [--family dinov2] [--variant S/14] [--input_size 336,448]
      [--config.field=value …]

Know this score before you train UViM: a head takes minutes, and may be enough.
The config is one of stage I and gives data, labels, task and evaluator. PATH is
a pretrained image encoder, such as a `.safetensors`. The command computes its
features of the training split once. From these a head of two layers learns the
classes of the cells of a token, which are the pixels of the head's labels. In
panoptic segmentation a class of stuff is one segment, and each connected region
of a class of things is one. DIR gets results.json and predictions.png.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from uvim import files
from uvim.cli import app
from uvim.registry import ConfigError

_BLOCK = "config.model.image_encoder"


def write(out: pathlib.Path, results: Mapping[str, Any], panel: Any) -> None:
  """Writes results.json and predictions.png."""
  files.write_json(out / "results.json", results, indent=1)
  files.replace_file(
      out / "predictions.png", lambda file: panel.save(file, "PNG"))


def report(results: Mapping[str, Any]) -> str:
  """The metrics and the seconds as lines of text."""
  lines = []
  for name, value in results["metrics"].items():
    lines.append(f"{name:<24} {value:10.3f}")
  total = sum(results["seconds"].values())
  for name, value in {**results["seconds"], "all": total}.items():
    lines.append(f"{name:<24} {value:8.1f} s")
  return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.probe", __doc__)
  add = parser.add_argument
  add("--config", required=True, help="configs/vqvae_….py[:argument]")
  add("--encoder", help="the checkpoint (default: that of the config's "
      "model_init.image_encoder)")
  add("--family", help="of the encoder (default: as the config's "
      "image_encoder, or dinov2)")
  add("--variant", help="its size and patch (default likewise, or S/14)")
  add("--input_size", type=_two_integers,
      help="height,width of the image it sees (default likewise)")
  add("--cells", type=int, default=4,
      help="classes along each side of a token (default 4)")
  add("--hidden", type=int, default=512,
      help="width of the head (default 512)")
  add("--steps", type=int, default=1500, help="of the head (default 1500)")
  add("--seed", type=int, default=0, help="of the head (default 0)")
  add("--min_fraction", type=float, default=0.001,
      help="smallest share of the image that a segment has (default 0.001)")
  add("--mirror", action="store_true",
      help="also train on the mirror images: twice the time and memory")
  add("--out", required=True, help="folder of the results")
  return app.run(parser, command, argv, takes_overrides=True)


def _two_integers(text: str) -> tuple[int, int]:
  try:
    height, width = map(int, text.split(","))
  except ValueError as error:
    raise argparse.ArgumentTypeError(
        f"{text!r}; allowed: height,width, such as 336,448") from error
  return height, width


def command(args: argparse.Namespace) -> None:
  """What the command does."""
  _check_options(args)
  # Imported late: a typo on the command line need not wait for JAX.
  from tools.probe import run
  from trainers import config_file
  from uvim.config import resolve
  config_file.quiet_absl()
  fields = config_file.load_config(args.config, args.overrides)
  config = resolve(fields)
  encoder = _encoder_of(config, args)
  results, panel = run.probe(
      config, encoder, _path_of(config, args), cells=args.cells,
      hidden=args.hidden, steps=args.steps, seed=args.seed,
      min_fraction=args.min_fraction, mirror=args.mirror)
  write(pathlib.Path(args.out), results, panel)
  print(report(results))
  print(f"wrote {args.out}")


def _check_options(args: argparse.Namespace) -> None:
  for name, most in (("cells", 64), ("hidden", 2**16), ("steps", 10**6)):
    value = getattr(args, name)
    if not 1 <= value <= most:
      raise ConfigError(f"--{name} = {value}; allowed: 1 to {most}.")
  if not 0 <= args.min_fraction < 1:
    raise ConfigError(f"--min_fraction = {args.min_fraction}; allowed: 0 or "
                      "more and less than 1.")


def _encoder_of(config: Any, args: argparse.Namespace) -> Any:
  """The ImageEncoder of the config's block and of the options."""
  from uvim.encoders import image_encoder
  block = dict(config.model.get(image_encoder.NAME) or {})
  for name in ("family", "variant", "input_size"):
    value = getattr(args, name)
    if value is not None:
      block[name] = value
  if "input_size" not in block:
    raise ConfigError("--input_size is missing: height and width of the image "
                      "that the encoder sees, such as 336,448.")
  # Features are those of a frozen encoder, whatever the config trains.
  block["frozen"] = True
  return image_encoder.make(block, _BLOCK)


def _path_of(config: Any, args: argparse.Namespace) -> str:
  """Where the checkpoint is: the option, or the config's `model_init`."""
  if args.encoder:
    return args.encoder
  start = config.model_init
  if isinstance(start, Mapping) and start.get("image_encoder"):
    return start["image_encoder"]
  raise ConfigError("--encoder is missing, and config.model_init names no "
                    "image_encoder.")


if __name__ == "__main__":
  sys.exit(main())
