"""Masked codes: what is measured inside and outside of the masked region."""

import numpy as np

from tests.trainers import tiny
from tools.sweeps import masking as sweep_masking
from trainers.lm import LmStage
from uvim import categories as pp_categories
from uvim.store import published as released


class Source:
  """One picture of 4×8 pixels: wall to the left, a ball to the right."""

  num_examples = 1
  categories = (pp_categories.Category(7, "wall", False),
                pp_categories.Category(9, "ball", True))

  def example(self, index):
    ids = np.repeat([[3] * 4 + [5] * 4], 4, axis=0)
    return {"image/id": 11, "panoptic_image": np.stack(
        [ids, 0 * ids, 0 * ids], -1).astype(np.uint8),
            "panoptic_objects": {"id": [3, 5], "label": [0, 1],
                                 "is_crowd": [0, 0]}}


def test_masked_and_other_part_are_measured_apart():
  plain = np.zeros((4, 8, 2), np.int32)
  plain[:, :4, 0], plain[:, 4:, 0] = 1, 2
  wrong = plain.copy()
  wrong[:, :4, 0] = 2  # The masked half becomes part of the ball.
  found = sweep_masking.measure(iter([
      {"image/id": 11, "none": plain, "zeros": plain, "random": wrong,
       "word": wrong[:, ::-1]}]), Source(), 0.5)
  assert found["none/PQ_inside"] == found["none/PQ_outside"] == 100
  assert found["zeros/changed_inside"] == 0
  assert found["random/PQ_inside"] == 0
  assert found["random/PQ_outside"] == 100
  assert found["random/changed_inside"] == 100
  assert found["random/changed_outside"] == 0
  assert found["word/PQ_outside"] == 100 and found["word/PQ_inside"] == 0


def test_all_masks_are_of_one_code(weights):
  stage = LmStage(tiny.stage_ii_config(weights[0]))
  params = released.load_params(weights[1], stage=2)["params"]
  variables = {"params": params, "frozen": stage.frozen}
  batch = tiny.batch()
  found = sweep_masking.make_predict(
      stage, {"temperature": 1.0, "seed": 3, "min_fraction": 0.0},
      {"none": (None, None), "nothing": (0, (0, 0, 0, 0)),
       "zeros": ("zeros", (0, 0, 2, 2))})(variables, batch)
  found = {name: np.asarray(value) for name, value in found.items()}
  np.testing.assert_array_equal(found["none"], found["nothing"])
  np.testing.assert_array_equal(found["zeros"], stage.jitted("zero_code")(
      variables, batch)["panoptic"])
  assert (found["zeros"] != found["none"]).any()
