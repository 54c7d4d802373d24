"""UViM for inference: from a checkpoint to predictions, without TensorFlow.

  uvim = UViM.from_checkpoint("workdirs/quickstart/stage2")
  prediction = uvim.predict("photo.jpg", temperature=1.0, num_samples=4)
  prediction.plot().save("look.png")

n images · S samples per image · L code length · H W pixels of an image

Images go through the models one by one, so a list gives the same as each image
alone. The random numbers of a sample follow from the pixels that the prior sees
and the seed, not from the image's place in a list.
"""

import functools
import os
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields, resize, tasks, tree
from uvim.codes import masking
from uvim.encoders.image_encoder import Context
from uvim.inference import images as images_lib
from uvim.inference.prediction import Prediction, put_sample
from uvim.priors import base as priors_base
from uvim.registry import ConfigError
from uvim.store import open_model
from uvim.typing import Bool, Float, Int

NO_WORD = -1  # In a code: a place that says nothing.
# Compiled for settings of the outputs; the oldest is forgotten first.
_MAX_PROGRAMS = 8

Path = str | os.PathLike
Options = Mapping[str, Any]
# Codes that a user gives, of each image one or several.
GivenCodes = Int[Any, "n *S L"]
# Codes of images, or codes of anything.
ImageCodes = Int[np.ndarray, "n L"]
AnyCodes = Int[np.ndarray, "*n L"]
# An image at the size of a model, as a batch of one.
ModelImage = Float[np.ndarray, "1 H W 3"]


