"""C4: Appendix D's preprocessing for training, on images made from a seed.

H W image pixels · S segments
"""

import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.bench import made_maps, measure, naive_panoptic, rows
from tools.bench.measure import require, say
from tools.bench.rows import Row
from tools.bench.sizes import Size
from uvim import pixels

# Appendix D, Listing 1.
PP_TRAIN = (
    'decode|coco_panoptic|concat(["semantics","instances"], "labels")|'
    'randu("fliplr")|det_fliplr(key="image")|det_fliplr(key="labels")|'
    'inception_box|crop_box(key="image")|crop_box(key="labels")|'
    'resize({res})|resize({res}, key="labels", method="nearest")|'
    'value_range(-1, 1)|make_canonical|keep("image","labels")')
# Ops that the naive side has in a version of its own.
NAIVE_OPS = {
    "coco_panoptic": naive_panoptic.coco_panoptic,
    "make_canonical": naive_panoptic.make_canonical,
}
# Different images; a pass goes through them more than once.
_NUM_IMAGES = 8
_MAX_BATCH = 8


def preprocess_segments(name: str, size: Size, num_segments: int) -> Row:
  """Images per second, memory and CPU time; in a process of its own.

  Args:
    name: of the row, but for the number of segments.
    size: of the benchmark.
    num_segments: of each image.
  """
  full_name = f"{name} {num_segments} segments"
  # Ours first: memory that was freed once may stay resident.
  ours, naive = _make_passes(size, num_segments)
  result, our_bytes = _run_for_memory(ours)
  naive_result, naive_bytes = _run_for_memory(naive)
  for key in result:
    require(np.array_equal(result[key], naive_result[key]),
            f"{full_name}: {key!r} differs.")
  say(f"{full_name}: the last batches agree")
  times = measure.alternate(ours, naive, repeats=size.repeats)
  row = rows.timed_row(
      full_name, times, items=size.pp.num_images, unit="images/s")
  row.temp_bytes_ours = our_bytes
  row.temp_bytes_naive = naive_bytes
  return row


def _run_for_memory(side: Callable[[], Any]):
  """(result, growth of the peak memory)."""
  with measure.PeakMemory() as memory:
    result = side()
  return result, memory.bytes


def _make_passes(size: Size, num_segments: int) -> tuple[Callable, Callable]:
  """(ours, naive): each preprocesses all images and returns the last batch."""
  from pp import builder
  parse = _make_parser(_make_examples(size.pp.shape, num_segments))
  ours = builder.build(PP_TRAIN.format(res=size.pp_resolution))

  # The other ops are the same, so the rows compare just these two.
  def naive(data, seed):
    for step in ours.steps:
      if step.name in NAIVE_OPS:
        data = NAIVE_OPS[step.name](data)
      else:
        data = step.fn(data, seed)
    return data

  our_batches = _make_dataset(parse, ours, size.pp.num_images)
  naive_batches = _make_dataset(parse, naive, size.pp.num_images)
  return (functools.partial(_last_batch, our_batches),
          functools.partial(_last_batch, naive_batches))


def _make_dataset(parse, preprocess, num_images):
  """Batches, made with the threads that training uses."""
  import tensorflow as tf

  def make_example(index):
    # A seed for each index: both sides draw the same crops and flips.
    return preprocess(parse(index), tf.stack([index, 7]))

  options = tf.data.Options()
  # As in pp.stream, so that both sides run with what training has.
  options.autotune.enabled = False
  options.threading.private_threadpool_size = measure.num_cores()
  options.threading.max_intra_op_parallelism = 1
  examples = tf.data.Dataset.range(num_images).map(
      tf.autograph.experimental.do_not_convert(make_example),
      num_parallel_calls=measure.num_cores(), deterministic=True)
  batches = examples.batch(min(_MAX_BATCH, num_images))
  return batches.with_options(options)


def _last_batch(batches):
  """Runs through all batches."""
  last = None
  for batch in batches.as_numpy_iterator():
    last = batch
  return last


# ── Encoded examples ────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Example:
  """An encoded image, its encoded panoptic map and the map's list.

  Attributes:
    jpeg: the image.
    png: the map, whose color stands for an id.
    id: int64 [S], of each segment.
    label: int64 [S], of each segment.
  """
  jpeg: bytes
  png: bytes
  id: np.ndarray
  label: np.ndarray


def _make_examples(shape, num_segments) -> list[Example]:
  rng = np.random.default_rng(num_segments)
  return [_make_example(rng, shape, num_segments) for _ in range(_NUM_IMAGES)]


def _make_example(rng, shape, num_segments) -> Example:
  """One image with a random color and label for each segment."""
  index_HW = made_maps.draw_segments(rng, shape, num_segments)
  # Ids from all 24 bits, but not 0, which is void.
  id_S = rng.choice(2**24 - 1, num_segments, replace=False) + 1
  color_S3 = rng.integers(0, 200, (num_segments, 3))
  grain_HW1 = rng.integers(0, 56, (*shape, 1))
  # A color for each segment, with grain over it; the sum stays below 256.
  image_HW3 = color_S3[index_HW] + grain_HW1
  label_S = rng.integers(0, 133, num_segments)
  return Example(
      jpeg=_encode(image_HW3.astype(np.uint8), "JPEG"),
      png=_encode(pixels.rgb_from_ids(id_S[index_HW]), "PNG"),
      id=id_S, label=label_S)


def _encode(array, file_format) -> bytes:
  from PIL import Image
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, file_format)
  return buffer.getvalue()


def _make_parser(examples: list[Example]) -> Callable:
  """The function: number of an example → its tensors, as TFDS gives them."""
  import tensorflow as tf
  columns = {}
  for field in dataclasses.fields(Example):
    values = [getattr(example, field.name) for example in examples]
    # One tensor for each field, with an entry for each example.
    columns[field.name] = tf.constant(values)

  def parse(index):
    example = {}
    for name, column in columns.items():
      # The examples live in tensors, so no side waits for a disk.
      example[name] = tf.gather(column, index % len(examples))
    return {
        "image": example["jpeg"],
        "panoptic_image": tf.io.decode_png(example["png"], channels=3),
        "panoptic_objects": {"id": example["id"], "label": example["label"]},
    }

  return parse
