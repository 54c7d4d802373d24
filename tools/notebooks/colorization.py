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
# # Colorization
#
# What colors did this grey image have? Load a model, predict, sample, look into
# the code, and score a few images.
#
# All cells run as they are with a model trained on `rooms` by
# `configs/vqvae_rooms_colorization.py` and its partner. With the
# published weights they run by changing one name:
# `CHECKPOINT = "uvim-color"`. Nothing here needs TensorFlow.

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

from evaluators import psnr
from pp.rooms.render import render
from uvim.inference.api import UViM

CHECKPOINT = "workdirs/colorization/stage2"  # Or "uvim-color".
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
prediction = uvim.predict(images, temperature=0.0)  # It sees their luma alone.
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
# higher T, the more the samples differ. Several colors are right: samples show
# what a mean cannot.

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
# ## Sharper
#
# The model paints at its own size. `full_luma=True` takes only the colors from
# it, and keeps the image's own light and dark at full resolution.

# %%
uvim.predict(images, temperature=1.0, seed=1, full_luma=True).plot()

# %% [markdown]
# ## The truth
#
# A label is the image in color itself.

# %%
labels = images

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
# Peak signal-to-noise ratio over a few images, with the code of the language
# model, with the oracle's, and without any. It rewards the mean of all that is
# possible; the paper reports FID, a distance of distributions, for which many
# images are needed (docs/data.md).

# %%
def score(outputs):
  """The mean PSNR in dB, of the first sample of each image."""
  decibels = []
  for label, output in zip(labels, outputs["color"], strict=True):
    truth = label / 127.5 - 1
    decibels.append(psnr.psnr_image(truth, output[0]))
  return np.mean(decibels)


no_code = uvim.mask_codes(codes, None, "zeros")
predictions = {
    "UViM, T = 0": prediction,
    "the oracle's code": uvim.decode(images, codes),
    "no code": uvim.decode(images, no_code)}
for name, one_prediction in predictions.items():
  print(f"{name:18} PSNR {score(one_prediction.outputs):.2f} dB")
