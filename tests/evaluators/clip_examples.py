"""Small clips with predictions, for the evaluators of videos."""

import types

import numpy as np

import evaluators
from evaluators import base
from uvim import pixels
from uvim.categories import Category

# Classes 1 and 2 are things, class 3 is stuff.
CATEGORIES = (Category(3, "car", True), Category(5, "person", True),
              Category(8, "road", False))
THINGS = (1, 2)


def frame(clip, semantics, instances, crowds=()):
  """A raw example of ids and classes [H, W].

  Args:
    clip: its number.
    semantics: class of each pixel.
    instances: id of each pixel; an id has one class.
    crowds: ids that are crowds.
  """
  semantics = np.asarray(semantics)
  instances = np.asarray(instances)
  ids = np.unique(instances[semantics > 0])
  labels = [semantics[instances == number][0] - 1 for number in ids]
  return {
      "clip/id": np.int64(clip),
      "panoptic_image": pixels.rgb_from_ids(instances * (semantics > 0)),
      "panoptic_objects": {
          "id": ids,
          "label": np.array(labels, np.int64),
          "is_crowd": np.isin(ids, crowds),
      },
  }


def predicted(semantics, instances):
  return {"panoptic": np.stack([semantics, instances], -1).astype(np.int32)}


def make_split(examples):
  """A split of raw examples, numbered from 10."""
  numbered = []
  for number, example in enumerate(examples):
    numbered.append({**example, "image/id": 10 + number})
  return types.SimpleNamespace(
      dataset="clips", categories=CATEGORIES, num_examples=len(numbered),
      example=numbered.__getitem__)


def score(name, examples, predictions):
  """Metrics of predictions [(semantics, instances)]."""
  evaluator = evaluators.make_evaluator(name, make_split(examples))
  return base.score(evaluator, [predicted(*maps) for maps in predictions])


def random_clips(seed, num_clips=2, num_frames=4, size=(12, 15)):
  """Blocks that wander, with void and a crowd, and disturbed predictions.

  Returns:
    raw examples, and (semantics, instances) of the prediction of each.
  """
  rng = np.random.default_rng(seed)
  examples = []
  predictions = []
  for clip in range(num_clips):
    class_of_id = np.concatenate([[0, 3], rng.integers(1, 3, 4)])
    for _ in range(num_frames):
      instances = np.ones(size, int)
      instances[:2] = 0
      for number in range(2, 6):
        # Hidden at times, also behind others.
        top, left = rng.integers(-3, 12, 2)
        instances[max(top, 0):max(top + 6, 0),
                  max(left, 0):max(left + 6, 0)] = number
      semantics = class_of_id[instances]
      examples.append(frame(clip, semantics, instances, crowds=[5]))
      shifted = np.roll(instances, rng.integers(-2, 3, 2), (0, 1))
      new_class_of_id = np.where(
          rng.random(6) < 0.8, class_of_id, rng.integers(0, 4, 6))
      new_ids = np.where(rng.random(6) < 0.8, np.arange(6), 7)
      predictions.append((new_class_of_id[shifted], new_ids[shifted]))
  return examples, predictions
