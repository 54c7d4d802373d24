"""Panoptic segmentation: two integers per pixel, semantics and instance.

Semantics are class+1, 0 is void. Instances count all segments, stuff too, in
raster order of their centres, 0 is void (paper section 4.1, appendix D).

Suffixes: B batch · N patches · P pixels of a patch · K classes · I instance
ids · H W pixels.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from uvim import registry
from uvim.nn import losses
from uvim.tasks import base
from uvim.typing import Array, Float, Int

KEYS = ("semantics", "instances")
INSTANCE_LABELS = ("logit_sum", "majority")


class PanopticTask(base.AbstractTask):
  """Labels [B,H,W,2] int32 (semantics, instances); two cross-entropies."""

  @property
  def keys(self) -> tuple[str, ...]:
    return KEYS

  def encode_labels(self, labels: Int[base.AnyArray, "B H W 2"]
                    ) -> dict[str, Int[base.AnyArray, "B N P"]]:
    """Integer ids per patch; ids out of range mean "unlabelled"."""
    labels_BNPC = base.patchify(labels, self.patch_size)
    return {key: labels_BNPC[..., i] for i, key in enumerate(KEYS)}

  def loss(self, logits, x):
    """Unweighted sum of both per-pixel cross-entropies, averaged over pixels.

    Unlabelled pixels count as zero in the average, as in the released code.

    Returns:
      loss [B] and {'loss_semantics', 'loss_instances'} [B], in nats.
    """
    logs = {
        f"loss_{key}": losses.per_example_mean(
            losses.softmax_cross_entropy(logits[key], x[key]))
        for key in KEYS
    }
    return logs["loss_semantics"] + logs["loss_instances"], logs

  def outputs(self, logits, *, min_fraction: float = 0.0,
              instance_label: str = "logit_sum"):
    """{'panoptic': int32 [B,H,W,2]}, see `panoptic_from_logits`."""
    out_BNPC = panoptic_from_logits(
        logits["semantics"], logits["instances"], min_fraction=min_fraction,
        instance_label=instance_label)
    return {
        "panoptic":
            base.unpatchify(out_BNPC, self.input_size, self.patch_size)
    }

  def truth(self, batch):
    return {"panoptic": batch["labels"]}

  def render(self, outputs) -> np.ndarray:
    """A hue per class, a shade per instance, black for void."""
    return render_panoptic(np.asarray(outputs["panoptic"]))


def render_panoptic(panoptic_BHW2: np.ndarray) -> np.ndarray:
  """uint8 [B,H,W,3] of (semantics, instance) pairs; a function of both."""
  classes, ids = np.moveaxis(np.maximum(panoptic_BHW2, 0), -1, 0)
  # Multiples of the golden ratio keep neighbouring numbers far apart.
  hue = (classes * 0.618034 + (ids * 0.414214 % 1 - 0.5) * 0.12) % 1
  value = 0.55 + 0.45 * (ids * 0.618034 % 1)
  shift = np.array([5, 3, 1])
  k = (shift + hue[..., None] * 6) % 6
  wave = np.clip(np.minimum(k, 4 - k), 0, 1)
  rgb = value[..., None] * (1 - 0.7 * wave)
  return np.uint8(np.where(classes[..., None] > 0, 255 * rgb, 0))


def panoptic_from_logits(
    semantics: Float[Array, "B N K P"], instances: Float[Array, "B N I P"], *,
    min_fraction: float = 0.0, instance_label: str = "logit_sum",
) -> Int[Array, "B N P 2"]:
  """Instances by argmax, then one class for each, then void for small ones.

  Args:
    semantics: class logits.
    instances: instance-id logits.
    min_fraction: instances must cover more than this fraction of the image;
      the others become void (0, 0). The paper says 0.001, the released code's
      default is 0. A static number.
    instance_label: 'logit_sum' sums the class logits over the instance
      (released code), 'majority' counts the per-pixel classes (paper).

  Returns:
    (semantics, instance) per pixel. An instance whose class is 0 is void. The
    instance id 0 is an instance like any other: it is the class that decides.
  """
  if instance_label not in INSTANCE_LABELS:
    raise registry.unknown("instance_label", instance_label, INSTANCE_LABELS)
  num_ids = instances.shape[-2]
  ids_BNP = _argmax_classes(instances)
  if instance_label == "majority":
    votes_BIK = _count_votes(
        _argmax_classes(semantics), ids_BNP, num_ids, semantics.shape[-2])
  else:
    votes_BIK = _sum_logits(semantics, ids_BNP, num_ids)
  label_BI = jnp.argmax(votes_BIK, axis=-1).astype(jnp.int32)

  flat_BX = ids_BNP.reshape(ids_BNP.shape[0], -1)
  area_BI = jax.vmap(partial(jnp.bincount, length=num_ids))(flat_BX)
  keep_BI = area_BI > _max_removed_area(min_fraction, flat_BX.shape[1])
  pair_BIC = jnp.stack(
      [label_BI, jnp.broadcast_to(jnp.arange(num_ids), label_BI.shape)], -1)
  pair_BIC = jnp.where(keep_BI[..., None], pair_BIC, 0)
  out_BXC = jnp.take_along_axis(pair_BIC, flat_BX[..., None], axis=1)
  return out_BXC.reshape(*ids_BNP.shape, 2)


def _max_removed_area(min_fraction: float, num_pixels: int) -> int:
  """The largest area in pixels that is still dropped.

  In integers, because 1/num_pixels is not exact in binary; the slack of 1e-7
  keeps 0.29 * 100 = 28.999… from sparing 29 pixels.
  """
  return math.floor(min_fraction * num_pixels * (1 + 1e-7))


def _argmax_classes(x_BNKP: Array) -> Int[Array, "B N P"]:
  """argmax over axis -2; the lowest index wins ties."""
  return lax.platform_dependent(
      x_BNKP, cpu=_argmax_by_patches,
      default=lambda x: jnp.argmax(x, axis=2).astype(jnp.int32))


def _argmax_by_patches(x_BNKP, group: int = 16):
  """The maximum, then its first place, for a group of patches at a time.

  XLA's argmax on a CPU is a scalar loop; two reductions of vectors, the second
  from cache, take half of its time.
  """
  b, n, k, p = x_BNKP.shape
  patches_MKP = x_BNKP.reshape(b * n, k, p)
  group = math.gcd(b * n, group)

  def step(i, index_MP):
    x_GKP = lax.dynamic_slice_in_dim(patches_MKP, i * group, group)
    places = lax.broadcasted_iota(jnp.int32, x_GKP.shape, 1)
    highest = jnp.max(x_GKP, axis=1, keepdims=True)
    # Not `x == highest`: of NaNs none is, and the index must stay in range.
    first = jnp.min(jnp.where(x_GKP < highest, k, places), axis=1)
    return lax.dynamic_update_slice_in_dim(index_MP, first, i * group, 0)

  index_MP = jnp.zeros((b * n, p), jnp.int32)
  return lax.fori_loop(0, b * n // group, step, index_MP).reshape(b, n, p)


def _count_votes(classes_BNP, ids_BNP, num_ids: int, num_classes: int):
  """int32 [B,I,K]: how many pixels of each instance prefer each class."""
  cell_BX = (ids_BNP * num_classes + classes_BNP).reshape(len(ids_BNP), -1)
  count = partial(jnp.bincount, length=num_ids * num_classes)
  return jax.vmap(count)(cell_BX).reshape(-1, num_ids, num_classes)


def _sum_logits(semantics_BNKP, ids_BNP, num_ids: int):
  """f32 [B,I,K]: class logits summed over each instance.

  A few patches at a time: a pixel-major copy of all logits, or a mask per
  instance, would cost more memory than everything else in evaluation.
  Scattering adds is fastest on a CPU, where one scatter keeps one core busy.
  Elsewhere parallel adds land in any order, so a sum could change between
  runs: there a matmul, in full f32.
  """
  return lax.platform_dependent(
      semantics_BNKP, ids_BNP, cpu=partial(_sum_by_scatter, num_ids=num_ids),
      default=partial(_sum_by_matmul, num_ids=num_ids))


def _sum_by_matmul(semantics_BNKP, ids_BNP, *, num_ids: int, chunk: int = 16):
  """`_sum_logits` as products with a mask per instance."""
  b, n, k, p = semantics_BNKP.shape
  chunk = math.gcd(n, chunk)

  def step(i, sums_BIK):
    logits = lax.dynamic_slice_in_dim(semantics_BNKP, i * chunk, chunk, 1)
    ids_BCP = lax.dynamic_slice_in_dim(ids_BNP, i * chunk, chunk, 1)
    masks_BCPI = jax.nn.one_hot(ids_BCP, num_ids, dtype=jnp.float32)
    return sums_BIK + jnp.einsum(
        "bcpi,bckp->bik", masks_BCPI, logits.astype(jnp.float32),
        precision=lax.Precision.HIGHEST)

  return lax.fori_loop(
      0, n // chunk, step, jnp.zeros((b, num_ids, k), jnp.float32))


# Columns of a patch of 16 x 16 lie 1024 bytes apart, in few sets of the cache.
# With so many floats more turning a patch takes half of the time.
_PAD = 16


def _sum_by_scatter(semantics_BNKP, ids_BNP, *, num_ids: int,
                    streams: int = 16):
  """`_sum_logits` by adding pixels' rows, a patch at a time.

  The patches of all images are split into streams, which run side by side:
  they depend on nothing of each other.
  """
  b, n, k, p = semantics_BNKP.shape
  patches_MKP = semantics_BNKP.reshape(b * n, k, p)
  image_B11 = jnp.arange(b)[:, None, None]
  ids_MP = (ids_BNP + image_B11 * num_ids).reshape(b * n, p)
  streams = math.gcd(b * n, streams)
  length = b * n // streams

  def add_patch(m, sums_JK, buffer):
    patch_KP = patches_MKP[m].astype(jnp.float32)
    buffer = lax.dynamic_update_slice(buffer, patch_KP, (0, 0))
    return sums_JK.at[ids_MP[m]].add(buffer[:, :p].T), buffer

  def step(i, carries):
    return [add_patch(s * length + i, *x) for s, x in enumerate(carries)]

  empty = (jnp.zeros((b * num_ids, k), jnp.float32),
           jnp.zeros((k, p + _PAD), jnp.float32))
  done = lax.fori_loop(0, length, step, [empty] * streams)
  return sum(sums_JK for sums_JK, _ in done).reshape(b, num_ids, k)
