"""FID-5k: which files, what becomes of the pixels, and the distance."""

import types

import jax
import numpy as np
import pytest
import tensorflow as tf

from evaluators import base, coltran_fid, common, features, fid
from uvim.registry import ConfigError

NUM = 5


def _pixels(split, index, size=(20, 30)):
  rng = np.random.default_rng([len(split), index])
  return rng.integers(0, 256, (*size, 3), np.uint8)


def _names(split, num=NUM):
  return [f"{split}_{i:03d}.JPEG" for i in range(num)]


def _source(split, names=None):
  names = _names(split) if names is None else names
  return types.SimpleNamespace(
      dataset="toy", split=split, folder="/data/toy/1.0.0",
      num_examples=len(names),
      example=lambda i: {
          "image/id": i, "file_name": names[i].encode(),
          "image": tf.io.encode_png(_pixels(split, i)).numpy()})


@pytest.fixture
def splits():
  """The splits that the evaluator can open, by name."""
  return {"reference": _source("reference")}


def _color(index, size=(16, 16)):
  rng = np.random.default_rng(index)
  return rng.uniform(-1, 1, (*size, 3)).astype(np.float32)


def _make(splits=None, source=None, cls=coltran_fid.ColtranFid, **options):
  options = {"reference_split": "reference", "features": "quadrants"} | options
  if splits is not None:
    options["open_split"] = lambda dataset, split, data_dir: splits[split]
  return cls(source or _source("eval"), **options)


def _predictions(num=NUM):
  return [{"color": _color(i)} for i in range(num)]


def _score(splits, predictions=None, **options):
  evaluator = _make(splits, **options)
  return base.score(evaluator, predictions or _predictions())


def _area(x, size):
  """Exact area resize: each new pixel's share of each old one, in float64."""
  def shares(old):
    edges = np.linspace(0, old, size + 1)
    low, high = edges[:-1, None], edges[1:, None]
    cells = np.arange(old)
    overlap = np.minimum(high, cells + 1) - np.maximum(low, cells)
    return np.maximum(overlap, 0) * size / old
  rows = np.tensordot(shares(x.shape[0]), x.astype(np.float64), (1, 0))
  return np.tensordot(shares(x.shape[1]), rows, (1, 1)).swapaxes(0, 1)


@pytest.mark.parametrize("size", [(512, 512), (300, 420), (20, 20)])
def test_area_resize_is_exact(size):
  x = _color(0, size)
  np.testing.assert_allclose(
      coltran_fid.area_resize(x), _area(x, 256), atol=1e-5)


def test_distance_of_what_is_seen_at_256_pixels_and_8_bits(splits):
  colors = [_color(i, (512, 512)) for i in range(NUM)]
  x = [features.quadrants(np.round((_area(color, 256) + 1) * 127.5))
       for color in colors]
  # 20×30 pixels: the square in the middle starts at column 5.
  y = [features.quadrants(np.round(_area(_pixels("reference", i)[:, 5:25],
                                         256))) for i in range(NUM)]
  expected = fid.frechet_distance(*fid.mean_and_covariance(x),
                                  *fid.mean_and_covariance(y))
  # A tie that float32 rounds the other way moves one pixel by one level.
  result = _score(splits, [{"color": color} for color in colors])
  assert result == {"FID": pytest.approx(expected, rel=1e-5)}


def test_images_are_rounded_to_bytes_by_the_scale_asked_for(splits):
  seen = []

  def extract(image):
    assert image.shape == (256, 256, 3) and image.dtype == np.uint8
    seen.append(image[0, 0, 0])
    return np.arange(2.) + len(seen)

  levels = [-1.2, -1, -0.995, 0, 1]
  predictions = [{"color": np.full((8, 8, 3), v, np.float32)} for v in levels]
  _score(splits, predictions, extractor=extract)
  assert seen[NUM:] == [0, 0, 1, 128, 255]
  del seen[:]
  _score(splits, predictions, extractor=extract, pixel_scale=128.)
  assert seen[NUM:] == [0, 0, 1, 128, 255]
  # 0.9921875 is what x / 128 − 1 makes of 255.
  white = [{"color": np.full((8, 8, 3), 0.9921875, np.float32)}] * NUM
  for scale, byte in (127.5, 254), (128., 255):
    del seen[:]
    _score(splits, white, extractor=extract, pixel_scale=scale)
    assert seen[NUM:] == [byte] * NUM


def test_reference_is_computed_once(splits):
  calls = []

  def extract(image):
    calls.append(1)
    return features.quadrants(image)

  evaluator = _make(splits, features=None, extractor=extract)
  first = base.score(evaluator, _predictions())
  assert len(calls) == 2 * NUM and first["FID"] > 1
  assert base.score(evaluator, _predictions()) == first
  assert len(calls) == 3 * NUM


@pytest.fixture
def lists(tmp_path):
  """Writes a list of names; returns its path."""
  def write(name, lines):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n\n")
    return str(path)
  return write


def _options(lists, eval_names=None, reference_names=None, num_files=NUM):
  return dict(
      eval_files=lists("eval.txt", eval_names or _names("eval")),
      reference_files=lists("ref.txt", reference_names or _names("reference")),
      num_files=num_files)


