"""DINO learns to see from images alone, by agreeing with itself about crops.

B batch · V crops of an image, the two global ones first · H W image pixels
N patches · D width of the encoder · K numbers that the head makes of a crop

A student sees small and large crops of an image, a teacher only the large ones.
The student learns to say of each crop what the teacher says of another crop of
the same image. The teacher is the running average of the student. Both have the
network of `dino_network.py`; this file has the loss and its schedules.

Source: Caron et al., "Emerging Properties in Self-Supervised Vision
Transformers", and its released code.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from uvim.learn import ema
from uvim.models import crops
from uvim.models.dino_network import DINO
from uvim.models.images import ImagesModel
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

# The K numbers that the head makes of each crop.
Scores = Float[Array, "V B K"]


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
class SelfDistillation(ImagesModel):
  """Student and teacher, which are one network with two sets of parameters.

  Attributes:
    network: encoder and head. Its `input_size` suits its images; other
      multiples of a patch do as well.
  """
  network: DINO
  network_class = DINO

  def example_inputs(self):
    return (jnp.zeros((1, *self.network.input_size, 3)),)

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
    return ema.move(teacher, student, momentum)

  def features(self, params: PyTree, image: Image) -> Tokens:
    """The encoder's tokens [B, N, D] for the patches of whole images."""
    return self.network.apply({"params": params}, image, method="features")
