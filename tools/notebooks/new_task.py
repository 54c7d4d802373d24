# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A new task
#
# UViM needs to know little of a task: how labels become numbers, what a good
# answer costs, and how to draw one. Here is a task that this code does not
# have, defined, trained and scored in a notebook: **counting things from left
# to right.** Every pixel of a thing is to show the thing's number. No pixel
# knows it alone, it takes a look at the whole picture: what the guiding code is
# for.
#
# `docs/new_task.md` has the same for a task that stays, in files of its own.

# %%
# Where the code is not at hand (Colab), it is fetched and installed. Paths
# below start from the folder of the code.
import os
import pathlib
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/uvim"  # Yours, once it is published.
for folder in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents):
  if (folder / "uvim" / "pipeline.py").exists():
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    break
else:
  subprocess.run([sys.executable, "-m", "pip", "install", "-q",
                  f"git+{REPOSITORY}"], check=True)

# %% [markdown]
# ## Labels
#
# Scenes of `rooms`, and for each pixel the rank of its thing from left to
# right: 1, 2, …; 0 where there is no thing. Decide shape, dtype, range and what
# stands for "not known" before anything else: here int32 [H, W, 1], 0..8, and
# −1 for pixels without a segment.

# %%
import numpy as np

from pp.rooms.render import render
from pp.rooms.things import CATEGORIES
from uvim import resize

SIZE, RANKS = 32, 9


def label_of(scene):
  """int32 [H, W, 1] of a scene: rank of each thing's centre, from the left."""
  segments = scene["segments"]
  things = [item["id"] for item in scene["objects"]
            if CATEGORIES[item["label"]][2]]
  centre = {i: np.nonzero(segments == i)[1].mean() for i in things}
  label = np.where(segments > 0, 0, -1)
  for rank, i in enumerate(sorted(things, key=centre.get), 1):
    label[segments == i] = rank
  return np.int32(label[..., None])


def examples(stream, count):
  """What the models see: image f32 [n, SIZE, SIZE, 3] in [-1, 1], labels."""
  scenes = [render(stream, i) for i in range(count)]
  return {
      "image": np.stack([resize.to_model(
          scene["image"], (SIZE, SIZE), antialias=True) for scene in scenes]),
      "labels": np.stack([resize.resize_nearest(
          label_of(scene), (SIZE, SIZE)) for scene in scenes])}


NUM_TRAIN = 512
NUM_TEST = 8
train, test = examples(0, NUM_TRAIN), examples(2, NUM_TEST)
{name: (x.shape, x.dtype) for name, x in train.items()}

# %% [markdown]
# ## The task
#
# Five methods and a picture. Integers are embedded and predicted as classes; −1
# costs nothing and says nothing to the oracle.

# %%
import jax.numpy as jnp

from uvim import tasks
from uvim.nn import losses
from uvim.tasks import base


