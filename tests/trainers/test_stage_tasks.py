"""Stage I of every task: a few steps and a panel, on made-up batches."""

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers import vqvae

BINS = 6
SPECS = {"depth": {"depth": (BINS, 64)}, "colorization": {"color": (3, 64)}}
RENDERED = ["image", "truth", "oracle's code"]


def depth_labels(rng, size):
  """Metres in blocks; the top quarter of each has no depth."""
  depth = rng.uniform(0.1, 10, (size, 4, 4, 1)).astype(np.float32)
  depth[:, 0] = 0
  return depth.repeat(4, 1).repeat(4, 2)


def color_labels(rng, size):
  return rng.uniform(-1, 1, (size, 16, 16, 3)).astype(np.float32)


LABELS = {"depth": depth_labels, "colorization": color_labels}


def make_batch(task, step, size=8):
  rng = np.random.default_rng(step)
  image = rng.uniform(-1, 1, (size, 16, 16, 3)).astype(np.float32)
  return {"image": image, "labels": LABELS[task](rng, size)}


def first_loss(task):
  """That of zero logits."""
  if task == "depth":
    return np.log(BINS) * 3 / 4
  return np.square(make_batch(task, 0)["labels"]).mean()


@pytest.mark.parametrize("task", SPECS)
def test_two_steps_and_a_panel(task, monkeypatch):
  monkeypatch.setattr(tiny, "batch", lambda step: make_batch(task, step))
  spec = SPECS[task]
  stage = vqvae.VqvaeStage(tiny.stage_i_config(
      task=task, model=dict(inputs=spec, outputs=spec)))
  batch = make_batch(task, 2)
  stage.check_batch(batch)
  state, logs = tiny.run(stage, steps=2, mesh=[("data", 1)])
  assert float(logs[0]["loss"]) == pytest.approx(first_loss(task), rel=1e-4)
  assert all(np.isfinite(log["loss"]) for log in logs)
  (key,) = spec
  assert float(logs[0][f"loss_{key}"]) == pytest.approx(
      float(logs[0]["loss"]), rel=1e-6)
  # Biases start at 0: the loss has reached the head, and Ω through the code.
  for name in (f"head_{key}", f"embedding_{key}"):
    assert np.abs(state.params[name]["bias"]).max() > 0, name

  variables = {"params": state.params, "codebook": state.codebook}
  out = jax.jit(stage.predict)(variables, batch)
  truth = stage.task.truth(batch)
  assert {k: (v.shape, v.dtype) for k, v in out.items()} == {
      k: (v.shape, v.dtype) for k, v in truth.items()}
  panel = vqvae.draw(stage.task, batch, {RENDERED[2]: out})
  assert list(panel) == RENDERED
  for picture in panel.values():
    assert picture.shape == (8, 16, 16, 3) and picture.dtype == np.uint8
  # What the oracle read is what the panel shows: holes, or the bytes.
  if task == "depth":
    assert (panel["truth"][:, :4] == 0).all()
    assert panel["truth"][:, 4:].any(-1).all()
  else:
    want = vqvae.render_image(batch["labels"]).astype(int)
    assert np.abs(panel["truth"] - want).max() <= 1  # One rounds, one cuts.
