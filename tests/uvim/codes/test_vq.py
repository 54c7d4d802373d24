"""The dictionary: look-up, learning, splitting (BEHAVIOURS 20-23)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from uvim.codes import vectors, vq
from uvim.codes.vq import Codebook


def make_codebook(dictionary, counts=None):
  dictionary = jnp.asarray(dictionary, jnp.float32)
  counts = np.ones(len(dictionary)) if counts is None else counts
  return Codebook(dictionary, jnp.asarray(counts, jnp.float32))


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_same(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=0,
                             atol=1e-5 * np.abs(theirs).max())


codewords = jax.jit(vq.codewords)
lookup = jax.jit(vq.lookup)
split_dead = jax.jit(vq.split_dead, static_argnames="perturb")


def test_codewords_have_unit_norm_whatever_the_counts():
  sums = normal(0, 5, 3)
  few = codewords(make_codebook(sums, [1, 1e-3, 2, 50, 1]))
  np.testing.assert_allclose(np.linalg.norm(few, axis=1), 1, atol=1e-6)
  np.testing.assert_array_equal(few, codewords(make_codebook(sums)))


def test_an_entry_without_direction_is_zero_not_nan():
  # Of a vector of 1e-25 float32 cannot hold the squared norm.
  for size in (0, 1e-25, 1e-42):
    sums = np.full((2, 3), size)
    assert not np.any(codewords(make_codebook(sums))), size


def test_lookup_is_the_nearest_codeword():
  codebook, x_BLE = make_codebook(normal(1, 40, 8)), normal(2, 3, 50, 8)
  words = np.float64(codewords(codebook))
  distance = np.sum((x_BLE[:, :, None] - words[None, None]) ** 2, axis=-1)
  code = lookup(codebook, x_BLE)
  assert code.dtype == jnp.int32
  np.testing.assert_array_equal(code, distance.argmin(-1))


def test_ties_go_to_the_lowest_index():
  word = normal(3, 6)
  codebook = make_codebook(np.stack([-word, word, 2 * word, word]))
  assert lookup(codebook, word[None, None]).item() == 1


def test_quantize_gives_codewords_and_passes_the_gradient_through():
  codebook, x_BLE = make_codebook(normal(4, 7, 4)), normal(5, 2, 3, 4)
  weight = normal(6, 2, 3, 4)
  z_BLE, code_BL = vq.quantize(codebook, x_BLE)
  np.testing.assert_array_equal(
      z_BLE, np.asarray(codewords(codebook))[np.asarray(code_BL)])

  def loss(codebook, x_BLE):
    return jnp.sum(vq.quantize(codebook, x_BLE)[0] * weight)

  d_codebook, d_x = jax.grad(loss, argnums=(0, 1))(codebook, x_BLE)
  np.testing.assert_array_equal(d_x, weight)
  assert not np.any(d_codebook.dictionary)
  assert not np.any(d_codebook.counts)


def test_commitment_pulls_only_the_encoder():
  x_BLE, z_BLE = normal(7, 2, 3, 4), normal(8, 2, 3, 4)
  loss_B, grads = jax.vjp(vectors.commitment_loss, x_BLE, z_BLE)
  np.testing.assert_allclose(loss_B, ((x_BLE - z_BLE) ** 2).mean((1, 2)),
                             rtol=1e-6)
  d_x, d_z = grads(jnp.ones(2))
  np.testing.assert_allclose(d_x, (x_BLE - z_BLE) / 6, rtol=1e-6)
  assert not np.any(d_z)


def test_a_code_outside_the_dictionary_is_not_some_other_word():
  codebook = make_codebook(normal(9, 4, 3))
  z_BLE = vq.embed_code(codebook, jnp.array([[-1, 0, 3, 4]]))
  np.testing.assert_array_equal(np.isnan(z_BLE).all(-1),
                                [[True, False, False, True]])


def test_update_discounts_and_adds_sums_and_counts():
  codebook = make_codebook(normal(10, 3, 2), [1.0, 2.0, 4.0])
  x_BLE = normal(11, 1, 3, 2)
  new = vq.update(
      codebook, *vq.statistics(x_BLE, jnp.array([[2, 0, 2]]), 3),
      momentum=0.5)
  np.testing.assert_allclose(new.counts, [1.5, 1.0, 4.0])
  sums = np.stack([x_BLE[0, 1], np.zeros(2), x_BLE[0, 0] + x_BLE[0, 2]])
  np.testing.assert_allclose(new.dictionary, codebook.dictionary / 2 + sums,
                             rtol=1e-6)


def test_without_splitting_an_unused_entry_keeps_its_codeword():
  before = make_codebook(normal(16, 3, 4))
  used = jnp.zeros((1, 8), jnp.int32)

  def step(_, codebook):
    x_BLE = jnp.broadcast_to(before.dictionary[0], (1, 8, 4))
    return vq.update(
        codebook, *vq.statistics(x_BLE, used, 3), momentum=0.98)

  after = jax.lax.fori_loop(0, 10_000, step, before)
  np.testing.assert_allclose(codewords(after),
                             codewords(before), rtol=0, atol=1e-5)
  assert 0 < np.max(after.counts[1:]) < 1e-6


def test_one_and_eight_devices_learn_the_same_dictionary():
  codebook, x_BLE = make_codebook(normal(12, 16, 8)), normal(13, 8, 4, 8)
  # A tiny momentum leaves dead entries, so that splits happen too.
  def step(codebook, x_BLE):
    code_BL = lookup(codebook, x_BLE)
    codebook = vq.update(
        codebook, *vq.statistics(x_BLE, code_BL, 16), momentum=0.05)
    return split_dead(codebook, jax.random.key(0))

  mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
  everywhere = NamedSharding(mesh, P())
  sharded = jax.jit(step, out_shardings=everywhere)(
      jax.device_put(codebook, everywhere),
      jax.device_put(x_BLE, NamedSharding(mesh, P("data"))))
  alone = jax.jit(step)(codebook, x_BLE)
  assert alone[1] == sharded[1] > 0
  jax.tree.map(assert_same, sharded[0], alone[0])
  for shard in sharded[0].dictionary.addressable_shards:
    np.testing.assert_array_equal(shard.data, sharded[0].dictionary)


def test_an_unused_entry_dies_at_step_460():
  count, steps = np.float32(1), 0
  momentum = np.float32(0.995)
  unused = jax.jit(lambda c: split_dead(
      make_codebook(jnp.ones((2, 2)), jnp.stack([c, 5.0])),
      jax.random.key(0))[1])
  while unused(count) == 0:
    count, steps = count * momentum, steps + 1
  assert steps == 460


def test_split_halves_the_parent_and_keeps_its_codeword():
  before = make_codebook(normal(14, 4, 64), [3.0, 8.0, 0.05, 0.5])
  after, num_splits = split_dead(before, jax.random.key(1))
  assert num_splits == 1
  np.testing.assert_allclose(after.counts, [3.0, 4.0, 4.0, 0.5])
  np.testing.assert_array_equal(after.dictionary[1], before.dictionary[1] / 2)
  noise = after.dictionary[2] / after.dictionary[1]
  assert 0.999 <= noise.min() < 0.9992 and 1.0008 < noise.max() <= 1.001
  for kept in (0, 3):
    np.testing.assert_array_equal(after.dictionary[kept],
                                  before.dictionary[kept])


def test_without_dead_entries_nothing_changes():
  before = make_codebook(normal(15, 3, 4), [0.1, 7.0, 1.0])
  after, num_splits = split_dead(before, jax.random.key(0))
  assert num_splits == 0
  jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("counts", ([0.05, 0.06, 0.07], [0.01, 0.19, 0.01]))
def test_splitting_ends_when_there_is_nothing_left_to_split(counts):
  before = make_codebook(normal(16, 3, 4), counts)
  after, num_splits = split_dead(before, jax.random.key(0))
  assert num_splits == 0
  np.testing.assert_array_equal(after.counts, before.counts)


@pytest.mark.parametrize("kind,perturb", (("noise", 0.001), ("nonoise", 0.0)))
def test_splits_equal_the_original(fixtures, kind, perturb):
  file = np.load(fixtures / f"stage1_panoptic_resize16_split_{kind}.npz")
  codebook = Codebook(file["state_ema/dictionary"], file["state_ema/counts"])
  after, num_splits = split_dead(
      codebook, file["rng_key"], perturb=perturb)
  assert num_splits == len(file["i_max_i_min"])
  assert_same(after.counts, file["state_after/counts"])
  assert_same(after.dictionary, file["state_after/dictionary"])


def test_statistics_of_parts_add_up_to_those_of_the_whole():
  x_BLE = normal(20, 6, 4, 3)
  code_BL = jax.random.randint(jax.random.key(6), (6, 4), 0, 5)
  whole = vq.statistics(x_BLE, code_BL, 5)
  parts = [vq.statistics(x_BLE[i::2], code_BL[i::2], 5) for i in (0, 1)]
  jax.tree.map(assert_same, whole, jax.tree.map(jnp.add, *parts))
