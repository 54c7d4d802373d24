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
# How far away is each pixel, in metres? Load a model, predict, sample, look
# into the code, and score a few images.
#
# All cells run as they are with a model trained on `rooms` by
# `configs/vqvae_rooms_depth.py` and its partner. With the
# published weights they run by changing one name:
# `CHECKPOINT = "uvim-depth"`. Nothing here needs TensorFlow.

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

from evaluators import nyu_depth
from pp.rooms.render import render
from uvim.inference.api import UViM

CHECKPOINT = "workdirs/depth/stage2"  # Or "uvim-depth".
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
# higher T, the more the samples differ: in what a single image leaves open.

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
# A depth label is float [H, W] in metres; 0 where the camera saw none.

# %%
labels = [scene["depth"] for scene in scenes]
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
# Errors over the pixels that have a depth, averaged over a few images, with the
# code of the language model, with the oracle's, and without any. (Of a data
# set: `python -m tools.evaluate`.)

# %%
def score(outputs):
  """The errors by name, of the first sample of each image."""
  total = nyu_depth.DepthStat.zeros()
  for label, output in zip(labels, outputs["depth"], strict=True):
    total += nyu_depth.depth_image(label, output[0])
  return total.result()


no_code = uvim.mask_codes(codes, None, "zeros")
predictions = {
    "UViM, T = 0": prediction,
    "the oracle's code": uvim.decode(images, codes),
    "no code": uvim.decode(images, no_code)}
for name, one_prediction in predictions.items():
  figures = score(one_prediction.outputs)
  print(f"{name:18} RMSE {figures['RMSE']:.3f} m, "
        f"relative {figures['abs_RE']:.3f}, "
        f"within 25 %: {100 * figures['delta1']:.1f} %")
