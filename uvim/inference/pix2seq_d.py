"""Pix2Seq-D for inference: from noise to the mask of an image, in steps.

  model = Pix2SeqDPredictor.from_checkpoint("workdirs/pix2seq_d_rooms")
  prediction = model.predict("photo.jpg", num_steps=20, num_samples=4)
  prediction.plot().save("look.png")
  steps = model.predict_steps("photo.jpg", num_steps=20, steps=[1, 5, 10, 20])
  draw_strip(steps).save("strip.png")

It has no guiding code and no likelihood: `Prediction.codes` and `logprob` are
None. Samples of an image differ in their noise alone.

n images · S samples per image · H W pixels of an image · h w pixels of a mask
K steps
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields, resize, tree
from uvim.inference import batching, sheet
from uvim.inference import images as images_lib
from uvim.inference.prediction import Prediction, to_height
from uvim.inference.predictor import (
  Answer,
  ModelImages,
  Options,
  Outputs,
  Path,
  Predictor,
  Seen,
  defaults_of,
  join_seen,
  seeds_of_images,
  split_options,
)
from uvim.models.pix2seq_d import Pix2SeqD
from uvim.models.pix2seq_d.sampling import Steps, check_kept
from uvim.priors import base as priors_base
from uvim.registry import ConfigError
from uvim.store.open_model import OpenModel
from uvim.store.open_pix2seq_d import open_pix2seq_d
from uvim.tasks.instances import OPTION_CHECKS, panoptic_from_labels
from uvim.typing import Array, Int

Masks = Int[Array, "B h w 2"]

_MIN_FRACTION = fields.Field(
    "min_fraction", 0.0, "Drops segments under this share of the image.",
    check=OPTION_CHECKS["min_fraction"])
_GENERATE = fields.options_of(Pix2SeqD.generate)
# How samples are drawn, by name.
SAMPLING_OPTIONS = {
    name: _GENERATE[name]
    for name in ("num_steps", "time_difference", "sampler")}


class Step(NamedTuple):
  """One step of a sampling, as predictions of one image and one sample.

  Attributes:
    number: k, from 1 to num_steps.
    noisy: the mask that the network was given, noise at first.
    estimate: the mask that it makes of it; of the last step the answer.
  """
  number: int
  noisy: Prediction
  estimate: Prediction


def draw_strip(steps: Sequence[Step], height: int = 128):
  """A PIL image: a column for each step, what it was given above what it made.

  Args:
    steps: from `Pix2SeqDPredictor.predict_steps`.
    height: of each mask, in pixels.
  """
  titles = [f"step {step.number}" for step in steps]
  given = [_draw_mask(step.noisy, height) for step in steps]
  made = [_draw_mask(step.estimate, height) for step in steps]
  return sheet.draw_sheet(
      [given, made], titles=[titles], row_names=["given", "made"])


def _draw_mask(prediction: Prediction, height: int):
  """A PIL image of the one mask of a prediction."""
  return to_height(prediction.pictures()[0][0], height)


class Pix2SeqDPredictor(Predictor):
  """A trained Pix2Seq-D.

  `predict` gives the masks that images end at, from noise. They are resized
  back to the nearest pixel. With several images at once some pixels near a
  border may differ from those of one alone, because rounding differs.

  Attributes:
    model: network and sampling.
    options: of `predict`, by name, with defaults and ranges.
  """

  kind = "pix2seq_d"
  # All of the network is large for each image: a CPU gains nothing.
  rows_on_cpu = 1
  rows_elsewhere = 8
  options = {**SAMPLING_OPTIONS, _MIN_FRACTION.name: _MIN_FRACTION}

  def __init__(self, opened: OpenModel):
    super().__init__(opened)
    self._params = jax.device_put(opened.arrays["params"])

  @classmethod
  def from_checkpoint(cls, path: Path) -> "Pix2SeqDPredictor":
    """Loads a model.

    Args:
      path: the workdir of a run of Pix2Seq-D, whose averaged parameters are
        taken; a pack of one; 'hf:OWNER/NAME' for a pack of the hub.

    Raises:
      ConfigError: nothing there, or no run of Pix2Seq-D.
    """
    return cls(open_pix2seq_d(path))

  def predict_steps(
      self,
      image: Any,
      *,
      steps: Sequence[int] | None = None,
      seed: int = 0,
      value_range: images_lib.Range | None = None,
      **options: Any,
  ) -> list[Step]:
    """How the mask of an image comes about, a film of it.

    The last estimate is what `predict` answers with the same options.

    Args:
      image: one image, as in `predict`.
      steps: the numbers of those to keep, rising, from 1 to num_steps; None:
        all. Each takes 16 bytes for each pixel of the image.
      seed, value_range, **options: as in `predict`.

    Raises:
      ConfigError: as of `predict`; several images; steps that there are not.
    """
    settings = self.check_options(seed=seed, **options)
    num_steps = settings["num_steps"]
    kept = steps
    if kept is None:
      kept = range(1, num_steps + 1)
    kept = check_kept(kept, num_steps)
    originals = images_lib.read_all(image, value_range=value_range)
    if len(originals) != 1:
      raise ConfigError(f"{len(originals)} images; the steps of one are shown.")
    original = originals[0]
    masks = self._draw_steps(original, kept, seed, settings)
    found = []
    for place, number in enumerate(kept):
      noisy = {"panoptic": _without_void_ids(masks.noisy[place])}
      estimate = self._segment(masks.clean[place], settings["min_fraction"])
      of_step = {**settings, "step": number}
      found.append(Step(
          number,
          self._predict_one(original, noisy, of_step),
          self._predict_one(original, estimate, of_step)))
    return found

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
    self.check_sampling(options)
    priors_base.check_num_samples(num_samples)
    priors_base.check_seed(seed)
    return {**defaults_of(self.options), **options, "seed": seed,
            "num_samples": num_samples}

  def check_sampling(self, options: Options) -> None:
    """Raises a ConfigError for an unknown option or a value out of range."""
    for name, value in options.items():
      if name not in self.options:
        known = ", ".join(self.options)
        raise ConfigError(f"{name} = {value!r}; Pix2Seq-D has no such option. "
                          f"It has: {known}.")
    fields.check_fields(self.options, options, "options")

  def _checksum(self) -> int:
    return tree.fingerprint(self._params)

  # ── Answers ─────────────────────────────────────────────────────────────

  @property
  def _network_sizes(self) -> set[resize.Size]:
    return {self.model.image_size}

  def _answers(
      self, seen: Sequence[Seen], settings: Options, size: int,
  ) -> Iterator[Answer]:
    # With one image no sample is kept at this size; see `tee`.
    drawn_of_each = itertools.tee(
        self._draw(seen, settings, size), len(seen))
    pairs = zip(seen, drawn_of_each, strict=True)
    for i, (one, drawn) in enumerate(pairs):
      outputs = self._at_image_size(
          _of_image(drawn, i), settings["num_samples"], one.original, settings)
      yield Answer(one.original, outputs)

  def _draw(
      self, seen: Sequence[Seen], settings: Options, size: int,
  ) -> Iterator[Outputs]:
    """One sample after the other of a batch, [B, h, w, 2] on the host."""
    padded = batching.pad(seen, size)
    images = join_seen(padded, self.model.image_size)
    drawn_with, _ = split_options(settings, SAMPLING_OPTIONS)
    seeds_BS = _sample_seeds(
        images, settings["seed"], settings["num_samples"])
    # One by one: a step of all samples would not fit into the memory.
    for sample_seeds_B in np.asarray(seeds_BS).T:
      masks = self.model.generate(
          self._params, images, sample_seeds_B, **drawn_with)
      outputs = self._segment(masks, settings["min_fraction"])
      yield jax.device_get(outputs)

  def _draw_steps(self, original: np.ndarray, kept: Sequence[int], seed: int,
                  settings: Options) -> Steps:
    """What some steps of the first sample saw and said, [K, 1, h, w, 2]."""
    drawn_with, _ = split_options(settings, SAMPLING_OPTIONS)
    image = self._to_model(original, self.model.image_size)
    seeds_11 = np.asarray(_sample_seeds(image, seed, 1))
    masks = self.model.generate_steps(
        self._params, image, seeds_11[:, 0], kept, **drawn_with)
    return jax.device_get(masks)

  def _segment(self, mask: Masks, min_fraction: float) -> Outputs:
    """One class for each instance, by majority; small ones become void."""
    panoptic = _panoptic_from_labels(
        mask, sizes=self.model.network.sizes, min_fraction=min_fraction)
    return {"panoptic": panoptic}

  def _predict_one(self, original: np.ndarray, outputs: Outputs,
                   settings: Options) -> Prediction:
    """A prediction of one image and one sample."""
    of_image = self._at_image_size([outputs], 1, original, settings)
    return self._prediction([Answer(original, of_image)], settings)


_panoptic_from_labels = functools.partial(
    jax.jit, static_argnames=("sizes", "min_fraction"))(panoptic_from_labels)


def _of_image(drawn: Iterator[Outputs], i: int) -> Iterator[Outputs]:
  """Image i of each sample of a batch, as a batch of one."""
  for outputs in drawn:
    # A slice keeps the axis of the images.
    yield {key: array[i:i + 1] for key, array in outputs.items()}


def _sample_seeds(
    images: ModelImages, seed: int, num_samples: int) -> Int[Array, "B S"]:
  """A seed for each sample of each image; the first do not depend on S."""
  samples_S = jnp.arange(num_samples)

  def of_image(image_seed):
    return priors_base.example_seeds(samples_S, image_seed)

  seeds_B = seeds_of_images(images, seed)
  return jax.vmap(of_image)(seeds_B)


def _without_void_ids(mask: Int[np.ndarray, "B h w 2"]) -> np.ndarray:
  """The mask with the id 0 where the class is void."""
  is_void = mask[..., :1] == 0
  return np.where(is_void, 0, mask)
