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
# # From a folder of masks to a model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](
# https://colab.research.google.com/github/OWNER/uvim/blob/main/tools/notebooks/own_masks.ipynb)
#
# You have images, and for each a mask: a PNG whose pixels hold the number of a
# class. This notebook makes a data set of them, writes the settings of a model,
# trains it, and predicts. Each step is a command of the code; in a terminal you
# would type the line that is printed.
#
# Without masks of yours it draws some. As it stands it takes a few minutes on
# two cores and learns little: it shows the way.

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
# ## Your files
#
# An image and its mask have the same name. The list of classes has a name in
# each line: the first is number 0 in the masks. Put your own folders here.

# %%
import os

WORK = code / "workdirs" / "own_masks"  # All that is written goes below it.
os.makedirs(WORK, exist_ok=True)
os.chdir(WORK)

IMAGES = "drawn/images"
MASKS = "drawn/masks"
CLASSES = "drawn/classes.txt"
THINGS = ["ball", "box", "can", "cone", "chair", "table", "lamp"]
VOID = "255"  # In a mask: nobody knows.

# %%
# Only for the example: drawn rooms and their masks. Remove this for your own.
import numpy as np
from PIL import Image

from pp.rooms.render import render
from pp.rooms.things import CATEGORIES

NUM_IMAGES = 120
for folder in (IMAGES, MASKS):
  os.makedirs(folder, exist_ok=True)
names = [name for _, name, _ in CATEGORIES]
pathlib.Path(CLASSES).write_text("\n".join(names))
for number in range(NUM_IMAGES):
  scene = render(0, number)
  mask = np.full(scene["segments"].shape, int(VOID), np.uint8)
  for item in scene["objects"]:
    mask[scene["segments"] == item["id"]] = item["label"]
  Image.fromarray(scene["image"]).save(f"{IMAGES}/{number:03}.jpg")
  Image.fromarray(mask).save(f"{MASKS}/{number:03}.png")

# %% [markdown]
# ## A data set
#
# All files are checked first. The sheet shows what a model will learn from:
# look whether names, colors and images belong together.

# %%
import shlex

import tools.make_config.__main__ as make_config
import tools.prepare.__main__ as prepare_data
import trainers.main as trainers

NAME = "mymasks"
DATA = "data"


def command(name, main, *arguments):
  """Runs a command, as a terminal would, and stops if it fails."""
  arguments = [str(argument) for argument in arguments]
  print(f"python -m {name} {shlex.join(arguments)}\n")
  if main(arguments) != 0:
    raise RuntimeError(f"{name} failed.")


command("tools.prepare_data", prepare_data.main, "masks", "--images", IMAGES,
        "--masks", MASKS, "--classes", CLASSES, "--things", *THINGS,
        "--void", VOID, "--name", NAME, "--split", "train",
        "--data_dir", DATA)

# %%
[sheet] = pathlib.Path(DATA).glob(f"{NAME}/*/contact_sheet_train.png")
Image.open(sheet)

# %% [markdown]
# ## Settings
#
# They follow from the data and from the time that you have. The two files are
# for you to read and to change.

# %%
MINUTES = 60
command("tools.make_config", make_config.main, "--name", NAME, "--data_dir",
        DATA, "--minutes", MINUTES, "--overwrite")

# %% [markdown]
# ## Train
#
# First oracle and base model, then the language model, which learns to write
# the oracle's code. For this notebook both are small and short. For a real run,
# leave out the lines that say so.

# %%
STEPS = 300
# Not for a real run: small sizes.
SMALL = {"width": 64, "mlp_dim": 128, "num_heads": 2, "oracle_depth": 1,
         "base_model_depth": 1}
SMALL_LM = {"emb_dim": 64, "mlp_dim": 128, "num_heads": 2, "num_layers": 1}
# Not for a real run: few steps, and only one look at the score.
SHORT = {"total_steps": STEPS, "checkpoint_steps": STEPS,
         "log_eval_steps": STEPS, "schedule.warmup_steps": STEPS // 10}


def overrides(prefix, values):
  """As the command line has them: --config.model.width=64."""
  return [f"--{prefix}.{name}={value}" for name, value in values.items()]


STAGE_I = ["--config", f"my/vqvae_{NAME}.py", "--workdir", "stage1",
           *overrides("config.model", SMALL), *overrides("config", SHORT)]
STAGE_II = ["--config", f"my/lm_{NAME}.py", "--workdir", "stage2",
            "--config.oracle.model_init=stage1",
            *overrides("config.oracle.model", SMALL),
            *overrides("config.model", SMALL_LM), *overrides("config", SHORT)]

# %%
def train_stage_i(arguments):
  return trainers.main("vqvae", None, arguments)


command("trainers.vqvae", train_stage_i, *STAGE_I)

# %%
def train_stage_ii(arguments):
  return trainers.main("lm", None, arguments)


command("trainers.lm", train_stage_ii, *STAGE_II)

# %% [markdown]
# ## Predict
#
# `stage2/report.html` has the curves, the scores and what they mean. After so
# short a run the alarms above are right: the language model writes one word
# nearly everywhere. The oracle's code is already worth more than no code. Here
# are two images that the model has not seen.

# %%
from uvim.inference.api import UViM

model = UViM.from_checkpoint("stage2")
images = [render(2, number)["image"] for number in range(2)]
prediction = model.predict(images, temperature=0.0)
prediction.plot()

# %% [markdown]
# The next steps are those of any run: `python -m tools.evaluate` scores,
# `python -m tools.predict` writes files, `python -m tools.explorer` opens a
# page to play with the code.