class UViM:
  """A trained base model with its oracle and, if there is one, its prior.

  Attributes:
    task: turns logits into outputs, and outputs into images.
    model: oracle, quantizer and base model.
    prior: predicts the code from the image, or None.
    antialias: whether images are resized with antialias.
    dataset: what the run learned from; "" where nobody knows.
    categories: rows with .id, .name and .isthing: what class 1, 2, … stands
      for; () where nobody knows, or where the task has no classes.
    preprocessing: of the run's evaluation, see `uvim.inference.eval_crop`.
  """

  def __init__(self, opened: open_model.OpenModel):
    self.task = opened.task
    self.model = opened.model
    self.prior = opened.prior
    self.antialias = opened.antialias
    self.dataset = opened.dataset
    self.categories = opened.categories
    self.preprocessing = opened.preprocessing
    self._arrays = jax.device_put(opened.arrays)
    self._prior_params = jax.device_put(opened.prior_params)
    # Each setting of the outputs, such as min_fraction = 0.013, is a program.
    self._base_model = functools.lru_cache(_MAX_PROGRAMS)(self._make_base_model)

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
  def output_keys(self) -> tuple[str, ...]:
    """The names in `Prediction.outputs`."""
    return self.task.output_keys

  @property
  def word_counts(self) -> Float[np.ndarray, "Q"] | None:
    """How often training used each word lately (discounted counts)."""
    counts_Q = self.model.quantizer.word_counts(self._arrays["state"])
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
      value_range: of images that are arrays of floats, such as (0, 1); see
        `uvim.inference.images.read`.
      **options: of the prior (`temperature`: 0 takes the likeliest word each
        time; `top_k`, `top_p`; see `prior.options`) and of the task
        (panoptic: min_fraction; colorization: full_luma; see
        `task.prediction_options`).

    Raises:
      ConfigError: there is no prior, an unknown option or one out of its
        range, or no readable image.
    """
    self.check_options(num_samples=num_samples, seed=seed, **options)
    prior = self.prior
    sampling, task_options = _split_options(options, prior.options)
    originals = images_lib.read_all(images, value_range=value_range)
    codes_nSL, logprob_nSL = self._sample_all(
        originals, seed, num_samples, sampling)
    settings = _defaults(prior.options)
    settings |= {**sampling, "seed": seed, "num_samples": num_samples}
    return self._prediction(
        originals, codes_nSL, task_options, logprob_nSL=logprob_nSL,
        settings=settings)

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
    sampling, task_options = _split_options(options, prior.options)
    prior.check_options(sampling)
    priors_base.check_num_samples(num_samples)
    priors_base.check_seed(seed)
    self._check_task_options(task_options)
    defaults = _defaults(prior.options)
    defaults |= _defaults(self.task.prediction_options())
    return {**defaults, **options, "seed": seed, "num_samples": num_samples}

  @functools.cached_property
  def fingerprint(self) -> str:
    """Tells models apart: a checksum of all arrays, and the image resizing."""
    crc = tree.fingerprint([self._arrays, self._prior_params])
    return f"{crc:08x}, antialias {self.antialias}"

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
      codes.append(self._oracle(self._arrays, inputs["x"], context))
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
    codes_nSL = self._checked_codes(codes, len(originals))
    return self._prediction(originals, codes_nSL, options)

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
    codes_nSL = self._checked_codes(codes, len(originals))
    if codes_nSL.min() < 0:
      raise ConfigError("A code in which a word is missing has no likelihood.")
    rows = []
    for original, code_SL in zip(originals, codes_nSL, strict=True):
      image = self._prior_image(original)
      for code_L in code_SL:
        code_1L = code_L[None]
        rows.append(self._score(self._prior_params, image, code_1L))
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
    codes = np.asarray(codes)
    priors_base.check_seed(seed)
    masked_L = self._region(region)
    masking.check_mask(mode, self.num_words, where="mode")
    if mode == "zeros":
      replacement = NO_WORD
    elif mode == "random":
      replacement = self._random_words(codes, seed)
    else:
      replacement = np.int32(mode)
    if self.model.spec.words_per_place > 1:
      return np.where(masked_L[:, None], replacement, codes)
    return np.where(masked_L, replacement, codes)

  # ── Checks ──────────────────────────────────────────────────────────────

  def _needed_prior(self) -> priors_base.Prior:
    if self.prior is None:
      raise ConfigError("This checkpoint has no language model; encode a label "
                        "and decode its code instead, or give lm=….")
    return self.prior

  def _check_task_options(self, options):
    tasks.check_prediction_options(self.task, options)

  def _checked_codes(self, codes, num_images):
    codes = np.asarray(codes)
    shape = self.model.spec.shape
    if codes.ndim == 1 + len(shape):
      codes = codes[:, None]
    has_axes = (codes.ndim == 2 + len(shape) and len(codes) == num_images
                and codes.shape[1] > 0)
    if not has_axes or codes.shape[2:] != shape:
      sizes = ", ".join(map(str, shape))
      raise ConfigError(
          f"Codes of shape {codes.shape} for {num_images} image(s); allowed: "
          f"[{num_images}, {sizes}], [{num_images}, S, {sizes}].")
    are_words = codes.dtype.kind in "iu"
    if are_words and codes.size:
      are_words = NO_WORD <= codes.min() and codes.max() < self.num_words
    if not are_words:
      raise ConfigError(
          f"Codes of {codes.dtype} from {codes.min()} to {codes.max()}; "
          f"allowed: integers in 0..{self.num_words - 1}, and {NO_WORD} for no "
          "word.")
    return codes.astype(np.int32)

  def _region(self, region) -> Bool[np.ndarray, "L"]:
    if region is None:
      return np.ones(self.code_len, bool)
    region = np.asarray(region)
    if region.dtype == bool and region.size == self.code_len:
      return region.reshape(self.code_len)
    if self.grid is None:
      raise ConfigError(
          f"region = {region.tolist()}; the words of this model lie on no "
          f"grid: give a bool for each of the {self.code_len} words.")
    return masking.region_mask(
        self.code_len, region.tolist(), grid=self.grid, where="region")

  # ── Images and labels at the models' sizes ──────────────────────────────

  def _to_model(self, original, size):
    image = resize.to_model(
        original, size, antialias=self.antialias, grey=self.task.sees_grey)
    return image[None]

  def _context(self, original) -> Context:
    """What oracle and base model see; the image encoder has run."""
    image = self._to_model(original, self.model.image_size)
    return self.model.see(self._arrays, image)

  def _prior_image(self, original) -> ModelImage:
    """What the prior sees; it may be larger."""
    return self._to_model(original, self.prior.input_size)

  def _label(self, label, value_range) -> np.ndarray:
    """A label at the model's size, [H, W, C]."""
    if self.task.labels_from_image:
      label = images_lib.read(label, value_range=value_range)
    return self.task.label_at(
        label, self.model.vit.input_size, antialias=self.antialias)

  # ── Programs ────────────────────────────────────────────────────────────

  def _sample_all(self, originals, seed, num_samples, sampling):
    """(codes, log-probabilities or None) of every image, each [n, S, L]."""
    codes = []
    logprobs = []
    for original in originals:
      # A batch of one: what an image gets does not depend on the list.
      drawn = self._sample(original, seed, num_samples, sampling)
      codes.append(drawn.code[0])
      if drawn.logprob is not None:
        logprobs.append(drawn.logprob[0])
    logprob_nSL = np.stack(logprobs) if logprobs else None
    return np.stack(codes), logprob_nSL

  def _sample(self, original, seed, num_samples, sampling):
    """The prior's `Samples` for one image, on the host."""
    image = self._prior_image(original)
    # The pixels are the image's id, in one byte order on every machine.
    pixels = np.ascontiguousarray(image, "<f4")
    ids = np.array([zlib.crc32(pixels)], np.uint32)
    seeds = priors_base.example_seeds(ids, seed)
    drawn = self.prior.sample(
        self._prior_params, image, seeds, num_samples=num_samples, **sampling)
    return jax.device_get(drawn)

  def _prediction(
      self, originals, codes_nSL, options, *, logprob_nSL=None, settings=None):
    """The base model's outputs for these codes, at the images' sizes."""
    image_options, output_options = _split_options(
        options, self.task.image_options())
    run = self._base_model(tuple(sorted(output_options.items())))
    outputs = {key: [] for key in self.output_keys}
    for original, code_SL in zip(originals, codes_nSL, strict=True):
      context = self._context(original)
      samples = {}
      for s, code_L in enumerate(code_SL):
        drawn = jax.device_get(run(self._arrays, code_L[None], context))
        for key in outputs:
          # Not by a name, which would hold it while the next one is made.
          samples[key] = put_sample(
              self.task.to_image_size(drawn[key][0], original, **image_options),
              samples.get(key), s, len(code_SL))
      for key, arrays in outputs.items():
        arrays.append(samples[key])
    defaults = _defaults(self.task.prediction_options())
    all_settings = {**(settings or {}), **defaults, **options}
    return Prediction(
        self.task, originals, outputs, codes_nSL, logprob_nSL, all_settings,
        self.categories)

  def _make_base_model(self, output_options):
    """The compiled base model, for these options of the task's outputs."""
    @jax.jit
    def run(arrays, code, context):
      # The words of dropped places do not matter, but must be words.
      dropped_BL = masking.says_nothing(code, self.model.spec)
      z_BLE = self.model.embed(arrays, jnp.maximum(code, 0), dropped_BL)
      logits = self.model.base_model(arrays, z_BLE, context)
      return self.task.outputs(logits, **dict(output_options))
    return run

  @functools.cached_property
  def _oracle(self):
    @jax.jit
    def run(arrays, x, context):
      return self.model.oracle(arrays, x, context).code
    return run

  @functools.cached_property
  def _score(self):
    return jax.jit(self.prior.log_prob)

  def _random_words(self, codes, seed) -> AnyCodes:
    """Random words for each code; they follow from the seed and the code."""
    drawn = []
    codes_NL = codes.reshape(-1, *self.model.spec.shape).astype("<i4")
    for code_L in codes_NL:
      number = zlib.crc32(code_L.tobytes())
      rng = np.random.default_rng([seed, number])
      words_L = rng.integers(0, self.num_words, code_L.shape, np.int32)
      drawn.append(words_L)
    return np.stack(drawn).reshape(codes.shape)


def _split_options(options: Options, names) -> tuple[dict, dict]:
  """The options of these names, and the others."""
  named = {}
  others = {}
  for name, value in options.items():
    if name in names:
      named[name] = value
    else:
      others[name] = value
  return named, others


def _defaults(known: Mapping[str, fields.Field]) -> dict[str, Any]:
  return {name: option.default for name, option in known.items()}


def _is_one_label(labels: Any) -> bool:
  """Whether it is the label of one image rather than a list of labels."""
  is_list = isinstance(labels, (list, tuple))
  return not is_list and np.ndim(labels) in (2, 3)
