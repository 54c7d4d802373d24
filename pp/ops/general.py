"""Ops on whole examples and on any kind of tensor."""

import tensorflow as tf

from pp.builder import get, register
from uvim.registry import ConfigError


def _check_keys(keys) -> None:
  for key in keys:
    if not isinstance(key, str):
      raise ConfigError(f"a key is a string, not {key!r}.")


@register()
def keep(*keys):
  """Leaves nothing but these keys; all of them must be there."""
  _check_keys(keys)
  return lambda data: {key: get(data, key) for key in keys}


@register()
def drop(*keys):
  """Takes these keys away; all of them must be there."""
  _check_keys(keys)

  def fn(data):
    for key in keys:
      get(data, key)
    return {key: value for key, value in data.items() if key not in keys}

  return fn


@register()
def copy(inkey, outkey):
  """Gives `inkey` a second name."""
  _check_keys((inkey, outkey))
  return lambda data: {**data, outkey: get(data, inkey)}


@register()
def concat(inkeys, outkey=None, axis=-1):
  """Joins tensors along an axis, by default channels.

  Args:
    inkeys: names of tensors that are equal but for that axis.
    outkey: where to; by default the first of `inkeys`.
    axis: as in tf.concat.
  """
  if isinstance(inkeys, str) or not inkeys:
    raise ConfigError(f"inkeys is a list of keys, not {inkeys!r}.")
  _check_keys(inkeys)
  outkey = outkey or inkeys[0]

  def fn(data):
    parts = [get(data, key) for key in inkeys]
    whole = _whole(parts) if axis == -1 else None
    return {**data, outkey: tf.concat(parts, axis) if whole is None else whole}

  return fn


def split_channels(whole: tf.Tensor) -> list[tf.Tensor]:
  """The channels of [..., C], each [..., 1].

  They remember what they are of: Appendix D's strings join them again at once,
  and copying single channels together is as slow as decoding the image.
  """
  parts = [whole[..., i:i + 1] for i in range(whole.shape[-1])]
  for i, part in enumerate(parts):
    part.channel_of = (whole, i)
  return parts


def has_pairs(x: tf.Tensor) -> bool:
  """Whether `x` is int32 [..., 2]: as int64 [...] it moves at half the cost.
  """
  return x.dtype == tf.int32 and x.shape.rank is not None and x.shape[-1] == 2


def _whole(parts) -> tf.Tensor | None:
  """The tensor that `parts` are all channels of, in order, if they are."""
  origins = [getattr(part, "channel_of", (None, -1)) for part in parts]
  whole = origins[0][0]
  if whole is None or whole.shape[-1] != len(parts):
    return None
  fits = all(origin[0] is whole and origin[1] == i
             for i, origin in enumerate(origins))
  return whole if fits else None


@register(random=True)
def randu(key):
  """Draws float32 [] in [0, 1) for ops that share one random choice."""
  _check_keys((key,))
  return lambda data, seed: {**data, key: tf.random.stateless_uniform([], seed)}


@register(on_key="image")
def value_range(vmin=-1, vmax=1, in_min=0, in_max=255, clip_values=False):
  """Maps [in_min, in_max] linearly to [vmin, vmax]; the result is float32.

  Args:
    vmin: what in_min becomes.
    vmax: what in_max becomes.
    in_min: of the values that come in; uint8 unless said otherwise.
    in_max: of the values that come in.
    clip_values: cuts values outside [vmin, vmax].
  """
  for number in (vmin, vmax, in_min, in_max):
    if not isinstance(number, (int, float)):
      raise ConfigError(f"takes numbers, not {number!r}.")
  if in_max == in_min:
    raise ConfigError(f"in_min and in_max are both {in_min!r}.")

  def fn(x):
    x = (tf.cast(x, tf.float32) - in_min) / (in_max - in_min)
    x = vmin + x * (vmax - vmin)
    return tf.clip_by_value(x, vmin, vmax) if clip_values else x

  return fn
