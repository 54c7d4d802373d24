"""Ops of the UViM tasks: panoptic segmentation and depth.

Dimensions: H W pixels · C channels · S segments · V distinct values · U
distinct instance ids.
All costs grow with H * W and not with S * H * W. The two channels of a label
map travel as one 64-bit number per pixel: hashing or looking up one costs what
a 32-bit number does, and joining channels afterwards costs more than either.
"""

import tensorflow as tf

from pp.builder import get, register
from pp.ops_general import split_channels
from uvim.registry import ConfigError

# The part of a NYU v2 frame (480×640) that has depth from the sensor.
NYU_SIZE = (480, 640)
NYU_CROP = (426, 560)
NYU_LEFT = 41


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
    ids_V, index = tf.unique(tf.reshape(ids_HW, [-1]))
    both_V = tf.bitcast(_match(ids_V, objects), tf.int64)
    both_HW = tf.reshape(tf.gather(both_V, index), tf.shape(ids_HW))
    semantics, instances = split_channels(tf.bitcast(both_HW, tf.int32))
    return {**data, "semantics": semantics, "instances": instances}

  return fn


def _match(ids_V, objects):
  """Label + 1 and place in the object list, from 1; 0 if absent: int32 [V,2].
  """
  known_S = tf.cast(get(objects, "id"), tf.int32)
  label_S = tf.cast(get(objects, "label"), tf.int32)
  order_S = tf.argsort(known_S, stable=True)
  # A last entry that no pixel has spares the special case of an empty list.
  sorted_S = tf.concat([tf.gather(known_S, order_S), [tf.int32.max]], 0)
  place_V = tf.searchsorted(sorted_S, ids_V)
  found_V = tf.cast(tf.gather(sorted_S, place_V) == ids_V, tf.int32)
  instance_S = tf.concat([order_S + 1, [0]], 0)
  semantic_S = tf.concat([tf.gather(label_S, order_S) + 1, [0]], 0)
  both_S2 = tf.stack([semantic_S, instance_S], -1)
  return found_V[:, None] * tf.gather(both_S2, place_V)


@register(on_key="labels")
def make_canonical(main_sort_axis="y"):
  """Renumbers instances, the last channel of int [H, W, C], to 1..V.

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
    paired = labels.dtype == tf.int32 and labels.shape[-1] == 2
    keys_HW = tf.bitcast(labels, tf.int64) if paired else labels[..., -1]
    keys_V, index = tf.unique(tf.reshape(keys_HW, [-1]))
    ids_V = tf.bitcast(keys_V, tf.int32)[:, 1] if paired else keys_V
    ids_U, group_V = tf.unique(ids_V)
    sums_V3 = _sums(index, tf.shape(keys_HW), tf.size(keys_V))
    sums_U3 = tf.math.unsorted_segment_sum(sums_V3, group_V, tf.size(ids_U))
    y_U, x_U = [sums_U3[:, i] / sums_U3[:, 0] for i in (1, 2)]
    first, second = (y_U, x_U) if main_sort_axis == "y" else (x_U, y_U)
    new_V = tf.gather(_renumber(ids_U, first, second), group_V)
    if paired:
      other_V = tf.bitcast(keys_V, tf.int32)[:, 0]
      new_V = tf.bitcast(tf.stack([other_V, new_V], -1), tf.int64)
    new_HW = tf.reshape(tf.gather(new_V, index), tf.shape(keys_HW))
    if paired:
      out = tf.bitcast(new_HW, tf.int32)
    else:
      out = tf.concat([labels[..., :-1], new_HW[..., None]], -1)
    return tf.ensure_shape(out, labels.shape)

  return fn


def _sums(index, shape_HW, num):
  """Pixels, sum of rows and of columns of each of `num` values: int64 [V, 3].

  Sums of whole numbers are exact, so equal centres tie and their order does
  not hang on rounding.
  """
  def total(values_HW):
    flat = tf.reshape(tf.broadcast_to(values_HW, shape_HW), [-1])
    return tf.math.unsorted_segment_sum(flat, index, num)

  rows = tf.range(tf.cast(shape_HW[0], tf.int64))[:, None]
  columns = tf.range(tf.cast(shape_HW[1], tf.int64))[None, :]
  return tf.stack([total(tf.ones([1, 1], tf.int64)), total(rows),
                   total(columns)], -1)


def _renumber(ids_V, first_V, second_V):
  """1, 2, … for the positive ids by (first, second); the rest unchanged."""
  order_V = tf.argsort(second_V, stable=True)
  order_V = tf.gather(
      order_V, tf.argsort(tf.gather(first_V, order_V), stable=True))
  positive_V = tf.cast(tf.gather(ids_V, order_V) > 0, ids_V.dtype)
  rank_V = tf.scatter_nd(order_V[:, None], tf.cumsum(positive_V),
                         tf.shape(ids_V))
  return tf.where(ids_V > 0, rank_V, ids_V)


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
