"""Fixtures of codebooks that are trained: words, losses and gradients.

B batch · L code length · E codeword size · Q codebook size

A file has a case for each way to set a quantizer up, whose arrays begin with
its name. What the cases are stands in `codes.json`. Gradients are those of
sum(w · vectors) and the quantizer's losses.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tools.parity import codes, common, fixtures
from tools.parity.common import Quantity
from tools.parity.fixtures import Fixture
from uvim.codes import gumbel, residual, vq_gradient
from uvim.codes.base import CodeArrays

Arrays = Mapping[str, Any]

_INPUTS = ("x", "w", "codebook", "codebooks", "logits", "noise", "raw")
_ROTATION = "rotation/"


def compare(fixture: Fixture) -> Iterator[Quantity]:
  """Every case of MaskGIT, TiTok, Gumbel-softmax and residual codebooks."""
  for case, theirs, about in codes.cases(fixture, "vq"):
    # The name of a case begins with what it is of.
    origin = case.partition("_")[0]
    run = functools.partial(_RUNS[origin], about)
    ours = jax.jit(run)(theirs)
    yield from common.match(
        f"{fixture.name}/{case}", theirs, ours, inputs=_INPUTS)
  yield from _rotation(fixture)


def _rotation(fixture: Fixture) -> Iterator[Quantity]:
  """Another gradient than the straight-through one; this code has none."""
  arrays = fixtures.read_arrays(fixture.path)
  theirs = common.below(arrays, _ROTATION)
  for name in ("out", "grad_e"):
    if name in theirs:
      yield Quantity(
          f"{fixture.name}/{_ROTATION}{name}", None, theirs[name],
          informative=True, note="the rotation trick is not offered")


# ── One codebook ────────────────────────────────────────────────────────────


def _run_maskgit(about: Arrays, theirs: Arrays) -> dict[str, Any]:
  """Vectors lie on a grid, [B, rows, columns, E]."""
  weight = about["entropy_loss_ratio"]
  num_words = about["codebook_size"]
  shape = theirs["x"].shape
  quantizer = vq_gradient.VQGradient(
      dict_size=num_words,
      codeword_dim=shape[-1],
      commitment_weight=about["commitment_cost"],
      entropy_loss_weight=weight,
      entropy_temperature=about["entropy_temperature"])
  x_BLE = theirs["x"].reshape(shape[0], -1, shape[-1])
  w_BLE = theirs["w"].reshape(x_BLE.shape)
  coded, grad_x, grad_codebook = _run_gradient(
      quantizer, theirs["codebook"], x_BLE, w_BLE)
  logs = coded.logs
  index = coded.code.reshape(shape[:-1])
  entropy_loss = jnp.zeros(())
  if weight:
    difference = logs["code/place_entropy"] - logs["code/batch_entropy"]
    entropy_loss = weight * difference
  return {
      "quantized": coded.z_BLE.reshape(shape),
      "encoding_indices": index,
      "encodings": jax.nn.one_hot(index, num_words),
      "e_latent_loss": about["commitment_cost"] * logs["code/commitment"],
      # Commitment and codebook loss differ in their gradient alone.
      "q_latent_loss": logs["code/commitment"],
      "entropy_loss": entropy_loss,
      "quantizer_loss": jnp.mean(coded.loss_B),
      "grad_x": grad_x.reshape(shape),
      "grad_codebook": grad_codebook,
  }


def _run_titok(about: Arrays, theirs: Arrays) -> dict[str, Any]:
  """Vectors stand in columns, [B, E, 1, L]."""
  quantizer = vq_gradient.VQGradient(
      dict_size=about["codebook_size"],
      codeword_dim=about["token_size"],
      commitment_weight=about["commitment_cost"],
      use_l2_norm=about["use_l2_norm"])
  coded, grad_x, grad_codebook = _run_gradient(
      quantizer, theirs["codebook"], _to_rows(theirs["x"]),
      _to_rows(theirs["w"]))
  commitment = coded.logs["code/commitment"]
  return {
      "quantized": _to_columns(coded.z_BLE),
      "index": coded.code[:, None],
      "commitment_loss": about["commitment_cost"] * commitment,
      "codebook_loss": commitment,
      "grad_x": _to_columns(grad_x),
      "grad_codebook": grad_codebook,
  }


def _to_rows(x_BE1L):
  """[B, L, E]."""
  return jnp.swapaxes(x_BE1L[:, :, 0], 1, 2)


def _to_columns(x_BLE):
  """[B, E, 1, L]."""
  return jnp.swapaxes(x_BLE, 1, 2)[:, :, None]


def _run_gradient(quantizer, codebook_QE, x_BLE, w_BLE):
  """(coded, gradient of the vectors, gradient of the codebook)."""
  def objective(x_BLE, codebook_QE):
    arrays = CodeArrays({vq_gradient.CODEBOOK: codebook_QE}, {})
    coded = quantizer.encode(arrays, x_BLE)
    loss = jnp.sum(w_BLE * coded.z_BLE) + jnp.mean(coded.loss_B)
    return loss, coded

  gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
  (grad_x, grad_codebook), coded = gradient(x_BLE, codebook_QE)
  return coded, grad_x, grad_codebook


# ── Mixtures of words, and several words ────────────────────────────────────


def _run_gumbel(about: Arrays, theirs: Arrays) -> dict[str, Any]:
  scores_BLQ = theirs["logits"]
  codebook_QE = theirs["codebook"]
  num_words, dim = codebook_QE.shape
  quantizer = gumbel.Gumbel(
      dict_size=num_words, codeword_dim=dim, hard=about["hard"])
  arrays = CodeArrays({gumbel.CODEBOOK: codebook_QE}, {})

  def objective(scores_BLQ):
    y_BLQ = quantizer.shares(scores_BLQ, theirs["noise"], about["tau"])
    z_BLE = gumbel.mix(codebook_QE, y_BLQ)
    return jnp.sum(theirs["w"] * z_BLE), (y_BLQ, z_BLE)

  def mean_divergence(scores_BLQ):
    return jnp.mean(gumbel.divergence(scores_BLQ))

  gradient, (y_BLQ, z_BLE) = jax.grad(objective, has_aux=True)(scores_BLQ)
  kl, grad_kl = jax.value_and_grad(mean_divergence)(scores_BLQ)
  return {
      "y": y_BLQ,
      "z": z_BLE,
      "kl": kl,
      "grad": gradient,
      "grad_kl": grad_kl,
      "index_at_evaluation": quantizer.encode(arrays, scores_BLQ).code,
  }


def _run_residual(about: Arrays, theirs: Arrays) -> dict[str, Any]:
  num_quantizers, num_words, dim = theirs["codebooks"].shape
  assert num_quantizers == about["num_quantizers"]
  quantizer = residual.Residual(
      dict_size=num_words, codeword_dim=dim, num_quantizers=num_quantizers)
  arrays = CodeArrays({residual.CODEBOOKS: theirs["codebooks"]}, {})
  coded = quantizer.encode(arrays, theirs["x"])
  return {
      "quantized": coded.z_BLE,
      "index": coded.code,
      "round_trip": quantizer.embed(arrays, coded.code),
  }


_RUNS = {
    "maskgit": _run_maskgit,
    "titok": _run_titok,
    "gumbel": _run_gumbel,
    "residual": _run_residual,
}
