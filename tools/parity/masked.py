"""Fixtures of masked prediction: schedules, and decodings of a toy network.

B sequences · L length · T steps · Q words · D width
V words and the masked one
"""

import collections
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from tools.parity import common, fixtures
from tools.parity.common import Quantity
from tools.parity.fixtures import Fixture
from uvim.priors import mask_schedules, masked_sampling
from uvim.priors.masked_sampling import State
from uvim.registry import ConfigError

_INDEX = "codes.json"
_SCHEDULE = "schedule/"
_RATIO = f"{_SCHEDULE}ratio"
# What a decoding is given, and no result of it.
_INPUTS = ("ids", "emb", "pos", "readout", "sample_noise", "choice_noise")


def compare(fixture: Fixture) -> Iterator[Quantity]:
  """Every schedule, and every step of every decoding."""
  arrays = fixtures.read_arrays(fixture.path)
  yield from _compare_schedules(fixture.name, arrays)
  for case, options in _read_index(fixture).items():
    theirs = common.below(arrays, f"{case}/")
    ours = _decode(theirs, options)
    yield from common.match(
        f"{fixture.name}/{case}", theirs, ours, inputs=_INPUTS)


def _read_index(fixture: Fixture) -> dict[str, Any]:
  """The options of each decoding, by its name."""
  path = fixture.path.with_name(_INDEX)
  index = json.loads(path.read_text()) if path.is_file() else {}
  if fixture.name not in index:
    raise ConfigError(f"{path} says nothing of {fixture.name!r}.")
  return index[fixture.name]


def _compare_schedules(file, arrays) -> Iterator[Quantity]:
  for name, theirs in arrays.items():
    if not name.startswith(_SCHEDULE) or name == _RATIO:
      continue
    _, num_words, method = name.split("/")
    ours = mask_schedules.masked_share(
        arrays[_RATIO], np.float32(num_words), method)
    yield Quantity(f"{file}/{name}", ours, theirs)


def _decode(given: Mapping[str, np.ndarray], options: Mapping[str, Any]
            ) -> dict[str, np.ndarray]:
  """The trajectory of a decoding with the noise that the original drew."""
  known_BL = jnp.asarray(given["ids"])
  num_unknown_B = jnp.sum(known_BL == masked_sampling.UNKNOWN, axis=1)
  num_iter, num_sequences, length, _ = given["sample_noise"].shape
  num_masked_TL = mask_schedules.num_masked(
      num_iter, length, options["schedule"])
  no_logprob_BL = jnp.zeros((num_sequences, length))
  state = State(known_BL, known_BL, no_logprob_BL)
  trajectory = collections.defaultdict(list)
  for index in range(num_iter):
    share_done = (index + 1) / num_iter
    weight = options["choice_temperature"] * (1 - share_done)
    noise_BL = weight * given["choice_noise"][index]
    num_masked_B = num_masked_TL[index, num_unknown_B]
    state, seen = _decode_step(
        given, state, given["sample_noise"][index], noise_BL, num_masked_B)
    for name, array in seen.items():
      trajectory[name].append(array)

  stacked = {name: np.stack(arrays) for name, arrays in trajectory.items()}
  return {**stacked, "final": state.code}


def _decode_step(
    given: Mapping[str, np.ndarray],
    state: State,
    sample_noise_BLQ: np.ndarray,
    choice_noise_BL: np.ndarray,
    num_masked_B: jnp.ndarray,
) -> tuple[State, dict[str, jnp.ndarray]]:
  """(the state after a step, what the fixture has of the step)."""
  logits_BLQ = _toy_logits(given, state.known)
  drawn_BL = jnp.argmax(logits_BLQ + sample_noise_BLQ, axis=-1)
  # In ours, the masked word comes before the others.
  logits_BLV = jnp.pad(logits_BLQ, ((0, 0), (0, 0), (1, 0)))
  logprob_BL = masked_sampling.word_logprob(logits_BLV, drawn_BL)
  is_unknown_BL = state.known == masked_sampling.UNKNOWN
  seen = {
      "current": state.known,
      "logits": logits_BLQ,
      "confidence": masked_sampling.confidence(
          is_unknown_BL, logprob_BL, choice_noise_BL),
      "mask_len": masked_sampling.limit_masked(num_masked_B, is_unknown_BL),
  }
  state = masked_sampling.keep_words(
      state, drawn_BL, logprob_BL, choice_noise_RL=choice_noise_BL,
      num_masked_R=num_masked_B)
  seen["sampled"] = state.code
  return state, seen


def _toy_logits(given, known_BL) -> jnp.ndarray:
  """The fixture's network: a word reads all words and its neighbours most."""
  # -1, a masked word, has the last row.
  x_BLD = jnp.asarray(given["emb"])[known_BL]
  mean_B1D = jnp.mean(x_BLD, axis=1, keepdims=True)
  left_BLD = jnp.roll(x_BLD, 1, axis=1)
  right_BLD = jnp.roll(x_BLD, -1, axis=1)
  mixed_BLD = 3 * mean_B1D + left_BLD + right_BLD + given["pos"][None]
  return jnp.tanh(mixed_BLD) @ given["readout"]
