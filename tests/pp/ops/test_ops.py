"""Ops against the released implementation and against their duties."""

import io
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from configs import lm_coco_panoptic, vqvae_coco_panoptic
from pp import builder
from uvim.registry import ConfigError


def _seed(i=0):
  return tf.constant([i, 7], tf.int64)


@pytest.fixture(scope="module")
def parity(fixtures):
  calls = json.loads((fixtures / "pp_ops.json").read_text())["calls"]
  with np.load(fixtures / "pp_ops.npz") as arrays:
    return calls, dict(arrays)


def _nest(arrays, prefix):
  """The arrays below a prefix as a nested dict."""
  out = {}
  for name, value in arrays.items():
    if name.startswith(prefix):
      *path, last = name[len(prefix):].split("/")
      node = out
      for part in path:
        node = node.setdefault(part, {})
      node[last] = tf.constant(value)
  return out


def _unshaped(data):
  """The same values with nothing known of their shapes, as in a data set."""
  return tf.nest.map_structure(
      lambda x: tf.numpy_function(lambda y: y, [x], x.dtype), data)


def test_every_fixture_of_an_op_is_met_exactly(parity):
  calls, arrays = parity
  met = 0
  for name, call in calls.items():
    want = _nest(arrays, f"{name}/out/")
    if not want:
      continue
    got = builder.build(call)(_nest(arrays, f"{name}/in/"))
    for key, value in want.items():
      assert got[key].dtype == value.dtype, (name, key)
      np.testing.assert_array_equal(got[key], value, f"{name} {key}")
    met += 1
  assert met >= 58


@pytest.mark.parametrize("name", [
    "pipeline_train_coco_flip0.8", "make_canonical_x", "crop_box_labels3",
    "coco_panoptic_no_objects", "resize_nearest_int32_37x53", "pipeline_color"])
def test_ops_run_in_a_data_set_without_known_shapes(parity, name):
  calls, arrays = parity
  preprocess = builder.build(calls[name])
  data = tf.data.Dataset.from_tensors(_nest(arrays, f"{name}/in/"))
  # Ranks are part of what ops may rely on only after decode and coco_panoptic.
  if "coco_panoptic" in calls[name]:
    data = data.map(
        lambda d: {**d, "panoptic_image": _unshaped(d["panoptic_image"])})
  got = next(data.map(preprocess).as_numpy_iterator())
  for key, value in _nest(arrays, f"{name}/out/").items():
    np.testing.assert_array_equal(got[key], value)


def test_decode_is_exact(parity):
  _, arrays = parity
  image = tf.constant(arrays["decode/in_jpeg_bytes"].tobytes())
  for string, name in (("decode", "decode"),
                       ("decode(precise=True)", "decode_precise")):
    got = builder.build(string)({"image": image})["image"]
    np.testing.assert_array_equal(got, arrays[f"{name}/out/image"])


def _encode(array, kind, **kw):
  file = io.BytesIO()
  Image.fromarray(array).save(file, kind, **kw)
  return tf.constant(file.getvalue())


def _image(height=24, width=36, channels=3):
  y, x = np.mgrid[:height, :width]
  planes = [6 * x, 9 * y, 3 * (x + y), 255 - 2 * x]
  return np.stack(planes[:channels], -1).astype(np.uint8)


def test_decode_gives_three_channels_whatever_the_kind():
  rgb = _image()
  deep = (rgb[..., 0].astype(np.uint16) << 8) + 77
  frame = [Image.fromarray(rgb[..., 1])]
  cases = {
      "png": (_encode(rgb, "PNG"), rgb),
      "grey": (_encode(rgb[..., 0], "PNG"), rgb[..., [0, 0, 0]]),
      "rgba": (_encode(_image(channels=4), "PNG"), rgb),
      "16 bit": (_encode(deep, "PNG"), rgb[..., [0, 0, 0]]),
      "animation": (_encode(rgb[..., 0], "GIF", save_all=True,
                            append_images=frame), rgb[..., [0, 0, 0]]),
  }
  preprocess = builder.build("decode")
  for name, (encoded, want) in cases.items():
    np.testing.assert_array_equal(
        preprocess({"image": encoded})["image"], want, name)
  data = tf.data.Dataset.from_tensors({"image": cases["16 bit"][0]})
  assert data.map(preprocess).element_spec["image"].shape.as_list() == [
      None, None, 3]


def test_decode_passes_what_is_decoded():
  image = tf.constant(_image())
  assert builder.build("decode")({"image": image})["image"] is image


