"""What a run says of itself before its first step."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import vqvae_rooms_panoptic
from tests.trainers import tiny, tiny_pix2seq_d
from trainers import inputs as inputs_lib
from trainers.families.lm import LmFamily
from trainers.families.pix2seq_d import Pix2SeqDFamily
from trainers.families.vqvae import VqvaeFamily
from trainers.report import opening
from uvim.config import resolve
from uvim.store.start_from import Store


@pytest.fixture(scope="module")
def inputs(rooms_tiny_dir):
  """(config, what a run of it reads)."""
  config = vqvae_rooms_panoptic.get_config("tiny")
  config.data_dir = str(rooms_tiny_dir)
  config = resolve(config)
  return config, inputs_lib.open_inputs(config, Store(), lambda: None)


def shapes_of(family):
  params, _ = jax.eval_shape(family.init, jax.random.key(0))
  return params


def test_sizes_data_and_evaluators(inputs):
  config, opened = inputs
  params = shapes_of(opened.family)
  sample = {"image": np.zeros((2, 48, 48, 3)),
            "labels": np.zeros((2, 48, 48, 2), np.int32)}
  lines = opening.describe(config, opened, params, sample)
  rows = {}
  for line in lines:
    name, text = line.split(maxsplit=1)
    rows[name] = text
  assert rows["data"] == (
      "rooms/tiny train, 64 images; 4 steps of 8 are 0.5 epochs")
  assert rows["image"] == "48 × 48 pixels"
  assert rows["labels"] == "48 × 48 pixels, 6 × 6 = 36 tokens of 8 × 8"
  assert rows["code"] == "36 words, each one of 16"
  assert rows["parameters"].endswith(" trained, 0 frozen")
  assert "oracle_code every 4 steps on 8 images" in rows["scores"]
  assert len(lines) == 6


def test_frozen_parameters_are_counted_apart(inputs):
  config, opened = inputs
  params = shapes_of(opened.family)
  num_head = 0
  for name, array in params.items():
    if name.startswith("head_"):
      num_head += sum(leaf.size for leaf in jax.tree.leaves(array))
  total = sum(leaf.size for leaf in jax.tree.leaves(params))
  schedule = [("head_.*", {"decay_type": "cosine"}), (".*", None)]
  config = dataclasses.replace(config, schedule=schedule)
  lines = opening.describe(config, opened, params, {})
  assert f"{num_head:,} trained, {total - num_head:,} frozen" in "".join(lines)


def test_a_system_without_a_code_has_no_words_of_codes():
  family = Pix2SeqDFamily(tiny_pix2seq_d.config())
  sample = {"image": np.zeros((2, 16, 16, 3)),
            "labels": np.zeros((2, 16, 16, 2), np.int32)}
  assert opening.image_text(family, sample) == "16 × 16 pixels"
  assert opening.label_text(family, sample) == (
      "16 × 16 pixels, 6 bits each, for 5 classes and 4 ids, void included")
  assert opening.code_text(family) == ""


def test_stage_ii_has_patches_of_its_own(tmp_path):
  path = tmp_path / "one.npz"
  tiny.save_stage_i(VqvaeFamily(tiny.stage_i_config()), path)
  config = tiny.stage_ii_config(path)
  family = LmFamily(config)
  sample = {"image": np.zeros((2, 16, 16, 3))}
  text = opening.image_text(family, sample)
  assert text == "16 × 16 pixels, 2 × 2 = 4 tokens of 8 × 8"
  assert opening.code_text(family) == "4 words, each one of 8"
  # With codes and features from caches no image is read.
  assert opening.image_text(family, {}).startswith("not read")
