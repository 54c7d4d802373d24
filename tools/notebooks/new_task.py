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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](
# https://colab.research.google.com/github/OWNER/uvim/blob/main/tools/notebooks/new_task.ipynb)
#
# UViM needs to know little of a task: how labels become numbers, what a good
# answer costs, and how to draw one. Here is a task that this code does not
# have, defined, trained and scored in a notebook: **counting things from left
# to right.** Every pixel of a thing shows the thing's number. No pixel knows it
# alone: it takes a look at the whole image. That is what the guiding code is
# for.
#
# `docs/new_task.md` has the same for a task that stays, in files of its own.

# %%
# Training needs the whole code, not the package alone. Where there is no
# checkout of it, as on Colab, this fetches one and installs what it needs.
import pathlib
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/uvim"  # Yours, once it is published.

here = pathlib.Path.cwd()
code = here / "uvim-code"
for folder in (here, *here.parents):
  if (folder / "trainers").is_dir():
    code = folder
    break
if not code.exists():
  subprocess.run(["git", "clone", "--depth=1", REPOSITORY, code], check=True)
  subprocess.run([sys.executable, "-m", "pip", "install", "-q",
                  f"{code}[data]"], check=True)
sys.path.insert(0, str(code))

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

SIZE = 32  # Height and width in pixels.
RANKS = 9


def label_of(scene):
  """int32 [H, W, 1] of a scene: rank of each thing's center, from the left."""
  segments = scene["segments"]
  centers = {}
  for item in scene["objects"]:
    _, _, is_thing = CATEGORIES[item["label"]]
    if is_thing:
      _, columns = np.nonzero(segments == item["id"])
      centers[item["id"]] = columns.mean()
  label = np.where(segments > 0, 0, -1)
  from_the_left = sorted(centers, key=centers.get)
  for rank, segment_id in enumerate(from_the_left, 1):
    label[segments == segment_id] = rank
  return np.int32(label[..., None])


def examples(stream, count):
  """What the models see: image f32 [n, SIZE, SIZE, 3] in [-1, 1], labels."""
  images = []
  labels = []
  for index in range(count):
    scene = render(stream, index)
    images.append(resize.to_model(
        scene["image"], (SIZE, SIZE), antialias=True))
    labels.append(resize.resize_nearest(label_of(scene), (SIZE, SIZE)))
  return {"image": np.stack(images), "labels": np.stack(labels)}


NUM_TRAIN = 512
NUM_TEST = 8
train = examples(0, NUM_TRAIN)
test = examples(2, NUM_TEST)
for name, array in train.items():
  print(name, array.shape, array.dtype)

# %% [markdown]
# ## The task
#
# Five methods and the form of the labels. Integers are embedded and predicted
# as classes; −1 costs nothing and says nothing to the oracle.

# %%
import jax.numpy as jnp

from uvim import tasks
from uvim.nn import losses
from uvim.tasks import base

# A color for each rank; the last one is that of -1.
COLORS = np.uint8([
    (60, 60, 60), (230, 159, 0), (86, 180, 233), (0, 158, 115),
    (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (255, 255, 255), (0, 0, 0)])


class RankTask(base.AbstractTask):
  """Labels int [B, H, W, 1] in 0..K-1, -1 unknown; one cross-entropy."""

  keys = ("rank",)
  label_channels = 1
  label_dtype = "int32"

  def encode_labels(self, labels):
    ids = jnp.int32(labels[..., 0])
    return {"rank": base.patchify(ids, self.patch_size)}

  def loss(self, logits, x):
    loss = losses.softmax_cross_entropy(logits["rank"], x["rank"])
    loss_B = losses.per_example_mean(loss)
    return loss_B, {"loss_rank": loss_B}

  def outputs(self, logits):
    ids = jnp.argmax(logits["rank"], axis=-2)
    return {"rank": base.unpatchify(ids, self.input_size, self.patch_size)}

  def truth(self, batch):
    return {"rank": batch["labels"][..., 0]}

  def render(self, outputs):
    return COLORS[np.asarray(outputs["rank"])]


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

# Logits that are quite sure of the truth: [B, patches, ranks, pixels].
ids = task.inputs(test)["x"]["rank"]
is_rank = ids[..., None] == jnp.arange(RANKS)
certain = jnp.moveaxis(20.0 * is_rank, -1, -2)
undone = task.outputs({"rank": certain})["rank"]
truth = test["labels"][..., 0]
known = truth >= 0
print("outputs undo inputs:", bool((undone == truth)[known].all()))

# %% [markdown]
# ## Stage I
#
# Oracle and base model, trained end to end. `resolve` checks the config as a
# whole; the family makes of it all that a step needs. (A run from the command
# line does this in `trainers/loop.py`, with checkpoints, evaluators and a
# report.)

# %%
import jax

from trainers import step as steps
from trainers.families.vqvae import VqvaeFamily
from uvim.config import resolve

STEPS = 400
BATCH = 16
config = resolve(dict(
    task="rank", dataset="arrays", train_split="train", pp_train="",
    batch_size=BATCH, total_steps=STEPS, model_name="vit", model=model,
    optax_name="scale_by_adam", lr=2e-3, grad_clip_norm=1.0,
    schedule=dict(decay_type="cosine", warmup_steps=STEPS // 20)))
family = VqvaeFamily(config)
init, tx, _ = steps.make_init(family, config, STEPS)
train_step = steps.make_train_step(
    family, tx, epoch_steps=NUM_TRAIN // BATCH)
train_step = jax.jit(train_step, donate_argnums=0)
state = jax.jit(init)(jax.random.PRNGKey(0))
rng = np.random.default_rng(0)
report_steps = max(1, STEPS // 8)
for step in range(1, STEPS + 1):
  chosen = rng.integers(0, NUM_TRAIN, BATCH)
  batch = {name: array[chosen] for name, array in train.items()}
  # Stage I uses no frozen arrays: None.
  state, logs = train_step(state, None, batch)
  if (step - 1) % report_steps == 0 or step == STEPS:
    print(f"step {step:4}  loss {float(logs['loss']):.3f}  "
          f"words in use {float(logs['code/usage']):.0%}")

# %% [markdown]
# ## Look, and score
#
# With the oracle's code, which saw the truth, and without a code: their
# difference is what the code carries. If it carries nothing, there is nothing
# for stage II to learn. Columns: image, truth, the oracle's code, no code.

# %%
from trainers.families.drawing import draw_columns
from uvim.inference import sheet

variables = family.variables(state.params, state.extra, None)
outputs = {
    "the oracle's code": jax.jit(family.predict)(variables, test),
    "no code": jax.jit(family.predict_zero_code)(variables, test)}
is_thing = truth > 0
for name, output in outputs.items():
  is_right = np.asarray(output["rank"]) == truth
  print(f"{name:18} right: {is_right[known].mean():.1%} of all pixels, "
        f"{is_right[is_thing].mean():.1%} of those on things")

columns = draw_columns(task, test, outputs)
drawing = sheet.draw_sheet(list(zip(*columns.values(), strict=True)))
drawing.resize((4 * drawing.width, 4 * drawing.height))

# %% [markdown]
# From here on nothing is special: stage II learns the code from the image with
# the language model of all tasks. Put labels into a preprocessing op, the
# class into `uvim/tasks/`, the score into `evaluators/`, write two configs of
# twenty lines, and all tools know the task: `docs/new_task.md`.
