"""Fixtures of DINO's loss: loss, gradient and center of calls in a row.

B images · V crops of an image · K numbers that the head makes of a crop

The calls are `epochE/…`, each with the center that the one before left. The
temperatures stand in `encoders.json`.
"""

from collections.abc import Iterator

import jax
import numpy as np

from tools.parity import common, encoders, fixtures
from tools.parity.common import Quantity
from tools.parity.fixtures import Fixture
from uvim.models import dino


def compare(fixture: Fixture) -> Iterator[Quantity]:
  """Every quantity of one fixture."""
  theirs = fixtures.read_arrays(fixture.path)
  options = encoders.read_index(fixture)
  calls = sorted({name.partition("/")[0] for name in theirs})
  for call in calls:
    arrays = common.below(theirs, f"{call}/")
    epoch = int(call.removeprefix("epoch"))
    yield from common.match(
        f"{fixture.name}/{call}", arrays, _call(arrays, options, epoch),
        inputs=["student", "teacher", "center_before"])


def _call(theirs, options, epoch) -> dict[str, np.ndarray]:
  """One call of the loss, by the names of the fixture."""
  batch = options["batch"]
  num_outputs = options["out_dim"]
  teacher_VBK = theirs["teacher"].reshape(-1, batch, num_outputs)
  center_K = theirs["center_before"][0]
  # The original counts epochs where this code counts steps.
  temperature = dino.temperature_at(
      epoch,
      first=options["warmup_teacher_temp"],
      last=options["teacher_temp"],
      warmup_steps=options["warmup_teacher_temp_epochs"])

  def mean_loss(student):
    loss_B = dino.dino_loss(
        student.reshape(-1, batch, num_outputs),
        teacher_VBK,
        center_K,
        teacher_temp=temperature,
        student_temp=options["student_temp"])
    return loss_B.mean()

  loss, grad = jax.value_and_grad(mean_loss)(theirs["student"])
  center_after_K = dino.move_center(
      center_K, teacher_VBK.mean((0, 1)), options["center_momentum"])
  return {
      "loss": loss,
      "grad_student": grad,
      "center_after": center_after_K[None],
  }
