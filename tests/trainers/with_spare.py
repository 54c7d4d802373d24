"""What a process with a spare device trains and predicts.

  python -m tests.trainers.with_spare STAGE_I STAGE_II OUT

The two are .npz files of the models in `tests.trainers.tiny`. Writes arrays to
OUT, for `test_spare_device` to compare. The spare device is made by the command
`uvim predict`, as it opens its model.
"""

import sys
import types

import jax
import numpy as np

from evaluators import mean
from tests.trainers import tiny
from trainers import evaluation
from trainers.families.compiled import Compiled
from trainers.families.lm import LmFamily
from uvim.learn import sharding

# Four images, drawn at random.
PREDICT = dict(temperature=1.0, seed=4, batch_size=4)
RUN = [("data", -1)]


def score(family, variables, mesh):
  """(mean loss, on how many devices it was computed)."""
  predict = Compiled(family)("loss")
  batch = tiny.batch()
  batch["_mask"] = np.ones(len(batch["image"]), bool)
  num_devices = []

  def watched(variables, batch):
    predicted = predict(variables, batch)
    num_devices.append(len(predicted["loss"].devices()))
    return predicted

  made = evaluation.Evaluation(
      config=types.SimpleNamespace(batch_size=len(batch["image"])),
      evaluator=mean.Mean(types.SimpleNamespace(num_examples=8)), settings={},
      predict=watched, start_batches=lambda: iter([batch]), mesh=mesh)
  variables = jax.device_put(variables, sharding.replicated(mesh))
  scores = made.run(variables)
  assert not scores.problem, scores.problem
  return scores.metrics["loss"], num_devices[0]


def results(model, oracle, axes):
  """What is compared, as arrays by name.

  Args:
    model: a UViM.
    oracle: its stage I, a .npz.
    axes: of the mesh of the run.
  """
  images = list(tiny.batch()["image"][:4])
  predicted = model.predict(images, **PREDICT)
  family = LmFamily(tiny.stage_ii_config(oracle))
  state, logs = tiny.run(family, steps=2, mesh=axes)
  frozen = tiny.open_family(family).frozen
  variables = tiny.variables(family, state, frozen)
  loss, num_devices = score(family, variables, sharding.make_mesh(axes))
  return {
      "codes": predicted.codes,
      "logprob": predicted.logprob,
      "train_loss": [log["loss"] for log in logs],
      "loss": loss,
      "num_devices": num_devices,
  }


def main(oracle, lm, out):
  from uvim.cli.predict import load_model
  model = load_model(oracle, lm=lm)
  np.savez(out, **results(model, oracle, RUN))


if __name__ == "__main__":
  main(*sys.argv[1:])
