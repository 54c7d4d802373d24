"""What the fuzz throws broken text at: strings and command lines.

Targets that read files are in `file_targets.py`.
"""

import abc
import functools
import io
import pathlib
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tools.stress.strategies import LITERALS, edited_text
from uvim.registry import ConfigError

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
# What a command line may say of any field.
VALUES = (
    "0", "-1", "1", "3", "2.5", "nan", "inf", "1e9", "", "abc", "None", "True",
    "[]", "()", "(1, 2)", "(0, 0)", "((1,),)", "{}", "a|b",
    "99999999999999999999", "../../x", "'", "\0", "ñ", "[('a', 1)]",
    "(('data', -1),)", "decode|resize(8)")


class Target(abc.ABC):
  """Something that reads input. Constructors take a folder to work in."""

  @abc.abstractmethod
  def cases(self) -> st.SearchStrategy[Any]:
    """What to throw at it."""

  @abc.abstractmethod
  def run(self, case: Any) -> None:
    """Reads a case; raises a ConfigError if it is refused as it should be."""


@functools.cache
def shipped_config(name: str):
  """The ConfigDict of 'NAME.py' or 'NAME.py:argument' in configs/."""
  from trainers import config_file
  return config_file.load_config(f"{CONFIGS / name}")


def encode_image(image: Image.Image | np.ndarray, kind: str,
                 **options: Any) -> bytes:
  """The content of an image file."""
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


# ── Strings ─────────────────────────────────────────────────────────────────


class Strings(Target):
  """Preprocessing strings, built and run on one example."""

  def __init__(self, folder: pathlib.Path):
    from pp import builder
    del folder
    builder.build("")  # Imports the ops.
    self._seeds = [
        'decode|flip_lr|central_crop(9)|rgb_to_grayscale_to_rgb|drop("depth")',
        'decode_jpeg_and_inception_crop(8, area_min=5)|copy("image", "a")']
    for name in ("lm_coco_panoptic.py", "vqvae_nyu_depth.py",
                 "vqvae_imagenet_colorization.py"):
      config = shipped_config(name)
      self._seeds += [config.pp_train.replace("512", "8"),
                      config.pp_eval.replace("512", "8")]
    self._seeds += [f"decode|{name}()" for name in builder.OPS]

  def cases(self) -> st.SearchStrategy[str]:
    return edited_text(self._seeds)

  def run(self, case: str) -> None:
    import tensorflow as tf

    from pp import builder
    builder.build(case)(_example(), tf.constant([1, 2], tf.int64))


def _example() -> dict[str, Any]:
  """An example of every task, 12×16 pixels."""
  import tensorflow as tf
  ramp = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
  zeros = np.zeros_like(ramp[..., 0])
  segment_ids = np.stack([ramp[..., 0] // 99, zeros, zeros], axis=-1)
  return {"image": tf.constant(encode_image(ramp, "JPEG")),
          "image/id": tf.constant(3, tf.int64),
          "panoptic_image": tf.constant(segment_ids),
          "panoptic_objects": {"id": tf.constant([1, 2], tf.int64),
                               "label": tf.constant([5, 9], tf.int64)},
          "depth": tf.ones([12, 16, 1])}


# ── Command lines of the trainers ───────────────────────────────────────────


class Configs(Target):
  """Command lines of the trainers, up to model and optimizer."""

  def __init__(self, folder: pathlib.Path):
    del folder
    self._names = [f"{name}.py:tiny" for name in (
        "vqvae_rooms_panoptic", "vqvae_rooms_depth", "lm_rooms_panoptic")]

  def cases(self) -> st.SearchStrategy[tuple[str, list[str]]]:
    """(a config file, what the command line changes in it)."""
    return st.one_of([self._cases_of(name) for name in self._names])

  def _cases_of(self, name: str) -> st.SearchStrategy:
    changes = []
    for path, value in _fields_of(shipped_config(name)).items():
      texts = st.one_of(st.sampled_from(VALUES), edited_text([str(value)]))
      changes.append(st.tuples(st.just(path), texts).map(_override))
      # A field that is nearly right.
      changes.append(st.tuples(edited_text([path]), texts).map(_override))
    overrides = st.lists(st.one_of(changes), min_size=1, max_size=3)
    return st.tuples(st.just(f"{CONFIGS / name}"), overrides)

  def run(self, case: tuple[str, list[str]]) -> None:
    """What a run makes of its config before it looks for data."""
    from pp import stream
    from trainers import config_file
    from trainers.families import make_family
    from trainers.step import make_init
    from uvim.config import resolve
    path, overrides = case
    config = resolve(config_file.load_config(path, overrides))
    stream.make_preprocess(config.pp_train, config.pp_modules)
    family = make_family(config)
    make_init(family, config, config.num_steps(64))


def _override(change: tuple[str, str]) -> str:
  path, text = change
  return f"--config.{path}={text}"


def _fields_of(config, prefix: str = "") -> dict[str, Any]:
  """Dotted path → value of every field of a ConfigDict."""
  fields = {}
  for name, value in config.items():
    if hasattr(value, "items"):
      fields |= _fields_of(value, f"{prefix}{name}.")
    else:
      fields[f"{prefix}{name}"] = value
  return fields


# ── Options of a prediction ─────────────────────────────────────────────────


class Options(Target):
  """Command lines of `uvim predict`, up to the checkpoint."""

  def __init__(self, folder: pathlib.Path):
    from uvim.cli import options
    self._image = folder / "a.png"
    self._image.write_bytes(encode_image(np.zeros((4, 4, 3), np.uint8), "PNG"))
    self._out = folder / "out"
    known = {**options.sampling_options(), **options.reading_options(),
             **options.output_options()}
    self._names = [*known, "seed", "num_samples", "categories", "max_pixels"]

  def cases(self) -> st.SearchStrategy[list[str]]:
    values = st.one_of(
        st.sampled_from(VALUES + LITERALS), st.floats().map(str),
        st.integers().map(str), st.text(max_size=5))
    option = st.tuples(st.sampled_from(self._names), values).map(
        lambda pair: f"--{pair[0]}={pair[1]}")
    return st.lists(option, min_size=1, max_size=3)

  def run(self, case: list[str]) -> None:
    from uvim.cli import app, predict
    reached = []

    def load(*args, **options):
      del args, options
      reached.append(True)
      raise ConfigError("no model: the options are all that is tried")

    argv = [str(self._image), "--checkpoint=none", f"--out={self._out}", *case]
    code = predict.main(argv, load=load)
    if code != app.EXIT_BAD_INPUT:
      raise AssertionError(f"exit code {code}")
    if not reached:
      raise ConfigError("refused before the model was opened")
