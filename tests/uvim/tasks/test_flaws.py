"""What tasks find wrong with labels: on the host, and in a compiled step."""

import jax
import numpy as np
import pytest

from uvim import tasks
from uvim.tasks.panoptic import fields_of_pixels

SIZE = (8, 8)
CLASSES = 5
INSTANCES = 4


def make(name, **options):
  heads = {
      "panoptic_segmentation": {"semantics": (CLASSES, 16),
                                "instances": (INSTANCES, 16)},
      "depth": {"depth": (8, 16)},
      "normals": {"normals": (3, 16)},
      "colorization": {"color": (3, 16)}}[name]
  return tasks.make_task(name, dict(
      inputs=heads, outputs=heads, input_size=SIZE, patch_size=(4, 4)),
      **options)


def panoptic(*pairs):
  """An image for each (class, instance), which fills half of it."""
  labels = np.zeros((len(pairs), *SIZE, 2), np.int32)
  for image, pair in zip(labels, pairs, strict=True):
    image[:4] = pair
  return labels


def depth(*values):
  labels = np.zeros((len(values), *SIZE, 1), np.float32)
  labels[:, :4] = np.float32(values)[:, None, None, None]
  return labels


def real(*values):
  labels = np.zeros((len(values), *SIZE, 3), np.float32)
  labels[:, :4, :, 0] = np.float32(values)[:, None, None]
  return labels


def flaws_of(task, labels):
  """Name of each flaw that an example has → those that have it."""
  found = {}
  for flaw in task.label_flaws(labels):
    if np.any(flaw.is_bad_B):
      found[flaw.name] = np.flatnonzero(flaw.is_bad_B).tolist()
  # A compiled step counts the same.
  compiled = jax.jit(lambda x: {
      flaw.name: flaw.is_bad_B for flaw in task.label_flaws(x)})(labels)
  for name, is_bad_B in compiled.items():
    assert found.get(name, []) == np.flatnonzero(is_bad_B).tolist()
  return found


@pytest.mark.parametrize("name, labels, expected", [
    ("panoptic_segmentation", panoptic((1, 1), (4, 3), (2, 0)), {}),
    # Below 0 means that a pixel must not count.
    ("panoptic_segmentation", panoptic((-1, -1), (1, -1)), {"unlabelled": [0]}),
    ("panoptic_segmentation", panoptic((5, 1), (1, 1)),
     {"beyond": [0], "unlabelled": [0]}),
    ("panoptic_segmentation", panoptic((1, 4), (1, 300)), {"too_many": [0, 1]}),
    ("depth", depth(0.5, 9, 10), {}),
    ("depth", depth(0, -1, np.nan, np.inf, 1), {"unlabelled": [0, 1, 2, 3]}),
    ("depth", depth(500, 1), {"beyond": [0], "partly_beyond": [0]}),
    ("normals", real(1, -1), {}),
    ("normals", real(0, 1), {"unlabelled": [0]}),
    ("normals", real(127, 1), {"too_long": [0]}),
    ("colorization", real(1, 0, -1), {}),
    ("colorization", real(255, 1), {"beyond": [0]}),
    ("colorization", real(np.nan, np.inf, 1),
     {"not_finite": [0, 1], "beyond": [1]}),
])
def test_which_examples_have_which_flaw(name, labels, expected):
  assert flaws_of(make(name), labels) == expected


def test_a_few_depths_beyond_the_range_are_as_expected():
  labels = np.ones((1, *SIZE, 1), np.float32)
  task = make("depth", max_depth=10.0)
  labels[0, 0, 0] = 11
  assert flaws_of(task, labels) == {"partly_beyond": [0]}  # 1 of 64 pixels.
  large = np.ones((1, 16, 16, 1), np.float32)
  large[0, 0, 0] = 11
  assert flaws_of(task, large) == {}  # 1 of 256.


def flaw_of(task, labels, name):
  return next(x for x in task.label_flaws(labels) if x.name == name)


def test_a_message_tells_what_was_found_where_and_what_is_allowed():
  labels = panoptic((255, 1), (1, 1), (9, 1))
  flaw = flaw_of(make("panoptic_segmentation"), labels, "beyond")
  assert flaw.describe(np.array([7, 8, 9])) == (
      "class ids lie in 0..255 in 2 of 3 examples (image/id 7, 9); "
      "model.outputs['semantics'] has 1..4, and 0 is void. A pixel that must "
      "not count has an id below 0.")
  flaw = flaw_of(make("depth"), depth(*[np.nan] * 5), "unlabelled")
  assert "image/id 0, 1, 2, …)" in flaw.describe(np.arange(5))


def test_a_model_without_patches_has_other_fields():
  sizes = fields_of_pixels((CLASSES, INSTANCES), (1, 1))
  task = tasks.make_task("panoptic_segmentation", sizes)
  labels = panoptic((255, 9))[:, :1, :1]
  for name, field in (("beyond", "model.num_classes has 1..4"),
                      ("too_many", "model.num_ids has 0..3")):
    assert field in flaw_of(task, labels, name).describe(np.arange(1))


@pytest.mark.parametrize("name, flaw, labels, is_refused", [
    # One class beyond those of the model is too many.
    ("panoptic_segmentation", "beyond", panoptic((1, 1), (9, 1)), True),
    # An image without labels, or with too many instances, may occur.
    ("panoptic_segmentation", "too_many", panoptic((1, 1), (1, 9)), False),
    ("panoptic_segmentation", "too_many", panoptic((1, 9), (1, 9)), True),
    ("depth", "unlabelled", depth(0, 1), False),
    ("depth", "unlabelled", depth(0, 0), True),
    ("depth", "beyond", depth(500, 1), False),
    ("depth", "beyond", depth(500, 6000), True),
    ("depth", "partly_beyond", depth(500, 6000), False),
    ("normals", "not_finite", real(np.nan, 1), True),
])
def test_what_is_refused_and_what_is_a_warning(name, flaw, labels, is_refused):
  assert flaw_of(make(name), labels, flaw).is_refused is is_refused
