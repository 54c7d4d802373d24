"""DINO learns to see from images alone, by agreeing with itself about crops.

B batch · V crops of an image, the two global ones first · H W image pixels
N patches · R prefix tokens, the class token first · D width of the encoder
K numbers that the head makes of a crop

A student sees small and large crops of an image, a teacher only the large ones.
The student learns to say of each crop what the teacher says of another crop of
the same image. The teacher is the running average of the student. Names and
shapes of the encoder's parameters are those of stage II's image encoder.

Source: Caron et al., "Emerging Properties in Self-Supervised Vision
Transformers", and its released code, whose names the fields have.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from uvim import fields
from uvim.encoders import ENCODERS
from uvim.encoders.base import EncoderSpec
from uvim.fields import field
from uvim.models import crops
from uvim.nn import attention, transformer
from uvim.nn.backbones import vit
from uvim.nn.grid import resize_grid
from uvim.registry import ConfigError
from uvim.typing import (
  Array,
  Float,
  Image,
  PerExample,
  PRNGKey,
  PyTree,
  Scalar,
  Tokens,
)

# How many crops of an image the teacher sees.
NUM_GLOBAL = 2
# Layers of the head before the last one.
_HEAD_LAYERS = 3

# The K numbers that the head makes of each crop.
Scores = Float[Array, "V B K"]

# A mistyped depth would build blocks for ever.
_DEPTH = fields.integer(1, 1024)
_SIZE = fields.integer(1)
_COUNT = fields.integer(0)
_SHARE = fields.number(0, 1)


def _is_range(value):
  is_pair = isinstance(value, (tuple, list)) and len(value) == 2
  if not is_pair or not all(map(fields.is_number, value)):
    return False
  low, high = value
  return 0 < low <= high <= 1


_RANGE = fields.Check("two rising numbers in (0, 1]", _is_range)


class DINO(nn.Module):
  """Encoder and head; fields of `config.model`."""
  input_size: tuple[int, int] = field(
      doc="Height and width of the global crops.", check=fields.two_integers())
  patch_size: tuple[int, int] = field(
      doc="Height and width of a patch; divides the sizes of all crops.",
      check=fields.two_integers())
  width: int = field(doc="Width of the encoder.", check=_SIZE)
  depth: int = field(doc="Blocks of the encoder.", check=_DEPTH)
  mlp_dim: int = field(
      doc="Hidden size of the encoder's MLPs.", check=_SIZE)
  num_heads: int = field(
      doc="Attention heads of the encoder; divides `width`.", check=_SIZE)
  momentum_teacher_steps: int = field(
      doc="Steps over which the teacher's momentum grows to 1, along a cosine: "
      "the length of the run.", source="DINO: all", check=_SIZE)
  encoder_style: str = field(
      "dino", doc="As in stage II; a family with a class token.",
      check=fields.one_of(ENCODERS))
  local_crops_size: tuple[int, int] = field(
      (96, 96), doc="Height and width of the local crops.",
      source="DINO (96, 96)", check=fields.two_integers())
  local_crops_number: int = field(
      8, doc="Local crops of an image, which the student alone sees.",
      source="DINO 8", check=_COUNT)
  global_crops_scale: tuple[float, float] = field(
      (0.4, 1.0), doc="Least and most share of the image in a global crop.",
      source="DINO (0.4, 1.0)", check=_RANGE)
  local_crops_scale: tuple[float, float] = field(
      (0.05, 0.4), doc="Least and most share of the image in a local crop.",
      source="DINO (0.05, 0.4)", check=_RANGE)
  out_dim: int = field(
      65_536, doc="How many numbers the head makes of a crop.",
      source="DINO 65 536", check=fields.integer(2))
  hidden_dim: int = field(
      2048, doc="Hidden size of the head.", source="DINO 2048", check=_SIZE)
  bottleneck_dim: int = field(
      256, doc="Width of the head before its last layer.", source="DINO 256",
      check=_SIZE)
  student_temp: float = field(
      0.1, doc="Temperature of the student.", source="DINO 0.1",
      check=fields.POSITIVE)
  teacher_temp: float = field(
      0.07, doc="Temperature of the teacher after its warm-up.",
      source="DINO 0.07", check=fields.POSITIVE)
  warmup_teacher_temp: float = field(
      0.04, doc="Temperature of the teacher at the start.", source="DINO 0.04",
      check=fields.POSITIVE)
  warmup_teacher_temp_steps: int = field(
      0, doc="Steps over which `warmup_teacher_temp` rises to `teacher_temp`.",
      source="DINO: 30 epochs", check=_COUNT)
  momentum_teacher: float = field(
      0.996, doc="Momentum of the teacher at the start.", source="DINO 0.996",
      check=_SHARE)
  center_momentum: float = field(
      0.9, doc="Momentum of the mean of the teacher's numbers, which is "
      "subtracted from them.", source="DINO 0.9", check=_SHARE)
  freeze_last_layer_steps: int = field(
      0, doc="Steps in which the last layer of the head does not learn.",
      source="DINO: 1 epoch", check=_COUNT)
  dtype: str = field(
      "float32", doc="As in stage I; the loss stays float32.",
      check=fields.one_of(("float32", "bfloat16")))
  attention: str = field(
      "chunked", doc="As in stage I.",
      check=fields.one_of(attention.IMPLEMENTATIONS))
  scan_layers: bool = field(False, doc="As in stage I.", check=fields.BOOL)
  remat: str = field(
      "none", doc="As in stage I.", check=fields.one_of(transformer.REMAT))

  @property
  def grid_size(self) -> tuple[int, int]:
    """Rows and columns of patches of a global crop."""
    return self._grid_of(self.input_size)

  def _grid_of(self, size):
    height, width = size
    patch_height, patch_width = self.patch_size
    return (height // patch_height, width // patch_width)

  def setup(self):
    self.image_tokens = vit.ViT(
        input_size=self.input_size,
        patch_size=self.patch_size,
        depth=self.depth,
        width=self.width,
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        style=ENCODERS[self.encoder_style].style,
        dtype=self.dtype,
        attention=self.attention,
        scan_layers=self.scan_layers,
        remat=self.remat)
    # Its parameters stand at the top, as those of stage II's encoder do.
    nn.share_scope(self, self.image_tokens)
    self.image_tokens.create()
    self.dino_head = Head(
        self.hidden_dim, self.bottleneck_dim, self.out_dim, self.dtype)

  def __call__(
      self,
      image: Image,
      is_last_frozen: bool | Array = False,
  ) -> Float[Array, "B K"]:
    """What the head makes of the class token, float32.

    Args:
      image: crops of one size, in [-1, 1].
      is_last_frozen: bool []; whether the last layer of the head gets no
        gradient.
    """
    class_token_BD = self.with_prefix(image)[:, 0]
    return self.dino_head(class_token_BD, is_last_frozen)

  def with_prefix(self, image: Image) -> Float[Array, "B R+N D"]:
    """All tokens of the encoder, for images of any size of whole patches."""
    encoder = self.image_tokens
    grid = self._grid_of(image.shape[1:3])
    positions_1ND = resize_grid(encoder.posemb, self.grid_size, grid)
    return encoder.encode(encoder.embed(image) + positions_1ND)

  def features(self, image: Image) -> Tokens:
    """The tokens of the image's patches."""
    num_prefix = ENCODERS[self.encoder_style].style.num_prefix
    return self.with_prefix(image)[:, num_prefix:]


