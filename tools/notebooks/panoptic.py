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
# # Panoptic segmentation
#
# Which object does each pixel belong to, and what is it? Load a model, predict,
# sample, look into the code, and score a few images.
#
# All cells run as they are after `make quickstart`, which trains a small model
# on `rooms`. With the published weights they run by changing one name:
# `CHECKPOINT = "uvim-panoptic"`. Nothing here needs TensorFlow.

# %%
# Where there is no checkout of the code (Colab), this fetches one and installs
# its package `uvim`. The folders `pp` (scenes) and `evaluators` (scores) lie
# beside the package. Paths below start from the checkout.
import os
import pathlib
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/uvim"  # Yours, once it is published.


def find_checkout():
  """The folder of the code: this one, one above it, or a fresh clone."""
  here = pathlib.Path.cwd()
  for folder in (here, *here.parents):
    if (folder / "uvim" / "inference" / "api.py").exists():
      return folder
  clone = here / "uvim-checkout"
  if not clone.exists():
    subprocess.run(["git", "clone", "--depth=1", REPOSITORY, clone],
                   check=True)
  subprocess.run([sys.executable, "-m", "pip", "install", "-q", clone],
                 check=True)
  return clone


checkout = find_checkout()
os.chdir(checkout)
sys.path.insert(0, str(checkout))

# %% [markdown]
# ## Load
#
# A checkpoint is the workdir of a run of stage II, or a name.

# %%
import numpy as np

from evaluators import pq
from pp.rooms.render import render
from pp.rooms.things import CATEGORIES
from uvim.categories import Category
from uvim.inference.api import UViM

CHECKPOINT = "workdirs/quickstart/stage2"  # Or "uvim-panoptic".
uvim = UViM.from_checkpoint(CHECKPOINT)
print(f"{uvim.code_len} words of {uvim.num_words}; images of "
      f"{uvim.model.vit.input_size} pixels")

# %% [markdown]
# ## Predict
#
# Images may be paths, PIL images or arrays, of any size. Here they are scenes
# of `rooms` that no model was trained on; put your own in their place.

# %%
scenes = [render(2, index) for index in range(4)]
images = [scene["image"] for scene in scenes]
prediction = uvim.predict(images, temperature=0.0)
prediction.plot()

# %% [markdown]
# `outputs` has the numbers behind the drawing, at the size of each image;
# `codes` the words that the language model wrote; `logprob` how sure it was of
# each.

# %%
for name, arrays in prediction.outputs.items():
  print(name, [array.shape for array in arrays])
print("first code:", prediction.codes[0, 0])
nats_per_word = -prediction.logprob[:, 0].mean(-1)
bits_per_word = nats_per_word / np.log(2)
print("bits per word:", np.round(bits_per_word, 2))

# %% [markdown]
# ## Sample
#
# The code is drawn word by word. At T = 0 each word is the likeliest; the
# higher T, the more the samples differ: in what the image leaves open, such as
# where one thing ends and the next begins.

# %%
for temperature in (0.5, 1.0):
  print("T =", temperature)
  samples = uvim.predict(images[0], temperature=temperature, num_samples=4,
                         seed=0)
  display(samples.plot())

# %%
samples = uvim.predict(images[:2], temperature=1.0, num_samples=4, seed=0)
print("log-likelihood of each (nats):", np.round(samples.log_likelihood, 1))
samples.plot()

# %% [markdown]
# The likeliest of several samples is one way to choose:

# %%
samples.best().plot()

# %% [markdown]
# ## The truth
#
# A panoptic label is int [H, W, 2]: the class (0 where nobody knows) and the
# number of the segment. In which order segments are numbered does not matter.

# %%
def label_of(scene):
  """[H, W, 2] of a scene of `rooms`."""
  label = np.zeros((*scene["segments"].shape, 2), np.int32)
  for number, item in enumerate(scene["objects"], 1):
    is_item = scene["segments"] == item["id"]
    label[is_item, 0] = item["label"] + 1
    label[is_item, 1] = number
  return label


labels = [label_of(scene) for scene in scenes]

# %% [markdown]
# ## What a word says
#
# The oracle Ω writes a code for a *true* label. A region of the code that is
# zeroed, drawn at random or set to one word changes the output there (Fig 10 of
# the paper): the words have places, though nothing told them so.

# %%
codes = uvim.encode(images, labels)
rows, columns = uvim.grid
left_half = (0, 0, rows, columns // 2)  # Top, left, bottom, right.
masked = {"as written": codes}
for mode in ("zeros", "random", 0):
  masked[str(mode)] = uvim.mask_codes(codes, left_half, mode)
print("left to right: image,", ", ".join(masked))
stacked = np.stack(list(masked.values()), axis=1)
uvim.decode(images, stacked).plot()

# %% [markdown]
# ## Score
#
# Panoptic quality of a few images, with the code of the language model, with
# the oracle's, and without any. (Of a data set: `python -m tools.evaluate`.)

# %%
# Class c of a label is the c-th of the list.
categories = []
for class_number, (_, name, is_thing) in enumerate(CATEGORIES, 1):
  categories.append(Category(class_number, name, is_thing))


def segments_of(label):
  """(ids [H, W], their list) of a label; 0 is void."""
  classes = label[..., 0]
  numbers = label[..., 1]
  ids = np.where(classes > 0, 1000 * classes + numbers, 0)
  segments = []
  for segment_id in np.unique(ids).tolist():
    class_number = segment_id // 1000
    if 1 <= class_number <= len(categories):
      segments.append({"id": segment_id, "category_id": class_number,
                       "iscrowd": 0})
  return ids, segments


def score(outputs):
  """Panoptic quality in percent, of the first sample of each image."""
  total = pq.PQStat.zeros(categories)
  for label, output in zip(labels, outputs["panoptic"], strict=True):
    true_ids, true_segments = segments_of(label)
    predicted_ids, predicted_segments = segments_of(output[0])
    total += pq.pq_image(true_ids, true_segments, predicted_ids,
                         predicted_segments, categories=categories)
  return 100 * total.result()["All"]["pq"]


no_code = uvim.mask_codes(codes, None, "zeros")
predictions = {
    "UViM, T = 0": prediction,
    "the oracle's code": uvim.decode(images, codes),
    "no code": uvim.decode(images, no_code)}
for name, one_prediction in predictions.items():
  print(f"{name:18} PQ {score(one_prediction.outputs):.1f} %")
