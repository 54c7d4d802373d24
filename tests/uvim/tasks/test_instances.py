"""Segments from maps of integers, by majority."""

import jax.numpy as jnp
import numpy as np

from uvim.tasks.instances import panoptic_from_logits, panoptic_from_maps

CLASSES, IDS = 5, 6


def maps(seed, size=(6, 7)):
  rng = np.random.default_rng(seed)
  semantics = rng.integers(0, CLASSES, (2, *size)).astype(np.int32)
  # Some ids are rare.
  ids = (IDS * rng.uniform(size=(2, *size))**3).astype(np.int32)
  return semantics, ids


def vote(semantics, ids, max_removed):
  """The rule for one image, in plain numpy."""
  out = np.zeros((*ids.shape, 2), np.int32)
  for number in np.unique(ids):
    is_here = ids == number
    counts = np.bincount(semantics[is_here], minlength=CLASSES)
    if is_here.sum() > max_removed and counts.argmax() > 0:
      out[is_here] = counts.argmax(), number
  return out


def test_the_majority_decides_and_the_small_become_void():
  semantics, ids = maps(0)
  for max_removed in (0, 4):
    found = panoptic_from_maps(
        jnp.asarray(semantics), jnp.asarray(ids), num_classes=CLASSES,
        num_ids=IDS, max_removed=max_removed)
    expected = [vote(*pair, max_removed)
                for pair in zip(semantics, ids, strict=True)]
    np.testing.assert_array_equal(found, expected)


def test_logits_and_maps_follow_one_rule():
  semantics, ids = maps(1)

  def scores(integers, size):
    one_hot = np.float32(integers[..., None] == np.arange(size))
    return jnp.asarray(one_hot.swapaxes(2, 3))

  # 4 of 42 pixels.
  of_logits = panoptic_from_logits(
      scores(semantics, CLASSES), scores(ids, IDS), min_fraction=0.1,
      instance_label="majority")
  of_maps = panoptic_from_maps(
      jnp.asarray(semantics), jnp.asarray(ids), num_classes=CLASSES,
      num_ids=IDS, max_removed=4)
  is_void = np.asarray(of_maps[..., 0]) == 0
  assert 0 < is_void.sum() < is_void.size
  np.testing.assert_array_equal(of_logits[..., 0], of_maps[..., 0])
  np.testing.assert_array_equal(
      np.where(is_void, 0, of_logits[..., 1]), of_maps[..., 1])
