"""What the explorer knows: the model and the images of this session.

S samples per image · L code length · Q number of words · H W pixels of an image
"""

import base64
import collections
import dataclasses
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from uvim import fields, palette, pixels, resize
from uvim.codes.base import CodeSpec
from uvim.inference import images, legend, readings, segments
from uvim.registry import ConfigError
from uvim.tasks.base import AbstractTask, Categories

MAX_IMAGES = 24  # The oldest is forgotten first.
MAX_PIXELS = 50_000_000  # Of an upload, before it is shrunk.
SIDE = 1024  # Pixels of the long side of what is kept.
MAX_SAMPLES = 8
_BAR_WIDTH = 256
_PER_UNIT = 1000
_MOST = 16_000  # More thousandths than this do not fit into three bytes.

_CHECKS = {"num_samples": fields.integer(1, MAX_SAMPLES),
           "seed": fields.SEED}


@dataclasses.dataclass(frozen=True)
class Entry:
  """An image of the session.

  Attributes:
    image: uint8 [H, W, 3].
    labels: the truth, as the oracle takes it; None if it is unknown.
  """
  image: np.ndarray
  labels: np.ndarray | None = None


class Session:
  """The model and its images; takes one call at a time.

  Only `info` may be called while another call computes.
  """

  def __init__(self, uvim: Any, title: str):
    """Starts without images.

    Args:
      uvim: `uvim.inference.api.UViM`.
      title: what the page calls the model.
    """
    self._uvim = uvim
    self._title = title
    # In the order of arrival; the oldest comes first.
    self._entries: dict[str, Entry] = collections.OrderedDict()
    self._examples: list[str] = []
    # Id → truth and oracle of an image, which never change.
    self._descriptions: dict[str, dict[str, Any]] = {}

  def __len__(self) -> int:
    """How many images there are."""
    return len(self._entries)

  def __contains__(self, number: str) -> bool:
    return number in self._entries

  @property
  def task(self) -> AbstractTask:
    return self._uvim.task

  @property
  def prediction_options(self) -> Mapping[str, fields.Field]:
    """What a prediction can be told; nothing where there is no prior."""
    prior = self._uvim.prior
    if prior is None:
      return {}
    return {**prior.options, **readings.OPTIONS, **self.output_options}

  @property
  def output_options(self) -> Mapping[str, fields.Field]:
    """Those of them that a painted code is decoded with as well."""
    return self.task.output_options()

  def info(self) -> dict[str, Any]:
    """What the page needs to know about the model."""
    uvim = self._uvim
    spec = uvim.model.spec
    given_note = "" if uvim.prior is None else uvim.prior.given_note
    options = self.prediction_options.values()
    return {
        "title": self._title,
        "task": "/".join(uvim.task.keys),
        "grid": uvim.grid,
        "length": spec.length,
        "words": spec.num_words,
        "unpaintable": _why_unpaintable(spec),
        "given_note": given_note,
        "prior": uvim.prior is not None,
        "options": [_describe_option(option) for option in options],
        "output_options": list(self.output_options),
        "max_samples": MAX_SAMPLES,
        "examples": self._examples,
        "classes": _describe_classes(uvim.task, uvim.categories),
        "scale": _describe_scale(uvim.task),
        **_usage(uvim.word_counts)}

  # ── The images ──────────────────────────────────────────────────────────

  def add(self, file: BinaryIO) -> str:
    """Reads an uploaded image; returns its id.

    Raises:
      ConfigError: not an image, or one of too many pixels.
    """
    image = images.read(file, max_pixels=MAX_PIXELS, smallest_HW=(SIDE, SIDE))
    return self.add_entry(image)

  def add_example(self, image: np.ndarray, labels: Any) -> str:
    """Keeps an image with its truth for the whole session."""
    number = self.add_entry(image, labels)
    self._examples.append(number)
    return number

  def add_entry(self, image: np.ndarray, labels: Any = None) -> str:
    """Keeps an image; the same one has the same id."""
    # Only the shrunk copy stays in memory.
    image = images.fit(resize.to_bytes(image), SIDE)
    if labels is None and self.task.labels_from_image:
      labels = image
    number = _fingerprint(image)
    # Taken out first: the newest comes last.
    old = self._entries.pop(number, None)
    # An example that is uploaded again keeps its truth.
    if labels is None and old is not None:
      labels = old.labels
    self._entries[number] = Entry(image, labels)
    self._forget_the_oldest()
    return number

  def _forget_the_oldest(self) -> None:
    num_spare = len(self._entries) - MAX_IMAGES
    if num_spare <= 0:
      return
    # Examples stay for the whole session; only uploads go.
    uploads = [key for key in self._entries if key not in self._examples]
    for key in uploads[:num_spare]:
      del self._entries[key]
      self._descriptions.pop(key, None)

  def _entry(self, number: str) -> Entry:
    if number not in self._entries:
      raise ConfigError("This image is not here any more; drop it in again.")
    return self._entries[number]

  # ── What the model makes of them ────────────────────────────────────────

  def describe(self, number: str) -> dict[str, Any]:
    """The image; with labels the truth, and what the oracle makes of it."""
    entry = self._entry(number)
    height, width = entry.image.shape[:2]
    description = {"id": number, "width": width, "height": height,
                   "image": _data_url(entry.image)}
    if entry.labels is None:
      return description
    # Computed once, however often somebody asks.
    if number not in self._descriptions:
      self._descriptions[number] = self._describe_labels(entry)
    return description | self._descriptions[number]

  def _describe_labels(self, entry) -> dict[str, Any]:
    """The truth, and what the oracle makes of it."""
    described = {"truth": self._describe_truth(entry)}
    if self._uvim.model.has_oracle:
      codes = self._uvim.encode([entry.image], [entry.labels])
      described["oracle"] = self._decoded(entry, codes)
    return described

  def predict(self, number: str, *, seed: int = 0, num_samples: int = 1,
              given: Sequence[int] | None = None, **options: Any
              ) -> list[dict[str, Any]]:
    """Samples of the prior; options as of `UViM.predict`.

    Args:
      number: id of the image.
      seed: of the samples.
      num_samples: how many.
      given: for each place a word that stays, or -1; None: -1 everywhere.
      **options: some of `prediction_options`.
    """
    _check_option("seed", seed)
    _check_option("num_samples", num_samples)
    entry = self._entry(number)
    if given is not None:
      # For each image; here is one.
      options["given"] = np.array([given])
    prediction = self._uvim.predict(
        [entry.image], seed=seed, num_samples=num_samples, **options)
    # Not every prior has a likelihood; that of real numbers is a density.
    is_discrete = self._uvim.model.spec.is_discrete
    if prediction.logprob is None or not is_discrete:
      return _describe_samples(prediction, [None] * prediction.num_samples)
    return _describe_samples(prediction, prediction.logprob[0])

  def decode(self, number: str, code: Sequence[int], **options: Any
             ) -> dict[str, Any]:
    """The output of the base model for a painted code.

    Args:
      number: id of the image.
      code: a word for each place, or -1.
      **options: some of `output_options`.
    """
    entry = self._entry(number)
    # The model takes a code for each image; here is one image.
    codes_1L = np.array([code])
    return self._decoded(entry, codes_1L, options)

  def _decoded(self, entry, codes_1L, options=None) -> dict[str, Any]:
    """The output for one code, and how likely the prior finds the code."""
    # First: it checks the code.
    prediction = self._uvim.decode(
        [entry.image], codes_1L, **(options or {}))
    logprob_L = self._logprob(entry, codes_1L)
    samples = _describe_samples(prediction, [logprob_L])
    return samples[0]

  def _logprob(self, entry, codes_1L) -> np.ndarray | None:
    """Log-probabilities [L] under the prior, where there are any."""
    if self._uvim.prior is None or not self._uvim.model.spec.is_discrete:
      return None
    has_gaps = codes_1L.min() < 0
    if has_gaps:
      return None
    try:
      logprob_11L = self._uvim.log_prob([entry.image], codes_1L)
    except ConfigError:  # Not every prior has a likelihood.
      return None
    return logprob_11L[0, 0]

  def _describe_truth(self, entry) -> dict[str, Any]:
    height, width = entry.image.shape[:2]
    # The truth gets the size of the image, which the outputs have too.
    label = self.task.label_at(entry.labels, (height, width))
    truth = self.task.truth({"labels": label[None]})
    drawings = self.task.render(truth)
    return {"output": _data_url(drawings[0]),
            **_describe_values(self.task, truth, 0)}


