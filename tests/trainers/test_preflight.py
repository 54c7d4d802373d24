"""Labels and truth of no use are refused before anything is compiled."""

import logging
import types

import numpy as np
import pytest

from configs import vqvae_rooms_depth, vqvae_rooms_panoptic
from evaluators.coco_panoptic import CocoPanoptic
from evaluators.nyu_depth import NyuDepth
from trainers import loop, preflight
from uvim.categories import Category
from uvim.config import resolve
from uvim.registry import ConfigError
from uvim.tasks import make_task


def start(config, workdir, data_dir):
  config.data_dir = str(data_dir)
  return loop.train(resolve(config), workdir)


def refused(config, tmp_path, data_dir):
  """The message; nothing was written and no step was made."""
  with pytest.raises(ConfigError) as error:
    start(config, tmp_path / "run", data_dir)
  assert not (tmp_path / "run" / "checkpoints").exists()
  return str(error.value)


def test_depth_in_another_unit(rooms_tiny_dir, tmp_path):
  config = vqvae_rooms_depth.get_config("tiny")
  # As if a task in millimetres met depths in metres.
  config.task_options = dict(min_depth=100.0, max_depth=10_000.0)
  message = refused(config, tmp_path, rooms_tiny_dir)
  assert "rooms/tiny train: depths lie in " in message
  assert "32 of 32 examples (image/id " in message
  assert "min_depth 100 and max_depth 10000" in message


def test_a_split_that_an_evaluator_cannot_score(rooms_tiny_dir, tmp_path):
  config = vqvae_rooms_depth.get_config("tiny")
  config.oracle_code.options.min_depth = 100.0
  config.oracle_code.options.max_depth = 1000.0
  message = refused(config, tmp_path, rooms_tiny_dir)
  assert "rooms/tiny validation[:8]: oracle_code cannot score 8 of 8" in message
  assert "min_depth and max_depth are 100 and 1000" in message


def test_other_classes_than_those_of_the_data(rooms_tiny_dir, tmp_path):
  config = vqvae_rooms_panoptic.get_config("tiny")
  config.model.outputs["semantics"] = (9, 64)
  message = refused(config, tmp_path, rooms_tiny_dir)
  assert message == (
      "rooms/tiny train has 12 categories, but model.outputs['semantics'] is "
      "for 8 and void; it must have 12 + 1, and model.inputs['semantics'] too.")


def test_too_few_instance_ids(rooms_tiny_dir, tmp_path):
  config = vqvae_rooms_panoptic.get_config("tiny")
  config.model.outputs["instances"] = (2, 64)
  message = refused(config, tmp_path, rooms_tiny_dir)
  assert "instance ids lie in 0.." in message
  assert "model.outputs['instances'] has 0..1" in message


def panoptic_task():
  heads = {"semantics": (3, 16), "instances": (4, 16)}
  return make_task("panoptic_segmentation", dict(
      inputs=heads, outputs=heads, input_size=(4, 4), patch_size=(4, 4)))


def test_a_part_without_labels_is_a_warning(caplog):
  labels = np.zeros((4, 4, 4, 2), np.int32)
  labels[1:] = 1
  batch = {"labels": labels, "image/id": np.arange(4) + 20}
  with caplog.at_level(logging.WARNING):
    preflight.check_labels(panoptic_task(), batch, "mine train")
  assert caplog.messages == [
      "mine train: class ids lie in 0..0 in 1 of 4 examples (image/id 20); a "
      "labelled pixel has one of 1..2."]
  batch["labels"] = np.zeros_like(labels)
  with pytest.raises(ConfigError, match="4 of 4 examples"):
    preflight.check_labels(panoptic_task(), batch, "mine train")


@pytest.mark.parametrize("side,num_warnings", [(3, 1), (4, 0)])
def test_things_smaller_than_a_patch(caplog, side, num_warnings):
  """A patch has 4 × 4 pixels."""
  categories = (Category(1, "car", True), Category(2, "sky", False))
  labels = np.zeros((2, 12, 12, 2), np.int32)
  labels[..., 0] = 2
  # Stuff may be as small as it likes.
  labels[:, 0, 0] = (2, 3)
  labels[:, 1:1 + side, 1:1 + side] = (1, 1)
  labels[:, 8:8 + side, 8:8 + side] = (1, 2)
  batch = {"labels": labels}
  with caplog.at_level(logging.WARNING):
    preflight.check_things(panoptic_task(), batch, categories, "mine train")
    preflight.check_things(panoptic_task(), {}, categories, "mine train")
    preflight.check_things(None, batch, categories, "mine train")
  assert len(caplog.messages) == num_warnings
  for message in caplog.messages:
    assert message.startswith(
        "mine train: 4 of 4 things in 2 examples are smaller than a patch of "
        "4 × 4 pixels")


