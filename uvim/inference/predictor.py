"""What every model for inference is, whatever it does between image and answer.

n images · S samples per image · H W pixels of an image · B images of a batch

A prediction has two stages. `see` brings an image to the sizes of the networks,
on the host. `predict_seen` runs them on a batch of such images. `predict` does
both; the command line does them in different threads.
"""

import abc
import functools
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from uvim import fields, resize
from uvim.inference import batching
from uvim.inference import images as images_lib
from uvim.inference.prediction import Prediction, put_sample
from uvim.priors import base as priors_base
from uvim.store.open_model import OpenModel
from uvim.typing import Array, Float, Seeds

Path = str | os.PathLike
Options = Mapping[str, Any]
# An image at the size of a model, as a batch of one; and a batch of several.
ModelImage = Float[np.ndarray, "1 H W 3"]
ModelImages = Float[np.ndarray, "B H W 3"]
# Outputs of a task by name, on the device [B, H, W, …].
Outputs = Mapping[str, Array]
# Of an image, at its size: [S, H, W, …].
OutputsOfImage = dict[str, np.ndarray]


class Seen(NamedTuple):
  """What a model gets of an image.

  Attributes:
    original: the image, [H, W, 3].
    at: size of a network → the image as it sees it, a batch of one.
    given: words [1, L] that the user has fixed, -1 elsewhere; None: none.
  """
  original: np.ndarray
  at: Mapping[resize.Size, ModelImage]
  given: np.ndarray | None = None


