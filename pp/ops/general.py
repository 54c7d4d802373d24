"""Ops on whole examples and on any kind of tensor."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from pp.builder import get, register
from uvim.registry import ConfigError


def _check_keys(keys) -> None:
  """Raises a ConfigError unless all of them are strings."""
  for key in keys:
    if not isinstance(key, str):
      raise ConfigError(f"a key is a string, not {key!r}.")


@register()
def keep(*keys):
  """Leaves nothing but these keys; all of them must be there."""
  _check_keys(keys)

  def fn(data):
    return {key: get(data, key) for key in keys}

  return fn


@register()
def drop(*keys):
  """Removes these keys; all of them must be there."""
  _check_keys(keys)

  def fn(data):
    out = dict(data)
    for key in keys:
      get(data, key)  # An error where it is missing.
      # The same key may be named twice.
      out.pop(key, None)
    return out

  return fn


@register()
def copy(inkey, outkey):
  """Gives `inkey` a second name."""
  _check_keys((inkey, outkey))

  def fn(data):
    return {**data, outkey: get(data, inkey)}

  return fn


@register()
def concat(inkeys, outkey=None, axis=-1):
  """Joins tensors along an axis, by default channels.

  Args:
    inkeys: names of tensors that are equal except along that axis.
    outkey: name of the result; by default the first of `inkeys`.
    axis: as in tf.concat.
  """
  if isinstance(inkeys, str) or not inkeys:
    raise ConfigError(f"inkeys is a list of keys, not {inkeys!r}.")
  _check_keys(inkeys)
  outkey = outkey or inkeys[0]

  def fn(data):
    parts = [get(data, key) for key in inkeys]
    joined = None
    # `split_channels` splits the last axis, so only that can be undone.
    if axis == -1:
      joined = _undo_split(parts)
    if joined is None:
      joined = tf.concat(parts, axis)
    return {**data, outkey: joined}

  return fn


class _Origin(NamedTuple):
  """Where a tensor comes from: channel `channel` of `whole`."""
  whole: tf.Tensor
  channel: int


# `coco_panoptic` makes one tensor with two channels. The paper's strings want
# them under two names, and then join them again at once by `concat`. Joining
# copies single channels between each other, which takes as long as decoding
# the image. So `split_channels` notes on each channel what it is a part of,
# and `concat` takes that whole where it can.
#
# The note is an attribute of the tensor object. Every op makes new objects, so
# the note is lost as soon as a channel is changed, and that is what keeps this
# right: only channels as they were split lead back to the whole. A key of the
# example would stay when a channel changes, and would reach the batches.


def split_channels(whole: tf.Tensor) -> list[tf.Tensor]:
  """The channels of [..., C], each [..., 1]; `concat` can undo it for free."""
  parts = []
  for channel in range(whole.shape[-1]):
    part = whole[..., channel:channel + 1]
    part.origin = _Origin(whole, channel)
    parts.append(part)
  return parts


def _undo_split(parts: Sequence[tf.Tensor]) -> tf.Tensor | None:
  """The tensor whose channels `parts` are, all of them and in order; or None.
  """
  origins = [getattr(part, "origin", None) for part in parts]
  if origins[0] is None:
    return None
  whole = origins[0].whole
  if whole.shape[-1] != len(parts):
    return None
  for place, origin in enumerate(origins):
    if origin is None or origin.whole is not whole or origin.channel != place:
      return None
  return whole


def has_pairs(labels: tf.Tensor) -> bool:
  """Whether `labels` is int32 [..., 2].

  Then two channels can be moved as one int64, at half the cost.
  """
  is_int32 = labels.dtype == tf.int32
  return is_int32 and labels.shape.rank is not None and labels.shape[-1] == 2


@register(random=True)
def randu(key):
  """Draws float32 [] in [0, 1) for ops that share one random choice."""
  _check_keys((key,))

  def fn(data, seed):
    return {**data, key: tf.random.stateless_uniform([], seed)}

  return fn


@register(on_key="image")
def value_range(vmin=-1, vmax=1, in_min=0, in_max=255, clip_values=False):
  """Maps [in_min, in_max] linearly to [vmin, vmax]; the result is float32.

  Args:
    vmin: what in_min becomes.
    vmax: what in_max becomes.
    in_min: least input value; the default fits uint8.
    in_max: greatest input value.
    clip_values: clips values outside of [vmin, vmax].
  """
  for number in (vmin, vmax, in_min, in_max):
    if not isinstance(number, (int, float)):
      raise ConfigError(f"takes numbers, not {number!r}.")
  if in_max == in_min:
    raise ConfigError(f"in_min and in_max are both {in_min!r}.")

  def fn(values):
    share = (tf.cast(values, tf.float32) - in_min) / (in_max - in_min)
    out = vmin + share * (vmax - vmin)
    if clip_values:
      out = tf.clip_by_value(out, vmin, vmax)
    return out

  return fn