def test_boxes_are_spread_as_the_original_spreads_them(parity):
  want = parity[1]["inception_box_480x640/samples_y0x0hw"]
  preprocess = builder.build("inception_box")
  image = tf.zeros([480, 640, 3], tf.uint8)

  @tf.function
  def draw(i):
    box = preprocess({"image": image}, tf.stack([i, i]))["box"]
    return tf.concat([box["begin"], box["size"]], 0)

  got = np.array([draw(tf.constant(i, tf.int64)) for i in range(2000)])
  def measures(box):
    y, x, height, width = box.T
    return [y, x, height, width, height * width, width / height,
            y / (1 - height + 1e-6), x / (1 - width + 1e-6)]

  for ours, theirs in zip(measures(got), measures(want), strict=True):
    both = np.sort(np.concatenate([ours, theirs]))
    gap = np.abs(np.searchsorted(np.sort(ours), both, "right")
                 - np.searchsorted(np.sort(theirs), both, "right")).max()
    # Two-sample Kolmogorov–Smirnov at 0.1 %.
    assert gap / 2000 < 1.95 * np.sqrt(2 / 2000)


def _coordinates(height, width):
  """An image and labels of which each pixel tells where it comes from."""
  y, x = np.mgrid[:height, :width]
  return {"image": tf.constant(np.stack([y, x, y], -1).astype(np.uint8)),
          "labels": tf.constant(np.stack([y, x], -1).astype(np.int32))}


def test_image_and_labels_share_one_flip_and_one_box():
  preprocess = builder.build(
      'randu("fliplr")|det_fliplr(key="image")|det_fliplr(key="labels")|'
      'inception_box|crop_box(key="image")|crop_box(key="labels")|'
      'resize(16, method="nearest")|resize(16, key="labels", method="nearest")')
  flipped = set()
  for i in range(12):
    out = preprocess(_coordinates(50, 70), _seed(i))
    np.testing.assert_array_equal(out["image"][..., :2], out["labels"])
    flipped.add(bool(out["labels"][0, 0, 1] > out["labels"][0, -1, 1]))
  assert flipped == {True, False}


@pytest.mark.parametrize("shape,size", [
    ((7, 11), (16, 5)), ((20, 3), (7, 7)), ((1, 1), (3, 2)), ((4, 9), (4, 9))])
def test_nearest_resize_of_pairs_is_that_of_their_channels(shape, size):
  labels = np.random.default_rng(0).integers(
      -9, 2**31 - 1, (*shape, 2)).astype(np.int32)
  resize = builder.build(f'resize({size}, key="labels", method="nearest")')
  out = resize({"labels": tf.constant(labels)})["labels"]
  assert set(np.unique(out)) <= set(np.unique(labels))
  for c in range(2):
    want = tf.image.resize(labels[..., c:c + 1], size, method="nearest")
    np.testing.assert_array_equal(out[..., c:c + 1], want)


def test_area_resize_averages():
  image = tf.constant([[[0], [100]], [[200], [40]]], tf.uint8)
  out = builder.build('resize(1, method="area")')({"image": image})["image"]
  assert out.dtype == tf.uint8 and out.numpy().item() == 85


def _canonical_by_hand(ids, axis):
  """Renumbering one mask at a time."""
  out = ids.copy()
  centres = {}
  for i in np.unique(ids[ids > 0]):
    y, x = np.nonzero(ids == i)
    centres[i] = ((y.mean(), x.mean()) if axis == "y"
                  else (x.mean(), y.mean()))
  for new, i in enumerate(sorted(centres, key=centres.get), 1):
    out[ids == i] = new
  return out


@pytest.mark.parametrize("axis", ["y", "x"])
@pytest.mark.parametrize("values", [
    [0], [-1], [-1, 0, 3], [2**31 - 1, -5, 0, 7], range(-2, 300),
    [-2**31, -4000, 1, 2]])
def test_instances_are_numbered_by_their_centres(axis, values):
  rng = np.random.default_rng(0)
  ids = rng.choice(np.array(values, np.int64), (31, 40)).astype(np.int32)
  labels = np.stack([rng.integers(0, 9, ids.shape), ids], -1).astype(np.int32)
  preprocess = builder.build(f'make_canonical(main_sort_axis="{axis}")')
  out = preprocess({"labels": tf.constant(labels)})["labels"].numpy()
  np.testing.assert_array_equal(out[..., 0], labels[..., 0])
  np.testing.assert_array_equal(out[..., 1], _canonical_by_hand(ids, axis))