class Head(nn.Module):
  """Three layers, a unit vector, and its cosines with K directions.

  Attributes:
    hidden_dim: hidden size.
    bottleneck_dim: length of the unit vector.
    out_dim: K.
    dtype: of the matmuls.
  """
  hidden_dim: int
  bottleneck_dim: int
  out_dim: int
  dtype: str = "float32"

  @nn.compact
  def __call__(
      self,
      x_BD: Float[Array, "B D"],
      is_last_frozen: bool | Array = False,
  ) -> Float[Array, "B K"]:
    """Cosines, float32; see `DINO.__call__`."""
    widths = [self.hidden_dim] * (_HEAD_LAYERS - 1) + [self.bottleneck_dim]
    for index, width in enumerate(widths):
      if index:
        x_BD = nn.gelu(x_BD, approximate=False)
      # At the paper's sizes the deviation is about its 0.02. In a smaller head,
      # 0.02 would leave nearly nothing to make a unit vector of.
      x_BD = nn.Dense(
          width,
          dtype=self.dtype,
          kernel_init=nn.initializers.lecun_normal())(x_BD)
    directions_EK = self.param(
        "last_layer",
        nn.initializers.normal(1.0),
        (self.bottleneck_dim, self.out_dim))
    frozen_EK = jax.lax.stop_gradient(directions_EK)
    directions_EK = jnp.where(is_last_frozen, frozen_EK, directions_EK)
    x_BE = _unit(x_BD.astype(jnp.float32), axis=1)
    return x_BE @ _unit(directions_EK, axis=0)


