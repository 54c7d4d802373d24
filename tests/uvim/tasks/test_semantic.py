"""Semantic segmentation: one class a pixel, and segments made of it."""

import jax.numpy as jnp
import numpy as np
import pytest

from uvim import tasks
from uvim.registry import ConfigError

SIZE = (4, 8)
PATCH = (2, 2)
K = 4


def make(**options):
  heads = {"semantics": (K, 4)}
  return tasks.make_task("semantic_segmentation", dict(
      inputs=heads, outputs=heads, input_size=SIZE, patch_size=PATCH),
      **options)


def logits_of(task, ids_HW):
  """Logits whose likeliest class is `ids_HW`."""
  ids = task.encode_labels(ids_HW[None, ..., None])
  one_hot_BNPK = np.eye(K, dtype=np.float32)[ids["semantics"]]
  return {"semantics": jnp.asarray(one_hot_BNPK.swapaxes(2, 3))}


TWO_CARS = np.array([
    [1, 1, 1, 1, 1, 1, 1, 1],
    [2, 2, 1, 1, 1, 3, 3, 1],
    [2, 2, 1, 1, 1, 3, 3, 1],
    [1, 1, 3, 1, 1, 1, 1, 2]])


def test_a_region_of_a_thing_is_an_instance_and_stuff_is_one_segment():
  task = make(things=(3,))
  panoptic = np.asarray(task.outputs(logits_of(task, TWO_CARS))["panoptic"][0])
  np.testing.assert_array_equal(panoptic[..., 0], TWO_CARS)
  pairs = {tuple(pair) for pair in panoptic.reshape(-1, 2).tolist()}
  # Two cars, and one segment for each of the classes 1 and 2.
  assert sorted(number for number, _ in pairs) == [1, 2, 3, 3]
  truth = task.truth({"labels": TWO_CARS[None, ..., None]})
  np.testing.assert_array_equal(truth["panoptic"][0], panoptic)


def test_small_segments_become_void():
  task = make(things=(3,))
  logits = logits_of(task, TWO_CARS)
  # The single pixel of class 3 goes; that of class 2 belongs to a large one.
  options = dict(min_fraction=1 / TWO_CARS.size)
  panoptic = np.asarray(task.outputs(logits, **options)["panoptic"][0])
  expected = TWO_CARS.copy()
  expected[3, 2] = 0
  np.testing.assert_array_equal(panoptic[..., 0], expected)
  assert not panoptic[3, 2].any()


def test_void_teaches_nothing_and_is_never_predicted():
  task = make()
  labels = TWO_CARS.copy()
  labels[0] = 0
  ids = task.encode_labels(labels[None, ..., None])
  logits = logits_of(task, TWO_CARS)
  loss, _ = task.loss(logits, ids)
  # Other logits where there is void change nothing.
  is_void_BNP = ids["semantics"] < 0
  assert is_void_BNP.sum() == SIZE[1]
  wild_K1 = 7.0 * jnp.arange(K)[:, None]
  other_BNKP = jnp.where(
      is_void_BNP[:, :, None], wild_K1[None, None], logits["semantics"])
  assert task.loss({"semantics": other_BNKP}, ids)[0] == loss
  # Void may have the highest logit: it is not a class.
  high = logits["semantics"].at[:, :, 0].set(100.0)
  panoptic = task.outputs({"semantics": high})["panoptic"]
  assert (panoptic[..., 0] > 0).all()


@pytest.mark.parametrize("things, message", [
    ((4,), r"things has class 4; model.outputs\['semantics'\] has 1..3, and 0"),
    ((0,), r"things = \(0,\); it must be classes, as in \(9, 10, 11\)"),
    ("car", "things = 'car'; it must be classes"),
])
def test_things_are_classes_of_the_model(things, message):
  with pytest.raises(ConfigError, match=message):
    make(things=things)


@pytest.mark.parametrize("labels", [
    np.zeros((1, *SIZE, 2), np.int32), np.zeros((1, *SIZE, 1), np.float32)])
def test_labels_are_one_channel_of_integers(labels):
  with pytest.raises(ConfigError, match="one channel of integers, the class"):
    make().encode_labels(labels)
