"""Weights of pixels, and random ids."""

import jax
import jax.numpy as jnp
import numpy as np

from uvim.diffusion import instances

NUM_IDS = 6
pixel_weights = jax.jit(instances.pixel_weights, static_argnums=(1, 2))
shuffle_ids = jax.jit(instances.shuffle_ids, static_argnums=2)


def ids():
  """Three examples: several instances, void alone, and one id too large."""
  rng = np.random.default_rng(0)
  several = rng.integers(0, NUM_IDS, (4, 5))
  too_large = np.where(several == 2, NUM_IDS + 7, several)
  return np.stack([several, np.zeros((4, 5), int), too_large]).astype(np.int32)


def rngs(seeds):
  return jax.vmap(jax.random.key)(np.array(seeds, np.uint32))


def test_pixels_of_small_instances_count_more():
  ids_BHW = ids()
  weights = np.asarray(pixel_weights(jnp.asarray(ids_BHW), 6, 0.2))
  np.testing.assert_allclose(weights.mean((1, 2)), 1, rtol=1e-6)
  several = ids_BHW[0]
  area = np.array([np.sum(several == i) for i in several.ravel()])
  expected = (1 / (area + 1))**0.2
  expected = expected / expected.mean()
  np.testing.assert_allclose(weights[0].ravel(), expected, rtol=1e-5)
  np.testing.assert_allclose(weights[1], 1, rtol=1e-6)
  is_unknown = ids_BHW[2] >= NUM_IDS
  np.testing.assert_array_equal(weights[2] == 0, is_unknown)


def test_without_a_power_all_count_alike():
  weights = pixel_weights(jnp.asarray(ids()), NUM_IDS, 0.0)
  np.testing.assert_array_equal(weights, 1)


def test_an_image_without_known_ids_counts_nothing():
  weights = pixel_weights(jnp.full((1, 4, 5), 99), NUM_IDS, 0.2)
  np.testing.assert_array_equal(weights, 0)


def test_ids_are_exchanged_and_weights_follow_them():
  before = jnp.asarray(ids())
  after = shuffle_ids(before, rngs([3, 4, 5]), NUM_IDS)
  assert (np.asarray(after) != before).any()
  # Each id becomes one other, void and what is unknown stay.
  for one, other in zip(np.asarray(before), np.asarray(after), strict=True):
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1]))
    assert len(np.unique(pairs[0])) == pairs.shape[1]
    stays = (pairs[0] == 0) | (pairs[0] >= NUM_IDS)
    np.testing.assert_array_equal(pairs[0][stays], pairs[1][stays])
    assert (pairs[1][~stays] > 0).all() and (pairs[1][~stays] < NUM_IDS).all()
  np.testing.assert_array_equal(
      pixel_weights(after, NUM_IDS, 0.2), pixel_weights(before, NUM_IDS, 0.2))


def test_which_id_an_instance_had_says_nothing_about_its_new_one():
  count = 3000
  first = np.array([[[1, 2, 3]]] * count, np.int32)
  exchanged = np.array([[[3, 1, 2]]] * count, np.int32)
  for before in (first, exchanged):
    after = np.asarray(shuffle_ids(before, rngs(range(count)), 4))
    orders, counts = np.unique(after[:, 0], axis=0, return_counts=True)
    assert len(orders) == 6
    np.testing.assert_allclose(counts / count, 1 / 6, atol=0.03)


def test_random_ids_depend_on_the_key_alone():
  same = jnp.asarray(np.repeat(ids()[:1], 3, axis=0))
  shuffled = shuffle_ids(same, rngs([7, 8, 7]), NUM_IDS)
  np.testing.assert_array_equal(shuffled[0], shuffled[2])
  alone = shuffle_ids(same[:1], rngs([8]), NUM_IDS)
  np.testing.assert_array_equal(alone[0], shuffled[1])