def test_numbering_does_not_look_at_the_other_channels():
  """An instance of two classes is one; two and three channels take other ways
  through the code than one."""
  rng = np.random.default_rng(4)
  labels = rng.integers(-1, 9, (12, 15, 3)).astype(np.int32)
  labels[..., 2] = np.roll(7 - np.arange(180).reshape(12, 15) // 23, 3, 1)
  number = builder.build("make_canonical")
  alone = number({"labels": tf.constant(labels[..., 2:])})["labels"].numpy()
  assert len(np.unique(alone)) == 8 and (alone != labels[..., 2:]).any()
  for some in (labels, labels[..., 1:]):
    out = number({"labels": tf.constant(some)})["labels"]
    np.testing.assert_array_equal(out[..., -1:], alone)
    np.testing.assert_array_equal(out[..., :-1], some[..., :-1])


def test_numbering_has_no_gap_after_a_crop_took_an_object():
  ids = np.repeat(np.arange(1, 6)[:, None, None], 4, 1).astype(np.int32)
  data = {"labels": tf.constant(ids), "box": (tf.constant([0.4, 0.]),
                                              tf.constant([0.6, 1.]))}
  out = builder.build('crop_box(key="labels")|make_canonical')(data)["labels"]
  np.testing.assert_array_equal(out[:, 0, 0], [1, 2, 3])


@pytest.mark.parametrize("count", [1, 200])
def test_panoptic_maps_match_a_look_at_each_pixel(count):
  rng = np.random.default_rng(count)
  ids = rng.choice(2**24 - 1, count, replace=False) + 1
  labels = rng.integers(0, 133, count)
  chosen = rng.choice(np.append(ids, [0, 12345]), (20, 30))
  image = np.stack([chosen & 255, chosen >> 8 & 255, chosen >> 16], -1)
  out = builder.build("coco_panoptic")({
      "panoptic_image": tf.constant(image.astype(np.uint8)),
      "panoptic_objects": {"id": tf.constant(ids),
                           "label": tf.constant(labels)}})
  place = {i: (n, label + 1) for n, (i, label) in
           enumerate(zip(ids.tolist(), labels.tolist(), strict=True), 1)}
  want = np.array([[place.get(i, (0, 0)) for i in row]
                   for row in chosen.tolist()])
  for c, key in enumerate(["instances", "semantics"]):
    assert out[key].dtype == tf.int32
    np.testing.assert_array_equal(out[key][..., 0], want[..., c])


def test_a_map_may_be_one_run_of_a_million_pixels():
  image = np.zeros((1025, 1024, 3), np.uint8)
  image[..., 0] = 5
  objects = {"id": tf.constant([9, 5]), "label": tf.constant([3, 4])}
  out = builder.build(
      'coco_panoptic|concat(["semantics", "instances"], "labels")|'
      "make_canonical")({"panoptic_image": tf.constant(image),
                         "panoptic_objects": objects})["labels"]
  np.testing.assert_array_equal(out, np.broadcast_to([5, 1], (1025, 1024, 2)))


def test_channels_are_joined_in_the_order_asked_for():
  """Joining what was just split is free; another order, or others, is not."""
  data = {"panoptic_image": tf.constant([[[3, 0, 0], [0, 0, 0]]], tf.uint8),
          "panoptic_objects": {"id": tf.constant([3]),
                               "label": tf.constant([8])}}
  for keys, want in ((["semantics", "instances"], [9, 1]),
                     (["instances", "semantics"], [1, 9]),
                     (["semantics", "semantics"], [9, 9]),
                     (["semantics"], [9])):
    out = builder.build(f'coco_panoptic|concat({keys}, "labels")')(data)
    np.testing.assert_array_equal(out["labels"], [[want, [0] * len(want)]])


def _panoptic_example(height=40, width=60):
  chosen = np.zeros((height, width), np.int64)
  chosen[:, : width // 3], chosen[: height // 2, width // 2:] = 70000, 300
  image = np.stack([chosen & 255, chosen >> 8 & 255, chosen >> 16], -1)
  return {
      "image": _encode(_image(height, width), "JPEG"),
      "image/id": tf.constant(3, tf.int64),
      "panoptic_image": tf.constant(image.astype(np.uint8)),
      "panoptic_objects": {"id": tf.constant([300, 70000], tf.int64),
                           "label": tf.constant([4, 132], tf.int64)}}


@pytest.mark.parametrize("module, field, keys", [
    (vqvae_coco_panoptic, "pp_train", "image labels"),
    (vqvae_coco_panoptic, "pp_eval", "image labels"),
    (lm_coco_panoptic, "pp_train", "image image_ctx labels"),
    (lm_coco_panoptic, "pp_eval", "image image_ctx labels")])
def test_the_papers_strings_run(module, field, keys):
  config = module.get_config()
  string = re.sub(r"\b512\b", "32", config[field])
  preprocess = builder.build(string, config.get("pp_modules"))
  data = tf.data.Dataset.from_tensors(_panoptic_example()).map(
      lambda d: preprocess(d, _seed()))
  out = next(data.as_numpy_iterator())
  assert sorted(out) == keys.split()
  for key in set(out) - {"labels"}:
    assert out[key].shape == (32, 32, 3) and out[key].dtype == np.float32
    assert -1 <= out[key].min() < -0.5 < 0.5 < out[key].max() <= 1
  assert out["labels"].shape == (32, 32, 2) and out["labels"].dtype == np.int32
  assert set(np.unique(out["labels"][..., 0])) <= {0, 5, 133}


def test_smallest_and_emptiest_images_pass():
  string = re.sub(r"\b512\b", "8", vqvae_coco_panoptic.get_config().pp_train)
  preprocess = builder.build(string)
  for height, width in ((1, 1), (1, 9), (2, 3)):
    data = _panoptic_example(height, width)
    data["panoptic_objects"] = {key: tf.zeros([0], tf.int64)
                                for key in ("id", "label")}
    for i in range(10):
      out = preprocess(data, _seed(i))
      assert not np.any(out["labels"])


def test_crop_before_decoding_equals_crop_after():
  image = _image(120, 160)
  jpeg = _encode(image, "JPEG", quality=95, subsampling=0)
  preprocess = builder.build("decode_jpeg_and_inception_crop")
  decoded = builder.build("decode")({"image": jpeg})["image"]
  sizes = set()
  for i in range(8):
    early = preprocess({"image": jpeg}, _seed(i))["image"]
    late = preprocess({"image": decoded}, _seed(i))["image"]
    png = preprocess({"image": tf.io.encode_png(decoded)}, _seed(i))["image"]
    np.testing.assert_array_equal(late, png)
    np.testing.assert_allclose(early.numpy().astype(int), late, atol=3)
    sizes.add(tuple(early.shape))
  assert len(sizes) > 4
  small = builder.build("decode_jpeg_and_inception_crop(16)")
  assert small({"image": jpeg}, _seed())["image"].shape == (16, 16, 3)


def test_flip_lr_flips_about_half():
  preprocess = builder.build("flip_lr")
  image = tf.constant(_image())
  flips = 0
  for i in range(60):
    out = preprocess({"image": image}, _seed(i))["image"].numpy()
    flip = np.array_equal(out, image[:, ::-1])
    assert flip or np.array_equal(out, image)
    flips += flip
  assert 15 <= flips <= 45


def test_central_crop():
  data = _coordinates(10, 17)
  square = builder.build("central_crop()")(data)["image"]
  assert square.shape == (10, 10, 3)
  assert square[0, 0, 1] == 3 and square[0, -1, 1] == 12
  part = builder.build('central_crop((4, 5), key="labels")')(data)["labels"]
  np.testing.assert_array_equal(part[0, 0], [3, 6])
  assert part.shape == (4, 5, 2)


def test_depth_takes_maps_with_and_without_a_channel():
  depth = np.random.default_rng(0).uniform(0, 10, (5, 6)).astype(np.float16)
  for array in (depth, depth[..., None]):
    out = builder.build("nyu_depth")({"depth": tf.constant(array)})["labels"]
    assert out.dtype == tf.float32
    np.testing.assert_array_equal(out[..., 0], depth.astype(np.float32))


@pytest.mark.parametrize("call, rows", [
    ("nyu_eval_crop", (45, 470)), ("nyu_eval_crop(top=54)", (54, 479))])
def test_depth_is_scored_on_the_crop_that_was_asked_for(parity, call, rows):
  y, x = np.mgrid[:480, :640].astype(np.float32)
  data = {"image": tf.zeros([480, 640, 3], tf.uint8),
          "labels": tf.constant((1000 * y + x)[..., None])}
  out = builder.build(call)(data)
  labels = out["labels"].numpy()[..., 0]
  assert labels.shape == (426, 560) and out["image"].shape == (426, 560, 3)
  assert labels[0, 0] == 1000 * rows[0] + 41
  assert labels[-1, -1] == 1000 * rows[1] + 600
  if rows[0] == 54:  # The released implementation's.
    arrays = parity[1]
    first, last = (arrays[f"nyu_eval_crop/{key}_label_y_x"]
                   for key in ("first", "last"))
    assert labels[0, 0] == first @ [1000, 1]
    assert labels[-1, -1] == last @ [1000, 1]


def test_depth_crop_refuses_other_sizes():
  data = {"image": tf.zeros([479, 640, 3], tf.uint8)}
  with pytest.raises((tf.errors.InvalidArgumentError, ValueError),
                     match="480×640"):
    builder.build("nyu_eval_crop")(data)
  with pytest.raises(ConfigError, match="top"):
    builder.build("nyu_eval_crop(top=55)")
