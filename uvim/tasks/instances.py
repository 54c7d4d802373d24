"""Turns panoptic logits, or maps, into segments with a class each.

All pixels of an instance vote for its class. At 512 x 512 pixels and 134
classes, the logits of one image take 140 MB. So every step below reads them
once, a few patches at a time, and makes no copy of them.

Suffixes: B batch · N patches of an image · P pixels of a patch · K classes ·
I instance ids · X = N * P pixels of an image · M = B * N patches of all images
· G patches of a group · S pairs of class and instance · C channels (semantics,
instance).
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from uvim import fields
from uvim.learn import sharding
from uvim.typing import Array, Float, Int, PatchIds

ClassLogits = Float[Array, "B N K P"]
InstanceLogits = Float[Array, "B N I P"]
# (semantics, instance) of each pixel.
PatchPairs = Int[Array, "B N P 2"]
# For each instance, one number for each class: a count or a sum of logits.
Votes = Int[Array, "B I K"] | Float[Array, "B I K"]
SumLogits = Callable[..., Votes]

INSTANCE_LABELS = ("logit_sum", "majority", "pixel")
OPTION_CHECKS = {
    "min_fraction": fields.number(0, below=1),
    "instance_label": fields.one_of(INSTANCE_LABELS),
}
# Patches read at a time: few enough to stay in a cache.
_GROUP = 16
# By how many floats a row of the buffer is longer than a patch. Without a gap,
# the rows of a patch of 16 x 16 pixels lie 1024 bytes apart. A column of it
# then falls into few sets of the cache. The gap halves the time of a transpose.
_GAP = 16


def panoptic_from_logits(
    semantics: ClassLogits, instances: InstanceLogits, *,
    min_fraction: float = 0.0,
    instance_label: str = "logit_sum",
    sum_logits: SumLogits | None = None,
) -> PatchPairs:
  """Instances by argmax, then one class for each, then void for small ones.

  Args:
    semantics: class logits.
    instances: instance-id logits.
    min_fraction: static; instances must cover more than this fraction of the
      image, the others become void (0, 0). The paper says 0.001, the released
      code's default is 0.
    instance_label: 'logit_sum' sums the class logits over the instance
      (released code), 'majority' counts the per-pixel classes (paper), 'pixel'
      leaves each pixel its own class, so that a wrong instance spoils no class.
    sum_logits: how to sum; None: `sum_logits_by_instance`.

  Raises:
    ConfigError: a value of an option that is not allowed.

  Returns:
    (semantics, instance) per pixel. An instance whose class is 0 is void. The
    instance id 0 is an instance like any other: it is the class that decides.
  """
  fields.check_options(panoptic_from_logits, min_fraction=min_fraction,
                       instance_label=instance_label)
  ids_BNP = argmax_classes(instances)
  num_ids = instances.shape[-2]
  num_pixels = math.prod(ids_BNP.shape[1:])
  max_removed = max_removed_area(min_fraction, num_pixels)
  if instance_label == "pixel":
    return _pairs_of_pixels(semantics, ids_BNP, num_ids, max_removed)
  if instance_label == "majority":
    votes_BIK = count_votes(semantics, ids_BNP, num_ids=num_ids)
  else:
    sum_logits = sum_logits or sum_logits_by_instance
    votes_BIK = sum_logits(semantics, ids_BNP, num_ids=num_ids)
  return _pairs_by_votes(votes_BIK, ids_BNP, max_removed)


panoptic_from_logits.checks = OPTION_CHECKS


def panoptic_from_maps(
    semantics_BNP: PatchIds, ids_BNP: PatchIds, *, num_classes: int,
    num_ids: int, max_removed: int = 0,
) -> PatchPairs:
  """One class for each instance, by majority, then void for small ones.

  For a model that gives integers and no logits.

  Args:
    semantics_BNP: the class of each pixel, in 0..num_classes-1.
    ids_BNP: the instance of each pixel, in 0..num_ids-1.
    num_classes: K, with void.
    num_ids: I, with 0.
    max_removed: instances of so many pixels or fewer become void (0, 0).

  Returns:
    (semantics, instance) per pixel, (0, 0) where the class is void. The lowest
    class wins ties.
  """
  votes_BIK = count_classes(
      semantics_BNP, ids_BNP, num_classes=num_classes, num_ids=num_ids)
  pairs = _pairs_by_votes(votes_BIK, ids_BNP, max_removed)
  is_void = pairs[..., :1] == 0
  return jnp.where(is_void, 0, pairs)


def panoptic_from_labels(
    labels: Int[Array, "B H W C"], *, sizes: tuple[int, int],
    min_fraction: float = 0.0,
) -> Int[Array, "B H W C"]:
  """`panoptic_from_maps` of a class and an id for each pixel of an image.

  Args:
    labels: (semantics, instance).
    sizes: how many classes there are, with void, and how many ids, with 0.
    min_fraction: see `panoptic_from_logits`.
  """
  num_classes, num_ids = sizes
  num_pixels = math.prod(labels.shape[1:3])
  return panoptic_from_maps(
      labels[..., 0], labels[..., 1], num_classes=num_classes, num_ids=num_ids,
      max_removed=max_removed_area(min_fraction, num_pixels))


def _pairs_by_votes(votes_BIK, ids_BNP, max_removed: int) -> PatchPairs:
  """Every pixel gets the pair of its instance."""
  # An instance without a pixel has no votes: it gets class 0, and no pixel
  # reads it.
  label_BI = jnp.argmax(votes_BIK, axis=-1)
  label_BI = label_BI.astype(jnp.int32)
  pair_BIC = _pairs_of_instances(label_BI, ids_BNP, max_removed)
  batch = len(ids_BNP)
  ids_BX1 = ids_BNP.reshape(batch, -1)[..., None]
  out_BXC = jnp.take_along_axis(pair_BIC, ids_BX1, axis=1)
  return out_BXC.reshape(*ids_BNP.shape, 2)


def _pairs_of_instances(label_BI, ids_BNP, max_removed: int):
  """int32 [B,I,2]: (semantics, instance), or (0, 0) where it is too small."""
  batch, num_ids = label_BI.shape
  ids_BX = ids_BNP.reshape(batch, -1)
  count = functools.partial(jnp.bincount, length=num_ids)
  area_BI = jax.vmap(count)(ids_BX)
  is_large_BI = area_BI > max_removed
  numbers_I = jnp.arange(num_ids)
  number_BI = jnp.broadcast_to(numbers_I, label_BI.shape)
  pair_BIC = jnp.stack([label_BI, number_BI], axis=-1)
  is_kept_BI1 = is_large_BI[..., None]
  return jnp.where(is_kept_BI1, pair_BIC, 0)


def _pairs_of_pixels(
    semantics_BNKP, ids_BNP, num_ids: int, max_removed: int
) -> PatchPairs:
  """(semantics, instance) of each pixel, or (0, 0) in a segment too small.

  A segment is here all pixels of one class and one instance.
  """
  classes_BNP = argmax_classes(semantics_BNKP)
  num_classes = semantics_BNKP.shape[-2]
  # A number for each pair of class and instance.
  segments_BNP = classes_BNP * num_ids + ids_BNP
  segments_BX = segments_BNP.reshape(len(ids_BNP), -1)
  num_pairs = num_classes * num_ids
  count = functools.partial(jnp.bincount, length=num_pairs)
  area_BS = jax.vmap(count)(segments_BX)
  # For each pixel the area of its segment.
  area_BX = jnp.take_along_axis(area_BS, segments_BX, axis=1)
  area_BNP = area_BX.reshape(ids_BNP.shape)
  is_large_BNP = area_BNP > max_removed
  is_kept_BNP = is_large_BNP & (classes_BNP > 0)
  pair_BNPC = jnp.stack([classes_BNP, ids_BNP], axis=-1)
  is_kept_BNP1 = is_kept_BNP[..., None]
  return jnp.where(is_kept_BNP1, pair_BNPC, 0)


def max_removed_area(min_fraction: float, num_pixels: int) -> int:
  """The largest area in pixels that is still dropped.

  In integers, because 1/num_pixels is not exact in binary; the slack of 1e-7
  keeps 0.29 * 100 = 28.999… from sparing 29 pixels.
  """
  return math.floor(min_fraction * num_pixels * (1 + 1e-7))


# ── The likeliest class of each pixel ───────────────────────────────────────


def argmax_classes(logits_BNKP: Array) -> PatchIds:
  """argmax over axis -2; the lowest index wins ties."""
  by_groups = functools.partial(sharding.by_device, argmax_by_groups)
  return lax.platform_dependent(
      logits_BNKP, cpu=by_groups, default=_plain_argmax)


def _plain_argmax(logits_BNKP):
  class_BNP = jnp.argmax(logits_BNKP, axis=2)
  return class_BNP.astype(jnp.int32)


def argmax_by_groups(logits_BNKP: Array, group: int = _GROUP) -> PatchIds:
  """`argmax_classes` as two reductions, for a group of patches at a time.

  XLA's argmax on a CPU is a scalar loop. The maximum, and then the first
  class that reaches it, are both loops over vectors, and the second finds its
  group of patches in the cache: together they take half of the time.
  """
  batch, patches, classes, pixels = logits_BNKP.shape
  total = batch * patches
  # A group must divide the patches evenly; the common divisor always does.
  group = math.gcd(total, group)
  logits_MKP = logits_BNKP.reshape(total, classes, pixels)

  def add_group(i, index_MP):
    logits_GKP = lax.dynamic_slice_in_dim(logits_MKP, i * group, group)
    class_GKP = lax.broadcasted_iota(jnp.int32, logits_GKP.shape, 1)
    highest_G1P = jnp.max(logits_GKP, axis=1, keepdims=True)
    # Classes below the maximum become K, and the least of the others wins.
    # Not `logits == highest`, which no NaN fulfils: the index must stay in
    # range.
    is_lower_GKP = logits_GKP < highest_G1P
    candidate_GKP = jnp.where(is_lower_GKP, classes, class_GKP)
    first_GP = jnp.min(candidate_GKP, axis=1)
    return lax.dynamic_update_slice_in_dim(index_MP, first_GP, i * group, 0)

  num_groups = total // group
  index_MP = jnp.zeros((total, pixels), jnp.int32)
  index_MP = lax.fori_loop(0, num_groups, add_group, index_MP)
  return index_MP.reshape(batch, patches, pixels)


# ── The votes for each instance ─────────────────────────────────────────────


def count_votes(semantics_BNKP: Array, ids_BNP: Array, *, num_ids: int
                ) -> Votes:
  """How many pixels of each instance prefer each class."""
  num_classes = semantics_BNKP.shape[2]
  classes_BNP = argmax_classes(semantics_BNKP)
  return count_classes(
      classes_BNP, ids_BNP, num_classes=num_classes, num_ids=num_ids)


def count_classes(
    classes_BNP: PatchIds, ids_BNP: PatchIds, *, num_classes: int, num_ids: int
) -> Votes:
  """How many pixels of each instance have each class."""
  batch = len(ids_BNP)
  # One number for each pair of instance and class, so that one count does.
  pair_BNP = ids_BNP * num_classes + classes_BNP
  pair_BX = pair_BNP.reshape(batch, -1)
  num_pairs = num_ids * num_classes
  count = functools.partial(jnp.bincount, length=num_pairs)
  votes = jax.vmap(count)(pair_BX)
  return votes.reshape(batch, num_ids, num_classes)


def sum_logits_by_instance(semantics_BNKP: Array, ids_BNP: Array, *,
                           num_ids: int) -> Votes:
  """f32: class logits summed over the pixels of each instance.

  The sum takes a few patches at a time. A pixel-major copy of all logits, or a
  mask per instance, would need more memory than everything else in evaluation.
  On a CPU a scatter that adds is the fastest way; it keeps one core busy. On
  other devices a scatter adds in any order, so a sum could change from run to
  run. There a matmul sums, in full f32.
  """
  scatter = functools.partial(
      sharding.by_device, functools.partial(sum_by_scatter, num_ids=num_ids))
  matmul = functools.partial(sum_by_matmul, num_ids=num_ids)
  return lax.platform_dependent(
      semantics_BNKP, ids_BNP, cpu=scatter, default=matmul)


def sum_by_matmul(semantics_BNKP: Array, ids_BNP: Array, *, num_ids: int,
                  group: int = _GROUP) -> Votes:
  """`sum_logits_by_instance` as products with a mask per instance."""
  batch, patches, classes, _ = semantics_BNKP.shape
  group = math.gcd(patches, group)

  def add_group(i, sums_BIK):
    logits_BGKP = lax.dynamic_slice_in_dim(
        semantics_BNKP, i * group, group, axis=1)
    ids_BGP = lax.dynamic_slice_in_dim(ids_BNP, i * group, group, axis=1)
    masks_BGPI = jax.nn.one_hot(ids_BGP, num_ids, dtype=jnp.float32)
    logits_BGKP = logits_BGKP.astype(jnp.float32)
    sums_of_group_BIK = jnp.einsum(
        "bgpi,bgkp->bik", masks_BGPI, logits_BGKP,
        precision=lax.Precision.HIGHEST)
    return sums_BIK + sums_of_group_BIK

  num_groups = patches // group
  sums_BIK = jnp.zeros((batch, num_ids, classes), jnp.float32)
  return lax.fori_loop(0, num_groups, add_group, sums_BIK)


def sum_by_scatter(semantics_BNKP: Array, ids_BNP: Array, *, num_ids: int,
                   streams: int = 16) -> Votes:
  """`sum_logits_by_instance` by adding pixels to rows, a patch at a time.

  The patches of all images are cut into streams of equal length. A step of
  the loop adds one patch of every stream to that stream's own sums. The
  streams do not depend on each other, so the processor works on several at
  once; a single chain of scatters would wait for each one to end.
  """
  batch, patches, classes, pixels = semantics_BNKP.shape
  total = batch * patches
  streams = math.gcd(total, streams)
  length = total // streams
  logits_MKP = semantics_BNKP.reshape(total, classes, pixels)

  # Instance i of image b is row b * I + i of the sums: a stream may cross
  # from one image into the next.
  first_row_B11 = num_ids * jnp.arange(batch)[:, None, None]
  rows_MP = (ids_BNP + first_row_B11).reshape(total, pixels)
  num_rows = batch * num_ids

  def add_patch(patch, sums, buffer):
    logits_KP = logits_MKP[patch].astype(jnp.float32)
    # The buffer is wider than a patch; see _GAP. Its spare columns stay 0.
    buffer = lax.dynamic_update_slice(buffer, logits_KP, (0, 0))
    logits_PK = buffer[:, :pixels].T
    return sums.at[rows_MP[patch]].add(logits_PK), buffer

  def step(i, carries):
    advanced = []
    for stream, (sums, buffer) in enumerate(carries):
      patch = stream * length + i
      advanced.append(add_patch(patch, sums, buffer))
    return advanced

  no_sums = jnp.zeros((num_rows, classes), jnp.float32)
  buffer = jnp.zeros((classes, pixels + _GAP), jnp.float32)
  carries = lax.fori_loop(0, length, step, [(no_sums, buffer)] * streams)
  total_sums = sum(sums for sums, _ in carries)
  return total_sums.reshape(batch, num_ids, classes)