@pytest.mark.parametrize("side,num_warnings", [(3, 1), (4, 0)])
def test_regions_of_things_are_measured_too(caplog, side, num_warnings):
  """Of labels without instances, each region of a class of things is one."""
  categories = (Category(1, "car", True), Category(2, "sky", False))
  heads = {"semantics": (3, 16)}
  sizes = dict(
      inputs=heads, outputs=heads, input_size=(12, 12), patch_size=(4, 4))
  task = make_task("semantic_segmentation", sizes, things=(1,))
  labels = np.full((1, 12, 12, 1), 2, np.int32)
  labels[:, :side, :side] = 1
  labels[:, 8:8 + side, 8:8 + side] = 1
  with caplog.at_level(logging.WARNING):
    preflight.check_things(task, {"labels": labels}, categories, "mine train")
  assert len(caplog.messages) == num_warnings
  for message in caplog.messages:
    assert message.startswith("mine train: 2 of 2 things in 1 examples")


class Split:
  """Examples as evaluators read them."""
  dataset = "mine"
  split = "validation"
  folder = "."
  categories = (Category(1, "a", True), Category(2, "b", False))

  def __init__(self, examples):
    self.examples = examples
    self.num_examples = len(examples)

  def example(self, index):
    if self.examples[index] is None:
      raise ConfigError(f"example {index} is damaged")
    return {"image/id": index, **self.examples[index]}


def evaluation_of(evaluator):
  return types.SimpleNamespace(
      evaluator=evaluator, config=types.SimpleNamespace(name="score"))


def depth_example(value):
  return {"depth": np.full((4, 4), value, np.float32)}


def check_depth(*values, **options):
  examples = [None if x is None else depth_example(x) for x in values]
  evaluator = NyuDepth(Split(examples), crop="none")
  preflight.check_truth(evaluation_of(evaluator), **options)


def test_truth_that_cannot_be_scored(caplog):
  with pytest.raises(ConfigError, match=(
      "mine validation: score cannot score 2 of 2 examples; image/id 0: its "
      r"depths lie in 2000..2000; min_depth and max_depth are 0.001 and 10")):
    check_depth(2000, 3000)
  with pytest.raises(ConfigError, match="image/id 0: no pixel has a depth"):
    check_depth(0, np.nan, np.inf)
  with caplog.at_level(logging.WARNING):
    check_depth(0, 1, 2)
  assert "cannot score 1 of 3 examples; image/id 0: no" in caplog.messages[0]
  with pytest.raises(ConfigError, match="example 1 is damaged"):
    check_depth(1, None)
  check_depth(1, None, skips=True)


def panoptic_example(labels, is_crowd):
  return {
      "panoptic_image": np.full((4, 4, 3), (1, 0, 0), np.uint8),
      "panoptic_objects": {"id": np.array([1]), "label": np.array(labels),
                           "is_crowd": np.array(is_crowd)}}


def test_segments_that_cannot_be_scored():
  crowd = CocoPanoptic(Split([panoptic_example([0], [True])] * 2))
  with pytest.raises(ConfigError, match="0: it has no segment but crowds"):
    preflight.check_truth(evaluation_of(crowd))
  beyond = CocoPanoptic(Split([panoptic_example([2], [False])]))
  with pytest.raises(ConfigError, match=r"image/id 0 lie in 2\.\.2; .* 0\.\.1"):
    preflight.check_truth(evaluation_of(beyond))
  sound = CocoPanoptic(Split([panoptic_example([1], [False])]))
  preflight.check_truth(evaluation_of(sound))


def test_a_split_without_examples():
  with pytest.raises(ConfigError, match="mine validation has no examples"):
    preflight.check_truth(evaluation_of(NyuDepth(Split([]), crop="none")))
