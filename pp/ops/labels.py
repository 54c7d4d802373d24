"""Ops of the UViM tasks: panoptic segmentation and depth.

Dimensions: H W pixels · C channels · S segments · R runs · U distinct
instance ids.

A run is a stretch of equal pixels in raster order. A label map has a few
thousand runs, so everything is looked up and summed once per run, and only
`_expand_runs` touches each pixel. No cost grows with S * H * W.

The two channels of a label map (semantics, instances) are handled as one
int64 per pixel, because joining channels later costs more than all the rest.
tf.bitcast changes between int32 [..., 2] and int64 [...] without a copy.
"""

import tensorflow as tf

from pp.builder import get, register
from pp.ops.general import has_pairs, split_channels
from uvim.registry import ConfigError

# The part of a NYU v2 frame (480×640) that has depth from the sensor.
NYU_SIZE = (480, 640)
NYU_CROP = (426, 560)
NYU_LEFT = 41

# Bits for a place within a run; see `_expand_runs`.
_PLACE_BITS = 20
_MAX_RUN = 2**_PLACE_BITS


@register()
def coco_panoptic():
  """COCO panoptic maps → `semantics` and `instances`, int32 [H, W, 1].

  Reads `panoptic_image` uint8 [H, W, 3], whose pixels hold the segment id
  R + 256 G + 65536 B, and `panoptic_objects` with `id` and `label` int [S].
  `semantics` is label + 1. `instances` is the segment's place in that list,
  from 1. Both are 0 where a pixel's id is not in the list (void).
  """
  def fn(data):
    objects = get(data, "panoptic_objects")
    image = get(data, "panoptic_image")
    image = tf.ensure_shape(image, [None, None, 3])
    image = tf.cast(image, tf.int32)
    red, green, blue = tf.unstack(image, axis=-1)
    # As uvim.pixels.ids_from_rgb.
    green_part = 256 * green
    blue_part = 65536 * blue
    ids_HW = red + green_part + blue_part
    ids_R, starts_R, ends_R = _find_runs(ids_HW)
    labels_R2 = _look_up_segments(ids_R, objects)
    # Both channels are filled in at once, see the text of the module.
    pairs_R = tf.bitcast(labels_R2, tf.int64)
    lengths_R = ends_R - starts_R
    pairs = _expand_runs(pairs_R, lengths_R)
    pairs_HW = tf.reshape(pairs, tf.shape(ids_HW))
    labels_HW2 = tf.bitcast(pairs_HW, tf.int32)
    semantics, instances = split_channels(labels_HW2)
    return {**data, "semantics": semantics, "instances": instances}

  return fn


def _find_runs(map_HW):
  """The runs of [H, W]: their values, where they start, where they end.

  Starts and ends are int64 [R], places in raster order; an end is the place
  after the last pixel.
  """
  pixels = tf.reshape(map_HW, [-1])
  # The first pixel starts a run, and so does one unlike the pixel before it.
  # An empty map has no first pixel.
  num_first = tf.minimum(tf.size(pixels), 1)
  is_first = tf.ones([num_first], tf.bool)
  is_new = pixels[1:] != pixels[:-1]
  is_start = tf.concat([is_first, is_new], 0)
  starts_R = tf.where(is_start)[:, 0]
  num_pixels = tf.size(pixels, tf.int64)
  # A run ends where the next one starts, the last one with the map.
  starts_and_end = tf.concat([starts_R, [num_pixels]], 0)
  ends_R = starts_and_end[1:]
  values_R = tf.gather(pixels, starts_R)
  return values_R, starts_R, ends_R


def _expand_runs(values_R, lengths_R):
  """Each value as often as its run is long: int64 [sum of lengths].

  The direct way looks up, for each pixel, the run that it lies in. A faster
  one counts instead of looking up. Each value is shifted left, which leaves
  room for a number below it, and each run counts from there: value 5 with
  length 3 gives (5 << 20) + 0, (5 << 20) + 1, (5 << 20) + 2. Shifted right
  again, that is 5, 5, 5. TensorFlow has one op that makes all these ranges,
  and it takes a third of the time of the look-up.

  It works where a run is shorter than 2**20 pixels and a value fits in the 44
  bits above; else the look-up does it.
  """
  place_bits = tf.constant(_PLACE_BITS, tf.int64)
  starts_R = tf.bitwise.left_shift(values_R, place_bits)

  def count():
    ranges = tf.raw_ops.RaggedRange(
        starts=starts_R,
        limits=starts_R + lengths_R,
        deltas=tf.constant(1, tf.int64))
    return tf.bitwise.right_shift(ranges.rt_dense_values, place_bits)

  def look_up():
    ends_R = tf.cumsum(lengths_R)
    num_pixels = tf.reduce_sum(lengths_R)
    pixels = tf.range(num_pixels)
    runs = tf.searchsorted(ends_R, pixels, side="right")
    return tf.gather(values_R, runs)

  shifted_back_R = tf.bitwise.right_shift(starts_R, place_bits)
  value_fits_R = shifted_back_R == values_R
  length_fits_R = lengths_R < _MAX_RUN
  values_fit = tf.reduce_all(value_fits_R)
  lengths_fit = tf.reduce_all(length_fits_R)
  return tf.cond(values_fit & lengths_fit, count, look_up)


