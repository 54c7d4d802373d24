"""Throws broken input at what reads input: only our own errors may come back.

  python -m tools.fuzz [--cases 10000] [--seed 0] [--kinds string config image]

`string`: preprocessing strings, run on a small example. `config`: command
lines of the trainers, up to a stage I model and its optimizer. `image`: files
for training and for tools.prepare_data. All cases follow from the seed. Works
in a folder of its own and looks afterwards whether any file in it has changed;
a case that takes longer than --limit seconds ends the run with its stack.
"""

import argparse
import collections
import contextlib
import dataclasses
import faulthandler
import hashlib
import importlib
import io
import os
import pathlib
import random
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tools import passes
from uvim.registry import ConfigError

_LITERALS = (
    "0", "-1", "1", "3", "7.5", "-0.0", "1e400", "99999999999999999999",
    "2147483648", "True", "None", "''", '"image"', '"nope"', "[]", "()", "{}",
    "(1, 2)", "(0, 0)", "[3, -1]", "(1, 2, 3)", "1j", "b'x'", "{'a': 1}",
    "'labels'", "x", "open('f')", "...", "'a|b'", "9" * 5000, "(" * 300)
_CHARS = '|(),"\'=[]{}0123456789.-_ eExX\n\t\\ñ∞\0*:;#'
_TEXTS = ("0", "-1", "1", "3", "2.5", "nan", "inf", "1e9", "", "abc", "None",
          "True", "[]", "()", "(1, 2)", "(0, 0)", "((1,),)", "{}", "a|b",
          "99999999999999999999", "../../x", "'", "\0", "ñ", "[('a', 1)]",
          "(('data', -1),)", "decode|resize(8)")


@dataclasses.dataclass
class Report:
  """What came of a run.

  Attributes:
    passed: kind → cases that were taken without an error.
    refused: kind → cases that a ConfigError refused.
    failures: one text per kind of failure: the case and its traceback.
  """

  passed: dict[str, int]
  refused: dict[str, int]
  failures: list[str]


def mutate_text(rng: random.Random, text: str) -> str:
  """A few random edits: characters, spans, numbers, words, sections."""
  for _ in range(rng.choice((1, 1, 2, 4))):
    text = _edit_text(rng, text)
  return text


def _edit_text(rng: random.Random, text: str) -> str:
  i, j = sorted(rng.randint(0, len(text)) for _ in range(2))
  j = min(j, i + 12)
  return rng.choice((
      lambda: text[:i] + text[j:],
      lambda: text[:j] + text[i:],
      lambda: text[:i] + rng.choice(_CHARS) + text[i:],
      lambda: text[:i] + rng.choice(_CHARS) + text[j:],
      lambda: _replace_token(rng, text, str.isdigit),
      lambda: _replace_token(rng, text, str.isalpha),
      lambda: _shuffle_sections(rng, text)))()


def _replace_token(rng, text: str, belongs: Callable[[str], bool]) -> str:
  """A run of such characters becomes some literal."""
  starts = [i for i in range(len(text)) if belongs(text[i])
            and not (i and belongs(text[i - 1]))]
  if not starts:
    return text
  start = end = rng.choice(starts)
  while end < len(text) and belongs(text[end]):
    end += 1
  return text[:start] + rng.choice(_LITERALS) + text[end:]


def _shuffle_sections(rng, text: str) -> str:
  parts = text.split("|")
  rng.shuffle(parts)
  return "|".join(parts[:rng.randint(1, len(parts))])


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
  """A few random edits: flips, cuts, repeats, large and small numbers."""
  out = bytearray(data)
  for _ in range(rng.randint(1, 6)):
    i, j = sorted(rng.randint(0, len(out)) for _ in range(2))
    # Headers are where most of the meaning is.
    k = rng.randrange(min(len(out), 64)) if out and rng.random() < .6 else i
    edit = rng.randrange(6)
    if edit == 0 and k < len(out):
      out[k] ^= 1 << rng.randrange(8)
    elif edit == 1:
      out[k:k + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0",
                                 b"\0\0\x40\0", b"\x7f\xff\xff\xff"))
    elif edit == 2:
      del out[i:min(j, i + 40)]
    elif edit == 3:
      out[i:i] = out[i:j]
    elif edit == 4:
      del out[i:]
    elif k < len(out):
      out[k] = rng.randrange(256)
  return bytes(out[:1 << 20])


