"""The published stage I files of GIVT, under our names.

p rows and q columns of a patch, P pixels = p · q · K classes of one label
D width · depth of a stack of blocks

That model has one embedding and one head for all labels, side by side; ours has
one of each for every label. Its blocks may be stacked, one array for all of
them, as a scan over layers leaves them. Its stage II needs no change: our names
are its own.

Source: GIVT's released code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from uvim import tree
from uvim.registry import ConfigError

Arrays = Mapping[str, np.ndarray]
# Label → its classes, in the order in which they stand side by side.
Classes = Mapping[str, int]

_PREFIX = "params/"
_EMBEDDING = f"{_PREFIX}embedding/"
_HEAD = f"{_PREFIX}decoder_head/"
# The files do not tell which labels they are for, but how many classes these
# have together.
PUBLISHED = (
    {"semantics": 134, "instances": 100},
    {"depth": 256},
)


def is_stage_i(names: Mapping[str, Any]) -> bool:
  """Whether arrays or shapes of these names are of such a file."""
  return f"{_HEAD}kernel" in names


def as_ours(params: dict[str, Any]) -> dict[str, Any]:
  """What a file holds, {"params": …}; of GIVT's stage I, under our names."""
  arrays = tree.flatten(params)
  if not is_stage_i(arrays):
    return params
  return tree.unflatten(rename(arrays))


def rename(arrays: Arrays, classes: Classes | None = None
           ) -> dict[str, np.ndarray]:
  """Arrays of GIVT's stage I as ours, or gradients: each number stays itself.

  Args:
    arrays: by name, 'params/…'.
    classes: of each label; None: of the published model with as many.

  Raises:
    ConfigError: a number of classes of no published model.
  """
  *patch, num_classes, _ = arrays[f"{_EMBEDDING}kernel"].shape
  if classes is None:
    classes = _published_classes(num_classes)
  ours = {}
  for name, array in arrays.items():
    if not name.startswith((_EMBEDDING, _HEAD)):
      ours |= _unstacked(name, array)
  start = 0
  for label, num_of_label in classes.items():
    part = slice(start, start + num_of_label)
    ours |= _embedding_of(arrays, label, part)
    ours |= _head_of(arrays, label, part, patch[0] * patch[1])
    start += num_of_label
  return ours


def _published_classes(num_classes: int) -> Classes:
  for classes in PUBLISHED:
    if sum(classes.values()) == num_classes:
      return classes
  known = ", ".join(str(sum(classes.values())) for classes in PUBLISHED)
  raise ConfigError(
      f"A stage I file of GIVT with {num_classes} classes; no array tells to "
      f"which labels they belong. The published ones have {known}.")


def _embedding_of(arrays, label, part) -> dict[str, np.ndarray]:
  """The embedding of one label: [K, P, D]."""
  kernel_pqKD = arrays[f"{_EMBEDDING}kernel"][:, :, part]
  *_, num_classes, width = kernel_pqKD.shape
  kernel_KpqD = np.moveaxis(kernel_pqKD, 2, 0)
  bias_D = arrays[f"{_EMBEDDING}bias"]
  # Embeddings are added up, so that one of them has the bias of all.
  if part.start:
    bias_D = np.zeros_like(bias_D)
  name = f"{_PREFIX}embedding_{label}"
  return {f"{name}/kernel": kernel_KpqD.reshape(num_classes, -1, width),
          f"{name}/bias": bias_D}


def _head_of(arrays, label, part, num_pixels) -> dict[str, np.ndarray]:
  """The head of one label: [D, K, P] and [K, P]."""
  name = f"{_PREFIX}head_{label}"
  ours = {}
  for kind in ("kernel", "bias"):
    flat = arrays[f"{_HEAD}{kind}"]
    # The classes of a pixel lie side by side.
    by_pixel = flat.reshape(*flat.shape[:-1], num_pixels, -1)
    ours[f"{name}/{kind}"] = np.swapaxes(by_pixel[..., part], -1, -2)
  return ours


def _unstacked(name, array) -> dict[str, np.ndarray]:
  """An array for each block, where one holds those of all."""
  before, is_stacked, after = name.partition("/encoderblock/")
  if not is_stacked:
    return {name: array}
  return {f"{before}/encoderblock_{i}/{after}": part
          for i, part in enumerate(array)}