def test_lists_pick_the_reference_and_prove_the_rest(splits, lists):
  plain = _score(splits)
  assert _score(splits, **_options(lists)) == plain
  # A larger split of which the list names a part, in another order.
  names = _names("reference")
  splits["reference"] = _source("reference", [*names, "z.JPEG", "y.JPEG"])
  options = _options(lists, reference_names=names[::-1])
  assert _score(splits, **options) == plain
  assert _score(splits) != plain


class FewFiles(coltran_fid.ColtranFid):
  """As if FID-5k were defined by lists of NUM files."""

  num_prescribed = NUM


def test_only_the_prescribed_number_is_called_fid_5k(splits, lists):
  assert coltran_fid.ColtranFid.num_prescribed == 5000
  assert set(_score(splits, **_options(lists))) == {"FID"}
  few = {"cls": FewFiles}
  assert set(_score(splits, **few, **_options(lists))) == {"FID_5k"}
  assert set(_score(splits, **few, num_files=NUM)) == {"FID"}


def test_a_wrong_set_of_files_raises(splits, lists):
  names = _names("eval")

  def check(message, source=None, **lists_given):
    with pytest.raises(ConfigError, match=message):
      _make(splits, source, **_options(lists, **lists_given))

  check("1 are missing .such as 'other'.*1 are extra .such as 'eval_004",
        eval_names=[*names[:-1], "other"])
  check("has 6 images.*0 are missing, 0 are extra",
        _source("eval", [*names, names[0]]))
  check("1 files are both evaluated and reference, such as 'eval_000",
        reference_names=[names[0], *_names("reference")[1:]])
  check("2 of the 5 reference_files are missing in the split 'reference'",
        reference_names=["a", "b", *_names("reference")[2:]])
  check("ref.txt' holds 4 different names; num_files is 5",
        reference_names=[*_names("reference")[1:4], "a", "a"])
  check("eval.txt' holds 5 different names; num_files is 5000",
        num_files=5000)
  with pytest.raises(ConfigError, match="both eval_files and reference_files"):
    _make(splits, eval_files="a.txt")
  with pytest.raises(ConfigError, match="cannot read eval_files 'no.txt'"):
    _make(splits, eval_files="no.txt", reference_files="no.txt")
  with pytest.raises(ConfigError, match="both evaluated and reference"):
    _make(splits, _source("reference"))


def test_other_mistakes_are_named(splits):
  # Before any split is opened, and so before anything is compiled.
  with pytest.raises(ConfigError, match="inception-2015-12-05"):
    _make(splits, object(), features=None)
  with pytest.raises(ConfigError, match="needs reference_split"):
    _make(splits, reference_split=None)
  with pytest.raises(ValueError, match="2 predictions for the 5"):
    _score(splits, _predictions(2))
  nameless = _source("eval")
  nameless.example = lambda i: {"image": b"", "image/id": i}
  with pytest.raises(ConfigError, match="no file name .file_name or image/fi"):
    _make(splits, nameless)


@pytest.mark.parametrize("dataset,folder", [
    ("toy", "/data/toy/1.0.0"),
    ("coco/2017_panoptic:1.1.0", "/data/coco/2017_panoptic/1.1.0"),
    ("toy", "gs://bucket/data/toy/1.0.0"),
])
def test_reference_comes_from_the_same_folder(dataset, folder):
  asked = []

  def open_split(*args):
    asked.append(args)
    return _source("reference")

  source = _source("eval")
  source.dataset, source.folder = dataset, folder
  _make(source=source, open_split=open_split)
  assert asked == [(dataset, "reference", folder[:folder.index("data") + 4])]


def test_rooms_can_be_measured_by_quadrants(rooms_tiny_dir):
  from pp import builder, splits
  source = splits.open_split("rooms/tiny", "holdout", rooms_tiny_dir)
  decode = builder.build("decode|value_range(-1, 1)")
  truth = [{"color": decode({"image": tf.constant(source.example(i)["image"])}
                            )["image"].numpy()} for i in range(16)]
  grey = [{"color": np.zeros((8, 8, 3), np.float32)}] * 16
  evaluator = _make(source=source, reference_split="validation")
  near = base.score(evaluator, truth)
  far = base.score(evaluator, grey)
  assert 0 < near["FID"] < far["FID"] / 3


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_metrics_do_not_depend_on_the_batch_size(splits, batch_size):
  colors = np.stack([_color(i, (8, 8)) for i in range(NUM)])

  def batches():
    for start in range(0, NUM, batch_size):
      place = np.arange(start, start + batch_size)
      yield {"x": colors[np.minimum(place, NUM - 1)], "_mask": place < NUM}

  predict = jax.jit(lambda _, batch: {"color": batch["x"] * 0.5})
  predictions = common.predict_all(
      predict, None, batches(), put=lambda batch: batch)
  expected = _score(splits, [{"color": c * np.float32(0.5)} for c in colors])
  assert _score(splits, predictions) == pytest.approx(expected, rel=1e-9)
