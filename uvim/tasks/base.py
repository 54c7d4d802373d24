"""What a task is: its labels, losses, outputs, drawings and files.

Everything that depends on the task is a member of its class. No other file
branches on the name of a task, a quantity or an output.

Suffixes: B batch · H W pixels · C channels · N patches, row-major over the
image · P pixels of a patch, row-major inside it · K classes or bins.
"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields, resize
from uvim.registry import ConfigError
from uvim.tasks import agreement as agreement_lib
from uvim.tasks import output_files
from uvim.tasks.flaws import ANY, Flaw
from uvim.tasks.output_files import Path
from uvim.typing import Array, Float, Logs, PerExample, Size

# Labels come from the host as often as from a device.
AnyArray = Array | np.ndarray
# Batches and labels, by the name of the quantity.
AnyArrays = Mapping[str, AnyArray]
# Logits and outputs, by the name of the quantity.
Arrays = dict[str, Array]
# Name of the quantity → (K, P).
Spec = Mapping[str, tuple[int, int]]
# Rows with .id, .name and .isthing: class c is row c - 1. None: nobody knows.
Categories = Sequence[Any] | None
# What a list of predictions says about one of them.
Record = Mapping[str, Any]
Options = dict[str, fields.Field]


class Scale(NamedTuple):
  """The range of the numbers that a task draws, and their unit."""
  lowest: float
  highest: float
  unit: str


def patchify(values: AnyArray, patch_size: Size) -> AnyArray:
  """[B,H,W,*rest] -> [B,N,P,*rest]. H and W are multiples of the patch."""
  batch, height, width, *rest = values.shape
  patch_height, patch_width = patch_size
  rows = height // patch_height
  columns = width // patch_width
  grid = values.reshape(
      batch, rows, patch_height, columns, patch_width, *rest)
  # [B, rows, patch height, columns, patch width, …] becomes [B, rows, columns,
  # patch height, patch width, …]: now a patch is contiguous.
  grid = grid.swapaxes(2, 3)
  num_patches = rows * columns
  num_pixels = patch_height * patch_width
  return grid.reshape(batch, num_patches, num_pixels, *rest)


def unpatchify(values: AnyArray, input_size: Size,
               patch_size: Size) -> AnyArray:
  """[B,N,P,*rest] -> [B,H,W,*rest], the inverse of `patchify`."""
  batch, _, _, *rest = values.shape
  height, width = input_size
  patch_height, patch_width = patch_size
  rows = height // patch_height
  columns = width // patch_width
  grid = values.reshape(
      batch, rows, columns, patch_height, patch_width, *rest)
  # [B, rows, patch height, columns, patch width, …] again.
  grid = grid.swapaxes(2, 3)
  return grid.reshape(batch, height, width, *rest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractTask(abc.ABC):
  """A task. Its options are further dataclass fields, made by `fields.field`.

  Set by each class:
    keys: names of the quantities that the oracle embeds and the base model
      predicts. No other task has the same keys, so they tell the task of bare
      weights.
    label_channels: C of the labels [B,H,W,C].
    label_dtype: their dtype.
    labels_from_image: whether an image is its own label.
    sees_grey: whether the models see only the luma of an image.
    file_ending: of the files that `write` makes.
    list_file: name of the file that `write_list` makes, if it makes one.

  Attributes:
    inputs_spec: what the oracle embeds, key -> (K, P).
    outputs_spec: what the base model predicts, key -> (K, P).
    input_size: label height and width in pixels.
    patch_size: patch height and width in pixels.
  """

  keys: ClassVar[tuple[str, ...]]
  label_channels: ClassVar[int]
  label_dtype: ClassVar[str]
  labels_from_image: ClassVar[bool] = False
  sees_grey: ClassVar[bool] = False
  file_ending: ClassVar[str] = "npy"
  list_file: ClassVar[str | None] = None

  inputs_spec: Spec
  outputs_spec: Spec
  input_size: Size
  patch_size: Size

  def __post_init__(self):
    for name, known in fields.fields_of(type(self)).items():
      fields.check_value(known, getattr(self, name), "task_options")
    self._check_sizes()
    self._check_spec("inputs", self.inputs_spec)
    self._check_spec("outputs", self.outputs_spec)

  def _check_sizes(self):
    for size, patch in zip(self.input_size, self.patch_size, strict=True):
      if patch < 1 or size % patch:
        raise ConfigError(
            f"model.input_size {tuple(self.input_size)} must be a multiple of "
            f"model.patch_size {tuple(self.patch_size)} in both directions.")

  def _check_spec(self, field: str, spec: Spec):
    """Raises unless the keys are the task's own and P is the patch area."""
    if sorted(spec) != sorted(self.keys):
      raise ConfigError(
          f"model.{field} has keys {sorted(spec)}; this task needs "
          f"{sorted(self.keys)}.")
    patch_height, patch_width = self.patch_size
    area = patch_height * patch_width
    for key, (_, pixels) in spec.items():
      if pixels != area:
        raise ConfigError(
            f"model.{field}[{key!r}] is for patches of {pixels} pixels, but "
            f"model.patch_size {tuple(self.patch_size)} has {area}.")

  # ── Training ────────────────────────────────────────────────────────────

  def inputs(self, batch: AnyArrays) -> dict:
    """{'ctx': image [B,H,W,3], 'x': see `encode_labels`, None without labels}.

    `image_ctx` is the image at label size, for stage II where `image` is
    larger; without it the image serves both.
    """
    encoded = None
    # Prediction has images without labels.
    if "labels" in batch:
      labels = batch["labels"]
      self._check_label_shape(labels.shape)
      encoded = self.encode_labels(labels)
    # Stage II: the oracle sees the small image, the prior the large one.
    if "image_ctx" in batch:
      context = batch["image_ctx"]
    else:
      context = batch.get("image")
    return {"ctx": context, "x": encoded}

  def _check_label_shape(self, shape: Sequence[int]):
    if len(shape) != 4:
      raise ConfigError(
          f"A batch of labels has shape {tuple(shape)}; it must be [B, H, W, "
          f"{self.label_channels}].")
    height, width = shape[1:3]
    if (height, width) != tuple(self.input_size):
      raise ConfigError(
          f"Labels are {height}x{width} pixels, but model.input_size is "
          f"{tuple(self.input_size)}: resize them in the preprocessing "
          "string.")

  @abc.abstractmethod
  def encode_labels(self, labels: AnyArray) -> AnyArrays:
    """labels [B,H,W,C] -> key -> int [B,N,P] or float [B,N,C,P]."""

  def label_flaws(self, labels: AnyArray) -> list[Flaw]:
    """What may be wrong with labels, and the examples in which it is.

    It works on arrays of the host and, inside a compiled step, on those of
    devices. A task without such a check returns an empty list.

    Args:
      labels: [B,H,W,C].
    """
    del labels
    return []

  def field_of(self, key: str) -> str:
    """Which field of a config says how many values a quantity has.

    Args:
      key: of `keys`.
    """
    return f"model.outputs[{key!r}]"

  @abc.abstractmethod
  def loss(self, logits: Arrays, x: AnyArrays) -> tuple[PerExample, Logs]:
    """Per-example loss and its named parts, from logits [B,N,K,P].

    Each is a mean over the pixels P. Training computes it for a part of the
    pixels at a time and averages the parts (`losses.ChunkedLoss`). A pixel
    without a label counts as zero, so every part weighs the same.
    """

  # ── Outputs ─────────────────────────────────────────────────────────────

  @abc.abstractmethod
  def outputs(self, logits: Arrays, **options) -> Arrays:
    """Predictions [B,H,W,...] from logits [B,N,K,P].

    Options are keyword arguments with a default. The function attribute
    `checks`, option -> `fields.Check`, says which values are allowed.
    """

  @property
  def output_keys(self) -> tuple[str, ...]:
    """The names in `outputs`."""
    return self.keys

  @property
  def has_mean(self) -> bool:
    """Whether several predictions have a mean: classes have none."""
    return self.num_categories is None

  def mean(self, outputs: Arrays) -> Arrays:
    """The mean [B,H,W,...] of samples [S,B,H,W,...]; see `has_mean`."""
    return {key: jnp.mean(samples, axis=0) for key, samples in outputs.items()}

  def agreement(self, first: Arrays, second: Arrays) -> PerExample:
    """How much two predictions agree, whichever comes first.

    With classes the panoptic quality of one as if the other were the truth;
    without the mean squared difference, negative.
    """
    key = self.output_keys[0]
    if self.num_categories is not None:
      return agreement_lib.segment_quality(first[key], second[key])
    squares = jnp.square(first[key] - second[key])
    # A mean over all axes but that of the batch.
    return -jnp.mean(squares.reshape(len(squares), -1), axis=1)

  @abc.abstractmethod
  def truth(self, batch: AnyArrays) -> AnyArrays:
    """The labels in the form of `outputs`."""

  @abc.abstractmethod
  def render(self, outputs: AnyArrays) -> np.ndarray:
    """Draws `outputs` or `truth` as images, uint8 [B,H,W,3]."""

  @property
  def num_categories(self) -> int | None:
    """How many named classes the outputs have; None: they have none.

    With classes, the first output is int [B,H,W,2]: class and instance of each
    pixel, where class 0 is void.
    """
    return None

  @property
  def scale(self) -> Scale | None:
    """Which numbers the colors of `render` stand for; None: no numbers.

    With a scale, the first output is float [B,H,W].
    """
    return None

  # ── Inference, for one image of any size ────────────────────────────────

  def label_at(self, label: Any, size: Size, *,
               antialias: bool = False) -> np.ndarray:
    """Brings a label of any size to `size`, for `encode_labels`.

    Args:
      label: [h, w] or [h, w, C]; where an image is its own label, the image
        [h, w, 3], uint8 or floats in [-1, 1].
      size: height and width.
      antialias: how the run resizes images; matters where they are labels.

    Returns:
      [*size, C].

    Raises:
      ConfigError: an array of another rank.
    """
    del antialias  # A nearest resize has no such choice.
    label = np.asarray(label)
    if label.ndim == 2:
      # Masks and depth maps often come without a channel axis.
      label = label[..., None]
    if label.ndim != 3:
      raise ConfigError(f"A label of shape {label.shape}; allowed: [H, W] or "
                        "[H, W, C].")
    return resize.resize_nearest(label, size)

  def label_spec(self, batch_size: int) -> jax.ShapeDtypeStruct:
    """Shape and dtype of `labels` in a batch."""
    shape = (batch_size, *self.input_size, self.label_channels)
    dtype = np.dtype(self.label_dtype)
    return jax.ShapeDtypeStruct(shape, dtype)

  def to_image_size(self, output: np.ndarray, image: np.ndarray
                    ) -> np.ndarray:
    """Brings one output [h, w, ...] back to the size of its image.

    A task may add options, as in `outputs`.

    Args:
      output: one of `outputs`, without the batch axis.
      image: the image it was predicted from, [H, W, 3], uint8 or floats in
        [-1, 1].
    """
    image_size = image.shape[:2]
    return resize.resize_nearest(output, image_size)

  @classmethod
  def output_options(cls) -> Options:
    """The options of `outputs`."""
    return fields.options_of(cls.outputs)

  @classmethod
  def image_options(cls) -> Options:
    """The options of `to_image_size`."""
    return fields.options_of(cls.to_image_size)

  @classmethod
  def prediction_options(cls) -> Options:
    """All options that a user may give for a prediction."""
    return cls.output_options() | cls.image_options()

  # ── Files ───────────────────────────────────────────────────────────────

  def write(self, path: Path, output: np.ndarray,
            categories: Categories = None) -> Record | None:
    """Writes one output of one image, in the task's standard format.

    Args:
      path: ends in `file_ending`.
      output: [H, W, ...].
      categories: what the classes stand for: class c is categories[c - 1],
        rows with .id, .name and .isthing; None: nobody knows.

    Returns:
      What `write_list` needs to know of it, if anything.

    Raises:
      ConfigError: the file cannot be written.
    """
    del categories
    output_files.write_array(path, output)

  def write_list(self, path: Path, images: Iterator[Record],
                 records: Iterator[Record],
                 categories: Categories = None) -> None:
    """Writes one file about all images, where the format has one.

    Images and records come from the disk one by one, so that any number of
    them can be written; `output_files.write_json` takes them so.

    Args:
      path: ends in `list_file`.
      images: mappings with id, file_name, height and width.
      records: what `write` returned, each with the image_id of its image.
      categories: as in `write`.
    """
    # A task whose `write` returns records must override this.
    raise NotImplementedError(f"{type(self).__name__} has no list_file.")


