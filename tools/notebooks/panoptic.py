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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](
# https://colab.research.google.com/github/OWNER/uvim/blob/main/tools/notebooks/panoptic.ipynb)
#
# Which object does each pixel belong to, and what is it? Load a model, predict,
# sample, look into the code, and score a few images.
#
# All cells run as they are: a small model, which learned from drawn indoor
# scenes, comes with the package. The published weights, for photographs, need
# one other name: `CHECKPOINT = "uvim-panoptic"`. Nothing here needs TensorFlow.

# %%
# Where the package is not installed, as on Colab, this installs it. In a
# checkout of the code the notebook uses that.
import importlib.util
import pathlib
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/uvim"  # Yours, once it is published.

here = pathlib.Path.cwd()
for folder in (here, *here.parents):
  if (folder / "uvim" / "packs").is_dir():
    sys.path.insert(0, str(folder))
if importlib.util.find_spec("uvim") is None:
  command = [sys.executable, "-m", "pip", "install", "-q", f"git+{REPOSITORY}"]
  subprocess.run(command, check=True)

# %% [markdown]
# ## Load
#
# A checkpoint is the workdir of a run of stage II, a pack, or a name.

# %%
from importlib import resources

import numpy as np
from PIL import Image

from uvim.inference.api import UViM

CHECKPOINT = "uvim-rooms-panoptic"  # Or a workdir or pack of yours.
model = UViM.from_checkpoint(CHECKPOINT)
print(f"{model.code_len} words of {model.num_words} in a code")

# %% [markdown]
# ## Predict
#
# Images may be paths, PIL images or arrays, of any size. Here they are four
# scenes that no model was trained on; put your own in their place.

# %%
scenes = resources.files("uvim") / "packs" / "rooms_panoptic" / "scenes"
images = [scenes / f"{number}.png" for number in range(4)]
prediction = model.predict(images, temperature=0.0)
prediction.plot()

# %% [markdown]
# One of them, over its image:

# %%
prediction.overlay(3)

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
  samples = model.predict(images[0], temperature=temperature, num_samples=4,
                          seed=0)
  display(samples.plot())

# %%
samples = model.predict(images[:2], temperature=1.0, num_samples=4, seed=0)
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
# Here the red and green of a PNG hold the two.

# %%
labels = []
for number in range(4):
  stored = np.asarray(Image.open(scenes / f"{number}_label.png"))
  labels.append(stored[..., :2].astype(np.int32))
print(f"{labels[0].shape}, classes {np.unique(labels[0][..., 0])}")

# %% [markdown]
# ## What a word says
#
# The oracle Ω writes a code for a *true* label. A region of the code that is
# zeroed, drawn at random or set to one word changes the output there (Fig 10 of
# the paper): the words have places, though nothing told them so.

# %%
codes = model.encode(images, labels)
rows, columns = model.grid
left_half = (0, 0, rows, columns // 2)  # Top, left, bottom, right.
masked = {"as written": codes}
for mode in ("zeros", "random", 0):
  masked[str(mode)] = model.mask_codes(codes, left_half, mode)
print("left to right: image,", ", ".join(masked))
stacked = np.stack(list(masked.values()), axis=1)
model.decode(images, stacked).plot()

# %% [markdown]
# ## Score
#
# How well each true segment is found: its overlap (intersection over union)
# with the predicted segment of its class that fits best, averaged over all
# segments. With the code of the language model, with the oracle's, and without
# any. (Over a data set `python -m tools.evaluate` counts panoptic quality.)

# %%
def best_overlap(label, output, segment):
  """Of one segment, (class, number), with those of its class; 0 to 1."""
  is_true = (label == segment).all(-1)
  best = 0.0
  for candidate in np.unique(output[is_true], axis=0):
    if candidate[0] == segment[0]:
      is_candidate = (output == candidate).all(-1)
      shared = (is_true & is_candidate).sum()
      best = max(best, shared / (is_true | is_candidate).sum())
  return best


def score(outputs):
  """Percent, of the first sample of each image."""
  overlaps = []
  for label, output in zip(labels, outputs["panoptic"], strict=True):
    is_known = label[..., 0] > 0
    for segment in np.unique(label[is_known], axis=0):
      overlaps.append(best_overlap(label, output[0], segment))
  return 100 * np.mean(overlaps)


no_code = model.mask_codes(codes, None, "zeros")
predictions = {
    "UViM, T = 0": prediction,
    "the oracle's code": model.decode(images, codes),
    "no code": model.decode(images, no_code)}
for name, one_prediction in predictions.items():
  print(f"{name:18} overlap {score(one_prediction.outputs):.1f} %")