def _why_unpaintable(spec: CodeSpec) -> str:
  """Why the page cannot paint such a code; "" if it can."""
  if not spec.is_discrete:
    return (f"Each of its {spec.length} places has {spec.vector_dim} real "
            "numbers and no word, so there is nothing to paint with.")
  if spec.words_per_place > 1:
    return (f"Each of its {spec.length} places has {spec.words_per_place} "
            "words; the page paints one.")
  return ""


def _fingerprint(image_HWC: np.ndarray) -> str:
  """An id that depends on the pixels only: 16 hexadecimal digits."""
  # The shape counts too: 2x8 and 4x4 pixels may have the same bytes.
  content = repr(image_HWC.shape).encode() + image_HWC.tobytes()
  digest = hashlib.sha256(content).hexdigest()
  return digest[:16]


def _check_option(name: str, value: Any) -> None:
  check = _CHECKS[name]
  if not check.fits(value):
    raise ConfigError(f"{name} = {value!r}; it must be {check.allowed}.")


# ── As JSON ─────────────────────────────────────────────────────────────────


def _describe_option(option: fields.Field) -> dict[str, Any]:
  """What the page needs to make a control of an option."""
  allowed = ""
  choices = []
  if option.check is not None:
    allowed = option.check.allowed
    choices = list(option.check.names)
  return {"name": option.name, "default": option.default, "doc": option.doc,
          "allowed": allowed, "choices": choices}