class _Strings:
  """Preprocessing strings, built and run on one example."""

  def __init__(self, folder: pathlib.Path):
    from pp import builder
    del folder
    builder.build("")  # Imports the ops.
    self.seeds = [_config(name)[field].replace("512", "8")
                  for name in ("lm_coco_panoptic", "vqvae_nyu_depth",
                               "vqvae_imagenet_colorization")
                  for field in ("pp_train", "pp_eval")]
    self.seeds += [f"decode|{name}()" for name in builder.OPS]
    self.seeds += [
        'decode|flip_lr|central_crop(9)|rgb_to_grayscale_to_rgb|drop("depth")',
        'decode_jpeg_and_inception_crop(8, area_min=5)|copy("image", "a")']

  def make(self, rng: random.Random) -> str:
    return mutate_text(rng, rng.choice(self.seeds))

  def run(self, case: str) -> None:
    import tensorflow as tf

    from pp import builder
    builder.build(case)(_example(), tf.constant([1, 2], tf.int64))


def _example() -> dict[str, Any]:
  """An example of every task, 12×16 pixels."""
  import tensorflow as tf
  ramp = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
  ids = np.stack([ramp[..., 0] // 99, 0 * ramp[..., 0], 0 * ramp[..., 0]], -1)
  return {"image": tf.constant(_encode(ramp, "JPEG")),
          "image/id": tf.constant(3, tf.int64),
          "panoptic_image": tf.constant(ids),
          "panoptic_objects": {"id": tf.constant([1, 2], tf.int64),
                               "label": tf.constant([5, 9], tf.int64)},
          "depth": tf.ones([12, 16, 1])}


def _encode(array, kind, **kw) -> bytes:
  buffer = io.BytesIO()
  image = array if isinstance(array, Image.Image) else Image.fromarray(array)
  image.save(buffer, kind, **kw)
  return buffer.getvalue()


class _Configs:
  """Command lines of the trainers, up to model and optimizer."""

  def __init__(self, folder: pathlib.Path):
    root = pathlib.Path(__file__).resolve().parents[2] / "configs"
    self.configs = [f"{root / name}.py:tiny" for name in (
        "vqvae_rooms_panoptic", "vqvae_rooms_depth", "lm_rooms_panoptic")]
    self.workdir = folder / "work"

  def make(self, rng: random.Random) -> list[str]:
    name = rng.choice(self.configs)
    argv = ["fuzz", f"--config={name}", f"--workdir={self.workdir}"]
    paths = _paths(name)
    for _ in range(rng.randint(1, 3)):
      path, value = rng.choice(paths)
      if rng.random() < .1:
        path = mutate_text(rng, path)
      text = rng.choice(_TEXTS)
      if rng.random() < .4:
        text = mutate_text(rng, str(value))
      argv.append(f"--config.{path}={text}")
    return argv

  def run(self, case: list[str]) -> None:
    from trainers import main
    from uvim.config import resolve
    try:
      config, *_ = main._parse(case, "")
    except Exception as error:  # The command says any of these in one line.
      raise ConfigError(str(error)) from error
    config = resolve(config)
    if config.oracle is None:
      _build(config)


def _build(config) -> None:
  """What a run makes of a stage I config before it looks for the data."""
  from pp import stream
  from trainers.step import make_init
  from trainers.vqvae import VqvaeStage
  stream.make_preprocess(config.pp_train, config.pp_modules)
  stage = VqvaeStage(dataclasses.replace(config, model_init=None))
  make_init(stage, config, config.num_steps(64))


def _config(name: str, arg: str | None = None):
  """The ConfigDict of a shipped config file, which the tools do not import."""
  return importlib.import_module(f"configs.{name}").get_config(arg)


def _paths(name: str) -> list[tuple[str, Any]]:
  """(dotted path, value) of every field of a config file."""
  path, _, arg = name.partition(":")
  out = []

  def walk(node, prefix):
    for key in node:
      value = node[key]
      if hasattr(value, "keys"):
        walk(value, f"{prefix}{key}.")
      else:
        out.append((f"{prefix}{key}", value))

  walk(_config(pathlib.Path(path).stem, arg), "")
  return out


class _Images:
  """Image files, as training decodes them and as prepare_data checks them."""

  def __init__(self, folder: pathlib.Path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (24, 20, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    grey = Image.fromarray(rgb[..., 0])
    self.seeds = [
        _encode(rgb, "JPEG", exif=exif), _encode(grey, "JPEG"),
        _encode(rgb, "JPEG", progressive=True),
        _encode(Image.fromarray(rgb).convert("CMYK"), "JPEG"),
        _encode(rgb, "PNG"), _encode(grey, "PNG"), _encode(rgb, "BMP"),
        _encode(np.uint16(rgb[..., 0]) * 257, "PNG"), _encode(rgb, "GIF"),
        _encode(rgb, "GIF", save_all=True, append_images=[grey]),
        _encode(Image.fromarray(rgb).quantize(9), "PNG"),
        _encode(rgb, "WEBP"), _encode(rgb, "TIFF"), b"", b"no picture"]
    self.path = folder / "file"
    self.path.mkdir()

  def make(self, rng: random.Random) -> tuple[bytes, str]:
    data = mutate_bytes(rng, rng.choice(self.seeds))
    return data, rng.choice(("a.jpg", "a.png", "a.gif", "a.bmp"))

  def run(self, case: tuple[bytes, str]) -> None:
    import tensorflow as tf

    from pp import builder
    from tools.prepare import coco_files, image_files
    data, name = case
    path = self.path / name
    path.write_bytes(data)
    try:
      problems = image_files.check(path, name)
      if not problems:
        image_files.encoded(path)
      coco_files.check_record(coco_files.Record(
          path, path, {"id": 1, "file_name": name}, {"segments_info": []}), {1})
      if path.read_bytes() != data:
        raise AssertionError("the file has changed")
    finally:
      path.unlink()
    builder.build("decode|resize(8)|value_range(-1, 1)")(
        {"image": tf.constant(data)})
    if problems:
      raise ConfigError(problems[0])


KINDS = {"string": _Strings, "config": _Configs, "image": _Images}


def run(cases: int, *, seed: int = 0, kinds: Sequence[str] = tuple(KINDS),
        limit: float | None = None) -> Report:
  """Runs as many cases, shared among the kinds.

  Args:
    cases: how many.
    seed: what they follow from.
    kinds: keys of KINDS.
    limit: seconds that one may take; past that the process ends. None: any.
  """
  report = Report(collections.Counter(), collections.Counter(), [])
  seen = set()
  with (tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder), warnings.catch_warnings()):
    warnings.simplefilter("ignore")  # Of a library, about the broken input.
    targets = {kind: KINDS[kind](pathlib.Path(folder)) for kind in kinds}
    before = _files(folder)
    numbers = passes.progress(range(cases), total=cases, desc="Fuzz",
                              unit="cases")
    for number in numbers:
      kind = kinds[number % len(kinds)]
      case = targets[kind].make(random.Random(f"{seed}/{kind}/{number}"))
      if limit:
        faulthandler.dump_traceback_later(limit, exit=True)
      _run_case(targets[kind], kind, case, report, seen)
    if limit:
      faulthandler.cancel_dump_traceback_later()
    if _files(folder) != before:
      report.failures.append(f"files changed: {_files(folder)}")
  return report


def _run_case(target, kind: str, case, report: Report, seen: set) -> None:
  """One case; of failures at one place only the first is kept."""
  try:
    with contextlib.redirect_stderr(io.StringIO()):
      target.run(case)
    report.passed[kind] += 1
  except ConfigError as error:
    report.refused[kind] += 1
    if "Traceback" in str(error):
      report.failures.append(f"{kind} {case!r}: {error}")
  except Exception as error:  # noqa: BLE001 - that is what is looked for.
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = kind, type(error), last.filename, last.lineno
    if place not in seen:
      seen.add(place)
      text = "".join(traceback.format_exception(error)[-12:])
      report.failures.append(f"{kind} {str(case)[:2000]!r}\n{text}")


def _files(folder: str) -> dict[str, str]:
  """Every file below a folder with a digest of what it holds."""
  return {os.path.relpath(path, folder):
          hashlib.sha256(path.read_bytes()).hexdigest()
          for path in pathlib.Path(folder).rglob("*") if path.is_file()}


def main(argv: Sequence[str] | None = None) -> int:
  """The command line; 1 where anything but our own errors came back."""
  parser = argparse.ArgumentParser(
      prog="python -m tools.fuzz", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--cases", type=int, default=10_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--kinds", nargs="+", choices=list(KINDS),
                      default=list(KINDS))
  parser.add_argument("--limit", type=float, default=120,
                      help="seconds a case may take (default: %(default)g)")
  args = parser.parse_args(argv)
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  report = run(args.cases, seed=args.seed, kinds=args.kinds, limit=args.limit)
  for kind in args.kinds:
    print(f"{kind}: {report.passed[kind]} taken, {report.refused[kind]} "
          "refused by our own error")
  for failure in report.failures:
    print(f"\nFAILED {failure}")
  print(f"{len(report.failures)} kinds of failure in {args.cases} cases")
  return 1 if report.failures else 0


if __name__ == "__main__":
  sys.exit(main())
