"""C4 preprocessing and C6 panoptic quality, on pictures made from a seed.

H W pixels · S segments
"""

import functools
import io
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tools.bench import measure
from tools.bench import naive_parts as naive
from tools.bench.measure import Row, require, say
from tools.bench.sizes import Size

# Appendix D, Listing 1.
PP_TRAIN = (
    'decode|coco_panoptic|concat(["semantics","instances"], "labels")|'
    'randu("fliplr")|det_fliplr(key="image")|det_fliplr(key="labels")|'
    'inception_box|crop_box(key="image")|crop_box(key="labels")|'
    'resize({res})|resize({res}, key="labels", method="nearest")|'
    'value_range(-1, 1)|make_canonical|keep("image","labels")')
_DISTINCT = 8  # Pictures; a pass goes through them more than once.
_GROUPS = ("All", "Things", "Stuff")


def segment_map(rng: np.random.Generator, shape: tuple[int, int],
                num_segments: int) -> np.ndarray:
  """int64 [H, W] of 0..S-1, ragged patches that cover the picture.

  The nearest of S random points, in coordinates bent by noise: about as many
  changes along a row as a map of COCO has.
  """
  grid_HW2 = np.stack(np.mgrid[:shape[0], :shape[1]], -1).astype(np.float32)
  noise = rng.normal(size=(shape[0] // 8 + 1, shape[1] // 8 + 1, 2))
  bent = noise.repeat(8, 0).repeat(8, 1)[:shape[0], :shape[1]] * 4
  grid_HW2 += (bent + rng.normal(size=bent.shape)).astype(np.float32)
  points_S2 = np.float32(rng.uniform((0, 0), shape, (num_segments, 2)))
  nearest = np.full(shape, np.inf, np.float32)
  index_HW = np.zeros(shape, np.int64)
  for i, point in enumerate(points_S2):
    distance = np.square(grid_HW2 - point).sum(-1)
    index_HW = np.where(distance < nearest, i, index_HW)
    nearest = np.minimum(distance, nearest)
  # Every number occurs, however close two points lie.
  places = rng.choice(index_HW.size, num_segments, replace=False)
  index_HW.reshape(-1)[places] = np.arange(num_segments)
  return index_HW


def _encoded(array, kind) -> bytes:
  from PIL import Image
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, kind)
  return buffer.getvalue()


def _picture(rng, shape, num_segments) -> dict[str, Any]:
  """An encoded photograph, its encoded panoptic map and the map's list."""
  index_HW = segment_map(rng, shape, num_segments)
  id_S = rng.choice(2**24 - 1, num_segments, replace=False) + 1
  ids_HW = id_S[index_HW]
  rgb = np.stack([ids_HW >> shift & 255 for shift in (0, 8, 16)], -1)
  color = rng.integers(0, 200, (num_segments, 3))[index_HW]
  photo = color + rng.integers(0, 56, (*shape, 1))
  return dict(jpeg=_encoded(photo.astype(np.uint8), "JPEG"),
              png=_encoded(rgb.astype(np.uint8), "PNG"), id=id_S,
              label=rng.integers(0, 133, num_segments))


def _passes(shape, res, num_images, num_segments):
  """(ours, naive): each preprocesses all pictures; both return the last."""
  import tensorflow as tf

  from pp import builder
  rng = np.random.default_rng(num_segments)
  pictures = [_picture(rng, shape, num_segments) for _ in range(_DISTINCT)]
  columns = {key: tf.constant([p[key] for p in pictures])
             for key in pictures[0]}
  steps = builder.build(PP_TRAIN.format(res=res))

  def parse(index):
    here = {k: tf.gather(x, index % _DISTINCT) for k, x in columns.items()}
    return {"image": here["jpeg"],
            "panoptic_image": tf.io.decode_png(here["png"], channels=3),
            "panoptic_objects": {k: here[k] for k in ("id", "label")}}

  plain = {"coco_panoptic": naive.coco_panoptic,
           "make_canonical": naive.make_canonical}

  def plain_steps(data, seed):
    for step in steps.steps:
      data = (plain[step.name](data) if step.name in plain
              else step.fn(data, seed))
    return data

  return [functools.partial(_run, _dataset(parse, fn, num_images))
          for fn in (steps, plain_steps)]


def _dataset(parse, preprocess, num_images):
  """Batches, with the threads that training uses."""
  import tensorflow as tf

  def example(index):
    return preprocess(parse(index), tf.stack([index, 7]))

  options = tf.data.Options()
  options.autotune.enabled = False
  options.threading.private_threadpool_size = measure.num_cores()
  options.threading.max_intra_op_parallelism = 1
  data = tf.data.Dataset.range(num_images).map(
      tf.autograph.experimental.do_not_convert(example),
      num_parallel_calls=measure.num_cores(), deterministic=True)
  return data.batch(min(8, num_images)).with_options(options)


def _run(dataset):
  for batch in dataset.as_numpy_iterator():  # noqa: B007 - the last is kept.
    pass
  return batch


def preprocessing(size: Size, segments: tuple[int, ...] | None = None,
                  name: str = "C4") -> Iterator[Row]:
  """Images per second of Appendix D's training string, memory and CPU time."""
  shape, res, num_images = size.pp
  for num_segments in segments or size.segments:
    sides = _passes(shape, res, num_images, num_segments)
    peaks = []
    for side in sides:  # Ours first: memory once freed may stay resident.
      with measure.PeakMemory() as memory:
        out = side()
      peaks.append(memory.bytes)
      if len(peaks) == 1:
        first = out
    for key in first:
      require(np.array_equal(first[key], out[key]),
              f"{name}: {key!r} with {num_segments} segments differs.")
    say(f"{num_segments} segments: both agree exactly")
    times = measure.alternate(*sides, repeats=size.repeats)
    row = measure.timed_row(
        f"{name} {num_segments} segments", times, items=num_images,
        unit="images/s")
    row.temp_bytes_ours, row.temp_bytes_naive = peaks
    for side, time in zip(("ours", "naive"), times, strict=True):
      row.details[f"ms_cpu_per_image_{side}"] = (
          1e3 * float(np.median(time.cpu)) / num_images)
    yield row


# Panoptic quality.


def _scored_pictures(shape, number, categories):
  """Pairs of truth and prediction: (map, segments, map, segments).

  In the types that the evaluator has them in.
  """
  rng = np.random.default_rng(0)
  out = []
  for i in range(number):
    if i % 4 == 0:  # Four mirrored forms of a map: drawing it is slow.
      index_HW = segment_map(rng, shape, int(rng.integers(11, 21)))
    truth_HW = index_HW[::1 - i % 2 * 2, ::1 - i // 2 % 2 * 2].copy()
    shift = rng.integers(-(shape[0] // 64), shape[0] // 64 + 1, 2)
    pred_HW = np.roll(truth_HW, shift, (0, 1))
    kinds = rng.integers(0, len(categories), truth_HW.max() + 1)
    wrong = np.where(rng.random(len(kinds)) < 0.2, 1, 0)
    pred_kinds = (kinds + wrong) % len(categories)
    # Segment 0 is void in the truth; the prediction covers it.
    truth = [dict(id=s, category_id=categories[kinds[s]].id)
             for s in range(1, len(kinds))]
    pred = [dict(id=s + 1, category_id=categories[pred_kinds[s]].id)
            for s in np.unique(pred_HW).tolist()]
    out.append((truth_HW.astype(np.uint16), truth,
                (pred_HW + 1).astype(np.int32), pred))
  return out


def panoptic_quality(size: Size) -> Iterator[Row]:
  """Pictures per second: ours in memory against what the official scorer
  does, which knows files only; then against the same without the files, and
  against a library."""
  from evaluators import pq
  from uvim import categories as categories_lib
  categories = categories_lib.coco_panoptic()
  pictures = _scored_pictures(*size.pq, categories)

  def ours():
    stat = pq.PQStat.zeros(categories)
    for picture in pictures:
      stat += pq.pq_image(*picture, categories=categories)
    result = stat.result()
    return {group: result[group]["pq"] for group in _GROUPS}

  with tempfile.TemporaryDirectory() as folder:
    others = _from_files(pathlib.Path(folder), pictures, categories)
    others[" in memory"] = functools.partial(
        naive.panoptic_quality, pictures, categories)
    score = ours()
    for variant, other in others.items():
      theirs = other()
      require(all(abs(score[g] - theirs[g]) < 1e-9 for g in _GROUPS),
              f"C6{variant}: PQ {score} against {theirs}.")
      say(f"C6{variant}: PQ {score['All']:.6f} from both")
      times = measure.alternate(ours, other, repeats=size.repeats)
      yield measure.timed_row(f"C6{variant}", times, items=len(pictures),
                              unit="images/s")


def _from_files(folder, pictures, categories) -> dict[str, Callable]:
  """Scorers of PNG files: the naive one, and a library where there is one."""
  from evaluators import panoptic_files

  files = [[panoptic_files.write_png(folder / side, i, picture[part])
            for i, picture in enumerate(pictures)]
           for side, part in (("gt", 0), ("pred", 2))]

  def read(side, name):
    from PIL import Image
    rgb = np.asarray(Image.open(folder / side / name), np.uint32)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]

  def from_files():
    loaded = ((read("gt", gt), picture[1], read("pred", pred), picture[3])
              for picture, gt, pred in zip(pictures, *files, strict=True))
    return naive.panoptic_quality(loaded, categories)

  out = {"": from_files}
  try:
    from hotcoco import panoptic
  except ImportError:
    return out
  for side, part in (("gt", 0), ("pred", 2)):
    _write_json(folder / f"{side}.json", pictures, part, categories)

  def library():
    result = panoptic.pq_compute(str(folder / "gt.json"),
                                 str(folder / "pred.json"))
    return {group: result[group]["pq"] for group in _GROUPS}

  return out | {" hotcoco": library}


def _write_json(path, pictures, part, categories):
  """The official description of maps: part 0 of a picture, or part 2."""
  annotations = []
  for i, picture in enumerate(pictures):
    ids_HW, segments = picture[part:part + 2]
    area = np.bincount(ids_HW.ravel())
    annotations.append(dict(
        image_id=i, file_name=f"{i:012d}.png", segments_info=[
            dict(s, area=int(area[s["id"]]), iscrowd=0, bbox=[0, 0, 1, 1])
            for s in segments]))
  height, width = pictures[0][0].shape
  path.write_text(json.dumps(dict(
      annotations=annotations,
      categories=[dict(id=c.id, name=c.name, isthing=int(c.isthing))
                  for c in categories],
      images=[dict(id=i, height=height, width=width,
                   file_name=f"{i:012d}.png")
              for i in range(len(pictures))])))
