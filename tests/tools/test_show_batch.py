"""What show_batch prints and draws, on a plain dict."""

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
  labels[:10, :, 0], labels[:, 15:, 1] = 3, -1
  return {"image": tf.io.encode_png(np.full((20, 30, 3), 51, np.uint8)),
          "labels": tf.constant(labels),
          "objects": {"bbox": tf.zeros([9, 4])}}


def test_dict_is_printed_op_by_op(example, tmp_path, capsys):
  preprocess = builder.build(
      'decode|value_range(-1, 1)|resize(8, inkey="image", outkey="small")|'
      'keep("small", "labels")')
  path = tmp_path / "new" / "sheet.png"
  show_batch.show(preprocess, [show_batch.Example(example)] * 2, path)
  blocks = capsys.readouterr().out.split("\n")
  heads = [line for line in blocks if line and not line.startswith("  ")]
  assert heads == ["as read"] + [
      step.text for step in preprocess.steps] + [f"wrote {path}"]
  lines = [line.split() for line in blocks]
  assert ["*", "image", "20×30×3", "float32", "-0.6"] in lines
  assert ["labels", "20×30×2", "int32", "-1", "…", "3"] in lines
  assert ["objects/bbox", "9×4", "float32", "0"] in lines
  assert lines[-4][:2] == ["labels", "20×30×2"]  # No bbox after keep.
  assert lines[-3] == ["small", "8×8×3", "float32", "-0.6"]
  with Image.open(path) as sheet:
    colors = {tuple(c) for c in np.asarray(sheet).reshape(-1, 3).tolist()}
  assert (51, 51, 51) in colors


def test_a_string_without_a_decode_op_is_shown_too(example):
  preprocess = stream.make_preprocess('resize(8)|keep("image")')
  stages = list(show_batch.trace(preprocess, show_batch.Example(example)))
  assert [stage.text for stage in stages] == [
      "as read", "decode", "resize(8)", 'keep("image")']
  assert stages[-1].data["image"].shape == (8, 8, 3)


def test_images_are_what_looks_like_images(example):
  data = {**example, "image": tf.zeros([20, 30, 3]),
          "depth": tf.reshape(tf.range(600.), [20, 30, 1])}
  named = dict(show_batch.images_of(data))
  assert sorted(named) == ["depth", "image", "labels[0]", "labels[1]"]
  for value in named.values():
    assert value.shape == (20, 30, 3) and value.dtype == np.uint8
  assert named["image"][0, 0, 0] == 128
  # One color an id; void is black.
  assert len(np.unique(named["labels[0]"].reshape(-1, 3), axis=0)) == 2
  assert not named["labels[0]"][15].any() and named["labels[0]"][5].any()


def test_neighboring_ids_differ_in_color():
  colors = show_batch.color_ids(np.arange(100)[None])[0].astype(int)
  gaps = np.abs(np.diff(colors, axis=0)).max(-1)
  assert gaps.min() > 60
  assert len(np.unique(colors, axis=0)) == 100


def test_a_bad_string_is_told_before_the_data_is_looked_for():
  config = mlc.ConfigDict(dict(
      dataset="not/there", train_split="train", pp_train="decode|resise(3)"))
  with pytest.raises(ConfigError, match="op 2 .*'resize'"):
    show_batch.show_config(config)
  with pytest.raises(ConfigError, match="pp_eval is missing"):
    show_batch.show_config(config, split="validation")
