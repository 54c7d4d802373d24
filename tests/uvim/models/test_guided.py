"""A stage I model is built from one block of fields."""

import jax
import jax.numpy as jnp
import pytest

from uvim.models import make_model
from uvim.registry import ConfigError

NETWORK = dict(
    input_size=(16, 8), patch_size=(4, 4), code_len=4, width=16,
    oracle_depth=1, base_model_depth=1, mlp_dim=16, num_heads=2,
    inputs={"seg": (3, 16)}, outputs={"seg": (3, 16)})
VQ = dict(dict_size=8, codeword_dim=6)
FSQ = dict(quantizer="fsq", dict_size=15, codeword_dim=2, levels=[3, 5])
LFQ = dict(quantizer="lfq", dict_size=8, codeword_dim=3)
RESIDUAL = dict(
    quantizer="residual", dict_size=8, codeword_dim=6, num_quantizers=2)
GAUSSIAN = dict(quantizer="gaussian", codeword_dim=6, beta=0.1)
GUMBEL = dict(quantizer="gumbel", dict_size=8, codeword_dim=6)


def make(fields):
  return make_model("vit", {**NETWORK, **fields}, "config.model")


@pytest.mark.parametrize("fields, shape, words, size, written", [
    (VQ, (4,), 8, 6, 6), (FSQ, (4,), 15, 2, 2), (LFQ, (4,), 8, 3, 3),
    (RESIDUAL, (4, 2), 8, 6, 6),
    # The oracle writes a score for each word.
    (GUMBEL, (4,), 8, 6, 8)])
def test_network_and_code_follow_the_quantizer(
    fields, shape, words, size, written):
  model = make(fields)
  assert model.spec.shape == shape
  assert (model.spec.num_words, model.spec.vector_dim) == (words, size)
  assert model.vit.codeword_dim == written
  # A static argument of jitted functions, also if it comes from JSON.
  assert isinstance(hash(model), int)


@pytest.mark.parametrize(
    "fields", [VQ, RESIDUAL, GUMBEL, GAUSSIAN],
    ids=["vq", "residual", "gumbel", "gaussian"])
def test_the_base_model_reads_what_the_quantizer_makes(fields):
  """Whatever size the oracle writes; shapes alone, so nothing is compiled."""
  model = make(fields)

  def through_both(rng):
    arrays = model.init(rng)
    labels = {"seg": jnp.zeros((2, 8, 16), jnp.int32)}
    image = jnp.zeros((2, 16, 8, 3))
    code = model.oracle(arrays, labels, image).code
    z_BLE = model.embed(arrays, code)
    return code, model.base_model(arrays, z_BLE, image)

  code, logits = jax.eval_shape(through_both, jax.random.key(0))
  assert code.shape == (2, *model.spec.shape)
  assert logits["seg"].shape == (2, 8, 3, 16)


@pytest.mark.parametrize("fields, message", [
    ({**FSQ, "dict_momentum": 0.9},
     "model.dict_momentum is a field of quantizer 'vq', but "
     "config.model.quantizer = 'fsq'"),
    ({**VQ, "levels": (3, 5)}, "model.levels is a field of quantizer 'fsq'"),
    ({**FSQ, "spherical": True}, "model.spherical is a field of quantizer"),
    ({**LFQ, "dict_splitting": True}, "model.dict_splitting is a field"),
    ({**FSQ, "levels": (2, 3)}, "levels = .* two levels are not possible"),
    ({**FSQ, "levels": ()}, r"model.levels = \(\)"),
    ({**FSQ, "levels": (900, 900, 900)}, "whose product is at most"),
    ({**FSQ, "dict_size": 16}, "model.dict_size = 16; it must be 15"),
    ({**LFQ, "codeword_dim": 40}, r"codeword_dim = 40; .* in 1\.\.24"),
    ({**RESIDUAL, "num_quantizers": 1}, r"num_quantizers = 1; .* in 2\.\.64"),
    ({**GUMBEL, "tau_min": 0.0}, "tau_min = 0.0; .* a number > 0"),
    ({**LFQ, "quantizer": "lqf"}, "quantizer 'lqf'. Did you mean 'lfq'")])
def test_fields_that_do_not_fit_are_named(fields, message):
  with pytest.raises(ConfigError, match=message):
    make(fields)
