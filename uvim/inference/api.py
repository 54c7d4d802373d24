"""UViM for inference: from a checkpoint to predictions, without TensorFlow.

  uvim = UViM.from_checkpoint("workdirs/quickstart/stage2")
  prediction = uvim.predict("photo.jpg", temperature=1.0, num_samples=4)
  prediction.plot().save("look.png")

n images · S samples per image · L code length · H W pixels of an image

The prior draws the codes of several images at once; f reads them image by
image. A list gives the same words and outputs as each image alone. `logprob`
may differ by rounding, below 1e-4 nats a word, because another number of images
is another program; a word could differ only where two words are as close as
that. The random numbers of a sample follow from the pixels that the prior sees
and the seed, not from the image's place in a list.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from uvim import priors, resize, tasks
from uvim.codes import masking
from uvim.encoders.image_encoder import Context
from uvim.inference import batching, given_codes, programs, readings
from uvim.inference import images as images_lib
from uvim.inference.given_codes import AnyCodes, GivenCodes
from uvim.inference.prediction import Prediction
from uvim.inference.predictor import (
  Answer,
  ModelImage,
  Options,
  Path,
  Predictor,
  Seen,
  defaults_of,
  join_seen,
  split_options,
)
from uvim.priors import base as priors_base
from uvim.priors.base import Samples
from uvim.registry import ConfigError
from uvim.store import open_model
from uvim.typing import Float, Int

# Codes of images.
ImageCodes = Int[np.ndarray, "n L"]


class UViM(Predictor):
  """A trained base model with its oracle and, if there is one, its prior.

  Attributes:
    model: oracle, quantizer and base model.
    prior: predicts the code from the image, or None.
  """

  kind = "uvim"
  rows_on_cpu = 8
  rows_elsewhere = 32

  def __init__(self, opened: open_model.OpenModel):
    super().__init__(opened)
    self.prior = opened.prior
    self._programs = programs.Programs(opened)

  @classmethod
  def from_checkpoint(
      cls,
      path: Path,
      *,
      lm: Path | None = None,
      code_len: int | None = None,
      task_options: Options | None = None,
  ) -> "UViM":
    """Loads a model.

    Args:
      path: the workdir of a run of either stage; a pack; a `.npz` of stage I;
        gs:// or https://; 'hf:OWNER/NAME' for a pack of the hub; or a name:
        'uvim-rooms-panoptic', which comes with the package, 'uvim-panoptic',
        'uvim-depth', 'uvim-color'. Names load both stages.
      lm: stage II, where `path` is stage I alone.
      code_len: of a stage I `.npz` without `lm`; 256 in the published ones.
      task_options: of the task (depth: its range); a workdir knows its own.

    Raises:
      ConfigError: nothing there, not a UViM checkpoint, stages that do not
        fit each other.
    """
    opened = open_model.open_model(
        path, lm=lm, code_len=code_len, task_options=task_options)
    return cls(opened)

  @property
  def grid(self) -> tuple[int, int] | None:
    """Rows and columns of the code; None if its places lie on no grid."""
    return self.model.grid

  @property
  def code_len(self) -> int:
    """L, places of a code."""
    return self.model.spec.length

  @property
  def num_words(self) -> int:
    """Q, words that a place can have."""
    return self.model.spec.num_words

  @property
  def word_counts(self) -> Float[np.ndarray, "Q"] | None:
    """How often training used each word lately (discounted counts)."""
    counts_Q = self._programs.word_counts()
    if counts_Q is None:
      return None
    return np.asarray(counts_Q)

  # ── What a user asks for ────────────────────────────────────────────────

  def predict(
      self,
      images: Any,
      *,
      num_samples: int = 1,
      seed: int = 0,
      given: Any = None,
      batch_size: int | None = None,
      value_range: images_lib.Range | None = None,
      **options: Any,
  ) -> Prediction:
    """f(image, LM(image)) (paper, section 2.2).

    An image of any size and aspect is resized to the model's square, as in
    training; the outputs are resized back: nearest, colors bilinear.

    Args:
      images: one image or several: paths, PIL images, arrays; see
        `uvim.inference.images.read`.
      num_samples: S, 1 to 10,000.
      seed: 0 to 2³² − 1; a sample follows from it and from the pixels alone.
      given: words that are fixed, [n, L]; NO_WORD (-1) where the prior is
        free. None: it is free everywhere.
      batch_size: how many codes are drawn at once: images times samples. More
        take more memory. An image with more samples than that runs alone.
        None: 8 on a CPU, 32 on other devices. 1: images run one by one.
      value_range: of images that are arrays of floats, such as (0, 1); see
        `uvim.inference.images.read`.
      **options: of the prior (`temperature`: 0 takes the likeliest word each
        time; `top_k`, `top_p`, `soft_words`; see `prior.options`), of the
        reading (`drop_below`, `reduce`; see `uvim.inference.readings`) and of
        the task (panoptic: min_fraction; depth: bins; see
        `task.prediction_options`).

    Raises:
      ConfigError: there is no prior, an unknown option or one out of its
        range, or no readable image.
    """
    batching.check_batch_size(batch_size)
    settings = self.check_options(
        num_samples=num_samples, seed=seed, **options)
    originals = images_lib.read_all(images, value_range=value_range)
    given_n = self._given_of_each(given, len(originals))
    if given is not None:
      settings["given"] = np.asarray(given).tolist()
    return self._predict_all(originals, given_n, settings, batch_size)

  def sample(
      self,
      images: Any,
      *,
      num_samples: int = 1,
      seed: int = 0,
      given: Any = None,
      batch_size: int | None = None,
      value_range: images_lib.Range | None = None,
      **options: Any,
  ) -> Samples:
    """The prior's codes and log-probabilities alone, [n, S, L] each.

    Args:
      images, num_samples, seed, given, batch_size, value_range: as in
        `predict`.
      **options: of the prior.
    """
    batching.check_batch_size(batch_size)
    self._needed_prior().check_options(options)
    settings = self.check_options(
        num_samples=num_samples, seed=seed, **options)
    originals = images_lib.read_all(images, value_range=value_range)
    given_n = self._given_of_each(given, len(originals))
    size = self.images_at_once(len(originals), num_samples, batch_size)
    pairs = list(zip(originals, given_n, strict=True))
    samples = []
    for batch in batching.split(pairs, size):
      seen = [self.see(original, given_1L) for original, given_1L in batch]
      samples += self._samples(seen, settings, size)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *samples)

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
    prior = self._needed_prior()
    priors.refuse_options_of_others(prior, options, "options")
    sampling, others = split_options(options, prior.options)
    reading, task_options = split_options(others, readings.OPTIONS)
    prior.check_options(sampling)
    priors_base.check_num_samples(num_samples)
    priors_base.check_seed(seed)
    readings.check_options(reading)
    self._check_task_options(task_options)
    readings.check(options, task=self.task, spec=self.model.spec)
    defaults = defaults_of(prior.options)
    defaults |= defaults_of(readings.OPTIONS)
    defaults |= defaults_of(self.task.prediction_options())
    return {**defaults, **options, "seed": seed, "num_samples": num_samples}

  def check_sampling(self, options: Options) -> None:
    """Raises a ConfigError unless these are options of the prior, if any."""
    if self.prior is not None:
      self.prior.check_options(options)

  def encode(
      self,
      images: Any,
      labels: Any = None,
      *,
      value_range: images_lib.Range | None = None,
  ) -> ImageCodes:
    """The oracle's guiding codes for the labels of these images.

    Args:
      images: as in `predict`.
      labels: per image, of any size: panoptic int [H, W, 2] (semantics,
        instance), depth float [H, W] in metres; colorization: None, an image
        is its own label.
      value_range: as in `predict`.
    """
    originals = images_lib.read_all(images, value_range=value_range)
    if labels is None:
      if not self.task.labels_from_image:
        raise ConfigError("The oracle of this task needs labels.")
      labels = originals
      # They were brought to this range above.
      value_range = images_lib.MODEL_RANGE
    elif len(originals) == 1 and _is_one_label(labels):
      # As one image need not be in a list, its label need not either.
      labels = [labels]
    if not isinstance(labels, (list, tuple, np.ndarray)):
      raise ConfigError(f"labels: {type(labels).__name__}; allowed: an array "
                        "or a list of arrays, one for each image.")
    if len(labels) != len(originals):
      raise ConfigError(f"{len(originals)} images and {len(labels)} labels.")
    codes = []
    for original, label in zip(originals, labels, strict=True):
      label = self._label(label, value_range)
      inputs = self.task.inputs({"labels": label[None]})
      context = self._context(original)
      codes.append(self._programs.encode(inputs["x"], context))
    # One transfer at the end: each would wait for the device.
    return np.concatenate(jax.device_get(codes))

  def decode(
      self,
      images: Any,
      codes: GivenCodes,
      *,
      value_range: images_lib.Range | None = None,
      **options: Any,
  ) -> Prediction:
    """The base model's outputs for these codes.

    Args:
      images: as in `predict`.
      codes: [n, L] or [n, S, L], words 0..Q-1; NO_WORD (-1) for a place that
        says nothing. Where a place has R words, [n, L, R] or [n, S, L, R]; it
        says nothing if one of them is NO_WORD.
      value_range: as in `predict`.
      **options: of the task, see `predict`.
    """
    self._check_task_options(options)
    originals = images_lib.read_all(images, value_range=value_range)
    codes_nSL = given_codes.check_codes(
        codes, len(originals), self.model.spec)
    settings = {**defaults_of(self.task.prediction_options()), **options}
    answers = []
    for original, code_SL in zip(originals, codes_nSL, strict=True):
      samples = Samples(code=code_SL[None], logprob=None)
      image = self._to_model(original, self.model.image_size)
      answers.append(self._read(original, image, samples, settings))
    return self._prediction(answers, settings)

  def log_prob(
      self,
      images: Any,
      codes: GivenCodes,
      *,
      value_range: images_lib.Range | None = None,
  ) -> Float[np.ndarray, "n S L"]:
    """Log-probability (nats) of each word given those before it, of any code.

    Where a place has several words, it is that of all of them.

    Raises:
      ConfigError: there is no prior, it has no likelihood, or a code has a
        NO_WORD.
    """
    self._needed_prior()
    originals = images_lib.read_all(images, value_range=value_range)
    codes_nSL = given_codes.check_codes(
        codes, len(originals), self.model.spec)
    if masking.says_nothing(codes_nSL, self.model.spec).any():
      raise ConfigError("A code in which a word is missing has no likelihood.")
    rows = []
    for original, code_SL in zip(originals, codes_nSL, strict=True):
      image = self._prior_image(original)
      for code_L in code_SL:
        code_1L = code_L[None]
        rows.append(self._programs.log_prob(image, code_1L))
    if rows[0] is None:
      raise ConfigError("This prior gives no likelihoods.")
    logprobs = np.concatenate(jax.device_get(rows))
    return logprobs.reshape(codes_nSL.shape[:3])

  def mask_codes(
      self,
      codes: Int[Any, "*n L"],
      region: Any = None,
      mode: str | int = "zeros",
      *,
      seed: int = 0,
  ) -> AnyCodes:
    """The codes with a region that says nothing (paper, Fig 10).

    Args:
      codes: words.
      region: (top, left, bottom, right) on the code's grid, the last two
        exclusive; or bool, [L] or of the grid's shape, for any words; None:
        the whole code.
      mode: what stands there: "zeros" (NO_WORD), "random" for words drawn
        evenly, an integer for this one word.
      seed: the random words of a code follow from it and from the code.
    """
    priors_base.check_seed(seed)
    return given_codes.mask_codes(codes, region, mode, seed, self.model)

  # ── Checks ──────────────────────────────────────────────────────────────

  def _checksum(self) -> int:
    return self._programs.checksum()

  def _needed_prior(self) -> priors_base.Prior:
    if self.prior is None:
      raise ConfigError("This checkpoint has no language model; encode a label "
                        "and decode its code instead, or give lm=….")
    return self.prior

  def _check_task_options(self, options):
    tasks.check_prediction_options(self.task, options)

  def _given_of_each(self, given, num_images):
    return given_codes.check_given(given, num_images, self.model.spec)

  # ── Images and labels at the models' sizes ──────────────────────────────

  def _context(self, original) -> Context:
    """What oracle and base model see; the image encoder has run."""
    image = self._to_model(original, self.model.image_size)
    return self._programs.see(image)

  def _prior_image(self, original) -> ModelImage:
    """What the prior sees; it may be larger."""
    return self._to_model(original, self.prior.input_size)

  def _label(self, label, value_range) -> np.ndarray:
    """A label at the model's size, [H, W, C]."""
    if self.task.labels_from_image:
      label = images_lib.read(label, value_range=value_range)
    return self.task.label_at(
        label, self.model.vit.input_size, antialias=self.antialias)

  # ── Answers ─────────────────────────────────────────────────────────────

  @property
  def _network_sizes(self) -> set[resize.Size]:
    return {self.prior.input_size, self.model.image_size}

  def _answers(
      self, seen: Sequence[Seen], settings: Options, size: int,
  ) -> Iterator[Answer]:
    samples_of_each = self._samples(seen, settings, size)
    for one, samples in zip(seen, samples_of_each, strict=True):
      samples = programs.without_unsure_words(
          samples, settings["drop_below"], one.given)
      image = one.at[self.model.image_size]
      yield self._read(one.original, image, samples, settings)

  def _samples(
      self, seen: Sequence[Seen], settings: Options, size: int,
  ) -> list[Samples]:
    """The prior's samples of each image of a batch, on the host."""
    padded = batching.pad(seen, size)
    given_BL = None
    if seen[0].given is not None:
      given_BL = np.concatenate([one.given for one in padded])
    sampling, _ = split_options(settings, self.prior.options)
    samples = self._programs.sample(
        join_seen(padded, self.prior.input_size), settings["seed"],
        settings["num_samples"], given_BL, sampling)
    return [_samples_of_image(samples, i) for i in range(len(seen))]

  def _read(
      self,
      original: np.ndarray,
      image: ModelImage,
      samples: Samples,
      settings: Options,
  ) -> Answer:
    """The base model's outputs for the samples of an image, at its size."""
    reduce = settings.get("reduce")
    output_options, _ = split_options(settings, self.task.output_options())
    samples = readings.samples_to_read(samples, reduce)
    context = self._programs.see(image)
    drawn = self._programs.read(samples, context, output_options)
    num_outputs = samples.code.shape[1]
    if reduce is not None:
      reduced = self._programs.reduce(drawn, reduce)
      samples = jax.device_get(readings.samples_of(reduced, samples))
      drawn = [reduced.outputs]
      num_outputs = 1
    outputs = self._at_image_size(drawn, num_outputs, original, settings)
    # These have an axis of images, with one image on it.
    code = samples.code[0]
    logprob = None
    if samples.logprob is not None:
      logprob = samples.logprob[0]
    return Answer(original, outputs, code, logprob)


def _samples_of_image(samples: Samples, i: int) -> Samples:
  """The samples of one image of a batch, as a batch of one."""
  # A slice keeps the axis of the images.
  return jax.tree.map(lambda x: x[i:i + 1], samples)


def _is_one_label(labels: Any) -> bool:
  """Whether it is the label of one image rather than a list of labels."""
  is_list = isinstance(labels, (list, tuple))
  return not is_list and np.ndim(labels) in (2, 3)
