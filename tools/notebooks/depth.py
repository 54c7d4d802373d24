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
# # Depth
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](
# https://colab.research.google.com/github/OWNER/uvim/blob/main/tools/notebooks/depth.ipynb)
#
# How far away is each pixel, in metres? Load a model, predict, sample, look
# into the code, and score a few images.
#
# `CHECKPOINT` names the published weights, which are fetched once. It can also
# be the workdir of a run of your own, such as one of
# `configs/lm_rooms_depth.py`. Nothing here needs TensorFlow.

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

CHECKPOINT = "uvim-depth"  # Or a workdir or pack of yours.
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
# higher T, the more the samples differ: in what a single image leaves open.

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
# A depth label is float [H, W] in metres; 0 where the camera saw none. Here a
# PNG of 16 bits holds millimetres.

# %%
labels = []
for number in range(4):
  millimetres = np.asarray(Image.open(scenes / f"{number}_depth.png"))
  labels.append(millimetres.astype(np.float32) / 1000)
for label in labels:
  is_known = label > 0
  print(f"nearest {label[is_known].min():.2f} m, farthest {label.max():.2f} m")

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
# The root of the mean squared error over the pixels that have a depth, averaged
# over a few images, with the code of the language model, with the oracle's, and
# without any. (Of a data set, with more measures: `python -m tools.evaluate`.)

# %%
def score(outputs):
  """Metres, of the first sample of each image."""
  errors = []
  for label, output in zip(labels, outputs["depth"], strict=True):
    is_known = label > 0
    difference = output[0][is_known] - label[is_known]
    errors.append(np.sqrt(np.mean(difference**2)))
  return np.mean(errors)


no_code = model.mask_codes(codes, None, "zeros")
predictions = {
    "UViM, T = 0": prediction,
    "the oracle's code": model.decode(images, codes),
    "no code": model.decode(images, no_code)}
for name, one_prediction in predictions.items():
  print(f"{name:18} RMSE {score(one_prediction.outputs):.3f} m")