def _describe_classes(task: AbstractTask, categories: Categories
                      ) -> list[dict[str, str]]:
  """Name and color of class 1, 2, …."""
  classes = []
  for number in range(1, (task.num_categories or 0) + 1):
    digits = palette.class_color(number).tobytes().hex()
    classes.append({"name": segments.class_name(number, categories),
                    "color": f"#{digits}"})
  return classes


def _describe_scale(task: AbstractTask) -> dict[str, Any] | None:
  """The range of the numbers that the task draws, and a bar of its colors."""
  scale = task.scale
  if scale is None:
    return None
  bar = _data_url(legend.bar_colors(task, _BAR_WIDTH))
  return {**scale._asdict(), "per_unit": _PER_UNIT, "bar": bar}


def _describe_values(task: AbstractTask, outputs: Mapping[str, np.ndarray],
                     sample: int) -> dict[str, Any]:
  """What the pixels of an output [S, H, W, …] stand for.

  `values` is an image with a whole number for each pixel, R + 256 G + 65536 B:
  the class, or thousandths of the unit. 0 is nothing. `present` lists the
  classes.
  """
  pairs = segments.pairs_of(task, outputs)
  if pairs is not None:
    classes_HW = pairs[sample][..., 0]
    present = np.unique(classes_HW[classes_HW > 0]).tolist()
    return {"values": _data_url(pixels.rgb_from_ids(classes_HW)),
            "present": present}
  if task.scale is None:
    return {}
  numbers = np.asarray(outputs[task.output_keys[0]])[sample]
  # A hole may be NaN or infinite.
  known = np.nan_to_num(numbers, nan=0, posinf=0, neginf=0)
  thousandths = np.rint(np.clip(known, 0, _MOST) * _PER_UNIT).astype(np.int32)
  return {"values": _data_url(pixels.rgb_from_ids(thousandths))}


def _usage(counts_Q: np.ndarray | None) -> dict[str, Any]:
  """How often training uses the words; None if no counts exist."""
  if counts_Q is None:
    return {"counts": None, "perplexity": None}
  # The limits keep quotient and logarithm finite; 0 · log 0 counts as 0.
  total = max(counts_Q.sum(), 1e-9)
  share_Q = counts_Q / total
  log_share_Q = np.log(np.maximum(share_Q, 1e-30))
  entropy = -np.sum(share_Q * log_share_Q)
  return {"counts": np.round(counts_Q, 3).tolist(),
          "perplexity": float(np.exp(entropy))}


def _describe_samples(prediction: Any,
                      logprob_SL: Sequence[np.ndarray | None]
                      ) -> list[dict[str, Any]]:
  """The samples of a prediction of one image."""
  codes_SL = prediction.codes[0]
  drawings = prediction.pictures()[0]
  outputs = {key: arrays[0] for key, arrays in prediction.outputs.items()}
  samples = []
  for s, logprob_L in enumerate(logprob_SL):
    sample = {"code": codes_SL[s].tolist(), "output": _data_url(drawings[s]),
              **_describe_values(prediction.task, outputs, s)}
    if logprob_L is not None:
      probability_L = np.exp(logprob_L)
      sample["confidence"] = np.round(probability_L, 4).tolist()
      # Per word, from nats to bits.
      sample["bits"] = float(-logprob_L.mean() / np.log(2))
    samples.append(sample)
  return samples


def _data_url(image_HWC: np.ndarray) -> str:
  """A PNG as a data URL.

  It is encoded anew: no byte of an uploaded file is ever sent back.
  """
  from PIL import Image
  buffer = io.BytesIO()
  image = Image.fromarray(image_HWC)
  # Level 1 compresses the least and the fastest.
  image.save(buffer, "PNG", compress_level=1)
  encoded = base64.b64encode(buffer.getvalue()).decode()
  return f"data:image/png;base64,{encoded}"