def _unit(x, axis):
  """Vectors of length 1 along an axis; zeros stay zeros."""
  # `maximum`, because the root of 0 has no derivative.
  square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


# ── The loss and its schedules ──────────────────────────────────────────────


def dino_loss(
    student_VBK: Scores,
    teacher_VBK: Scores,
    center_K: Float[Array, "K"],
    *,
    teacher_temp: float | Scalar,
    student_temp: float,
) -> PerExample:
  """Cross-entropy of the student under the teacher, for each example, [B].

  It is the mean over all pairs of a crop that the teacher sees and another crop
  that the student sees.

  Args:
    student_VBK: of all crops.
    teacher_VBK: of the global crops, which are the student's first ones.
    center_K: is subtracted from the teacher's numbers.
    teacher_temp: divides the teacher's numbers after that.
    student_temp: divides the student's.
  """
  centered_VBK = (teacher_VBK - center_K[None, None]) / teacher_temp
  # The loss teaches the student alone.
  targets_VBK = jax.lax.stop_gradient(jax.nn.softmax(centered_VBK))
  logprobs_VBK = jax.nn.log_softmax(student_VBK / student_temp)
  losses_B = []
  for teacher_crop, target_BK in enumerate(targets_VBK):
    for student_crop, logprob_BK in enumerate(logprobs_VBK):
      # The same crop would teach nothing.
      if student_crop != teacher_crop:
        losses_B.append(-jnp.sum(target_BK * logprob_BK, axis=-1))
  return sum(losses_B) / len(losses_B)


def move_center(
    center_K: Float[Array, "K"],
    mean_K: Float[Array, "K"],
    momentum: float,
) -> Float[Array, "K"]:
  """The center after a step in which the teacher's numbers had this mean."""
  return center_K * momentum + mean_K * (1 - momentum)


def temperature_at(
    step: Any, *, first: float, last: float, warmup_steps: int) -> Scalar:
  """Temperature of the teacher, float32 []: a line from first to last."""
  # The last step of the warm-up has the last temperature.
  progress = jnp.clip(step / max(1, warmup_steps - 1), 0.0, 1.0)
  if warmup_steps == 0:
    progress = 1.0
  return jnp.asarray(first + (last - first) * progress, jnp.float32)


def momentum_at(step: Any, *, first: float, num_steps: int) -> Scalar:
  """Momentum of the teacher, float32 []: from first to 1, along a cosine."""
  progress = jnp.clip(step / num_steps, 0.0, 1.0)
  rest = 0.5 * (1 - first) * (1 + jnp.cos(math.pi * progress))
  return jnp.asarray(1 - rest, jnp.float32)


