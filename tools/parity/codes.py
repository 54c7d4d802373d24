"""Fixtures of quantizers: vectors, words, losses and gradients.

B batch · L code length · E numbers of a code vector

A file has a case for each way to set the quantizer up, whose arrays begin with
its name. What the cases are stands in `codes.json`. Gradients are those of
sum(w · output).
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity import common, fixtures
from tools.parity.common import Quantity
from tools.parity.fixtures import Fixture
from uvim import fields
from uvim.codes.base import CodeArrays
from uvim.codes.fsq import FSQ
from uvim.codes.lfq import LFQ
from uvim.registry import ConfigError

_INDEX = "codes.json"
_NO_ARRAYS = CodeArrays(params={}, state={})
_INPUTS = ("z", "w", "some_index")
# Of FSQ two other forms, and words that suffer from rounding.
_OTHER_FORMS = ("atanh/*", "symmetric/*", "index_original")
_TEMPERATURE = "inv_temperature_"
# The original's own gradient of the entropy loss is so far from an exact one:
# it rounds scores of some hundreds before it takes their exponentials.
_ENTROPY_TOLERANCE = 1e-4


def cases(fixture: Fixture, kind: str) -> Iterator[tuple[str, dict, dict]]:
  """Of each case: its name, its arrays, what the index says of it."""
  arrays = fixtures.read_arrays(fixture.path)
  index = json.loads(fixture.path.with_name(_INDEX).read_text())
  for case, about in index[kind].items():
    yield case, common.below(arrays, f"{case}/"), about


# ── FSQ ─────────────────────────────────────────────────────────────────────


def compare_fsq(fixture: Fixture) -> Iterator[Quantity]:
  """Every case of FSQ."""
  for case, theirs, about in cases(fixture, "fsq"):
    title = f"{fixture.name}/{case}"
    try:
      quantizer = _make_fsq(about)
    except ConfigError as error:
      yield from common.match(title, theirs, {}, inputs=_INPUTS,
                              informative=["*"], note=f"refused: {error}")
      continue
    ours = jax.jit(functools.partial(_run_fsq, quantizer))(theirs)
    yield from common.match(title, theirs, ours, inputs=_INPUTS,
                            informative=_OTHER_FORMS)


def _make_fsq(about: Mapping[str, Any]) -> FSQ:
  levels = about["levels"]
  values = dict(
      dict_size=about["size"], codeword_dim=len(levels), levels=levels)
  # Those that a config may not have are refused here, too.
  fields.check_fields(fields.fields_of(FSQ), values, "config.model")
  return FSQ(**values)


def _run_fsq(quantizer: FSQ, theirs) -> dict[str, Any]:
  """Our arrays of one case, by the fixture's names."""
  x_BLE = theirs["z"]
  coded = quantizer.encode(_NO_ARRAYS, x_BLE)
  ours = {
      "bounded": quantizer.bound(x_BLE),
      "zhat": coded.z_BLE,
      "levels_of_each": quantizer.levels_of(coded.code),
      "index": coded.code,
      "index_original": coded.code,
      "grad": _gradient_of_vectors(quantizer, theirs),
      "round_trip": quantizer.embed(_NO_ARRAYS, coded.code),
      "codebook": _embed_words(quantizer, np.arange(quantizer.num_words)),
  }
  if "some_index" in theirs:
    ours["some_code"] = _embed_words(quantizer, theirs["some_index"])
  return ours


def _embed_words(quantizer, words) -> jax.Array:
  """The vectors of a row of words."""
  words_1L = jnp.asarray(words)[None]
  return quantizer.embed(_NO_ARRAYS, words_1L)[0]


def _gradient_of_vectors(quantizer, theirs) -> jax.Array:
  def weighted_sum(x_BLE):
    coded = quantizer.encode(_NO_ARRAYS, x_BLE)
    return jnp.sum(theirs["w"] * coded.z_BLE)

  return jax.grad(weighted_sum)(theirs["z"])


# ── LFQ ─────────────────────────────────────────────────────────────────────


def compare_lfq(fixture: Fixture) -> Iterator[Quantity]:
  """Every case of LFQ and BSQ."""
  for case, theirs, about in cases(fixture, "lfq"):
    quantizer = LFQ(
        dict_size=2 ** about["bits"],
        codeword_dim=about["bits"],
        spherical=about["spherical"],
        entropy_loss_weight=about["entropy_loss_weight"],
        diversity_gamma=about["diversity_gamma"],
        commitment_weight=about["commitment_loss_weight"])
    ours = jax.jit(functools.partial(_run_lfq, quantizer))(theirs)
    title = f"{fixture.name}/{case}"
    # The original gives 0 where the commitment has no weight.
    unweighted = [] if quantizer.commitment_weight else ["*/commitment"]
    quantities = common.match(
        title, theirs, ours, inputs=_INPUTS, informative=unweighted)
    for quantity in quantities:
      if quantity.name.endswith("/grad_aux"):
        quantity = dataclasses.replace(quantity, tolerance=_ENTROPY_TOLERANCE)
      yield quantity
    yield _gradient_apart_from_zeros(title, theirs, ours)


def _run_lfq(quantizer: LFQ, theirs) -> dict[str, Any]:
  """Our arrays of one case, by the fixture's names."""
  coded = quantizer.encode(_NO_ARRAYS, theirs["z"])
  ours = {
      "quantized": coded.z_BLE,
      "index": coded.code,
      "codes_of_index": quantizer.embed(_NO_ARRAYS, coded.code),
      "grad_quantized": _gradient_of_vectors(quantizer, theirs),
  }
  # 'inv_temperature_100/aux_loss', for instance.
  blocks = {name.partition("/")[0] for name in theirs if "/" in name}
  for block in blocks:
    temperature = float(block.removeprefix(_TEMPERATURE))
    at_temperature = dataclasses.replace(
        quantizer, inv_temperature=temperature)
    for name, value in _run_loss(at_temperature, theirs["z"]).items():
      ours[f"{block}/{name}"] = value
  return ours


def _run_loss(quantizer: LFQ, x_BLE) -> dict[str, Any]:
  """The loss at one temperature, its parts and its gradient."""
  def mean_loss(x_BLE):
    coded = quantizer.encode(_NO_ARRAYS, x_BLE)
    return jnp.mean(coded.loss_B), coded.logs

  loss_and_gradient = jax.value_and_grad(mean_loss, has_aux=True)
  (loss, logs), gradient = loss_and_gradient(x_BLE)
  return {
      "aux_loss": loss,
      "per_sample_entropy": logs["code/place_entropy"],
      "batch_entropy": logs["code/batch_entropy"],
      "commitment": logs["code/commitment"],
      "grad_aux": gradient,
  }


def _gradient_apart_from_zeros(title, theirs, ours) -> Quantity:
  """The gradient of the vectors, but for those of vectors of zeros.

  Of a spherical code those are 1e12 and would hide an error in the others.
  """
  is_zero_BL = np.all(theirs["z"] == 0, axis=-1)
  name = "grad_quantized"
  return Quantity(
      f"{title}/{name} (vectors but zeros)",
      ours[name][~is_zero_BL],
      theirs[name][~is_zero_BL])
