"""What the page of a Pix2Seq-D asks for: films of a mask that loses its noise.

S samples per image · H W pixels of an image
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from uvim import fields, resize
from uvim.explorer.describe import (
  describe_classes,
  describe_option,
  describe_output,
)
from uvim.explorer.gallery import Gallery
from uvim.inference import images
from uvim.inference.api import UViM
from uvim.inference.pix2seq_d import Pix2SeqDPredictor
from uvim.inference.prediction import Prediction
from uvim.registry import ConfigError

MAX_SAMPLES = 8
# More would keep the computer busy for too long.
MAX_STEPS = 100
# What a film keeps of a prediction of more steps: a frame takes memory.
MAX_FRAMES = 20
# Pixels of the long side of a frame. The answer has the size of its image.
FRAME_SIDE = 384


class FilmSession(Gallery):
  """A Pix2Seq-D and its images, maybe beside a UViM; takes one call at a time.

  Only `info` may be called while another call computes.
  """

  _predictor: Pix2SeqDPredictor

  def __init__(self, predictor: Pix2SeqDPredictor, title: str, *,
               beside: UViM | None = None, beside_title: str = ""):
    """Starts without images.

    Args:
      predictor: the model.
      title: what the page calls it.
      beside: a model of the same classes, whose answer is shown too.
      beside_title: what the page calls that one.

    Raises:
      ConfigError: `beside` predicts nothing, or other classes.
    """
    super().__init__(predictor, title)
    if beside is not None:
      _check_beside(predictor, beside, beside_title)
    self._beside = beside
    self._beside_title = beside_title
    # Id → what the other model answers, which never changes.
    self._answers: dict[str, dict[str, Any]] = {}

  @property
  def prediction_options(self) -> Mapping[str, fields.Field]:
    """What a prediction can be told."""
    return self._predictor.options

  def info(self) -> dict[str, Any]:
    """What the page needs to know about the model."""
    predictor = self._predictor
    options = self.prediction_options.values()
    return {
        "title": self._title,
        "task": "/".join(predictor.task.keys),
        "predicts": True,
        "options": [describe_option(option) for option in options],
        "max_samples": MAX_SAMPLES,
        "most": {"num_steps": MAX_STEPS},
        "examples": self._examples,
        "classes": describe_classes(predictor.task, predictor.categories),
        "scale": None,
        "beside": self._beside_title}

  def predict(self, number: str, *, seed: int = 0, **options: Any
              ) -> dict[str, Any]:
    """The film of one sample; options as of `Pix2SeqDPredictor.predict`.

    Args:
      number: id of the image.
      seed: of the sample.
      **options: some of `prediction_options`.

    Returns:
      `answer`, the last estimate, and `frames` of the first step to the last:
      the `number` of each, the `noisy` mask that the network was given, and
      the `estimate` that it made of it.
    """
    settings = self._predictor.check_options(seed=seed, **options)
    num_steps = settings["num_steps"]
    if num_steps > MAX_STEPS:
      raise ConfigError(f"num_steps = {num_steps}; here it must be at most "
                        f"{MAX_STEPS}.")
    entry = self._entry(number)
    steps = self._predictor.predict_steps(
        entry.image, steps=_kept_steps(num_steps), seed=seed, **options)
    frames = []
    for step in steps:
      frames.append({"number": step.number,
                     "noisy": _describe_frame(step.noisy),
                     "estimate": _describe_frame(step.estimate)})
    answer = _describe_answer(steps[-1].estimate)
    return {"answer": answer, "num_steps": num_steps, "frames": frames}

  def answer_beside(self, number: str) -> dict[str, Any]:
    """What the other model answers with its likeliest code.

    Raises:
      ConfigError: there is no other model.
    """
    if self._beside is None:
      raise ConfigError("There is no other model here.")
    entry = self._entry(number)
    if number not in self._answers:
      prediction = self._beside.predict(
          [entry.image], **_without_chance(self._beside))
      self._answers[number] = _describe_answer(prediction)
    return self._answers[number]

  def _forget(self, number: str) -> None:
    super()._forget(number)
    self._answers.pop(number, None)


def _check_beside(predictor: Pix2SeqDPredictor, beside: UViM, title: str
                  ) -> None:
  """Raises a ConfigError unless both answers can be compared."""
  if beside.kind != "uvim":
    raise ConfigError(f"{title} is no UViM.")
  if beside.prior is None:
    raise ConfigError(f"{title} has no prior, so it predicts nothing.")
  if beside.output_keys != predictor.output_keys:
    raise ConfigError(
        f"{title} predicts {'/'.join(beside.output_keys)}; a model of "
        f"{'/'.join(predictor.output_keys)} can stand beside Pix2Seq-D.")
  num_classes = predictor.task.num_categories
  others = beside.task.num_categories
  if others != num_classes:
    raise ConfigError(f"{title} has {others} classes, and Pix2Seq-D "
                      f"{num_classes}: their maps cannot be compared.")


def _without_chance(uvim: UViM) -> dict[str, float]:
  """The options of a prior that takes what is likeliest."""
  options = {}
  for name in ("temperature", "temp", "choice_temperature"):
    if name in uvim.prior.options:
      options[name] = 0.0
  return options


def _kept_steps(num_steps: int) -> list[int]:
  """The numbers of the steps that a film shows, the first and last among them.
  """
  num_frames = min(num_steps, MAX_FRAMES)
  numbers = np.linspace(1, num_steps, num_frames)
  # Sorted, and each once, however they are rounded.
  return np.unique(np.rint(numbers).astype(int)).tolist()


def _describe_frame(prediction: Prediction) -> dict[str, Any]:
  """A prediction of one image and sample, at the size of a frame."""
  outputs = {}
  for key, arrays in prediction.outputs.items():
    output = arrays[0][0]
    size = images.fitted_size(output.shape[:2], FRAME_SIDE)
    # Classes and ids must not be mixed.
    outputs[key] = resize.resize_nearest(output, size)[None]
  return describe_output(prediction.task, outputs)


def _describe_answer(prediction: Prediction) -> dict[str, Any]:
  """A prediction of one image and sample, at the size of the image."""
  outputs = {key: arrays[0] for key, arrays in prediction.outputs.items()}
  return describe_output(prediction.task, outputs)