# ── The model, as pure functions ────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class SelfDistillation:
  """Student and teacher, which are one network with two sets of parameters.

  Attributes:
    network: encoder and head.
  """
  network: DINO

  def init(self, rng: PRNGKey) -> PyTree:
    """Fresh float32 parameters; traceable."""
    return init_network(self.network, rng)

  @property
  def image_size(self) -> tuple[int, int]:
    """A height and width that suit; other multiples of a patch do as well."""
    return self.network.input_size

  @property
  def encoder_specs(self) -> dict[str, EncoderSpec]:
    """What pretrained encoders may fill, by their part of the parameters."""
    network = self.network
    spec = EncoderSpec(
        network.encoder_style, network.num_heads, network.grid_size)
    return {"encoder": spec}

  def crop(self, image: Image, rngs_B: PRNGKey) -> list[crops.Crops]:
    """The global crops of each image, then the local ones if there are any.

    Args:
      image: in [-1, 1], of any size.
      rngs_B: a key for each image.
    """
    network = self.network
    keys_B2 = jax.vmap(jax.random.split)(rngs_B)
    views = [crops.draw_crops(
        image, keys_B2[:, 0], num_crops=NUM_GLOBAL, size=network.input_size,
        area=network.global_crops_scale)]
    if network.local_crops_number:
      views.append(crops.draw_crops(
          image, keys_B2[:, 1], num_crops=network.local_crops_number,
          size=network.local_crops_size, area=network.local_crops_scale))
    return views

  def scores(
      self,
      params: PyTree,
      views: list[crops.Crops],
      is_last_frozen: bool | Array = False,
  ) -> Scores:
    """What the head makes of all crops; see `DINO.__call__`.

    Args:
      params: of encoder and head.
      views: as `crop` returns them: all crops of one size in each array.
      is_last_frozen: see `DINO.__call__`.
    """
    scores = []
    # Crops of one size at a time, all in one batch.
    for images in views:
      num_crops, batch, *shape = images.shape
      flat = images.reshape(num_crops * batch, *shape)
      flat_scores = self.network.apply({"params": params}, flat, is_last_frozen)
      scores.append(flat_scores.reshape(num_crops, batch, -1))
    return jnp.concatenate(scores, axis=0)

  def loss(
      self,
      student: PyTree,
      teacher: PyTree,
      center_K: Float[Array, "K"],
      image: Image,
      rngs_B: PRNGKey,
      step: Any,
  ) -> tuple[PerExample, Scores]:
    """(loss of each example, the teacher's numbers for its global crops).

    Args:
      student: parameters that learn.
      teacher: parameters that do not.
      center_K: running mean of the teacher's numbers.
      image: in [-1, 1], of any size.
      rngs_B: a key for each image.
      step: int []; updates made so far.
    """
    network = self.network
    views = self.crop(image, rngs_B)
    is_last_frozen = step < network.freeze_last_layer_steps
    student_VBK = self.scores(student, views, is_last_frozen)
    teacher_VBK = self.scores(teacher, views[:1])
    loss_B = dino_loss(
        student_VBK, teacher_VBK, center_K,
        teacher_temp=self.teacher_temp_at(step),
        student_temp=network.student_temp)
    return loss_B, jax.lax.stop_gradient(teacher_VBK)

  def teacher_temp_at(self, step: Any) -> Scalar:
    """The teacher's temperature at a step."""
    network = self.network
    return temperature_at(
        step,
        first=network.warmup_teacher_temp,
        last=network.teacher_temp,
        warmup_steps=network.warmup_teacher_temp_steps)

  def teach(self, teacher: PyTree, student: PyTree, step: Any) -> PyTree:
    """The teacher's parameters after a step: nearer to the student's.

    Args:
      teacher: its parameters before.
      student: the student's parameters after the step.
      step: int []; updates made before this one.
    """
    network = self.network
    momentum = momentum_at(
        step,
        first=network.momentum_teacher,
        num_steps=network.momentum_teacher_steps)

    def average(old, new):
      return old * momentum + new * (1 - momentum)

    return jax.tree.map(average, teacher, student)

  def features(self, params: PyTree, image: Image) -> Tokens:
    """The encoder's tokens [B, N, D] for the patches of whole images."""
    return self.network.apply({"params": params}, image, method="features")


# Jitted for its cache: a run asks for the shapes several times, seconds each.
@functools.partial(jax.jit, static_argnums=0)
def init_network(network: DINO, rng: PRNGKey) -> PyTree:
  """The parameters of a new network."""
  image = jnp.zeros((1, *network.input_size, 3))
  return network.init(rng, image)["params"]


def make_self_distillation(
    model_fields: Mapping[str, Any],
    where: str,
) -> SelfDistillation:
  """Builds the model from one block of fields.

  Args:
    model_fields: such as `config.model`: fields of `DINO`.
    where: path of that block, for messages.

  Raises:
    ConfigError: an unknown or missing field, a value that is not allowed,
      sizes that do not fit.
  """
  fields.check_fields(known_fields(model_fields, where), model_fields, where)
  values = {name: fields.hashable(value)
            for name, value in model_fields.items()}
  network = DINO(**values)
  _check_network(network, where)
  return SelfDistillation(network)


def known_fields(
    model_fields: Mapping[str, Any],
    where: str,
) -> dict[str, fields.Field]:
  """All fields that such a block may have, by name."""
  del model_fields, where
  return fields.fields_of(DINO)


def _check_network(network, where):
  """Raises a ConfigError if sizes do not fit each other."""
  patch_size = network.patch_size
  names = ["input_size"]
  if network.local_crops_number:
    names.append("local_crops_size")
  for name in names:
    size = getattr(network, name)
    if size[0] % patch_size[0] or size[1] % patch_size[1]:
      raise ConfigError(
          f"{where}.{name} = {size}; it must be a multiple of patch_size "
          f"{patch_size} in both directions.")
  if network.width % network.num_heads:
    raise ConfigError(f"{where}.num_heads = {network.num_heads}; it must "
                      f"divide width {network.width}.")
  if not ENCODERS[network.encoder_style].style.num_prefix:
    raise ConfigError(
        f"{where}.encoder_style = {network.encoder_style!r}; its encoder has "
        "no class token, which the head reads. Take 'dino'.")