class RealTask(AbstractTask):
  """A task with real numbers per pixel, which the models use as they are.

  A subclass has one key, and defines `loss`, `outputs` and `render`.

  Set by each class:
    meaning: what the numbers of a pixel are, for messages.
  """

  meaning: ClassVar[str]
  label_dtype = "float32"

  def __post_init__(self):
    super().__post_init__()
    self._check_channels("inputs", self.inputs_spec)
    self._check_channels("outputs", self.outputs_spec)

  def _check_channels(self, field: str, spec: Spec):
    channels, _ = spec[self.key]
    if channels != self.label_channels:
      raise ConfigError(
          f"model.{field}[{self.key!r}] has {channels} channels; it must be "
          f"{self.label_channels}: {self.meaning}.")

  @property
  def key(self) -> str:
    """The name of the quantity."""
    return self.keys[0]

  def encode_labels(self, labels: AnyArray) -> AnyArrays:
    """Channels per patch: floats [B,H,W,C] -> key -> floats [B,N,C,P].

    Raises:
      ConfigError: labels that are integers, or of other channels.
    """
    channels = labels.shape[-1]
    # Integers are a mistake (unscaled bytes?) that a cast would hide.
    is_float = jnp.issubdtype(labels.dtype, jnp.floating)
    if channels != self.label_channels or not is_float:
      raise ConfigError(
          f"Labels are {labels.dtype} with {channels} channels; the task "
          f"needs {self.label_channels} channels of floats: {self.meaning}.")
    patches_BNPC = patchify(labels, self.patch_size)
    # Channels come before pixels, where the logits have their classes.
    return {self.key: patches_BNPC.swapaxes(2, 3)}

  def label_flaws(self, labels):
    """A number that is infinite or NaN: it would spoil all parameters."""
    is_finite_B = jnp.isfinite(labels).all((1, 2, 3))
    return [Flaw("not_finite", ~is_finite_B, "labels", labels,
                 "all must be finite numbers.", ANY)]

  def pixels(self, logits: Arrays) -> Float[Array, "B H W C"]:
    """The logits [B,N,C,P] as float32 images."""
    patches_BNCP = logits[self.key].astype(jnp.float32)
    patches_BNPC = patches_BNCP.swapaxes(2, 3)
    return unpatchify(patches_BNPC, self.input_size, self.patch_size)

  def truth(self, batch):
    return {self.key: batch["labels"]}
