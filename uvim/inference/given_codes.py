"""Codes that a user gives or changes: checked, and with a region masked.

n images · S samples per image · L code length

Where a place has several words, or real numbers (`CodeSpec.shape`), each of
these shapes has one more axis. Of real numbers, NaN stands for NO_WORD.
"""

import zlib
from typing import Any

import numpy as np

from uvim.codes import masking
from uvim.codes.base import CodeSpec
from uvim.models.guided import GuidedModel
from uvim.registry import ConfigError
from uvim.typing import Bool, Int

NO_WORD = -1  # In a code: a place that says nothing, or that is free.

# Of each image one code, or several.
GivenCodes = Int[Any, "n *S L"]
Codes = Int[np.ndarray, "n S L"]
# Codes of anything.
AnyCodes = Int[np.ndarray, "*n L"]


def check_codes(codes: GivenCodes, num_images: int, spec: CodeSpec) -> Codes:
  """The codes of each image, int32 [n, S, L]; of numbers float32.

  Raises:
    ConfigError: another shape, or numbers that are neither words nor NO_WORD.
  """
  codes = np.asarray(codes)
  shape = spec.shape
  if codes.ndim == 1 + len(shape):
    codes = codes[:, None]
  has_axes = (codes.ndim == 2 + len(shape) and len(codes) == num_images
              and codes.shape[1] > 0)
  if not has_axes or codes.shape[2:] != shape:
    sizes = ", ".join(map(str, shape))
    raise ConfigError(
        f"Codes of shape {codes.shape} for {num_images} image(s); allowed: "
        f"[{num_images}, {sizes}], [{num_images}, S, {sizes}].")
  if not spec.is_discrete:
    _check_numbers(codes)
    return codes.astype(np.float32)
  are_words = codes.dtype.kind in "iu"
  if are_words and codes.size:
    are_words = NO_WORD <= codes.min() and codes.max() < spec.num_words
  if not are_words:
    raise ConfigError(
        f"Codes of {codes.dtype} from {codes.min()} to {codes.max()}; "
        f"allowed: integers in 0..{spec.num_words - 1}, and {NO_WORD} for no "
        "word.")
  return codes.astype(np.int32)


def _check_numbers(codes: np.ndarray) -> None:
  """Raises a ConfigError for a code of real numbers that has none."""
  if codes.dtype.kind != "f" or np.isinf(codes).any():
    raise ConfigError(f"Codes of {codes.dtype}; allowed: finite floats, and "
                      "NaN at a place that says nothing.")


def check_given(given: Any, num_images: int, spec: CodeSpec) -> Any:
  """For each image the words that are fixed, [1, L]; None where none are.

  Args:
    given: [n, L], NO_WORD where the prior is free; or None.
    num_images: n.
    spec: of the codes.

  Raises:
    ConfigError: as of `check_codes`.
  """
  if given is None:
    return [None] * num_images
  if not spec.is_discrete:
    raise ConfigError("given: only words can be given; the codes of this model "
                      "are made of real numbers.")
  codes_nSL = check_codes(given, num_images, spec)
  if codes_nSL.shape[1] > 1:
    raise ConfigError(f"given has {codes_nSL.shape[1]} codes for each image; "
                      "it must be one.")
  return list(codes_nSL)


def mask_codes(
    codes: AnyCodes,
    region: Any,
    mode: str | int,
    seed: int,
    model: GuidedModel,
) -> AnyCodes:
  """The codes with a region that says nothing; see `UViM.mask_codes`."""
  spec = model.spec
  codes = np.asarray(codes)
  masked = _region(region, model)
  masking.check_mask(mode, spec.num_words, where="mode")
  if not spec.is_discrete:
    replacement = np.float32(np.nan)
  elif mode == "zeros":
    replacement = NO_WORD
  elif mode == "random":
    replacement = _random_words(codes, seed, spec)
  else:
    replacement = np.int32(mode)
  if len(spec.shape) > 1:
    masked = masked[:, None]
  return np.where(masked, replacement, codes)


def _region(region: Any, model: GuidedModel) -> Bool[np.ndarray, "L"]:
  length = model.spec.length
  if region is None:
    return np.ones(length, bool)
  region = np.asarray(region)
  if region.dtype == bool and region.size == length:
    return region.reshape(length)
  if model.grid is None:
    raise ConfigError(
        f"region = {region.tolist()}; the words of this model lie on no "
        f"grid: give a bool for each of the {length} words.")
  return masking.region_mask(
      length, region.tolist(), grid=model.grid, where="region")


def _random_words(codes: AnyCodes, seed: int, spec: CodeSpec) -> AnyCodes:
  """Random words for each code; they follow from the seed and the code."""
  drawn = []
  codes_NL = codes.reshape(-1, *spec.shape).astype("<i4")
  for code_L in codes_NL:
    number = zlib.crc32(code_L.tobytes())
    rng = np.random.default_rng([seed, number])
    words_L = rng.integers(0, spec.num_words, code_L.shape, np.int32)
    drawn.append(words_L)
  return np.stack(drawn).reshape(codes.shape)
