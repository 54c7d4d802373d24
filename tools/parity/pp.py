"""Preprocessing fixtures through this code. Imports TensorFlow when it runs."""

import re
from collections.abc import Iterator

import numpy as np

from tools.parity import fixtures
from tools.parity.common import Quantity, below, guarded, match
from tools.parity.fixtures import Fixture
from uvim import tree

# Calls whose string is not in the json, or which have another default here.
CALLS = {
    "decode": "decode",
    "decode_precise": "decode(precise=True)",
    "nyu_eval_crop": "nyu_eval_crop(top=54)",
}
# The file that both kinds of decoding read.
JPEG = "decode/in_jpeg_bytes"
# Height and width of the image that boxes are drawn in.
BOXES = re.compile(r"inception_box_(\d+)x(\d+)")
# The Kolmogorov–Smirnov limit at p = 0.001, before the size of the samples.
KS_LIMIT = 1.95


def compare(fixture: Fixture) -> Iterator[Quantity]:
  """Every op: `OP/out/…` of `OP/in/…`, and three that are compared otherwise.

  The json has the call of each op; the .npz of the same name is part ''.
  """
  calls = fixture.read_meta()["calls"] | CALLS
  arrays = fixture.read_part("")
  # A dict, not a set: it keeps their order.
  ops = dict.fromkeys(name.split("/")[0] for name in arrays)
  for op in ops:
    theirs = below(arrays, f"{op}/")
    call = calls.get(op)
    if call is not None and call.startswith("decode"):
      theirs["in/image"] = arrays[JPEG].tobytes()
    file = f"{fixture.name}/{op}"
    yield from guarded(file, _compare_op(file, op, call, theirs))
  for path in fixture.other_parts("").values():
    yield from fixtures.compare_unknown_part(path)


def _compare_op(file: str, op: str, call: str | None,
                theirs) -> Iterator[Quantity]:
  """The quantities of one op."""
  boxes = BOXES.fullmatch(op)
  if boxes:
    yield from _compare_boxes(file, theirs, int(boxes[1]), int(boxes[2]))
  elif call is None:
    yield from match(file, theirs, {}, note="its call is not told")
  elif op == "nyu_eval_crop":
    yield from match(file, theirs, _crop(call))
  else:
    yield from _compare_call(file, call, theirs)


def _compare_call(file: str, call: str, theirs) -> Iterator[Quantity]:
  """One op on its inputs: values and dtypes."""
  import tensorflow as tf

  from pp import builder
  inputs = {}
  for name, value in below(theirs, "in/").items():
    inputs[name] = tf.constant(value)
  preprocess = builder.build(call)
  outputs = preprocess(tree.unflatten(inputs))
  ours = {}
  for name, value in tree.flatten(outputs).items():
    ours[f"out/{name}"] = value.numpy()
  yield from match(file, theirs, ours, inputs=["in/*", "in_*"])
  # Values of another type may be equal: 1 and 1.0, int32 and uint8.
  for name in ours.keys() & theirs.keys():
    our_dtype = ours[name].dtype
    their_dtype = theirs[name].dtype
    if our_dtype != their_dtype:
      yield Quantity(f"{file}/{name} dtype", our_dtype.name, their_dtype.name)


def _crop(call: str) -> dict[str, np.ndarray]:
  """What the depth crop leaves of an image of coordinates."""
  import tensorflow as tf

  from pp import builder
  # Row and column of each pixel, in one number: 1000 · row + column.
  coordinates_HW2 = np.stack(np.mgrid[:480, :640], axis=-1)
  labels_HW1 = coordinates_HW2.astype(np.float32) @ np.float32([[1000], [1]])
  crop = builder.build(call)
  cropped = crop({
      "image": tf.zeros([480, 640, 3], tf.uint8),
      "labels": tf.constant(labels_HW1),
  })
  cropped_HW1 = cropped["labels"].numpy()

  def row_and_column(label):
    return np.stack(np.divmod(label, 1000), axis=-1)

  return {
      "out_shape_labels": np.array(cropped_HW1.shape),
      "out_shape_image": np.array(cropped["image"].shape),
      "first_label_y_x": row_and_column(cropped_HW1[0, 0, 0]),
      "last_label_y_x": row_and_column(cropped_HW1[-1, -1, 0]),
  }


# ── Random boxes ────────────────────────────────────────────────────────────


def _compare_boxes(file: str, theirs, height: int,
                   width: int) -> Iterator[Quantity]:
  """Whether two samples come from one distribution (Kolmogorov–Smirnov)."""
  for name, boxes in theirs.items():
    if not name.startswith("samples_y0x0hw"):
      yield Quantity(f"{file}/{name}", None, boxes)
      continue
    ours = _measures(_draw_boxes(height, width, len(boxes)))
    expected = _measures(boxes)
    limit = KS_LIMIT * np.sqrt(2 / len(boxes))
    for measure in expected:
      gap = _gap(ours[measure], expected[measure])
      yield Quantity(
          f"{file}/{name} {measure}", np.array(gap <= limit), np.array(True),
          note=f"as a distribution: gap {gap:.3f}, up to {limit:.3f}")


def _draw_boxes(height: int, width: int, count: int) -> np.ndarray:
  """Boxes as our op draws them, [count, (y, x, height, width)]."""
  import tensorflow as tf

  from pp import builder
  preprocess = builder.build("inception_box")
  image = tf.zeros([height, width, 3], tf.uint8)

  @tf.function
  def draw(number):
    box = preprocess({"image": image}, tf.stack([number, number]))["box"]
    return tf.concat([box["begin"], box["size"]], 0)

  boxes = []
  for number in range(count):
    # A tensor: TensorFlow would trace the function anew for each number.
    boxes.append(draw(tf.constant(number, tf.int64)))
  return np.array(boxes)


def _measures(boxes: np.ndarray) -> dict[str, np.ndarray]:
  """What boxes are compared in, of each; the sides of the image are 1."""
  y, x, height, width = boxes.T
  # A box that fills the image leaves no room to be placed in.
  room_in_y = 1 - height + 1e-6
  room_in_x = 1 - width + 1e-6
  return {
      "y": y,
      "x": x,
      "height": height,
      "width": width,
      "area": height * width,
      "aspect ratio": width / height,
      "place in y": y / room_in_y,
      "place in x": x / room_in_x,
  }


def _gap(ours: np.ndarray, theirs: np.ndarray) -> float:
  """The largest distance of two empirical distribution functions."""
  values = np.concatenate([ours, theirs])
  gaps = _shares_up_to(values, ours) - _shares_up_to(values, theirs)
  return np.abs(gaps).max()


def _shares_up_to(values: np.ndarray, sample: np.ndarray) -> np.ndarray:
  """Which share of a sample is at most each of the values."""
  ranks = np.searchsorted(np.sort(sample), values, side="right")
  return ranks / len(sample)
