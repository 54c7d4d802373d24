"""Depth and color: the strings of the configs, on TFDS's data and on real."""

import contextlib
import io
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from configs import (
  lm_imagenet_colorization,
  lm_nyu_depth,
  vqvae_imagenet_colorization,
  vqvae_nyu_depth,
)
from pp import builder, sources, stream
from tools.prepare import __main__ as prepare_data

DEPTH = (vqvae_nyu_depth, lm_nyu_depth)
COLOR = (vqvae_imagenet_colorization, lm_imagenet_colorization)


def string(module, field):
  return module.get_config()[field]


def seed(i):
  return tf.constant([i, 7], tf.int64)


def png(array):
  file = io.BytesIO()
  Image.fromarray(array).save(file, "PNG")
  return tf.constant(file.getvalue())


def luma(x):
  return x @ np.float32([0.2989, 0.587, 0.114])


@pytest.fixture(scope="module")
def nyu(tmp_path_factory):
  """TFDS's own nyu_depth_v2, of two frames: (data_dir, depth by red value)."""
  h5py = pytest.importorskip("h5py")
  from tensorflow_datasets.datasets.nyu_depth_v2 import (
      nyu_depth_v2_dataset_builder as theirs,
  )
  folder = tmp_path_factory.mktemp("nyu")
  rng, truth = np.random.default_rng(0), {}
  for i in range(2):
    truth[i] = rng.uniform(0.5, 9.5, (480, 640)).astype(np.float32)
    path = folder / f"train/scene_{i}/1.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
      file["rgb"] = np.full((3, 480, 640), i, np.uint8)
      file["depth"] = truth[i]

  class Builder(theirs.Builder, skip_registration=True):
    """Without the download."""
    name = "nyu_depth_v2"
    pkg_dir_path = pathlib.Path(theirs.__file__).parent

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples(str(folder / "train"))}

  with contextlib.redirect_stdout(io.StringIO()):
    Builder(data_dir=folder / "out").download_and_prepare()
  return folder / "out", truth


def test_nyu_as_tfds_makes_it_reaches_labels_as_metres(nyu):
  data_dir, truth = nyu
  source = sources.make_source("nyu_depth_v2", "train", data_dir)
  crop = builder.build("decode|nyu_depth|nyu_eval_crop")
  seen = set()
  for i in range(2):
    example = source.example(i)
    assert example["depth"].dtype == np.float16  # As it is in TFDS.
    assert example["image/id"] == i
    out = crop(source.parse(tf.constant(source.read([i])[0]), i))
    number = int(out["image"][0, 0, 0])
    seen.add(number)
    assert out["labels"].dtype == tf.float32
    want = truth[number].astype(np.float16).astype(np.float32)
    # Rows 45:471 and columns 41:601 (Eigen et al.).
    np.testing.assert_array_equal(out["labels"][..., 0], want[45:471, 41:601])
  assert seen == {0, 1}


@pytest.mark.parametrize("module", DEPTH)
def test_depth_strings_give_batches_of_tfds_s_own(nyu, module):
  data_dir, _ = nyu
  split = stream.open_tfds_split("nyu_depth_v2", "train", data_dir)
  trained = split.train_batches(
      string(module, "pp_train"), batch_size=2, seed=0)
  evaluated = split.eval_batches(string(module, "pp_eval"), batch_size=2)
  for data in (next(trained), next(evaluated.start())):
    assert data["labels"].shape == (2, 512, 512, 1)
    assert data["labels"].dtype == np.float32
    assert 0.5 <= data["labels"].min() and data["labels"].max() <= 9.5
    assert data["image"].shape == (2, 512, 512, 3)
    assert data["image"].max() < -0.98  # Red was 0 or 1 of 255.


def coordinates():
  """A frame whose pixels tell, in color and in depth, where they are."""
  y, x = np.mgrid[:480, :640].astype(np.float32)
  image = np.stack([x / 639, y / 479, 0 * x], -1) * 255
  return {"image": png(image.round().astype(np.uint8)),
          "depth": tf.constant((x + y / 1000).astype(np.float32))}


def places(out):
  """(column, row) as the image and as the labels tell them, each [H, W]."""
  shown = (out["image"].numpy() + 1) / 2 * [639, 479, 1]
  label = out["labels"].numpy()[..., 0].astype(np.float64)
  return ((shown[..., 0], shown[..., 1]),
          (np.floor(label + 1e-4), 1000 * (label - np.floor(label + 1e-4))))


@pytest.mark.parametrize("module", DEPTH)
def test_depth_follows_its_image_through_flips_and_crops(module):
  preprocess = builder.build(string(module, "pp_train"))
  flips, starts = set(), set()
  for i in range(8):
    out = preprocess(coordinates(), seed(i))
    (x, y), (label_x, label_y) = places(out)
    # 8 bits for 640 columns, bilinear against nearest.
    assert abs(x - label_x).max() < 5 and abs(y - label_y).max() < 5
    flips.add(bool(label_x[0, 0] > label_x[0, -1]))
    starts.add(round(float(label_y[0, 0])))
    # Nearest: no column and no row that was not there.
    assert abs(label_y - label_y.round()).max() < 0.1
    if "image_ctx" in out:
      np.testing.assert_array_equal(out["image_ctx"], out["image"])
  assert flips == {True, False} and len(starts) > 4