def _look_up_segments(ids_R, objects):
  """(label + 1, place in the object list from 1) of each id: int32 [R, 2].

  Both are 0 for an id that is not in the list.
  """
  ids_S = get(objects, "id")
  labels_S = get(objects, "label")
  # Fails where a damaged record has more of one than of the other.
  labels_S = tf.reshape(labels_S, tf.shape(ids_S))
  ids_S = tf.cast(ids_S, tf.int32)
  labels_S = tf.cast(labels_S, tf.int32)
  order_S = tf.argsort(ids_S, stable=True)
  # A last entry that no pixel has: then an empty list is no special case.
  sorted_ids_S = tf.gather(ids_S, order_S)
  sorted_labels_S = tf.gather(labels_S, order_S)
  sorted_ids = tf.concat([sorted_ids_S, [tf.int32.max]], 0)
  instances = tf.concat([order_S + 1, [0]], 0)
  semantics = tf.concat([sorted_labels_S + 1, [0]], 0)
  # The place where an id would stand; whether it does is asked next.
  places_R = tf.searchsorted(sorted_ids, ids_R)
  nearest_ids_R = tf.gather(sorted_ids, places_R)
  is_found_R = nearest_ids_R == ids_R
  both = tf.stack([semantics, instances], -1)
  nearest_R2 = tf.gather(both, places_R)
  found_R = tf.cast(is_found_R, tf.int32)
  # A product with 0 or 1 makes what was not found void.
  return found_R[:, None] * nearest_R2


@register(on_key="labels")
def make_canonical(main_sort_axis="y"):
  """Renumbers instances, the last channel of int [H, W, C], to 1..U.

  The order is the raster order of the masks' centers: by mean row, then by
  mean column. Ids <= 0 stay as they are. It belongs after flips, crops and
  resizes, all of which move centers (paper, section 3.1).

  Args:
    main_sort_axis: 'y' as above; 'x' sorts by mean column, then by mean row.
  """
  if main_sort_axis not in ("x", "y"):
    raise ConfigError(
        f"main_sort_axis is 'y' or 'x', not {main_sort_axis!r}.")

  def fn(labels):
    if has_pairs(labels):
      out = _renumber_pairs(labels, main_sort_axis)
    else:
      new_HW = _renumber_map(labels[..., -1], main_sort_axis)
      new_HW = tf.cast(new_HW, labels.dtype)
      others = labels[..., :-1]
      out = tf.concat([others, new_HW[..., None]], -1)
    return tf.ensure_shape(out, labels.shape)

  return fn


def _renumber_map(ids_HW, main_sort_axis: str):
  """The new ids of one channel: integers [H, W] → int64 [H, W]."""
  ids_R, starts_R, ends_R = _find_runs(ids_HW)
  width = tf.shape(ids_HW, tf.int64)[1]
  new_R = _renumber_runs(ids_R, starts_R, ends_R, width, main_sort_axis)
  new_R = tf.cast(new_R, tf.int64)
  lengths_R = ends_R - starts_R
  new = _expand_runs(new_R, lengths_R)
  return tf.reshape(new, tf.shape(ids_HW))


def _renumber_pairs(labels_HW2, main_sort_axis: str):
  """Two channels at once, int32 [H, W, 2]: the first one stays."""
  pairs_HW = tf.bitcast(labels_HW2, tf.int64)
  pairs_R, starts_R, ends_R = _find_runs(pairs_HW)
  labels_R2 = tf.bitcast(pairs_R, tf.int32)
  semantics_R, ids_R = tf.unstack(labels_R2, axis=-1)
  width = tf.shape(pairs_HW, tf.int64)[1]
  new_R = _renumber_runs(ids_R, starts_R, ends_R, width, main_sort_axis)
  new_labels_R2 = tf.stack([semantics_R, new_R], -1)
  new_pairs_R = tf.bitcast(new_labels_R2, tf.int64)
  lengths_R = ends_R - starts_R
  new_pairs = _expand_runs(new_pairs_R, lengths_R)
  new_pairs_HW = tf.reshape(new_pairs, tf.shape(pairs_HW))
  return tf.bitcast(new_pairs_HW, tf.int32)


