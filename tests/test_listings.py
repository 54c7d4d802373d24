"""Appendix D as printed, at toy size, on real images: two steps each.

The listings are untouched; every size is overridden on the command line. Only
the devices, which they do not name, are added.
"""

import json

import numpy as np
import pytest

from tests import listings
from tests.trainers import cli
from uvim.config import resolve
from uvim.models import make_model
from uvim.store import checkpoint

RES = 64
LABEL_RES = 32
PATCH = 8
WORDS = 16
LENGTH = 16
EVALUATORS = ("panoptic_train", "panoptic_holdout", "panoptic_val")

FILE = """
from pathlib import Path
from tests import listings

def get_config():
  config = listings.load(Path({path!r}), {number}).get_config()
  # Programs for one device compile in less time than programs for eight.
  config.mesh = (("data", 1),)
  return config
"""

STAGE_I_SIZES = dict(
    input_size=(LABEL_RES, LABEL_RES), patch_size=(PATCH, PATCH),
    code_len=LENGTH, width=16, oracle_depth=1, base_model_depth=1, mlp_dim=16,
    num_heads=2, dict_size=WORDS, codeword_dim=8)
LM_SIZES = dict(
    input_size=(RES, RES), num_layers=1, num_heads=2, mlp_dim=16, emb_dim=16)


@pytest.fixture(scope="module")
def seed(shared):
  return shared / "seeds" / "000_ca110d2b4088f852.txt"


def sizes(where, values):
  """Overrides of several fields of one block."""
  overrides = []
  for name, value in values.items():
    override = f"--config.{where}.{name}={value}"
    overrides.append(override.replace(" ", ""))
  return overrides


def labels(where):
  return sizes(where, {"semantics": (134, PATCH**2),
                       "instances": (100, PATCH**2)})


def small(pp, number):
  """A preprocessing string of a listing with its resolutions made small."""
  # Stage I has one resolution, that of the labels.
  res = LABEL_RES if number == 1 else RES
  pp = pp.replace("resize(512, inkey", f"resize({LABEL_RES}, inkey")
  pp = pp.replace("resize(512, key", f"resize({LABEL_RES}, key")
  return pp.replace("resize(512)", f"resize({res})")


def train_on_five_images(config, number):
  """Overrides that train on the five images, and score them."""
  # Two epochs are two steps.
  overrides = [
      "--config.train_split=validation", "--config.num_epochs=2",
      "--config.batch_size=5", "--config.schedule.warmup_steps=1",
      "--config.log_training_steps=1", "--config.val_split=",
      f"--config.pp_train={small(config.pp_train, number)}",
      f"--config.pp_eval={small(config.pp_eval, number)}"]
  for name in EVALUATORS:
    overrides += [f"--config.{name}.split=validation",
                  f"--config.{name}.pp={small(config[name].pp, number)}"]
  return overrides


def write_config(folder, seed, number):
  """A config file that returns the listing, on one device."""
  path = folder / f"listing_{number}.py"
  path.write_text(FILE.format(path=str(seed), number=number))
  return path


def test_listing_1_resolves(seed):
  config = resolve(listings.load(seed, 1).get_config())
  model = make_model(config.model_name, config.model, "config.model")
  assert model.vit.width == 768


def test_listing_2_resolves(seed):
  config = resolve(listings.load(seed, 2).get_config())
  prior = make_model(config.model_name, config.model, "config.model")
  assert prior.lm.emb_dim == 1024
  assert (prior.lm.vocab_size, prior.lm.seq_len) == (4097, 256)
  make_model(config.oracle.model_name, config.oracle.model, "oracle")


def test_two_steps_of_each_stage(seed, coco_dir, tmp_path, monkeypatch):
  # The listings name no data_dir.
  monkeypatch.setenv("TFDS_DATA_DIR", str(coco_dir))
  one = tmp_path / "one"
  two = tmp_path / "two"

  config = listings.load(seed, 1).get_config()
  code = cli.call("vqvae", write_config(tmp_path, seed, 1), one,
                  *train_on_five_images(config, 1),
                  *sizes("model", STAGE_I_SIZES), *labels("model.inputs"))
  assert code == 0
  check_run(one, "loss_semantics")
  state = checkpoint.load_params(one)["state"]
  assert state["dictionary"].shape == (WORDS, 8)

  config = listings.load(seed, 2).get_config()
  code = cli.call("lm", write_config(tmp_path, seed, 2), two,
                  *train_on_five_images(config, 2), *sizes("model", LM_SIZES),
                  f"--config.model.patches.size=({PATCH},{PATCH})",
                  *sizes("oracle.model", STAGE_I_SIZES),
                  *labels("oracle.model.inputs"),
                  "--config.model_init.encoder=",
                  f"--config.oracle.model_init={one}")
  assert code == 0
  check_run(two, "loss")
  saved = json.loads((two / "config.json").read_text())
  # References follow what the command line changed.
  assert saved["model"]["vocab_size"] == WORDS + 1
  assert saved["model"]["seq_len"] == LENGTH
  kernel = checkpoint.load_params(two)["params"]["EmbedPatches"]["kernel"]
  assert kernel.shape == (PATCH, PATCH, 3, 16)


def check_run(workdir, name):
  """Two steps were reported, and all three evaluators ran after them."""
  text = (workdir / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  losses = [line[f"train/{name}"] for line in lines
            if f"train/{name}" in line]
  assert len(losses) == 2
  assert np.isfinite(losses).all()
  scores = set()
  for line in lines:
    scores |= {key for key in line if key.endswith("/PQ")}
  assert scores == {"coco_panoptic_train/PQ", "coco_panoptic_holdout/PQ",
                    "coco_panoptic/PQ"}