class RankTask(base.AbstractTask):
  """Labels int [B, H, W, 1] in 0..K-1, -1 unknown; one cross-entropy."""

  keys = ("rank",)

  def encode_labels(self, labels):
    return {"rank": base.patchify(jnp.int32(labels[..., 0]), self.patch_size)}

  def loss(self, logits, x):
    loss_B = losses.per_example_mean(
        losses.softmax_cross_entropy(logits["rank"], x["rank"]))
    return loss_B, {"loss_rank": loss_B}

  def outputs(self, logits):
    return {"rank": base.unpatchify(
        jnp.argmax(logits["rank"], -2), self.input_size, self.patch_size)}

  def truth(self, batch):
    return {"rank": batch["labels"][..., 0]}

  def render(self, outputs):
    colours = np.uint8([
        (60, 60, 60), (230, 159, 0), (86, 180, 233), (0, 158, 115),
        (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
        (255, 255, 255), (0, 0, 0)])  # The last for -1.
    return colours[np.asarray(outputs["rank"])]


tasks.TASKS["rank"] = lambda: RankTask  # The table that configs look into.

# %% [markdown]
# The first test of any task: outputs undo inputs.

# %%
PATCH = 8
spec = {"rank": (RANKS, PATCH**2)}
model = dict(
    input_size=(SIZE, SIZE), patch_size=(PATCH, PATCH), code_len=16, width=64,
    oracle_depth=1, base_model_depth=2, mlp_dim=128, num_heads=2, dict_size=64,
    codeword_dim=16, dict_momentum=0.98, inputs=spec, outputs=spec)
task = tasks.make_task("rank", model)
ids = task.inputs(test)["x"]["rank"]
certain = jnp.moveaxis(20.0 * (ids[..., None] == jnp.arange(RANKS)), -1, -2)
known = test["labels"][..., 0] >= 0
undone = task.outputs({"rank": certain})["rank"]
print("outputs undo inputs:",
      bool((undone == test["labels"][..., 0])[known].all()))

# %% [markdown]
# ## Stage I
#
# Oracle and base model, trained end to end. A config is checked as a whole, and
# the stage makes of it all that a step needs. (A run from the command line does
# this in `trainers/loop.py`, with checkpoints, evaluators and a report.)

# %%
import jax

from trainers import step as steps
from trainers.vqvae import VqvaeStage
from uvim.config import resolve

STEPS = 400
BATCH = 16
config = resolve(dict(
    task="rank", dataset="arrays", train_split="train", pp_train="",
    batch_size=BATCH, total_steps=STEPS, model_name="vit", model=model,
    optax_name="scale_by_adam", lr=2e-3, grad_clip_norm=1.0,
    schedule=dict(decay_type="cosine", warmup_steps=STEPS // 20)))
stage = VqvaeStage(config)
init, tx, _ = steps.make_init(stage, config, STEPS)
train_step = jax.jit(
    steps.make_train_step(stage, tx, epoch_steps=NUM_TRAIN // BATCH),
    donate_argnums=0)
state = jax.jit(init)(jax.random.PRNGKey(0))
rng = np.random.default_rng(0)
for i in range(STEPS):
  rows = rng.integers(0, NUM_TRAIN, BATCH)
  state, logs = train_step(
      state, None, {name: x[rows] for name, x in train.items()})
  if i % max(1, STEPS // 8) == 0 or i == STEPS - 1:
    print(f"step {i + 1:4}  loss {float(logs['loss']):.3f}  "
          f"words in use {float(logs['code/usage']):.0%}")

# %% [markdown]
# ## Look, and score
#
# With the oracle's code, which saw the truth, and without a code: their
# difference is what the code carries. Nothing to carry, nothing for stage II to
# learn. Columns: photograph, truth, the oracle's code, no code.

# %%
from PIL import Image

from trainers.vqvae import render_image

variables = {"params": state.params, "codebook": state.codebook}
got = {"the oracle's code": jax.jit(stage.predict)(variables, test),
       "no code": jax.jit(stage.predict_zero_code)(variables, test)}
for name, outputs in got.items():
  hits = (np.asarray(outputs["rank"]) == test["labels"][..., 0])[known]
  on_things = (test["labels"][..., 0] > 0)[known]
  print(f"{name:18} right: {hits.mean():.1%} of all pixels, "
        f"{hits[on_things].mean():.1%} of those on things")

columns = [render_image(test["image"]), task.render(task.truth(test)),
           *(task.render(outputs) for outputs in got.values())]
sheet = np.concatenate([np.concatenate(list(x), 0) for x in columns], 1)
Image.fromarray(sheet).resize(
    (4 * sheet.shape[1], 4 * sheet.shape[0]), Image.Resampling.NEAREST)

# %% [markdown]
# From here on nothing is special: stage II learns the code from the picture
# with the language model of all tasks. Put labels into a preprocessing op, the
# class into `uvim/tasks/`, the score into `evaluators/`, write two configs of
# twenty lines, and all tools know the task: `docs/new_task.md`.