def _renumber_runs(ids_R, starts_R, ends_R, width, main_sort_axis: str):
  """The new instance id of each run, from the centers of all instances."""
  ids_U, instance_R = tf.unique(ids_R)
  # Sums over a run are those before its end less those before its start.
  before_end_R3 = _sums_before(ends_R, width)
  before_start_R3 = _sums_before(starts_R, width)
  sums_R3 = before_end_R3 - before_start_R3
  num_instances = tf.size(ids_U)
  sums_U3 = tf.math.unsorted_segment_sum(sums_R3, instance_R, num_instances)
  num_pixels_U, row_sum_U, column_sum_U = tf.unstack(sums_U3, axis=-1)
  # TensorFlow divides int64 in float64.
  y_U = row_sum_U / num_pixels_U
  x_U = column_sum_U / num_pixels_U
  if main_sort_axis == "y":
    new_U = _rank_by(ids_U, y_U, x_U)
  else:
    new_U = _rank_by(ids_U, x_U, y_U)
  return tf.gather(new_U, instance_R)


def _sums_before(places_R, width):
  """Sums over all pixels before each of these places in raster order.

  int64 [R, 3]: the number of pixels, the sum of their rows and the sum of
  their columns. Sums of integers are exact, so equal centers tie, and their
  order does not depend on rounding.
  """
  full_rows_R = places_R // width
  rest_R = places_R % width
  # Full rows have numbers 0 … full_rows-1; the rest lies in row full_rows.
  full_rows_sum_R = width * _sum_below(full_rows_R)
  row_sum_R = full_rows_sum_R + full_rows_R * rest_R
  # Every full row has all columns; the rest has columns 0 … rest-1.
  full_columns_sum_R = full_rows_R * _sum_below(width)
  column_sum_R = full_columns_sum_R + _sum_below(rest_R)
  return tf.stack([places_R, row_sum_R, column_sum_R], -1)


def _sum_below(number):
  """0 + 1 + … + (number - 1)."""
  twice = number * (number - 1)
  return twice // 2


def _rank_by(ids_U, first_U, second_U):
  """1, 2, … for the positive ids by (first, second); the rest unchanged."""
  # Two stable sorts, the main key last, sort by both.
  order_U = tf.argsort(second_U, stable=True)
  sorted_first_U = tf.gather(first_U, order_U)
  by_first_U = tf.argsort(sorted_first_U, stable=True)
  order_U = tf.gather(order_U, by_first_U)
  sorted_ids_U = tf.gather(ids_U, order_U)
  # Counts only instances, so that other ids leave no gap.
  is_instance_U = tf.cast(sorted_ids_U > 0, ids_U.dtype)
  rank_in_order_U = tf.cumsum(is_instance_U)
  # Back from the sorted order to that of `ids_U`.
  rank_U = tf.scatter_nd(order_U[:, None], rank_in_order_U, tf.shape(ids_U))
  return tf.where(ids_U > 0, rank_U, ids_U)


@register()
def nyu_depth():
  """`depth` in meters, [H, W] or [H, W, 1] → `labels` float32 [H, W, 1]."""
  def fn(data):
    depth = get(data, "depth")
    depth = tf.cast(depth, tf.float32)
    if depth.shape.rank == 2:
      depth = depth[..., None]
    depth = tf.ensure_shape(depth, [None, None, 1])
    return {**data, "labels": depth}

  return fn


@register()
def nyu_eval_crop(top=45):
  """Cuts image and labels of 480×640 to the 426×560 that is scored.

  Args:
    top: first row. 45 is the crop of Eigen et al. (2014), rows 45:471 and
      columns 41:601; the released implementation starts at 54.
  """
  last_top = NYU_SIZE[0] - NYU_CROP[0]
  if not isinstance(top, int) or not 0 <= top <= last_top:
    raise ConfigError(f"top is a row in 0..{last_top}, not {top!r}.")

  def crop(pixels):
    # Eager mode checks at once and gives None; a graph gets an op that must
    # run before the crop.
    size = tf.shape(pixels)[:2]
    check = tf.debugging.assert_equal(
        size, NYU_SIZE, "nyu_eval_crop needs 480×640 pixels")
    checks = [] if check is None else [check]
    with tf.control_dependencies(checks):
      pixels = tf.identity(pixels)
    height, width = NYU_CROP
    bottom = top + height
    right = NYU_LEFT + width
    return pixels[top:bottom, NYU_LEFT:right]

  def fn(data):
    out = dict(data)
    out["image"] = crop(get(data, "image"))
    if "labels" in data:
      out["labels"] = crop(data["labels"])
    return out

  return fn
