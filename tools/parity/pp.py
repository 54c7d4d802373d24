"""Preprocessing fixtures through this code. Imports TensorFlow when it runs."""

import json
import re
from collections.abc import Iterator

import numpy as np

from tools.parity import common as parity_common
from tools.parity.common import Quantity, below, guarded, load, match
from uvim import tree

# Calls whose string is not in the json, or which have another default here.
CALLS = {"decode": "decode", "decode_precise": "decode(precise=True)",
         "nyu_eval_crop": "nyu_eval_crop(top=54)"}
JPEG = "decode/in_jpeg_bytes"
BOXES = re.compile(r"inception_box_(\d+)x(\d+)")


def run(path, parts) -> Iterator[Quantity]:
  """Every op: `OP/out/…` of `OP/in/…`, and the three that are told apart.

  Args:
    path: the json with the call of each op.
    parts: the .npz of the same name, as part ''.
  """
  calls = json.loads(path.read_text())["calls"] | CALLS
  arrays = load(parts.pop(""))
  for op in dict.fromkeys(name.split("/")[0] for name in arrays):
    theirs = below(arrays, f"{op}/")
    if calls.get(op, "").startswith("decode"):
      theirs["in/image"] = arrays[JPEG].tobytes()
    where = f"{path.stem}/{op}"
    yield from guarded(where, _quantities(where, op, calls.get(op), theirs))
  for file in parts.values():
    yield from parity_common.unknown_part(file)


def _quantities(where, op, call, theirs) -> Iterator[Quantity]:
  """The quantities of one op."""
  if boxes := BOXES.fullmatch(op):
    yield from _boxes(where, theirs, int(boxes[1]), int(boxes[2]))
  elif call is None:
    yield from match(where, theirs, {}, note="its call is not told")
  elif op == "nyu_eval_crop":
    yield from match(where, theirs, _crop(call))
  else:
    yield from _op(where, call, theirs)


def _op(where, call, theirs) -> Iterator[Quantity]:
  """One op on its inputs: values and dtypes."""
  import tensorflow as tf

  from pp import builder
  given = {k: tf.constant(v) for k, v in below(theirs, "in/").items()}
  out = tree.flatten(builder.build(call)(tree.unflatten(given)))
  ours = {f"out/{name}": value.numpy() for name, value in out.items()}
  yield from match(where, theirs, ours, inputs="in/.*|in_.*")
  for name in ours.keys() & theirs.keys():
    if ours[name].dtype != theirs[name].dtype:
      yield Quantity(f"{where}/{name} dtype", ours[name].dtype.name,
                     theirs[name].dtype.name)


def _crop(call):
  """What the depth crop leaves of a picture of coordinates."""
  import tensorflow as tf

  from pp import builder
  places_HWC = np.stack(np.mgrid[:480, :640], -1).astype(np.float32)
  out = builder.build(call)({
      "image": tf.zeros([480, 640, 3], tf.uint8),
      "labels": tf.constant(places_HWC @ np.float32([[1000], [1]]))})
  labels_HW1 = out["labels"].numpy()

  def place(value):
    return np.stack(np.divmod(value, 1000), -1)

  return {"out_shape_labels": np.array(labels_HW1.shape),
          "out_shape_image": np.array(out["image"].shape),
          "first_label_y_x": place(labels_HW1[0, 0, 0]),
          "last_label_y_x": place(labels_HW1[-1, -1, 0])}


def _boxes(where, theirs, height, width) -> Iterator[Quantity]:
  """Random boxes: two samples of one distribution (Kolmogorov–Smirnov)."""
  for name, boxes in theirs.items():
    if not name.startswith("samples_y0x0hw"):
      yield Quantity(f"{where}/{name}", None, boxes)
      continue
    ours = _draw_boxes(height, width, len(boxes))
    for what, a, b in zip(
        ("y", "x", "height", "width", "area", "aspect ratio", "place in y",
         "place in x"), _measures(ours), _measures(boxes), strict=True):
      # Beyond it in one of a thousand pairs of samples of one distribution.
      gap, limit = _gap(a, b), 1.95 * np.sqrt(2 / len(boxes))
      yield Quantity(
          f"{where}/{name} {what}", np.array(gap <= limit), np.array(True),
          note=f"as a distribution: gap {gap:.3f}, up to {limit:.3f}")


def _draw_boxes(height, width, count):
  import tensorflow as tf

  from pp import builder
  preprocess = builder.build("inception_box")
  image = tf.zeros([height, width, 3], tf.uint8)

  @tf.function
  def draw(i):
    box = preprocess({"image": image}, tf.stack([i, i]))["box"]
    return tf.concat([box["begin"], box["size"]], 0)

  return np.array([draw(tf.constant(i, tf.int64)) for i in range(count)])


def _measures(boxes):
  y, x, height, width = boxes.T
  return [y, x, height, width, height * width, width / height,
          y / (1 - height + 1e-6), x / (1 - width + 1e-6)]


def _gap(a, b):
  """The largest distance of two empirical distribution functions."""
  values = np.concatenate([a, b])
  shares = [np.searchsorted(np.sort(x), values, "right") / len(x)
            for x in (a, b)]
  return np.abs(shares[0] - shares[1]).max()
