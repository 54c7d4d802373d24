"""Pix2Seq-D on a video: a mask for each frame, with ids that stay.

  model = VideoPredictor.from_checkpoint("workdirs/pix2seq_d_video")
  for panoptic in model.predict_video(frames, num_steps=20, later_steps=5):
    …

H W pixels of a frame · h w pixels of a mask
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from uvim import fields
from uvim.inference.films import Frame
from uvim.inference.pix2seq_d import (
  SAMPLING_OPTIONS,
  Masks,
  Pix2SeqDPredictor,
)
from uvim.inference.predictor import ModelImage, Options, split_options
from uvim.models.pix2seq_d import Pix2SeqD, video
from uvim.priors import base as priors_base
from uvim.typing import Int, Seeds

_LATER_STEPS = fields.Field(
    "later_steps", video.LATER_STEPS, "How often the network sees the mask of "
    "a frame that is not the first.",
    check=Pix2SeqD.generate.checks["num_steps"])
_DRAWN_WITH = (_LATER_STEPS.name, *SAMPLING_OPTIONS)


class VideoPredictor(Pix2SeqDPredictor):
  """A trained Pix2Seq-D that predicts the frames of a video in turn."""

  options = {
      "num_steps": Pix2SeqDPredictor.options["num_steps"],
      _LATER_STEPS.name: _LATER_STEPS,
      **Pix2SeqDPredictor.options,
  }

  @property
  def sees_earlier_frames(self) -> bool:
    """Whether the model was made for videos, and not for images alone."""
    return self.model.network.frames_before > 0

  def predict_video(
      self,
      frames: Iterable[Frame],
      *,
      clip_id: int = 0,
      seed: int = 0,
      alone: bool = False,
      **options: Any,
  ) -> Iterator[Int[np.ndarray, "H W 2"]]:
    """Yields class and id of each pixel of each frame; 0 is void.

    The mask of a frame follows from the frames up to it, `clip_id`, `seed` and
    the options alone. With the clip/id of a data set its noise is that of an
    evaluation.

    Args:
      frames: in the order of time.
      clip_id: of the video, a 32-bit number.
      seed: 0 to 2³² − 1.
      alone: predicts each frame as an image of its own, so that its ids mean
        nothing in the next one. A model of images alone always does so.
      **options: see `options`.

    Raises:
      ConfigError: an unknown option or one out of its range.
    """
    settings = self.check_options(seed=seed, **options)
    drawn_with, others = split_options(settings, _DRAWN_WITH)
    min_fraction = others["min_fraction"]
    seeds_1 = priors_base.example_seeds(np.array([clip_id]), seed)
    # One frame at a time waits for its mask.
    to_predict, originals = itertools.tee(frames)
    draw = self._draw_in_turn
    if alone or not self.sees_earlier_frames:
      draw = self._draw_alone
    masks = draw(self._images(to_predict), seeds_1, drawn_with)
    for original, mask in zip(originals, masks, strict=True):
      outputs = jax.device_get(self._segment(mask, min_fraction))
      panoptic = outputs["panoptic"][0]
      yield self.task.to_image_size(panoptic, original)

  def _images(self, frames: Iterable[Frame]) -> Iterator[ModelImage]:
    """The frames at the size of the model."""
    for frame in frames:
      yield self._to_model(frame, self.model.image_size)

  def _draw_in_turn(
      self, images: Iterator[ModelImage], seeds_1: Seeds, drawn_with: Options
  ) -> Iterator[Masks]:
    """Each mask from those before it."""
    return video.generate(
        self.model, self._params, images, seeds_1, **drawn_with)

  def _draw_alone(
      self, images: Iterator[ModelImage], seeds_1: Seeds, drawn_with: Options
  ) -> Iterator[Masks]:
    """Each mask from its image, with as many steps as the first frame has."""
    sampling, _ = split_options(drawn_with, SAMPLING_OPTIONS)
    for number, image in enumerate(images):
      seed_1 = video.seeds_of_frames(seeds_1, number)
      yield self.model.generate(self._params, image, seed_1, **sampling)
