"""What every model for inference is, whatever it does between image and answer.

n images · S samples per image · H W pixels of an image
"""

import abc
import functools
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from uvim import fields, resize
from uvim.inference import images as images_lib
from uvim.inference.prediction import Codes, LogProb, Prediction, put_sample
from uvim.priors import base as priors_base
from uvim.store.open_model import OpenModel
from uvim.typing import Array, Float, Seeds

Path = str | os.PathLike
Options = Mapping[str, Any]
# An image at the size of a model, as a batch of one.
ModelImage = Float[np.ndarray, "1 H W 3"]
# Outputs of a task by name, of one image; on the device [1, H, W, …].
Outputs = Mapping[str, Array]
# Of an image, at its size: [S, H, W, …].
OutputsOfImage = dict[str, np.ndarray]


class Predictor(abc.ABC):
  """A trained model that predicts images of any size.

  Attributes:
    kind: "uvim" or "pix2seq_d".
    task: turns what the model says into outputs, and outputs into images.
    model: of the class that its kind has.
    antialias: whether images are resized with antialias.
    dataset: what the run learned from; "" where nobody knows.
    categories: rows with .id, .name and .isthing: what class 1, 2, … stands
      for; () where nobody knows, or where the task has no classes.
    preprocessing: of the run's evaluation, see `uvim.inference.eval_crop`.
  """

  kind: ClassVar[str]

  def __init__(self, opened: OpenModel):
    self.task = opened.task
    self.model = opened.model
    self.antialias = opened.antialias
    self.dataset = opened.dataset
    self.categories = opened.categories
    self.preprocessing = opened.preprocessing

  @property
  def output_keys(self) -> tuple[str, ...]:
    """The names in `Prediction.outputs`."""
    return self.task.output_keys

  @functools.cached_property
  def fingerprint(self) -> str:
    """Tells models apart: a checksum of all arrays, and the image resizing."""
    return f"{self._checksum():08x}, antialias {self.antialias}"

  @abc.abstractmethod
  def predict(
      self,
      images: Any,
      *,
      num_samples: int = 1,
      seed: int = 0,
      value_range: images_lib.Range | None = None,
      **options: Any,
  ) -> Prediction:
    """The model's answer for images of any size.

    Args:
      images: one image or several: paths, PIL images, arrays; see
        `uvim.inference.images.read`.
      num_samples: S, 1 to 10,000.
      seed: 0 to 2³² − 1; a sample follows from it and from the pixels alone.
      value_range: of images that are arrays of floats, such as (0, 1); see
        `uvim.inference.images.read`.
      **options: of the model; see `check_options`.

    Raises:
      ConfigError: an unknown option or one out of its range, or no readable
        image.
    """

  @abc.abstractmethod
  def check_options(
      self,
      *,
      num_samples: int = 1,
      seed: int = 0,
      **options: Any,
  ) -> dict[str, Any]:
    """All that `predict` would do with these options, defaults included.

    Raises:
      ConfigError: as of `predict`.
    """

  @abc.abstractmethod
  def check_sampling(self, options: Options) -> None:
    """Raises a ConfigError unless these are options of how samples are drawn.

    A UViM without a prior draws none, and takes any.
    """

  @abc.abstractmethod
  def _checksum(self) -> int:
    """Of all arrays."""

  # ── From an image to the model, and back ────────────────────────────────

  def _to_model(self, original: np.ndarray, size: resize.Size) -> ModelImage:
    image = resize.to_model(
        original, size, antialias=self.antialias, grey=self.task.sees_grey)
    return image[None]

  def _at_image_size(
      self,
      drawn: Iterable[Outputs],
      num_samples: int,
      original: np.ndarray,
      options: Options,
  ) -> OutputsOfImage:
    """The outputs of an image, [S, H, W, …], from those at the model's size.

    Args:
      drawn: of one sample after the other.
      num_samples: S.
      original: the image.
      options: of the task's `to_image_size`.
    """
    outputs = {}
    for sample, of_sample in enumerate(drawn):
      of_sample = jax.device_get(of_sample)
      for key in self.output_keys:
        # Not by a name, which would hold it while the next one is made.
        outputs[key] = put_sample(
            self.task.to_image_size(of_sample[key][0], original, **options),
            outputs.get(key), sample, num_samples)
    return outputs

  def _prediction(
      self,
      originals: Sequence[np.ndarray],
      outputs_of_each: Sequence[OutputsOfImage],
      settings: Options,
      *,
      codes: Codes | None = None,
      logprob: LogProb | None = None,
  ) -> Prediction:
    """A prediction of these images."""
    outputs = {}
    for key in self.output_keys:
      outputs[key] = [of_image[key] for of_image in outputs_of_each]
    return Prediction(
        self.task, originals, outputs, codes, logprob, settings,
        self.categories)


def seed_of_image(image: ModelImage, seed: int) -> Seeds:
  """The seed [1] of an image's samples: its pixels and the run's seed decide.

  Raises:
    ConfigError: a seed out of range.
  """
  # The pixels are the image's id, in one byte order on every machine.
  pixels = np.ascontiguousarray(image, "<f4")
  ids = np.array([zlib.crc32(pixels)], np.uint32)
  return priors_base.example_seeds(ids, seed)


def split_options(options: Options, names) -> tuple[dict, dict]:
  """The options of these names, and the others."""
  named = {}
  others = {}
  for name, value in options.items():
    if name in names:
      named[name] = value
    else:
      others[name] = value
  return named, others


def defaults_of(known: Mapping[str, fields.Field]) -> dict[str, Any]:
  """The default of each option, by name."""
  return {name: option.default for name, option in known.items()}
