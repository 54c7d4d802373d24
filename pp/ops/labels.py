"""Ops of the UViM tasks: panoptic segmentation and depth.

Dimensions: H W pixels · C channels · S segments · R runs · U distinct
instance ids.
All costs grow with H * W and not with S * H * W. A run is a stretch of equal
pixels in raster order, and a label map has a few thousand: what is looked up,
hashed or summed is looked up once per run. The two channels of a label map
travel as one 64-bit number per pixel, since joining channels afterwards costs
more than anything else here.
"""

import tensorflow as tf

from pp.builder import get, register
from pp.ops.general import has_pairs, split_channels
from uvim.registry import ConfigError

# The part of a NYU v2 frame (480×640) that has depth from the sensor.
NYU_SIZE = (480, 640)
NYU_CROP = (426, 560)
NYU_LEFT = 41

# Longer runs, or instance ids that fill more than the rest of their 32 bits,
# take a slower way (see `_spread`).
_RUN_BITS = 20


@register()
def coco_panoptic():
  """COCO panoptic maps → `semantics` and `instances`, int32 [H, W, 1].

  Reads `panoptic_image` uint8 [H, W, 3], whose pixels hold the segment id
  R + 256 G + 65536 B, and `panoptic_objects` with `id` and `label` int [S].
  `semantics` is label + 1 and `instances` the segment's place in that list,
  from 1; both are 0 where a pixel's id is not in it (void).
  """
  def fn(data):
    objects = get(data, "panoptic_objects")
    panoptic = tf.ensure_shape(get(data, "panoptic_image"), [None, None, 3])
    red, green, blue = tf.unstack(tf.cast(panoptic, tf.int32), axis=-1)
    ids_HW = red + 256 * green + 65536 * blue
    ids_R, starts, ends = _runs(ids_HW)
    both_R = tf.bitcast(_match(ids_R, objects), tf.int64)
    both_HW = tf.reshape(_spread(both_R, ends - starts), tf.shape(ids_HW))
    semantics, instances = split_channels(tf.bitcast(both_HW, tf.int32))
    return {**data, "semantics": semantics, "instances": instances}

  return fn


def _runs(map_HW):
  """Values of the runs of [H, W], where they start and end: int64 [R]."""
  flat = tf.reshape(map_HW, [-1])
  first = tf.ones([tf.minimum(tf.size(flat), 1)], tf.bool)
  starts = tf.where(tf.concat([first, flat[1:] != flat[:-1]], 0))[:, 0]
  ends = tf.concat([starts, [tf.size(flat, tf.int64)]], 0)[1:]
  return tf.gather(flat, starts), starts, ends


def _spread(values_R, lengths_R):
  """Each value, int64, as often as its run is long.

  A range from value << 20 on has the value in its upper bits: counting is
  three times faster than looking each pixel's run up.
  """
  bits = tf.constant(_RUN_BITS, tf.int64)
  start_R = tf.bitwise.left_shift(values_R, bits)

  def ranges():
    counted = tf.raw_ops.RaggedRange(
        starts=start_R, limits=start_R + lengths_R,
        deltas=tf.constant(1, tf.int64)).rt_dense_values
    return tf.bitwise.right_shift(counted, bits)

  def lookup():
    ends = tf.cumsum(lengths_R)
    pixels = tf.range(tf.reduce_sum(lengths_R))
    return tf.gather(values_R, tf.searchsorted(ends, pixels, side="right"))

  fits = (tf.reduce_all(tf.bitwise.right_shift(start_R, bits) == values_R)
          & tf.reduce_all(lengths_R < 2**_RUN_BITS))
  return tf.cond(fits, ranges, lookup)


def _match(ids_R, objects):
  """Label + 1 and place in the object list, from 1; 0 if absent: int32 [R,2].
  """
  known_S = tf.cast(get(objects, "id"), tf.int32)
  label_S = tf.cast(get(objects, "label"), tf.int32)
  order_S = tf.argsort(known_S, stable=True)
  # A last entry that no pixel has spares the special case of an empty list.
  sorted_S = tf.concat([tf.gather(known_S, order_S), [tf.int32.max]], 0)
  place_R = tf.searchsorted(sorted_S, ids_R)
  found_R = tf.cast(tf.gather(sorted_S, place_R) == ids_R, tf.int32)
  instance_S = tf.concat([order_S + 1, [0]], 0)
  semantic_S = tf.concat([tf.gather(label_S, order_S) + 1, [0]], 0)
  both_S2 = tf.stack([semantic_S, instance_S], -1)
  return found_R[:, None] * tf.gather(both_S2, place_R)


