"""The features of a frozen encoder for a split, and the labels to predict.

M examples · T tokens of the encoder's grid · D its width
P pixels of a token in the head's labels · B images · H W pixels of an image
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from pp import builder
from tools.probe.rivals import Rival
from uvim import progress, tree
from uvim.encoders import image_encoder
from uvim.encoders.image_encoder import ImageEncoder
from uvim.registry import ConfigError
from uvim.store.start_from import Store
from uvim.typing import PyTree, Size

Batch = dict[str, np.ndarray]
# Images [B, H, W, 3] → features float16 [B, T, D].
See = Callable[[np.ndarray], jax.Array]

_BATCH_SIZE = 8
_FEATURE_BYTES = 2


@dataclasses.dataclass(frozen=True)
class Examples:
  """All examples of a split, also those that could not be read.

  Attributes:
    features_MTD: float16.
    ids_MTP: int32 classes; −1: the pixel has no label, as all pixels of an
      example that could not be read.
    image_id_M: int64.
    is_good_M: whether the example could be read.
    first: the first batch, to be drawn.
  """
  features_MTD: np.ndarray
  ids_MTP: np.ndarray
  image_id_M: np.ndarray
  is_good_M: np.ndarray
  first: Batch


def load_encoder(encoder: ImageEncoder, path: str, store: Store) -> PyTree:
  """The parameters of an encoder from a checkpoint.

  Args:
    encoder: what the checkpoint is to fill.
    path: of a pretrained ViT; see `start_from.Store.read_start`.
    store: where it is read from.

  Raises:
    ConfigError: nothing there, or an encoder of other sizes.
  """
  name = image_encoder.NAME
  shapes = jax.eval_shape(encoder.init, jax.random.key(0))
  arrays = store.read_start(
      {name: path},
      {"params": {name: shapes}},
      kind="vqvae",
      encoder_specs={name: encoder.spec})
  return tree.unflatten(arrays)["params"][name]


def make_see(encoder: ImageEncoder, params: PyTree) -> See:
  """Compiles the function from images to features in half precision.

  Args:
    encoder: the ImageEncoder.
    params: its parameters.
  """
  params = jax.device_put(params)

  @jax.jit
  def run(params, image):
    return encoder.features(params, image).astype(np.float16)

  return lambda image: run(params, image)


def resized(pp: str, image_size: Size, label_size: Size) -> str:
  """A preprocessing string with other sizes in its calls of `resize`.

  The encoder may see a larger image than the config's own model.

  Args:
    pp: such as `config.pp_eval`.
    image_size: height and width of the new 'image'.
    label_size: of the new 'labels'.

  Returns:
    The string. A `resize` of another key is as it was.
  """
  sizes = {"image": image_size, "labels": label_size}
  texts = []
  for call in builder.parse(pp):
    kwargs = dict(call.kwargs)
    key = kwargs.get("key", "image")
    is_other_key = "inkey" in kwargs or "outkey" in kwargs
    if call.name != "resize" or is_other_key or key not in sizes:
      texts.append(call.text)
      continue
    kwargs.pop("size", None)
    arguments = [repr(tuple(sizes[key]))]
    arguments += [repr(value) for value in call.args[1:]]
    arguments += [f"{name}={value!r}" for name, value in kwargs.items()]
    texts.append(f"resize({', '.join(arguments)})")
  return "|".join(texts)


def check_memory(num_examples: int, encoder: ImageEncoder) -> int:
  """How many bytes the features of so many examples have.

  Raises:
    ConfigError: the machine has less memory.
  """
  num_tokens, width = encoder.features_shape
  num_bytes = num_examples * num_tokens * width * _FEATURE_BYTES
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if num_bytes > memory:
    raise ConfigError(
        f"The features of {num_examples} examples need {num_bytes / 1e9:.0f} "
        f"GB of memory; this machine has {memory / 1e9:.0f} GB. Probe with "
        "fewer: --config.train_split='train[:2000]'.")
  return num_bytes


def read(config: Any, split: Any, pp: str, rival: Rival, see: See, *,
         mirror: bool = False) -> Examples:
  """The features and labels of a whole split.

  Args:
    config: TrainConfig: op modules, and what happens to bad examples.
    split: the Split.
    pp: preprocessing that keeps 'image' and 'labels'.
    rival: turns labels into ids.
    see: from `make_see`.
    mirror: adds the mirror image (left and right) of each example.

  Raises:
    ConfigError: labels or images of another size than the string was to make,
      and whatever the data raises.
  """
  one_pass = split.eval_batches(
      split.make_preprocess(pp, config.pp_modules),
      batch_size=_BATCH_SIZE,
      on_bad_example=config.on_bad_example)
  batches = progress.bar(
      one_pass.start(), total=one_pass.num_batches, label=split.split,
      unit="batches")
  parts = {"features": [], "ids": [], "image_id": [], "is_good": []}
  first = None
  for batch in batches:
    for key_of_batch in ("image", "labels"):
      if key_of_batch not in batch:
        raise ConfigError(f"config.pp_eval must keep {key_of_batch!r}.")
    if first is None:
      first = batch
    for version in _versions(batch, mirror):
      features_BTD = see(version["image"])
      parts["features"].append(np.asarray(features_BTD))
      parts["ids"].append(rival.ids(version))
      parts["image_id"].append(batch["image/id"])
      parts["is_good"].append(batch["_mask"])
  joined = {name: np.concatenate(part) for name, part in parts.items()}
  # Neither padding nor an example that could not be read has labels.
  joined["ids"][~joined["is_good"]] = -1
  return Examples(joined["features"], joined["ids"], joined["image_id"],
                  joined["is_good"], first)


def _versions(batch: Batch, mirror: bool) -> Iterator[Batch]:
  """The images and labels of a batch, and perhaps their mirror images."""
  yield batch
  if mirror:
    yield {"image": batch["image"][:, :, ::-1],
           "labels": batch["labels"][:, :, ::-1]}
