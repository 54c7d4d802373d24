"""Appendix D as printed, at toy size, on real photographs: two steps each.

The listings are untouched; every size is overridden on the command line.
"""

import json
import re

import numpy as np
import pytest

from tests import listings
from tests.trainers import cli
from tools.prepare import __main__ as prepare_data
from uvim.config import resolve
from uvim.models import make_model
from uvim.store import checkpoint

RES, LABEL_RES, PATCH, WORDS, LENGTH = 64, 32, 8, 16, 16

FILE = """
from pathlib import Path
from tests import listings

def get_config():
  return listings.load(Path({path!r}), {number}).get_config()
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


@pytest.fixture(scope="module")
def data_dir(shared, tmp_path_factory):
  """coco/2017_panoptic with the five photographs as its validation split."""
  raw, folder = shared / "data" / "coco_panoptic", tmp_path_factory.mktemp("d")
  assert prepare_data.main([
      "coco", "--images", str(raw / "val2017"), "--panoptic",
      str(raw / "panoptic_val2017"), "--annotations",
      str(raw / "panoptic_val2017.json"), "--split", "validation",
      "--data_dir", str(folder)]) == 0
  return folder


def sizes(where, values):
  return [f"--config.{where}.{k}={v}".replace(" ", "")
          for k, v in values.items()]


def labels(where):
  return sizes(where, {"semantics": (134, PATCH**2),
                       "instances": (100, PATCH**2)})


def small(pp):
  """A listing's string with its resolutions made small."""
  pp = pp.replace("resize(512, inkey", f"resize({LABEL_RES}, inkey")
  pp = pp.replace("resize(512, key", f"resize({LABEL_RES}, key")
  return pp.replace("resize(512)", f"resize({RES})")


def run_splits(config):
  """Overrides that train on the five photographs, and score them."""
  # A list of devices is not in the listings, so a batch for all eight: three
  # epochs of five photographs are two steps.
  out = ["--config.train_split=validation", "--config.num_epochs=3",
         "--config.batch_size=8", "--config.schedule.warmup_steps=1",
         "--config.log_training_steps=1", "--config.val_split=",
         f"--config.pp_train={config.pp_train}",
         f"--config.pp_eval={config.pp_eval}"]
  for name in ("panoptic_train", "panoptic_holdout", "panoptic_val"):
    out += [f"--config.{name}.split=validation",
            f"--config.{name}.pp={config[name].pp}"]
  return out


def write(folder, seed, number):
  """(config file, its config with small strings)."""
  path = folder / f"listing_{number}.py"
  path.write_text(FILE.format(path=str(seed), number=number))
  config = listings.load(seed, number).get_config()
  for block in (config, config.panoptic_train, config.panoptic_holdout,
                config.panoptic_val):
    for key in ("pp_train", "pp_eval", "pp"):
      if key in block:
        text = small(block[key])
        block[key] = text if number == 2 else text.replace(
            f"resize({RES})", f"resize({LABEL_RES})")
  return path, config


@pytest.mark.parametrize("number,width", [(1, 768), (2, 1024)])
def test_listings_resolve(seed, number, width):
  config = resolve(listings.load(seed, number).get_config())
  model = make_model(config.model_name, config.model, "config.model")
  assert (model.width if number == 1 else model.emb_dim) == width
  if number == 2:
    assert (model.vocab_size, model.seq_len) == (4097, 256)
    make_model(config.oracle.model_name, config.oracle.model, "oracle")


def test_two_steps_of_each_stage(seed, data_dir, tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))  # No data_dir in print.
  one, two = tmp_path / "one", tmp_path / "two"

  path, config = write(tmp_path, seed, 1)
  assert cli.call("vqvae", path, one, *run_splits(config),
                  *sizes("model", STAGE_I_SIZES), *labels("model.inputs")) == 0
  check_run(one, "loss_semantics")
  state = checkpoint.load_params(one)["state"]
  assert state["dictionary"].shape == (WORDS, 8)

  path, config = write(tmp_path, seed, 2)
  assert cli.call("lm", path, two, *run_splits(config),
                  *sizes("model", LM_SIZES),
                  f"--config.model.patches.size=({PATCH},{PATCH})",
                  *sizes("oracle.model", STAGE_I_SIZES),
                  *labels("oracle.model.inputs"),
                  "--config.model_init.encoder=",
                  f"--config.oracle.model_init={one}") == 0
  check_run(two, "loss")
  saved = json.loads((two / "config.json").read_text())
  # References follow what the command line changed.
  assert saved["model"]["vocab_size"] == WORDS + 1
  assert saved["model"]["seq_len"] == LENGTH
  kernel = checkpoint.load_params(two)["params"]["EmbedPatches"]["kernel"]
  assert kernel.shape == (PATCH, PATCH, 3, 16)


def check_run(workdir, name):
  """Two steps were reported, and all three evaluators ran after them."""
  lines = [json.loads(line) for line in
           (workdir / "metrics.jsonl").read_text().splitlines()]
  losses = [line[f"train/{name}"] for line in lines
            if f"train/{name}" in line]
  assert len(losses) == 2 and np.isfinite(losses).all()
  scores = {k for line in lines for k in line if re.search("/PQ$", k)}
  assert scores == {"coco_panoptic_train/PQ", "coco_panoptic_holdout/PQ",
                    "coco_panoptic/PQ"}
