"""How many bits a mask costs under Pix2Seq-D, at most.

T levels of noise · B batch
"""

import functools

import jax
import jax.numpy as jnp

from uvim.diffusion import likelihood, steps
from uvim.models.pix2seq_d.model import Drawn, LabelsBefore, Pix2SeqD
from uvim.models.pix2seq_d.network import SeenImage
from uvim.nn import losses
from uvim.typing import PerExample, PRNGKey, PyTree

# Mixed into the keys of the examples, because `Pix2SeqD.draw` uses them, too.
_LEVELS_SALT = 0x6C65766C


def bits_per_pixel(
    model: Pix2SeqD,
    params: PyTree,
    seen: SeenImage,
    drawn: Drawn,
    rngs_B: PRNGKey,
    *,
    before: LabelsBefore | None = None,
    num_levels: int = 8,
) -> PerExample:
  """The bound of `uvim.diffusion.likelihood` for each example, float32.

  Args:
    model: a model.
    params: its parameters.
    seen: from `Pix2SeqD.encode_image`.
    drawn: the labels, and the noise that is added to them; its times are not
      looked at.
    rngs_B: a key for each example, those of `Pix2SeqD.draw`.
    before: as in `Pix2SeqD.denoise`.
    num_levels: T. The mean over many examples does not depend on it.
  """
  network = model.network
  scale = network.input_scale
  clean = model.encode_labels(drawn.labels)
  mix = functools.partial(jax.random.fold_in, data=_LEVELS_SALT)
  log_ratios_TB = likelihood.draw_log_ratios(jax.vmap(mix)(rngs_B), num_levels)

  def error_at(log_ratio_B):
    level_B = likelihood.level_of(log_ratio_B, scale)
    noisy = steps.corrupt(clean, drawn.noise, level_B.on_maps())
    estimate = model.denoise(params, seen, noisy, level_B, before)
    error = (estimate - clean) / scale
    return losses.per_example_mean(jnp.square(error))

  errors_TB = jax.lax.map(error_at, log_ratios_TB)
  return likelihood.bits_per_pixel(
      errors_TB, log_ratios_TB, network.num_bits, scale)
