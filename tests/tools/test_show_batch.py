"""What show_batch prints, on a plain dict."""

import ml_collections as mlc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pp import builder, stream
from tools import show_batch
from uvim.registry import ConfigError


@pytest.fixture
def example():
  labels = np.zeros((20, 30, 2), np.int32)
  labels[:10, :, 0] = 3
  labels[:, 15:, 1] = -1
  image = np.full((20, 30, 3), 51, np.uint8)
  return {"image": tf.io.encode_png(image),
          "labels": tf.constant(labels),
          "objects": {"bbox": tf.zeros([9, 4])}}


def test_only_what_an_op_changed_is_printed(example, tmp_path, capsys):
  preprocess = builder.build(
      'decode|value_range(-1, 1)|resize(8, inkey="image", outkey="small")|'
      'keep("small", "labels")')
  path = tmp_path / "new" / "sheet.png"
  show_batch.show(preprocess, [show_batch.Example(example)] * 2, path)
  printed = capsys.readouterr().out.splitlines()
  lines = [" ".join(line.split()) for line in printed]
  assert lines[1].startswith("image scalar string ")
  assert lines == [
      "as read",
      lines[1],
      "labels 20×30×2 int32 -1 … 3",
      "objects/bbox 9×4 float32 0",
      "decode",
      "* image 20×30×3 uint8 51",
      "value_range(-1, 1)",
      "* image 20×30×3 float32 -0.6",
      'resize(8, inkey="image", outkey="small")',
      "+ small 8×8×3 float32 -0.6",
      'keep("small", "labels")',
      "- image, objects/bbox",
      "the model gets",
      "labels 20×30×2 int32 -1 … 3",
      "small 8×8×3 float32 -0.6",
      f"wrote {path}"]
  with Image.open(path) as sheet:
    colors = {tuple(c) for c in np.asarray(sheet).reshape(-1, 3).tolist()}
  assert (51, 51, 51) in colors


def test_an_op_that_changes_nothing_says_so(example):
  assert show_batch.describe_change(example, dict(example)) == [
      "    changes nothing"]


def test_a_string_without_a_decode_op_is_shown_too(example):
  preprocess = stream.make_preprocess('resize(8)|keep("image")')
  stages = list(show_batch.trace(preprocess, show_batch.Example(example)))
  assert [stage.text for stage in stages] == [
      "as read", "decode", "resize(8)", 'keep("image")']
  assert stages[-1].data["image"].shape == (8, 8, 3)


def test_a_bad_string_is_told_before_the_data_is_looked_for():
  config = mlc.ConfigDict(dict(
      dataset="not/there", train_split="train", pp_train="decode|resise(3)"))
  with pytest.raises(ConfigError, match="op 2 .*'resize'"):
    show_batch.show_config(config)
  with pytest.raises(ConfigError, match="pp_eval is missing"):
    show_batch.show_config(config, split="validation")
