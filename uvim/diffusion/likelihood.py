"""What a map costs: a bound on its bits, from how well it is denoised.

T levels of noise · B batch · n analog bits of a pixel

A model that takes noise out of a map also says how likely the map is. It need
not say it exactly: with r, the ratio of signal to noise of a bit,

  -log p(x) ≤ ends + ½ ∫ E |x - x̂(r)|² dr, for bits x of ±1

where x̂(r) is what the model makes of the noisy bits. So the cost does not
depend on the schedule of noise, on the scale of the bits or on their coding,
and models that differ in these can be compared. With the best model of bits
that say nothing of each other, it is one bit for each.

Source: Kingma et al. 2021, "Variational Diffusion Models" (arXiv:2107.00630).
"""

import functools
import math

import jax
import jax.numpy as jnp

from uvim.diffusion.schedules import Level
from uvim.typing import Array, Float, PerExample, PRNGKey

LogRatios = Float[Array, "*b"]

# Of log r. Below the least, a bit is lost. Above the most, the sign of a noisy
# bit tells it: one in 200,000 would be wrong, which costs nearly nothing.
LEAST = -10.0
MOST = 3.0


def draw_log_ratios(rngs_B: PRNGKey, num_levels: int) -> LogRatios:
  """log r, float32 [T, B]: for each example one in each of T equal parts.

  Args:
    rngs_B: a key for each example.
    num_levels: T.
  """
  draw = functools.partial(jax.random.uniform, shape=(num_levels,))
  places_TB = jax.vmap(draw, out_axes=1)(rngs_B)
  parts_T1 = jnp.arange(num_levels)[:, None]
  return LEAST + (parts_T1 + places_TB) * (MOST - LEAST) / num_levels


def level_of(log_ratio: LogRatios, scale: float) -> Level:
  """Signal and noise at which bits of ±scale have that ratio."""
  # Of bits of ±1, at the same signal and noise.
  of_units = log_ratio - 2 * math.log(scale)
  return Level(jax.nn.sigmoid(of_units), jax.nn.sigmoid(-of_units))


def bits_per_pixel(
    errors_TB: Float[Array, "T B"],
    log_ratios_TB: Float[Array, "T B"],
    num_bits: int,
    scale: float,
) -> PerExample:
  """The bound of each example, float32, in bits.

  Args:
    errors_TB: the mean of (x - x̂)² / scale² over pixels and analog bits.
    log_ratios_TB: from `draw_log_ratios`.
    num_bits: n.
    scale: b, of the analog bits.
  """
  # dr is r · dlog r.
  part = (MOST - LEAST) / len(log_ratios_TB)
  nats_TB = 0.5 * jnp.exp(log_ratios_TB) * errors_TB * part
  nats_B = jnp.sum(nats_TB, axis=0) + _nats_of_end(scale)
  return num_bits * nats_B / math.log(2)


def _nats_of_end(scale: float) -> float:
  """What a bit still tells where there is most noise: about nothing.

  The distance of such noisy bits from noise alone.
  """
  log_snr = LEAST - 2 * math.log(scale)
  signal = 1 / (1 + math.exp(-log_snr))
  return 0.5 * (signal * scale**2 - signal - math.log1p(-signal))
