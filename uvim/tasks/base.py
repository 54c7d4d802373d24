"""What a task is, and the one place where images become patches and back.

Suffixes: B batch · H W pixels · C channels · N patches, row-major over the
image · P pixels of a patch, row-major inside it · K classes or bins.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from uvim.registry import ConfigError
from uvim.typing import Array, Float

# Labels come from the host as often as from a device.
AnyArray = Array | np.ndarray


def patchify(x: AnyArray, patch_size: tuple[int, int]) -> AnyArray:
  """[B,H,W,*rest] -> [B,N,P,*rest]. H and W are multiples of the patch."""
  b, h, w, *rest = x.shape
  hp, wp = patch_size
  x = x.reshape(b, h // hp, hp, w // wp, wp, *rest)
  return x.swapaxes(2, 3).reshape(b, (h // hp) * (w // wp), hp * wp, *rest)


def unpatchify(x: AnyArray, input_size: tuple[int, int],
               patch_size: tuple[int, int]) -> AnyArray:
  """[B,N,P,*rest] -> [B,H,W,*rest], the inverse of `patchify`."""
  b, _, _, *rest = x.shape
  (h, w), (hp, wp) = input_size, patch_size
  x = x.reshape(b, h // hp, w // wp, hp, wp, *rest)
  return x.swapaxes(2, 3).reshape(b, h, w, *rest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractTask(abc.ABC):
  """Turns a batch into model inputs, and logits into losses and outputs.

  Attributes:
    inputs_spec: what the oracle embeds, key -> (K, P).
    outputs_spec: what the base model predicts, key -> (K, P).
    input_size: label height and width in pixels.
    patch_size: patch height and width in pixels.
  """

  inputs_spec: Mapping[str, tuple[int, int]]
  outputs_spec: Mapping[str, tuple[int, int]]
  input_size: tuple[int, int]
  patch_size: tuple[int, int]

  def __post_init__(self):
    self._check_sizes()
    self._check_spec("inputs", self.inputs_spec)
    self._check_spec("outputs", self.outputs_spec)

  def _check_sizes(self):
    for size, patch in zip(self.input_size, self.patch_size, strict=True):
      if patch < 1 or size % patch:
        raise ConfigError(
            f"model.input_size {tuple(self.input_size)} must be a multiple of "
            f"model.patch_size {tuple(self.patch_size)} in both directions.")

  def _check_spec(self, field: str, spec: Mapping[str, tuple[int, int]]):
    """Raises unless the keys are the task's own and P is the patch area."""
    if sorted(spec) != sorted(self.keys):
      raise ConfigError(
          f"model.{field} has keys {sorted(spec)}; this task needs "
          f"{sorted(self.keys)}.")
    area = self.patch_size[0] * self.patch_size[1]
    for key, (_, pixels) in spec.items():
      if pixels != area:
        raise ConfigError(
            f"model.{field}[{key!r}] is for patches of {pixels} pixels, but "
            f"model.patch_size {tuple(self.patch_size)} has {area}.")

  @property
  @abc.abstractmethod
  def keys(self) -> tuple[str, ...]:
    """The names of the quantities embedded and predicted."""

  def inputs(self, batch: Mapping[str, AnyArray]) -> dict:
    """{'ctx': image [B,H,W,3], 'x': see `encode_labels`, None without labels}.

    `image_ctx` is the image at label size, for stage II where `image` is
    larger; without it the image serves both.
    """
    x = None
    if "labels" in batch:
      labels = batch["labels"]
      if tuple(labels.shape[1:3]) != tuple(self.input_size):
        raise ConfigError(
            f"Labels are {labels.shape[1]}x{labels.shape[2]} pixels, but "
            f"model.input_size is {tuple(self.input_size)}: resize them in "
            "the preprocessing string.")
      x = self.encode_labels(labels)
    ctx = batch["image_ctx"] if "image_ctx" in batch else batch.get("image")
    return {"ctx": ctx, "x": x}

  @abc.abstractmethod
  def encode_labels(self, labels: AnyArray) -> dict[str, AnyArray]:
    """labels [B,H,W,C] -> key -> int [B,N,P] or float [B,N,C,P]."""

  @abc.abstractmethod
  def loss(self, logits: dict[str, Array], x: dict[str, AnyArray]
           ) -> tuple[Float[Array, "B"], dict[str, Float[Array, "B"]]]:
    """Per-example loss and its named parts, from logits [B,N,K,P].

    Each is a mean over the pixels P: training computes it for a part of them
    at a time and averages (`losses.mean_by_chunks`). A pixel without a label
    counts as zero, so that every part weighs the same.
    """

  @abc.abstractmethod
  def outputs(self, logits: dict[str, Array], **options) -> dict[str, Array]:
    """Predictions [B,H,W,...] from logits [B,N,K,P]."""

  @abc.abstractmethod
  def truth(self, batch: Mapping[str, Array]) -> dict[str, Array]:
    """The labels in the form of `outputs`."""

  @abc.abstractmethod
  def render(self, outputs: Mapping[str, Array]):
    """uint8 pictures [B,H,W,3] (numpy) of `outputs` or `truth`."""


class RealTask(AbstractTask):
  """A task with real numbers per pixel, embedded and predicted as they are.

  A subclass writes `loss`, `outputs` and `render`.

  Attributes:
    key: the name of the quantity.
    channels: how many numbers a pixel has.
    meaning: what they are, for messages.
  """

  key: ClassVar[str]
  channels: ClassVar[int]
  meaning: ClassVar[str]

  def __post_init__(self):
    super().__post_init__()
    for field, spec in (("inputs", self.inputs_spec),
                        ("outputs", self.outputs_spec)):
      if spec[self.key][0] != self.channels:
        raise ConfigError(
            f"model.{field}[{self.key!r}] has {spec[self.key][0]} channels; it "
            f"must be {self.channels}: {self.meaning}.")

  @property
  def keys(self) -> tuple[str, ...]:
    return (self.key,)

  def encode_labels(self, labels: Float[AnyArray, "B H W C"]
                    ) -> dict[str, Float[AnyArray, "B N C P"]]:
    """Channels per patch.

    Raises:
      ConfigError: labels that are integers, or of other channels.
    """
    floats = jnp.issubdtype(labels.dtype, jnp.floating)
    if labels.shape[-1] != self.channels or not floats:
      raise ConfigError(
          f"Labels are {labels.dtype} with {labels.shape[-1]} channels; the "
          f"task needs {self.channels} channels of floats: {self.meaning}.")
    return {self.key: patchify(labels, self.patch_size).swapaxes(2, 3)}

  def pixels(self, logits: Mapping[str, Array]) -> Float[Array, "B H W C"]:
    """The logits [B,N,C,P] as float32 pictures."""
    x_BNPC = logits[self.key].astype(jnp.float32).swapaxes(2, 3)
    return unpatchify(x_BNPC, self.input_size, self.patch_size)

  def truth(self, batch):
    return {self.key: batch["labels"]}
