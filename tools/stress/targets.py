"""What the fuzz throws broken input at: strings, command lines, image files."""

import abc
import functools
import io
import pathlib
import random
from typing import Any

import numpy as np
from PIL import Image

from tools.stress.mutate import mutate_bytes, mutate_text
from uvim.registry import ConfigError

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
# What a command line may say of any field.
VALUES = ("0", "-1", "1", "3", "2.5", "nan", "inf", "1e9", "", "abc", "None",
          "True", "[]", "()", "(1, 2)", "(0, 0)", "((1,),)", "{}", "a|b",
          "99999999999999999999", "../../x", "'", "\0", "ñ", "[('a', 1)]",
          "(('data', -1),)", "decode|resize(8)")


class Target(abc.ABC):
  """Something that reads input. Constructors take a folder to work in."""

  @abc.abstractmethod
  def make(self, rng: random.Random) -> Any:
    """Draws a case."""

  @abc.abstractmethod
  def run(self, case: Any) -> None:
    """Reads it; raises a ConfigError if it is refused as it should be."""


@functools.cache
def _shipped_config(name: str):
  """The ConfigDict of 'NAME.py' or 'NAME.py:argument' in configs/."""
  from trainers import config_file
  return config_file.load_config(f"{CONFIGS / name}")


def _encode(image: Image.Image | np.ndarray, kind: str,
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
      config = _shipped_config(name)
      self._seeds += [config.pp_train.replace("512", "8"),
                      config.pp_eval.replace("512", "8")]
    self._seeds += [f"decode|{name}()" for name in builder.OPS]

  def make(self, rng: random.Random) -> str:
    return mutate_text(rng, rng.choice(self._seeds))

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
  return {"image": tf.constant(_encode(ramp, "JPEG")),
          "image/id": tf.constant(3, tf.int64),
          "panoptic_image": tf.constant(segment_ids),
          "panoptic_objects": {"id": tf.constant([1, 2], tf.int64),
                               "label": tf.constant([5, 9], tf.int64)},
          "depth": tf.ones([12, 16, 1])}


# ── Command lines ───────────────────────────────────────────────────────────


class Configs(Target):
  """Command lines of the trainers, up to model and optimizer."""

  def __init__(self, folder: pathlib.Path):
    del folder
    self._names = [f"{name}.py:tiny" for name in (
        "vqvae_rooms_panoptic", "vqvae_rooms_depth", "lm_rooms_panoptic")]

  def make(self, rng: random.Random) -> tuple[str, list[str]]:
    """(a config file, what the command line changes in it)."""
    name = rng.choice(self._names)
    fields = list(_fields_of(_shipped_config(name)).items())
    overrides = []
    for _ in range(rng.randint(1, 3)):
      path, value = rng.choice(fields)
      if rng.random() < 0.1:
        path = mutate_text(rng, path)
      text = rng.choice(VALUES)
      if rng.random() < 0.4:
        text = mutate_text(rng, str(value))
      overrides.append(f"--config.{path}={text}")
    return f"{CONFIGS / name}", overrides

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


def _fields_of(config, prefix: str = "") -> dict[str, Any]:
  """Dotted path → value of every field of a ConfigDict."""
  fields = {}
  for name, value in config.items():
    if hasattr(value, "items"):
      fields |= _fields_of(value, f"{prefix}{name}.")
    else:
      fields[f"{prefix}{name}"] = value
  return fields


# ── Image files ─────────────────────────────────────────────────────────────


class Images(Target):
  """Image files, as training decodes them and as prepare_data checks them."""

  def __init__(self, folder: pathlib.Path):
    self._seeds = _image_files()
    self._folder = folder / "file"
    self._folder.mkdir()

  def make(self, rng: random.Random) -> tuple[bytes, str]:
    """(content of a file, its name)."""
    content = mutate_bytes(rng, rng.choice(self._seeds))
    return content, rng.choice(("a.jpg", "a.png", "a.gif", "a.bmp"))

  def run(self, case: tuple[bytes, str]) -> None:
    import tensorflow as tf

    from pp import builder
    content, name = case
    problems = self._prepare(content, name)
    builder.build("decode|resize(8)|value_range(-1, 1)")(
        {"image": tf.constant(content)})
    if problems:
      raise ConfigError(problems[0])

  def _prepare(self, content: bytes, name: str) -> list[str]:
    """What prepare_data says of a file, which it must leave as it is."""
    from tools.prepare import coco_files, image_files
    path = self._folder / name
    path.write_bytes(content)
    try:
      problems = image_files.check(path, name)
      if not problems:
        image_files.encoded(path)
      record = coco_files.Record(
          path, path, {"id": 1, "file_name": name}, {"segments_info": []})
      coco_files.check_record(record, {1})
      if path.read_bytes() != content:
        raise AssertionError("the file has changed")
    finally:
      path.unlink()
    return problems


def _image_files() -> list[bytes]:
  """Contents of files of many formats, and of two that are no images."""
  rng = np.random.default_rng(0)
  color = rng.integers(0, 256, (24, 20, 3)).astype(np.uint8)
  color_image = Image.fromarray(color)
  gray = color[..., 0]
  rotated = Image.Exif()
  rotated[274] = 6  # Orientation: to be rotated by 90°.
  return [
      _encode(color, "JPEG", exif=rotated),
      _encode(gray, "JPEG"),
      _encode(color, "JPEG", progressive=True),
      _encode(color_image.convert("CMYK"), "JPEG"),
      _encode(color, "PNG"),
      _encode(gray, "PNG"),
      _encode(color, "BMP"),
      _encode(np.uint16(gray) * 257, "PNG"),  # 16 bits.
      _encode(color, "GIF"),
      _encode(color, "GIF", save_all=True,  # Two frames.
              append_images=[Image.fromarray(gray)]),
      _encode(color_image.quantize(9), "PNG"),  # With a palette.
      _encode(color, "WEBP"),
      _encode(color, "TIFF"),
      b"",
      b"no image"]