class Answer(NamedTuple):
  """What a model says of an image.

  Attributes:
    original: the image, [H, W, 3].
    outputs: of the task, at the size of the image.
    code: [S, L] or [S, L, R]; None where the model has no codes.
    logprob: f32 [S, L], nats; None where nobody knows.
  """
  original: np.ndarray
  outputs: OutputsOfImage
  code: np.ndarray | None = None
  logprob: np.ndarray | None = None


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
    rows_on_cpu: how much runs at once on a CPU, where the user does not say.
    rows_elsewhere: the same on other devices.
  """

  kind: ClassVar[str]
  rows_on_cpu: ClassVar[int]
  rows_elsewhere: ClassVar[int]

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

  def predict(
      self,
      images: Any,
      *,
      num_samples: int = 1,
      seed: int = 0,
      batch_size: int | None = None,
      value_range: images_lib.Range | None = None,
      **options: Any,
  ) -> Prediction:
    """The model's answer for images of any size.

    An image is resized to the model's size, as in training; the outputs are
    resized back.

    Args:
      images: one image or several: paths, PIL images, arrays; see
        `uvim.inference.images.read`.
      num_samples: S, 1 to 10,000.
      seed: 0 to 2³² − 1; a sample follows from it and from the pixels alone.
      batch_size: images times samples that run at once. More take more
        memory. An image with more samples than that runs alone. None:
        `rows_on_cpu` or `rows_elsewhere`. 1: images run one by one.
      value_range: of images that are arrays of floats, such as (0, 1); see
        `uvim.inference.images.read`.
      **options: of the model; see `check_options`.

    Raises:
      ConfigError: an unknown option or one out of its range, or no readable
        image.
    """
    batching.check_batch_size(batch_size)
    settings = self.check_options(
        num_samples=num_samples, seed=seed, **options)
    originals = images_lib.read_all(images, value_range=value_range)
    given_n = [None] * len(originals)
    return self._predict_all(originals, given_n, settings, batch_size)

  def _predict_all(
      self,
      originals: Sequence[np.ndarray],
      given_n: Sequence[np.ndarray | None],
      settings: Options,
      batch_size: int | None,
  ) -> Prediction:
    """The answers for images that have been read, in one prediction."""
    size = self.images_at_once(
        len(originals), settings["num_samples"], batch_size)
    pairs = list(zip(originals, given_n, strict=True))
    answers = []
    for batch in batching.split(pairs, size):
      seen = [self.see(original, given_1L) for original, given_1L in batch]
      answers += self._answers(seen, settings, size)
    return self._prediction(answers, settings)

  # ── The stages of a prediction ──────────────────────────────────────────

  def images_at_once(
      self,
      num_images: int,
      num_samples: int,
      batch_size: int | None = None,
  ) -> int:
    """How many images a batch of `predict_seen` should have.

    Args:
      num_images: that there are.
      num_samples: S.
      batch_size: images times samples that may run at once; None:
        `rows_on_cpu` or, on another device, `rows_elsewhere`.
    """
    if batch_size is None:
      is_cpu = jax.default_backend() == "cpu"
      batch_size = self.rows_on_cpu if is_cpu else self.rows_elsewhere
    return batching.images_at_once(batch_size, num_samples, num_images)

  def see(
      self, original: np.ndarray, given_1L: np.ndarray | None = None) -> Seen:
    """An image at the sizes of the networks; any thread may call it.

    Args:
      original: as `uvim.inference.images.read` gives it.
      given_1L: words that the user has fixed.
    """
    at = {}
    for size in self._network_sizes:
      at[size] = self._to_model(original, size)
    return Seen(original, at, given_1L)

  def predict_seen(
      self, seen: Sequence[Seen], settings: Options, size: int,
  ) -> Iterator[Prediction]:
    """Yields the prediction of each image of a batch, in their order.

    Args:
      seen: the images.
      settings: as `check_options` returns them.
      size: how many images the program is for, at least as many as there are;
        the last image takes the places that are left.
    """
    for answer in self._answers(seen, settings, size):
      yield self._prediction([answer], settings)

  @abc.abstractmethod
  def _answers(
      self, seen: Sequence[Seen], settings: Options, size: int,
  ) -> Iterator[Answer]:
    """The answers of a batch; arguments as of `predict_seen`."""

  @property
  @abc.abstractmethod
  def _network_sizes(self) -> set[resize.Size]:
    """Heights and widths at which the networks see an image."""

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
    """The image as a network of this size sees it, a batch of one."""
    image = resize.to_model(
        original, size, antialias=self.antialias, grey=self.task.sees_grey)
    return image[None]

  def _at_image_size(
      self,
      drawn: Iterable[Outputs],
      num_samples: int,
      original: np.ndarray,
      settings: Options,
  ) -> OutputsOfImage:
    """The outputs of an image, [S, H, W, …], from those at the model's size.

    Args:
      drawn: of one sample after the other, a batch of one each.
      num_samples: S.
      original: the image.
      settings: as `check_options` returns them.
    """
    options, _ = split_options(settings, self.task.image_options())
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
      self, answers: Sequence[Answer], settings: Options) -> Prediction:
    """One prediction of the images of these answers."""
    outputs = {}
    for key in self.output_keys:
      outputs[key] = [answer.outputs[key] for answer in answers]
    return Prediction(
        task=self.task,
        photos=[answer.original for answer in answers],
        outputs=outputs,
        codes=_stack([answer.code for answer in answers]),
        logprob=_stack([answer.logprob for answer in answers]),
        settings=settings,
        categories=self.categories)


def _stack(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
  """[n, …] of n arrays; None of None."""
  # A model gives it for every image or for none.
  if arrays[0] is None:
    return None
  return np.stack(arrays)


def join_seen(seen: Sequence[Seen], size: resize.Size) -> ModelImages:
  """The images of a batch as a network of this size sees them."""
  return np.concatenate([one.at[size] for one in seen])


def seeds_of_images(images: ModelImages, seed: int) -> Seeds:
  """The seeds [B] of images: their pixels and the run's seed decide.

  Raises:
    ConfigError: a seed out of range.
  """
  ids = []
  for image in images:
    # The pixels are the image's id, in one byte order on every machine.
    pixels = np.ascontiguousarray(image, "<f4")
    ids.append(zlib.crc32(pixels))
  return priors_base.example_seeds(np.array(ids, np.uint32), seed)


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
