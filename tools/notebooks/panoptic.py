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

from evaluators import pq
from pp.rooms.render import render
from pp.rooms.things import CATEGORIES
from uvim.inference.api import UViM

CHECKPOINT = "workdirs/quickstart/stage2"  # Or "uvim-panoptic".
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
# higher T, the more the samples differ: in what the picture leaves open, such
# as where one thing ends and the next begins.

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
# A panoptic label is int [H, W, 2]: the class (0 where nobody knows) and the
# number of the segment. In which order segments are numbered does not matter.

# %%
def label_of(scene):
  """[H, W, 2] of a scene of `rooms`."""
  label = np.zeros((*scene["segments"].shape, 2), np.int32)
  for number, item in enumerate(scene["objects"], 1):
    label[scene["segments"] == item["id"]] = item["label"] + 1, number
  return label


labels = [label_of(scene) for scene in scenes]

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
# Panoptic quality of a few images, with the code of the language model, with
# the oracle's, and without any. (Of a data set: `python -m tools.evaluate`.)

# %%
class Category:
  def __init__(self, id, name, isthing):
    self.id, self.name, self.isthing = id, name, isthing


categories = [Category(i, *rest)
              for i, (_, *rest) in enumerate(CATEGORIES, 1)]


def segments(label):
  """(ids [H, W], their list) of a label; 0 is void."""
  ids = np.where(label[..., 0] > 0, 1000 * label[..., 0] + label[..., 1], 0)
  known = {c.id for c in categories}
  return ids, [
      {"id": i, "category_id": i // 1000, "iscrowd": 0}
      for i in np.unique(ids).tolist() if i // 1000 in known]


def score(outputs):
  total = pq.PQStat.zeros(categories)
  for label, output in zip(labels, outputs["panoptic"], strict=True):
    total += pq.pq_image(*segments(label), *segments(output[0]),
                         categories=categories)
  return 100 * total.result()["All"]["pq"]


nothing = uvim.mask_codes(codes, None, "zeros")
for name, got in (("UViM, T = 0", prediction),
                  ("the oracle's code", uvim.priors.sampling(photos, codes)),
                  ("no code", uvim.priors.sampling(photos, nothing))):
  print(f"{name:18} PQ {score(got.outputs):.1f} %")
