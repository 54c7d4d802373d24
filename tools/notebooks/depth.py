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
print(f"{uvim.model.code_len} words of {uvim.model.dict_size}; pictures of "
      f"{uvim.model.input_size} pixels")

# %% [markdown]
# ## Predict
#
# Photographs may be paths, PIL images or arrays, of any size. Here they are
# scenes of `rooms` that no model was trained on; put your own in their place.

# %%
scenes = [render(2, i) for i in range(4)]
photos = [scene["image"] for scene in scenes]
prediction = uvim.predict(photos, temperature=0.0)
prediction.plot()

# %% [markdown]
# `outputs` has the numbers behind the picture, at the size of each photograph;
# `codes` the words that the language model wrote, `logprob` how sure it was of
# each.

# %%
for name, values in prediction.outputs.items():
  print(name, [x.shape for x in values])
print("first code:", prediction.codes[0, 0])
print("bits per word:",
      np.round(-prediction.logprob[:, 0].mean(-1) / np.log(2), 2))

# %% [markdown]
# ## Sample
#
# The code is drawn word by word. At T = 0 each word is the likeliest; the
# higher T, the more the samples differ: in what a single picture leaves open.

# %%
for temperature in (0.5, 1.0):
  print("T =", temperature)
  display(uvim.predict(photos[0], temperature=temperature, num_samples=4,
                       seed=0).plot())

# %%
samples = uvim.predict(photos[:2], temperature=1.0, num_samples=4, seed=0)
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
print("nearest and farthest (m):", [
    (float(x[x > 0].min()), float(x.max())) for x in labels])

# %% [markdown]
# ## What a word says
#
# The oracle Ω writes a code for a *true* label. A region of the code that is
# zeroed, drawn at random or set to one word changes the output there (Fig 10 of
# the paper): the words have places, though nothing told them so.

# %%
codes = uvim.encode(photos, labels)
side = uvim.grid[0]
region = (0, 0, side, side // 2)  # Top, left, bottom, right: the left half.
rows = {"as written": codes}
for mode in ("zeros", "random", 0):
  rows[str(mode)] = uvim.mask_codes(codes, region, mode)
stacked = np.stack(list(rows.values()), 1)
print("left to right: photograph,", ", ".join(rows))
uvim.priors.sampling(photos, stacked).plot()

# %% [markdown]
# ## Score
#
# Errors over the pixels that have a depth, averaged over a few images, with the
# code of the language model, with the oracle's, and without any. (Of a data
# set: `python -m tools.evaluate`.)

# %%
def score(outputs):
  total = nyu_depth.DepthStat.zeros()
  for label, output in zip(labels, outputs["depth"], strict=True):
    total += nyu_depth.depth_image(label, output[0])
  return total.result()


nothing = uvim.mask_codes(codes, None, "zeros")
for name, got in (("UViM, T = 0", prediction),
                  ("the oracle's code", uvim.priors.sampling(photos, codes)),
                  ("no code", uvim.priors.sampling(photos, nothing))):
  figures = score(got.outputs)
  print(f"{name:18} RMSE {figures['RMSE']:.3f} m, "
        f"relative {figures['abs_RE']:.3f}, "
        f"within 25 %: {100 * figures['delta1']:.1f} %")
