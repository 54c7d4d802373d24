"""Masked codes: what is measured inside and outside of the masked region."""

import numpy as np

from tests.trainers import tiny
from tools.sweeps import masking
from tools.sweeps.masking import Masking
from trainers.families import open_checkpoint
from trainers.families.compiled import Compiled
from uvim.categories import Category


class Split:
  """One image of 4×8 pixels: wall to the left, a ball to the right."""

  num_examples = 1
  categories = (Category(7, "wall", False),
                Category(9, "ball", True))

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
  found = masking.measure(iter([
      {"image/id": 11, "none": plain, "zeros": plain, "random": wrong,
       "word": wrong[:, ::-1]}]), Split(), 0.5)
  assert found["none/PQ_inside"] == found["none/PQ_outside"] == 100
  assert found["zeros/changed_inside"] == 0
  assert found["random/PQ_inside"] == 0
  assert found["random/PQ_outside"] == 100
  assert found["random/changed_inside"] == 100
  assert found["random/changed_outside"] == 0
  assert found["word/PQ_outside"] == 100 and found["word/PQ_inside"] == 0


def test_all_masks_are_of_one_code(weights):
  stage1, stage2 = weights
  family, variables = open_checkpoint(
      str(stage2), tiny.stage_ii_config(stage1), oracle=str(stage1))
  batch = tiny.batch()
  predict = masking.make_predict(
      family, {"temperature": 1.0, "seed": 3, "min_fraction": 0.0},
      {"none": Masking(None, None), "nothing": Masking(0, (0, 0, 0, 0)),
       "zeros": Masking("zeros", (0, 0, 2, 2))})
  found = {name: np.asarray(value)
           for name, value in predict(variables, batch).items()}
  np.testing.assert_array_equal(found["none"], found["nothing"])
  zero_code = Compiled(family)("zero_code")(variables, batch)
  np.testing.assert_array_equal(found["zeros"], zero_code["panoptic"])
  assert (found["zeros"] != found["none"]).any()


def test_squares_fit_a_grid_that_is_no_square():
  sizes = masking._sizes_of_squares((2, 4))
  assert sizes[0] == 0 and sizes[-1] == 2
  image = np.full((1, 8, 8, 3), 9, np.uint8)
  shown = masking._blacken(image, 1, (2, 4))
  # A word of this grid is 4 pixels high and 2 wide.
  assert (shown[:, :4, :2] == 0).all()
  assert (shown == 0).sum() == 4 * 2 * 3
