"""Examples of the explorer come from the split never trained on."""

import json

import numpy as np
import pytest

from tests.trainers import tiny
from tools.explorer import __main__ as explorer
from tools.explorer.examples import find_examples
from uvim.registry import ConfigError
from uvim.tasks import make_task

PP = ('decode|coco_panoptic|concat(["semantics","instances"], "labels")|'
      'resize(16, antialias=True)|value_range(-1, 1)|'
      'resize(16, key="labels", method="nearest")|make_canonical|'
      'keep("image","labels")')


@pytest.fixture
def task():
  return make_task("panoptic_segmentation", tiny.stage_i_model())


def write_config(folder, data_dir, **changes):
  config = dict(kind="vqvae", dataset="rooms/tiny", val_split="validation",
                pp_eval=PP, data_dir=str(data_dir))
  (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_images_with_their_truth(task, rooms_tiny_dir, tmp_path):
  write_config(tmp_path, rooms_tiny_dir)
  examples = list(find_examples(str(tmp_path), task, 2))
  assert len(examples) == 2
  image, labels = examples[1]
  assert image.shape[0] > 48 and labels.shape == (16, 16, 2)


def test_a_cropped_image_fits_its_labels(task, rooms_tiny_dir, tmp_path):
  write_config(tmp_path, rooms_tiny_dir,
               pp_eval=PP.replace("resize(16, anti", "central_crop|"
                                  "resize(16, anti"))
  image, labels = next(find_examples(str(tmp_path), task, 1))
  assert image.shape[:2] == labels.shape[:2] == (16, 16)
  assert image.dtype == np.float32


def test_where_there_are_none(task, rooms_tiny_dir, tmp_path):
  with pytest.raises(ConfigError, match="does not tell its data set"):
    next(find_examples("weights.npz", task, 2))
  write_config(tmp_path, "gs://bucket/data")
  with pytest.raises(ConfigError, match="gs://bucket/data, which is not asked"):
    next(find_examples(str(tmp_path), task, 2))
  write_config(tmp_path, rooms_tiny_dir, dataset="rooms/none")
  with pytest.raises(ConfigError, match="none"):
    next(find_examples(str(tmp_path), task, 2))


def test_the_command(capsys):
  assert explorer.main(["--wrong"]) == 2
  assert "python -m tools.explorer --help" in capsys.readouterr().err
