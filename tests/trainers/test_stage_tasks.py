"""A panel of each task, on made-up batches.

tests/test_config_steps takes steps in all tasks.
"""

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.families import vqvae
from trainers.families.drawing import draw_columns, render_image

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


@pytest.mark.parametrize("task", SPECS)
def test_a_panel_shows_what_the_oracle_read(task):
  spec = SPECS[task]
  stage = vqvae.VqvaeFamily(tiny.stage_i_config(
      task=task, model=dict(inputs=spec, outputs=spec)))
  batch = make_batch(task, 2)
  stage.check_batch(batch)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(x.dtype),
      stage.wanted_arrays())
  out = jax.jit(stage.predict)(variables, batch)
  # Beside the outputs stands the code that they were made of.
  out.pop("code")
  truth = stage.task.truth(batch)
  assert {k: (v.shape, v.dtype) for k, v in out.items()} == {
      k: (v.shape, v.dtype) for k, v in truth.items()}
  panel = draw_columns(stage.task, batch, {RENDERED[2]: out})
  assert list(panel) == RENDERED
  for picture in panel.values():
    assert picture.shape == (8, 16, 16, 3) and picture.dtype == np.uint8
  # What the oracle read is what the panel shows: holes, or the bytes.
  if task == "depth":
    assert (panel["truth"][:, :4] == 0).all()
    assert panel["truth"][:, 4:].any(-1).all()
  else:
    want = render_image(batch["labels"]).astype(int)
    assert np.abs(panel["truth"] - want).max() <= 1  # One rounds, one cuts.