@register(on_key="labels")
def make_canonical(main_sort_axis="y"):
  """Renumbers instances, the last channel of int [H, W, C], to 1..U.

  The order is the raster order of the masks' centres: by mean row, then by
  mean column. Ids <= 0 stay as they are. Belongs after flips, crops and
  resizes, all of which move centres (paper, section 3.1).

  Args:
    main_sort_axis: 'y' as above; 'x' sorts by mean column, then by mean row.
  """
  if main_sort_axis not in ("x", "y"):
    raise ConfigError(
        f"main_sort_axis is 'y' or 'x', not {main_sort_axis!r}.")

  def fn(labels):
    paired = has_pairs(labels)
    keys_HW = tf.bitcast(labels, tf.int64) if paired else labels[..., -1]
    keys_R, starts, ends = _runs(keys_HW)
    ids_R = tf.bitcast(keys_R, tf.int32)[:, 1] if paired else keys_R
    ids_U, index_R = tf.unique(ids_R)
    width = tf.shape(keys_HW, tf.int64)[1]
    sums_U3 = tf.math.unsorted_segment_sum(
        _sums(ends, width) - _sums(starts, width), index_R, tf.size(ids_U))
    y_U, x_U = [sums_U3[:, i] / sums_U3[:, 0] for i in (1, 2)]
    first, second = (y_U, x_U) if main_sort_axis == "y" else (x_U, y_U)
    new_R = tf.gather(_renumber(ids_U, first, second), index_R)
    if paired:
      other_R = tf.bitcast(keys_R, tf.int32)[:, 0]
      new_R = tf.bitcast(tf.stack([other_R, new_R], -1), tf.int64)
    new = _spread(tf.cast(new_R, tf.int64), ends - starts)
    new_HW = tf.reshape(new, tf.shape(keys_HW))
    if paired:
      out = tf.bitcast(new_HW, tf.int32)
    else:
      last = tf.cast(new_HW, labels.dtype)[..., None]
      out = tf.concat([labels[..., :-1], last], -1)
    return tf.ensure_shape(out, labels.shape)

  return fn


def _sums(ends_R, width):
  """Of all pixels before each of these places in raster order: their number,
  the sum of their rows and the sum of their columns, int64 [R, 3].

  Sums of whole numbers are exact, so equal centres tie and their order does
  not hang on rounding.
  """
  full_R, rest_R = ends_R // width, ends_R % width
  rows_R = width * (full_R * (full_R - 1) // 2) + full_R * rest_R
  columns_R = (full_R * (width * (width - 1) // 2)
               + rest_R * (rest_R - 1) // 2)
  return tf.stack([ends_R, rows_R, columns_R], -1)


def _renumber(ids_U, first_U, second_U):
  """1, 2, … for the positive ids by (first, second); the rest unchanged."""
  order_U = tf.argsort(second_U, stable=True)
  order_U = tf.gather(
      order_U, tf.argsort(tf.gather(first_U, order_U), stable=True))
  positive_U = tf.cast(tf.gather(ids_U, order_U) > 0, ids_U.dtype)
  rank_U = tf.scatter_nd(order_U[:, None], tf.cumsum(positive_U),
                         tf.shape(ids_U))
  return tf.where(ids_U > 0, rank_U, ids_U)


@register()
def nyu_depth():
  """`depth` in metres, [H, W] or [H, W, 1] → `labels` float32 [H, W, 1]."""
  def fn(data):
    depth = tf.cast(get(data, "depth"), tf.float32)
    if depth.shape.rank == 2:
      depth = depth[..., None]
    return {**data, "labels": tf.ensure_shape(depth, [None, None, 1])}
  return fn


@register()
def nyu_eval_crop(top=45):
  """Cuts image and labels of 480×640 to the 426×560 that is scored.

  Args:
    top: first row. 45 is the crop of Eigen et al. (2014), rows 45:471 and
      columns 41:601; the released implementation starts at 54.
  """
  if not isinstance(top, int) or not 0 <= top <= NYU_SIZE[0] - NYU_CROP[0]:
    raise ConfigError(f"top is a row in 0..{NYU_SIZE[0] - NYU_CROP[0]}, not "
                      f"{top!r}.")

  def crop(x):
    check = tf.debugging.assert_equal(
        tf.shape(x)[:2], NYU_SIZE, "nyu_eval_crop needs 480×640 pixels")
    with tf.control_dependencies([check] if check is not None else []):
      x = tf.identity(x)
    return x[top:top + NYU_CROP[0], NYU_LEFT:NYU_LEFT + NYU_CROP[1]]

  def fn(data):
    get(data, "image")
    keys = [key for key in ("image", "labels") if key in data]
    return {**data, **{key: crop(data[key]) for key in keys}}

  return fn