@pytest.mark.parametrize("module", DEPTH)
def test_depth_is_evaluated_on_the_crop(module):
  out = builder.build(string(module, "pp_eval"))(coordinates())
  (x, y), (label_x, label_y) = places(out)
  assert (label_x.min(), label_x.max()) == (41, 600)
  assert (label_y.min().round(), label_y.max().round()) == (45, 470)
  assert abs(x - label_x).max() < 3 and abs(y - label_y).max() < 3


def test_holes_stay_holes(shared):
  """Zeros of a real frame, 27 % of it, are neither filled nor smeared."""
  raw = np.asarray(Image.open(shared / "data/nyu/metric3d_00000_depth.png"))
  data = {"image": (shared / "data/nyu/metric3d_00000_rgb.jpg").read_bytes(),
          "depth": (raw / 1000).astype(np.float32)}
  out = builder.build(string(vqvae_nyu_depth, "pp_train"))(
      tf.nest.map_structure(tf.constant, data), seed(3))
  label = out["labels"].numpy()
  assert set(np.unique(label)) <= set(np.unique(data["depth"]))
  assert (label == 0).any() and label.max() > 1


@pytest.fixture(scope="module")
def photos(shared, tmp_path_factory):
  """Four grey and four colored images, in this order."""
  folder = tmp_path_factory.mktemp("photos")
  raw = shared / "data/photos"
  grey, colored = [], []
  for path in sorted(raw.glob("*.JPEG")):
    with Image.open(path) as image:
      (grey if image.mode == "L" else colored).append(path.name)
  (folder / "list.txt").write_text("\n".join(grey + colored[:4]))
  assert len(grey) == 4 and prepare_data.main([
      "images", "--images", str(raw), "--list", str(folder / "list.txt"),
      "--name", "photos", "--split", "train", "--data_dir", str(folder)]) == 0
  return stream.open_tfds_split("photos", "train", folder)


@pytest.mark.parametrize("module", COLOR)
@pytest.mark.parametrize("field", ["pp_train", "pp_eval"])
def test_color_strings_on_real_images(photos, module, field):
  """Input: luma in three channels; target: its colors, in [−1, 1]."""
  if field == "pp_train":
    batches = photos.train_batches(
        string(module, field), batch_size=8, seed=0)
  else:
    batches = photos.eval_batches(string(module, field), batch_size=8).start()
  batch = next(batches)
  image, labels = batch["image"], batch["labels"]
  for data in (image, labels):
    assert data.shape == (8, 512, 512, 3) and data.dtype == np.float32
    assert -1 <= data.min() < -0.9 and 0.9 < data.max() <= 1
  np.testing.assert_array_equal(image[..., :2], image[..., 1:])
  # Same flip, same crop, and less than one byte, to which luma is cut, apart.
  assert abs(image[..., 0] - luma(labels)).max() < 2.1 / 255
  ids = batch["image/id"]
  for i, number in enumerate(ids.tolist()):
    spread = labels[i].max(-1) - labels[i].min(-1)
    assert (spread.max() == 0) if number < 4 else (spread.mean() > 0.02)
  if "image_ctx" in batch:
    np.testing.assert_array_equal(batch["image_ctx"], image)


@pytest.mark.parametrize("module", COLOR)
@pytest.mark.parametrize("height, width", [(41, 100), (100, 41)])
def test_color_is_evaluated_on_the_middle_square(module, height, width):
  y, x = np.mgrid[:height, :width]
  array = np.stack([2 * x, 2 * y, 0 * x], -1).astype(np.uint8)
  out = builder.build(string(module, "pp_eval"))(
      {"image": png(array), "image/id": tf.constant(0, tf.int64)})
  shown = (out["labels"].numpy() + 1) * 127.5 / 2
  first_x, first_y = (width - 41) // 2, (height - 41) // 2
  for channel, first in ((0, first_x), (1, first_y)):
    assert abs(shown[..., channel].min() - first) < 0.6
    assert abs(shown[..., channel].max() - (first + 40)) < 0.6
  # The very square that COLTRAN's evaluation cuts out.
  square = builder.build("decode|central_crop")({"image": png(array)})["image"]
  np.testing.assert_array_equal(
      square, tf.image.resize_with_crop_or_pad(array, 41, 41))


@pytest.mark.parametrize("module", COLOR)
def test_color_is_trained_on_flipped_crops(module):
  """Whole images would be seen whole: corners tell flips and crops."""
  y, x = np.mgrid[:120, :160]
  array = np.stack([x, y, 0 * x], -1).astype(np.uint8)
  preprocess = builder.build(string(module, "pp_train"))
  flips, widths = set(), set()
  for i in range(12):
    shown = (preprocess({"image": png(array)}, seed(i))["labels"] + 1) * 127.5
    columns = shown.numpy()[256, :, 0]
    flips.add(bool(columns[0] > columns[-1]))
    widths.add(round(float(np.ptp(columns))))
  assert flips == {True, False} and len(widths) > 5 and min(widths) < 100
