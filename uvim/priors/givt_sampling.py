"""Sampling codes of real numbers, vector by vector, with beams.

B images · S samples per image · P searches = B · S · K beams of a search
F fans of a beam · R rows = P · K · L code length · E numbers of a vector
V numbers that describe the density of a vector · N patches · D width

A search keeps K codes, its beams. For the next place each beam draws F vectors,
and of all K · F codes the K likeliest stay. The likeliest of them at the end is
the sample. With one beam and one fan that is plain sampling.

A density is no probability: a narrow component has a high one, whatever its
weight. Beams prefer such components; so temperatures below 1 suit them.

The network runs as in `uvim.priors.sampling`: the image is encoded once, keys
and values are kept, and a scan over the places runs without the host.

Randomness: from (seed of the image, index of the sample, place) alone. So an
image with its seed gets the same code in any batch.

Source: GIVT's released code. One thing is better here: that one draws one
vector more than a code has and lets it decide which beam is the best.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from uvim.encoders.image_encoder import Seen
from uvim.priors import mixtures, packed_decoder, sampling
from uvim.priors.base import Samples
from uvim.priors.givt_network import VectorLM
from uvim.priors.mixtures import MixtureForm
from uvim.typing import Array, Float, PRNGKey, PyTree, Seeds


class Chosen(NamedTuple):
  """What a search keeps at one place.

  Attributes:
    z_PKE: the vectors of the beams that stay.
    beam_PK: int32, which of the earlier beams each of them goes on from.
    score_PK: log-density in nats of the whole beam so far, at the temperatures
      of the search.
  """
  z_PKE: Array
  beam_PK: Array
  score_PK: Array


def sample(
    model: VectorLM,
    form: MixtureForm,
    params: PyTree,
    image: Seen,
    seeds_B: Seeds,
    *,
    num_samples: int = 1,
    temp: float = 1.0,
    temp_probs: float = 1.0,
    beam_size: int = 1,
    fan_size: int = 1,
) -> Samples:
  """Draws `num_samples` codes per image.

  May be called inside another jit, where the options must still be Python
  numbers (static): whether it is greedy decides which program is built.

  Args:
    model: the network.
    form: how its numbers describe a density.
    params: its parameters.
    image: in [-1, 1]; with an image encoder a Context with its features.
    seeds_B: one integer per image; unused at `temp` 0.
    num_samples: S; at `temp` 0 they are all equal.
    temp, temp_probs: see `MixtureForm.density`. At `temp` 0 a vector is the
      mean of the likeliest component.
    beam_size, fan_size: K and F.
  """
  greedy = sampling.is_greedy(temp)
  if greedy:  # They have no use then; fixed values share one program.
    temp = 1.0
    temp_probs = 1.0
    beam_size = 1
    fan_size = 1
  seeds_B = jnp.asarray(seeds_B).astype(jnp.uint32)
  return _sample(
      model, form, params, image, seeds_B, temp, temp_probs, greedy=greedy,
      num_samples=num_samples, beam_size=beam_size, fan_size=fan_size)


# Temperatures are traced: a slider for one of them does not recompile.
@functools.partial(
    jax.jit, static_argnums=(0, 1),
    static_argnames=("greedy", "num_samples", "beam_size", "fan_size"))
def _sample(model, form, params, image, seeds_B, temp, temp_probs, *, greedy,
            num_samples, beam_size, fan_size):
  model = model.bind({"params": params})
  encoded_BND = model.encode(image)
  keys_P = _keys(seeds_B, num_samples)
  density_of = functools.partial(form.density, temp=temp, temp_probs=temp_probs)

  def choose(logits_PKV, score_PK, position):
    """What the searches keep at one place."""
    if greedy:
      return _take_mode(density_of(logits_PKV))
    noise = draw_noise(keys_P, position, (beam_size, fan_size, form.out_dim))
    return choose_beams(
        density_of, logits_PKV, score_PK, noise, is_first=position == 0)

  shape_PK = (len(keys_P), beam_size)
  drawn, score_PK = _draw_vectors(model, form, encoded_BND, choose, shape_PK)
  code_PLE, logprob_PL = trace_back(*drawn, score_PK)
  shape_BS = (len(seeds_B), num_samples)
  return Samples(
      code=code_PLE.reshape(*shape_BS, *code_PLE.shape[1:]),
      logprob=logprob_PL.reshape(*shape_BS, -1))


def _draw_vectors(model, form, encoded_BND, choose, shape_PK):
  """Runs the searches: what `trace_back` takes of every place, and the scores.

  Args:
    model: bound to its parameters.
    form: of the densities.
    encoded_BND: the images.
    choose: (logits_PKV, score_PK, position) → `Chosen`.
    shape_PK: P and K.
  """
  # What every place needs and none changes; computed before the loop.
  packed = model.packed_decoder(encoded_BND)
  memories = packed_decoder.read_image(packed, encoded_BND)
  num_rows = math.prod(shape_PK)

  def draw_vector(carry, position):
    input_RD, score_PK, caches = carry
    logits_RV, caches = packed_decoder.step(
        packed, memories, caches, input_RD, position)
    logits_PKV = logits_RV.reshape(*shape_PK, -1)
    chosen = choose(logits_PKV, score_PK, position)
    logprob_PK = _logprob(form, logits_PKV, chosen)
    caches = _caches_of_beams(caches, chosen.beam_PK)
    z_RE = chosen.z_PKE.reshape(num_rows, form.out_dim)
    carry = (model.next_input(z_RE), chosen.score_PK, caches)
    return carry, (chosen.z_PKE, chosen.beam_PK, logprob_PK)

  input_RD = model.first_input(num_rows)
  score_PK = jnp.zeros(shape_PK)
  caches = None
  drawn = []
  start = 0
  for stop in sampling.cache_sizes(model.seq_len):
    # A scan of its own for each size of the caches.
    caches = packed_decoder.grow_caches(packed, caches, num_rows, stop)
    carry = (input_RD, score_PK, caches)
    carry, part = lax.scan(draw_vector, carry, jnp.arange(start, stop))
    input_RD, score_PK, caches = carry
    drawn.append(part)
    start = stop
  return jax.tree.map(lambda *parts: jnp.concatenate(parts), *drawn), score_PK


def _logprob(form, logits_PKV, chosen):
  """The log-density of what was chosen, under the model itself."""
  # A beam goes on from another one: that one's numbers describe its vector.
  parents_PKV = _of_beams(logits_PKV, chosen.beam_PK)
  return form.density(parents_PKV).log_prob_of_place(chosen.z_PKE)


def choose_beams(
    density_of,
    logits_PKV: Float[Array, "P K V"],
    score_PK: Float[Array, "P K"],
    noise: mixtures.Noise,
    *,
    is_first: Array | bool,
) -> Chosen:
  """Draws the vectors of the fans, and keeps the beams that are likeliest.

  Args:
    density_of: numbers → `Density`.
    logits_PKV: what the network wrote for each beam.
    score_PK: see `Chosen`, of the beams so far.
    noise: of [P, K, F, E] numbers.
    is_first: whether this is the first place. All beams are still alike there,
      so each of them keeps its own first vector.
  """
  num_searches, beam_size, fan_size, size = noise.normal.shape
  logits_PKFV = jnp.repeat(logits_PKV[:, :, None], fan_size, axis=2)
  density = density_of(logits_PKFV)
  z_PKFE = density.sample(noise)
  score_PKF = score_PK[..., None] + density.log_prob_of_place(z_PKFE)
  is_later_fan_11F = (jnp.arange(fan_size) > 0)[None, None]
  score_PKF = jnp.where(is_first & is_later_fan_11F, -jnp.inf, score_PKF)

  # All candidates of a search in one row, the fans of a beam side by side.
  score_PC = score_PKF.reshape(num_searches, -1)
  best_PK, candidate_PK = lax.top_k(score_PC, beam_size)
  z_PCE = z_PKFE.reshape(num_searches, -1, size)
  return Chosen(
      z_PKE=_of_beams(z_PCE, candidate_PK),
      beam_PK=candidate_PK // fan_size,
      score_PK=best_PK)


def trace_back(
    z_LPKE: Float[Array, "L P K E"],
    beam_LPK: Array,
    logprob_LPK: Float[Array, "L P K"],
    score_PK: Float[Array, "P K"],
) -> tuple[Float[Array, "P L E"], Float[Array, "P L"]]:
  """The vectors of the best beam, and their log-densities.

  Args:
    z_LPKE: of `Chosen`, of every place.
    beam_LPK: likewise.
    logprob_LPK: a number for each of these vectors.
    score_PK: of the beams after the last place.
  """
  def step(beam_P1, place):
    z_PKE, beam_PK, logprob_PK = place
    taken = (_of_beams(z_PKE, beam_P1)[:, 0],
             jnp.take_along_axis(logprob_PK, beam_P1, axis=1)[:, 0])
    return jnp.take_along_axis(beam_PK, beam_P1, axis=1), taken

  best_P1 = jnp.argmax(score_PK, axis=1, keepdims=True).astype(jnp.int32)
  _, (z_LPE, logprob_LP) = lax.scan(
      step, best_P1, (z_LPKE, beam_LPK, logprob_LPK), reverse=True)
  return jnp.swapaxes(z_LPE, 0, 1), logprob_LP.T


def draw_noise(
    keys_P: PRNGKey, position: Array, shape: tuple[int, int, int],
) -> mixtures.Noise:
  """The random numbers of one place, [P, K, F, E], of each search its own."""
  def of_search(key):
    return mixtures.draw_noise(jax.random.fold_in(key, position), shape)

  return jax.vmap(of_search)(keys_P)


def _take_mode(density):
  """The likeliest vector of the only beam."""
  z_PKE = density.mode()
  beam_PK = jnp.zeros(z_PKE.shape[:2], jnp.int32)
  return Chosen(z_PKE, beam_PK, score_PK=jnp.zeros(beam_PK.shape))


def _of_beams(x_PKE, beam_PK):
  """The rows of these beams."""
  return jnp.take_along_axis(x_PKE, beam_PK[..., None], axis=1)


def _caches_of_beams(caches, beam_PK):
  """The keys and values of the beams that stay."""
  num_searches, beam_size = beam_PK.shape
  if beam_size == 1:
    return caches
  # The rows of a search lie together.
  first_row_P1 = jnp.arange(num_searches)[:, None] * beam_size
  row_R = (first_row_P1 + beam_PK).reshape(-1)
  return jax.tree.map(lambda x_RALH: x_RALH[row_R], caches)


def _keys(seeds_B, num_samples):
  """A key for every sample of every image, [P]."""
  def of_sample(seed, sample):
    return jax.random.fold_in(jax.random.key(seed), sample)

  of_image = jax.vmap(of_sample, in_axes=(None, 0))
  of_batch = jax.vmap(of_image, in_axes=(0, None))
  keys_BS = of_batch(seeds_B, jnp.arange(num_samples))
  return keys_BS.reshape(-1)
