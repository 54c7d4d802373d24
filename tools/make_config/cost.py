"""How long a step takes: its operations, and the speed of the machine.

The operations are those of the products of matrices, each counted as 2 m n k.
The backward pass costs twice as much as the forward pass.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tools.make_config import recipe

# A gradient costs a forward pass and a backward pass of twice its cost.
_WITH_BACKWARD = 3


@dataclasses.dataclass(frozen=True)
class Machine:
  """What the steps run on.

  The times are those of a machine that has nothing else to do.

  Attributes:
    name: for people, such as "2 cores".
    flops: operations per second of a product of large matrices.
    num_devices: how many devices share a batch.
    num_cores: CPU cores that decode images.
  """
  name: str
  flops: float
  num_devices: int
  num_cores: int

  def seconds_per_step(self, flops: float, num_images: int,
                       decode_seconds: float) -> float:
    """The duration of a training step.

    Args:
      flops: its operations.
      num_images: images of its batch.
      decode_seconds: what a core needs to read and decode one.
    """
    computing = flops / (self.flops * recipe.EFFICIENCY)
    return computing + num_images * decode_seconds / self.num_cores


def measure_machine() -> Machine:
  """Times a product of matrices on the devices that JAX has; a few seconds."""
  import jax

  from tools.bench import measure
  num_cores = measure.num_cores()
  devices = jax.devices()
  if devices[0].platform == "cpu":
    # Several CPU devices share the same cores.
    cores = "core" if num_cores == 1 else "cores"
    flops = _flops_per_core() * num_cores
    return Machine(f"{num_cores} {cores}", flops, len(devices), num_cores)
  flops = measure.peak_flops(size=4096) * len(devices)
  name = devices[0].device_kind
  if len(devices) > 1:
    name = f"{len(devices)} × {name}"
  return Machine(name, flops, len(devices), num_cores)


def _flops_per_core(size: int = 1024, repeats: int = 8) -> float:
  """Operations per second of CPU time, which counts no time of other jobs."""
  import jax
  import jax.numpy as jnp

  from tools.bench import measure
  matrix = jnp.ones((size, size))
  multiply = jax.jit(jnp.matmul)

  def run():
    jax.block_until_ready(multiply(matrix, matrix))

  # Once before, to compile.
  run()
  times, = measure.alternate(run, repeats=repeats)
  return 2 * size**3 / min(times.cpu)


def stage_i_flops(
    sizes: Mapping[str, Any],
    num_patches: int,
    patch_pixels: int,
    num_outputs: int,
    batch_size: int,
) -> float:
  """Operations of a training step of stage I.

  Args:
    sizes: fields of `config.model`, as `recipe.STAGE_I`.
    num_patches: tokens of an image.
    patch_pixels: pixels of a patch.
    num_outputs: classes, bins or channels that f predicts for a pixel.
    batch_size: images of a step.
  """
  width = sizes["width"]
  oracle = _oracle_flops(sizes, num_patches, patch_pixels)
  base_model = sizes["base_model_depth"] * _block(
      width, sizes["mlp_dim"], num_patches)
  heads = 2 * num_patches * width * patch_pixels * num_outputs
  embedding = _embedding(width, num_patches, patch_pixels)
  per_image = oracle + base_model + heads + embedding
  return _WITH_BACKWARD * batch_size * per_image


def stage_ii_flops(
    sizes: Mapping[str, Any],
    oracle_sizes: Mapping[str, Any],
    num_patches: int,
    patch_pixels: int,
    batch_size: int,
) -> float:
  """Operations of a training step of stage II; the code has a word a patch.

  Args:
    sizes: fields of `config.model`, as `recipe.STAGE_II`.
    oracle_sizes: those of stage I.
    num_patches: tokens of an image, and words of its code.
    patch_pixels: pixels of a patch.
    batch_size: images of a step.
  """
  width = sizes["emb_dim"]
  block = _block(width, sizes["mlp_dim"], num_patches)
  # A block of the decoder also looks at the image.
  cross_attention = _attention(width, num_patches)
  blocks = sizes["num_layers"] * (2 * block + cross_attention)
  vocabulary = 2 * num_patches * width * (oracle_sizes["dict_size"] + 1)
  embedding = _embedding(width, num_patches, patch_pixels)
  trained = blocks + vocabulary + embedding
  # The oracle is frozen.
  oracle = _oracle_flops(oracle_sizes, num_patches, patch_pixels)
  return batch_size * (_WITH_BACKWARD * trained + oracle)


def _oracle_flops(sizes, num_patches: int, patch_pixels: int) -> float:
  width = sizes["width"]
  blocks = sizes["oracle_depth"] * _block(width, sizes["mlp_dim"], num_patches)
  words = 4 * num_patches * sizes["codeword_dim"] * sizes["dict_size"]
  return blocks + words + _embedding(width, num_patches, patch_pixels)


def _block(width: int, mlp_dim: int, num_tokens: int) -> float:
  """A block of a transformer, for one image."""
  return _attention(width, num_tokens) + 4 * num_tokens * width * mlp_dim


def _attention(width: int, num_tokens: int) -> float:
  projections = 4 * 2 * num_tokens * width**2
  scores_and_means = 2 * 2 * num_tokens**2 * width
  return projections + scores_and_means


def _embedding(width: int, num_patches: int, patch_pixels: int) -> float:
  """The image by patches of three channels."""
  return 2 * num_patches * width * patch_pixels * 3


def duration(minutes: float) -> str:
  """For people: 'about 38 minutes', 'about 3 hours'."""
  if minutes < 100:
    count = max(1, math.ceil(minutes))
    unit = "minute" if count == 1 else "minutes"
    return f"about {count} {unit}"
  return f"about {minutes / 60:.0f} hours"
