"""What the page of a UViM asks for: predictions, and outputs of painted codes.

S samples per image · L code length · Q number of words
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uvim import fields
from uvim.codes.base import CodeSpec
from uvim.explorer.describe import (
  describe_classes,
  describe_option,
  describe_output,
  describe_scale,
)
from uvim.explorer.gallery import Gallery
from uvim.inference import readings
from uvim.inference.api import UViM
from uvim.inference.prediction import Prediction
from uvim.registry import ConfigError

MAX_SAMPLES = 8

_CHECKS = {"num_samples": fields.integer(1, MAX_SAMPLES),
           "seed": fields.SEED}


class Session(Gallery):
  """A UViM and its images; takes one call at a time.

  Only `info` may be called while another call computes.
  """

  _predictor: UViM

  @property
  def prediction_options(self) -> Mapping[str, fields.Field]:
    """What a prediction can be told; nothing where there is no prior."""
    prior = self._predictor.prior
    if prior is None:
      return {}
    reading = dict(readings.OPTIONS)
    if not self._predictor.model.spec.is_discrete:
      # It drops words, and numbers are none.
      del reading["drop_below"]
    return {**prior.options, **reading, **self.output_options}

  @property
  def output_options(self) -> Mapping[str, fields.Field]:
    """Those of them that a painted code is decoded with as well."""
    return self.task.output_options()

  def info(self) -> dict[str, Any]:
    """What the page needs to know about the model."""
    uvim = self._predictor
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
        "predicts": uvim.prior is not None,
        "options": [describe_option(option) for option in options],
        "output_options": list(self.output_options),
        # More passes than words are as many as there are words.
        "most": {"num_iter": spec.length},
        "max_samples": MAX_SAMPLES,
        "examples": self._examples,
        "classes": describe_classes(uvim.task, uvim.categories),
        "scale": describe_scale(uvim.task),
        **_usage(uvim.word_counts)}

  # ── What the model makes of the images ──────────────────────────────────

  def _describe_labels(self, entry) -> dict[str, Any]:
    """The truth, and what the oracle makes of it."""
    described = super()._describe_labels(entry)
    if self._predictor.model.has_oracle:
      codes = self._predictor.encode([entry.image], [entry.labels])
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
    prediction = self._predictor.predict(
        [entry.image], seed=seed, num_samples=num_samples, **options)
    # Not every prior has a likelihood; that of real numbers is a density.
    is_discrete = self._predictor.model.spec.is_discrete
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
    prediction = self._predictor.decode(
        [entry.image], codes_1L, **(options or {}))
    logprob_L = self._logprob(entry, codes_1L)
    samples = _describe_samples(prediction, [logprob_L])
    return samples[0]

  def _logprob(self, entry, codes_1L) -> np.ndarray | None:
    """Log-probabilities [L] under the prior, where there are any."""
    spec = self._predictor.model.spec
    if self._predictor.prior is None or not spec.is_discrete:
      return None
    has_gaps = codes_1L.min() < 0
    if has_gaps:
      return None
    try:
      logprob_11L = self._predictor.log_prob([entry.image], codes_1L)
    except ConfigError:  # Not every prior has a likelihood.
      return None
    return logprob_11L[0, 0]


def _why_unpaintable(spec: CodeSpec) -> str:
  """Why the page cannot paint such a code; "" if it can."""
  if not spec.is_discrete:
    return (f"Each of its {spec.length} places has {spec.vector_dim} real "
            "numbers and no word, so there is nothing to paint with, and no "
            "use of words to count.")
  if spec.words_per_place > 1:
    return (f"Each of its {spec.length} places has {spec.words_per_place} "
            "words; the page paints one.")
  return ""


def _check_option(name: str, value: Any) -> None:
  check = _CHECKS[name]
  if not check.fits(value):
    raise ConfigError(f"{name} = {value!r}; it must be {check.allowed}.")


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


def _describe_samples(prediction: Prediction,
                      logprob_SL: Sequence[np.ndarray | None]
                      ) -> list[dict[str, Any]]:
  """The samples of a prediction of one image."""
  codes_SL = prediction.codes[0]
  outputs = {key: arrays[0] for key, arrays in prediction.outputs.items()}
  samples = []
  for s, logprob_L in enumerate(logprob_SL):
    sample = {"code": codes_SL[s].tolist(),
              **describe_output(prediction.task, outputs, s)}
    if logprob_L is not None:
      probability_L = np.exp(logprob_L)
      sample["confidence"] = np.round(probability_L, 4).tolist()
      # Per word, from nats to bits.
      sample["bits"] = float(-logprob_L.mean() / np.log(2))
    samples.append(sample)
  return samples
