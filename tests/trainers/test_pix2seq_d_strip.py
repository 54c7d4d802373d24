"""How masks come about, as predictions and panels of a run show it."""

import numpy as np
import pytest

from tests.trainers import tiny, tiny_pix2seq_d
from trainers.families.compiled import Compiled
from trainers.families.pix2seq_d import Pix2SeqDFamily, strip_of

OPTIONS = dict(num_steps=2, min_fraction=0.1)


@pytest.mark.parametrize("num_steps, strip", [
    (1, [1]), (2, [1, 2]), (3, [1, 3]), (20, [1, 5, 10, 20])])
def test_a_strip_has_the_first_and_the_last_step(num_steps, strip):
  assert strip_of(num_steps) == strip


def test_a_strip_ends_at_the_prediction(pix2seq_d_run):
  _, _, extra = pix2seq_d_run
  family = Pix2SeqDFamily(tiny_pix2seq_d.config(
      evals=[("steps_2", "coco_panoptic")],
      steps_2=dict(log_steps=1, split="test", pp="", pred_kw=OPTIONS)))
  variables = family.variables({}, extra, None)
  batch = tiny.batch()
  predict = Compiled(family)
  whole = predict("predict", seed=0, **OPTIONS)(variables, batch)["panoptic"]
  strip = predict("steps", seed=0, **OPTIONS)(variables, batch)
  np.testing.assert_array_equal(strip["panoptic"], whole)
  assert strip["steps"].shape == (8, 2, 16, 16, 2)
  np.testing.assert_array_equal(strip["steps"][:, 1], whole)
  assert not np.array_equal(strip["steps"][:, 0], whole)
  panel = family.panel(predict, variables, batch)
  assert list(panel) == [
      "image", "truth", "step 1 of 2", "step 2 of 2", "another seed"]
  np.testing.assert_array_equal(
      panel["step 2 of 2"], family.task.render({"panoptic": whole}))
  assert not np.array_equal(panel["another seed"], panel["step 2 of 2"])
