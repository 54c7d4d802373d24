"""What is done to a code: dropout, masking, usage (BEHAVIOURS 24)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from uvim import files, tree
from uvim.codes import QUANTIZERS, dropout, masking, usage
from uvim.codes.base import CodeArrays
from uvim.registry import ConfigError


def test_dropout_draws_the_number_and_the_places_uniformly():
  length, batch = 4, 20_000
  rngs_B = jax.random.split(jax.random.key(2), batch)
  dropped = np.asarray(dropout.draw_dropped(rngs_B, length, "random"))
  share = np.bincount(dropped.sum(1), minlength=5) / batch
  np.testing.assert_allclose(share, 1 / 5, atol=0.015)
  pairs = dropped[dropped.sum(1) == 2]
  _, counts = np.unique(pairs, axis=0, return_counts=True)
  np.testing.assert_allclose(counts / len(pairs), np.full(6, 1 / 6), atol=0.03)


def test_ordered_dropout_takes_a_suffix():
  rngs_B = jax.random.split(jax.random.key(3), 500)
  dropped = np.asarray(dropout.draw_dropped(rngs_B, 3, "ordered"))
  np.testing.assert_array_equal(dropped, np.sort(dropped, axis=1))
  assert set(dropped.sum(1)) == {0, 1, 2, 3}


def test_what_an_example_loses_depends_on_no_other():
  rngs_B = jax.random.split(jax.random.key(5), 6)
  whole = dropout.draw_dropped(rngs_B, 9, "random")
  part = dropout.draw_dropped(rngs_B[1::2], 9, "random")
  np.testing.assert_array_equal(part, whole[1::2])
  assert len({tuple(row) for row in np.asarray(whole)}) > 3


def test_no_dropout_drops_nothing():
  rngs_B = jax.random.split(jax.random.key(0), 2)
  assert not np.any(dropout.draw_dropped(rngs_B, 3, "none"))


QUANTIZER_FIELDS = {
    "vq": dict(dict_size=8, codeword_dim=6),
    "fsq": dict(dict_size=60, codeword_dim=3, levels=(3, 5, 4)),
    "lfq": dict(dict_size=16, codeword_dim=4, commitment_weight=0.25),
    "vq_gradient": dict(dict_size=8, codeword_dim=6, use_l2_norm=True,
                        entropy_loss_weight=0.1),
    "residual": dict(dict_size=8, codeword_dim=6, num_quantizers=3),
    "gumbel": dict(dict_size=8, codeword_dim=6),
    "gaussian": dict(codeword_dim=4, beta=1e-3),
}


def make(name):
  """(a quantizer, its arrays)."""
  quantizer = QUANTIZERS[name](**QUANTIZER_FIELDS[name])
  return quantizer, quantizer.init(jax.random.key(0))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_keeps_the_contract(name):
  quantizer, arrays = make(name)
  assert isinstance(arrays, CodeArrays)
  x_BLE = np.random.default_rng(0).normal(
      size=(4, 3, quantizer.oracle_dim)).astype(np.float32)
  encode = jax.jit(quantizer.encode)
  embed = jax.jit(quantizer.embed)
  coded = encode(arrays, x_BLE)
  spec = quantizer.spec(3)
  assert coded.code.shape == (4, *spec.shape)
  assert coded.code.dtype == spec.dtype
  assert coded.z_BLE.shape == (4, 3, spec.vector_dim)
  # The code alone gives the vectors.
  np.testing.assert_array_equal(embed(arrays, coded.code), coded.z_BLE)
  # Sums of parts are those of the whole.
  parts = [encode(arrays, part).stats for part in (x_BLE[:1], x_BLE[1:])]
  whole = jax.tree.map(jnp.add, *parts)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
               whole, coded.stats)
  # Dropped places say the same, whatever their word.
  dropped = np.ones((4, 3), bool)
  nothing = embed(arrays, coded.code, dropped)
  assert len(np.unique(np.asarray(nothing).reshape(12, -1), axis=0)) == 1
  # The gradient reaches the oracle.
  gradient = jax.jit(jax.grad(lambda x: jnp.sum(
      jnp.sin(quantizer.encode(arrays, x).z_BLE))))(x_BLE)
  assert np.abs(gradient).max() > 0
  # A word outside of the dictionary is not some other word.
  if spec.is_discrete:
    for outside in (spec.num_words, -1):
      code = np.full_like(coded.code, outside)
      assert np.isnan(embed(arrays, code)).all()
      assert np.isfinite(embed(arrays, code, dropped)).all()
    counts = quantizer.usage(coded.stats)
    assert counts.shape == (spec.num_entries,)
    np.testing.assert_array_equal(
        counts, usage.count_entries(coded.code, spec))
    assert counts.sum() == coded.code.size


@pytest.mark.parametrize("name", QUANTIZERS)
def test_arrays_come_back_from_a_file_and_batches_may_be_empty(name, tmp_path):
  quantizer, arrays = make(name)
  path = str(tmp_path / "model.npz")
  # As in a checkpoint, where a quantizer without arrays has no names.
  params = {"quantizer": arrays.params, "head": np.zeros(1)}
  files.save_npz(path, {"params": params, "state": arrays.state})
  read = tree.unflatten(files.load_npz(path))
  again = CodeArrays(
      read["params"].get("quantizer", {}), read.get("state", {}))
  jax.tree.map(np.testing.assert_array_equal, arrays, again)
  # Whatever the words of no example are, they have a shape.
  x_BLE = jnp.zeros((0, 3, quantizer.oracle_dim))
  empty = jax.eval_shape(quantizer.encode, again, x_BLE)
  assert empty.z_BLE.shape == (0, 3, quantizer.vector_dim)
  assert empty.code.shape == (0, *quantizer.spec(3).shape)
  assert empty.loss_B.shape == (0,)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_no_quantizer_depends_on_dtype_or_devices(name):
  quantizer, arrays = make(name)
  x_BLE = jax.random.normal(
      jax.random.key(1), (8, 3, quantizer.oracle_dim), jnp.bfloat16)
  encode = jax.jit(quantizer.encode)
  coded = encode(arrays, x_BLE)
  wide = encode(arrays, x_BLE.astype(jnp.float32))
  mesh = Mesh(np.array(jax.devices()), ("data",))
  spread = jax.device_put(
      x_BLE.astype(jnp.float32), NamedSharding(mesh, P("data")))
  shared = encode(arrays, spread)
  for other in (wide, shared):
    np.testing.assert_array_equal(other.code, coded.code)
    np.testing.assert_allclose(other.z_BLE, coded.z_BLE, rtol=1e-6)
  np.testing.assert_allclose(shared.loss_B, wide.loss_B, rtol=1e-4, atol=1e-6)


def test_masks():
  code_BL = np.array([[1, 2, 3, 4], [5, 6, 7, 0]])
  right = (0, 1, 2, 2)
  code, dropped = masking.mask_code(code_BL, "zeros", 8, region=right)
  np.testing.assert_array_equal(code, code_BL)
  np.testing.assert_array_equal(dropped, [[False, True, False, True]] * 2)
  code, dropped = masking.mask_code(code_BL, 3, 8, region=right)
  np.testing.assert_array_equal(code, [[1, 3, 3, 3], [5, 3, 7, 3]])
  assert not dropped.any()
  seeds = np.array([1, 2], np.uint32)
  one, _ = masking.mask_code(code_BL, "random", 8, seeds_B=seeds)
  again, _ = masking.mask_code(code_BL[1:], "random", 8, seeds_B=seeds[1:])
  np.testing.assert_array_equal(one[1:], again)
  assert one.min() >= 0 and one.max() < 8
  # Of several words a place, all are masked.
  several = np.stack([code_BL, code_BL], -1)
  code, _ = masking.mask_code(several, 3, 8, region=right)
  masked = np.array([[1, 3, 3, 3], [5, 3, 7, 3]])
  np.testing.assert_array_equal(code, np.stack([masked, masked], -1))
  code, dropped = masking.mask_code(several, "random", 8, seeds_B=seeds)
  assert code.shape == (2, 4, 2) and dropped.shape == (2, 4)
  # The same code as one row of four words.
  _, dropped = masking.mask_code(
      code_BL, "zeros", 8, region=(0, 1, 1, 3), grid=(1, 4))
  np.testing.assert_array_equal(dropped, [[False, True, True, False]] * 2)
  for bad in ((0, 0, 3, 1), (1, 0, 0, 1), (0, 0, 1)):
    with pytest.raises(ConfigError, match="mask_region"):
      masking.mask_code(code_BL, "zeros", 8, region=bad)
  for bad in ("zero", 8, -1, True):
    with pytest.raises(ConfigError, match="'zeros', 'random' or"):
      masking.mask_code(code_BL, bad, 8)


def test_usage_statistics():
  histogram = usage.histogram(jnp.array([[0, 2], [2, 2]]), 4)
  np.testing.assert_array_equal(histogram, [1, 0, 3, 0])
  assert usage.perplexity(jnp.array([5.0, 5, 5, 5])) == pytest.approx(4)
  assert usage.perplexity(jnp.array([0.0, 9, 0, 0])) == pytest.approx(1)
  counted, logs = usage.count_usage(
      jnp.array([1, 0, 0, 0]), jnp.array([0.0, 2, 0, 0]), False)
  np.testing.assert_array_equal(counted, [1, 2, 0, 0])
  assert logs["code/usage"] == 0.5
