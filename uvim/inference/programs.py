"""The compiled programs of a model.

S samples per image · L code length · H W pixels · B images of a batch

The prior takes a batch of images: a word reads all of its parameters, and one
reading serves all images. The others take an image at a time: an image alone is
much to compute, and its logits are large (245 MB for 512x512 pixels). So what f
makes of a code does not depend on the batch, to the bit.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uvim import tree
from uvim.codes import masking
from uvim.encoders.image_encoder import Context
from uvim.inference import readings
from uvim.inference.given_codes import NO_WORD
from uvim.inference.predictor import (
  ModelImage,
  ModelImages,
  Options,
  Outputs,
  seeds_of_images,
)
from uvim.learn import sharding
from uvim.priors.base import Samples
from uvim.store import open_model
from uvim.typing import Array, Int

# Compiled for settings of the outputs; the oldest is forgotten first.
_MAX_PROGRAMS = 8

# The words that a user has fixed; None: none.
Given = Int[np.ndarray, "B L"] | None


class Programs:
  """What runs on the device, with the arrays it needs."""

  def __init__(self, opened: open_model.OpenModel):
    self._task = opened.task
    self._model = opened.model
    self._prior = opened.prior
    self._arrays = jax.device_put(opened.arrays)
    self._prior_params = jax.device_put(opened.prior_params)
    # That of arrays which are put on no device in particular.
    device = jax.local_devices()[:1]
    self._mesh = jax.sharding.Mesh(device, (sharding.DATA_AXIS,))
    self._params_on = functools.cache(self._copy_params)
    # Each setting of the outputs, such as min_fraction = 0.013, is a program.
    self.base_model = functools.lru_cache(_MAX_PROGRAMS)(self._make_base_model)

  def checksum(self) -> int:
    """Of all arrays."""
    return tree.fingerprint([self._arrays, self._prior_params])

  def word_counts(self) -> Any:
    """See `Quantizer.word_counts`."""
    return self._model.quantizer.word_counts(self._arrays["state"])

  def see(self, image: ModelImage) -> Context:
    """What oracle and base model see; the image encoder has run."""
    return self._model.see(self._arrays, image)

  def encode(self, labels: Any, context: Context) -> Array:
    """The oracle's code for labels as the task's `inputs` gives them."""
    return self._oracle(self._arrays, labels, context)

  def log_prob(self, image: ModelImage, code_1L: Array) -> Array | None:
    """Log-probabilities [1, L] of a code under the prior."""
    return self._score(self._prior_params, image, code_1L)

  def sample(
      self,
      images: ModelImages,
      seed: int,
      num_samples: int,
      given_BL: Given,
      options: Options,
  ) -> Samples:
    """The prior's samples for a batch of images, on the host.

    Args:
      images: as the prior sees them.
      seed: of the run. The pixels decide as well.
      num_samples: S.
      given_BL: words that are fixed.
      options: of the prior.
    """
    seeds_B = seeds_of_images(images, seed)
    options = readings.sampling_options(options, self._model, self._arrays)
    params = self._prior_params
    # On CPUs a second device may share the images.
    mesh = sharding.prediction_mesh(self._mesh, params, len(images))
    if mesh != self._mesh:
      # The program follows its inputs: each device draws for its images.
      params = self._params_on(mesh)
      images = jax.device_put(images, sharding.batch_sharding(mesh))
    drawn = self._prior.sample(
        params, images, seeds_B, num_samples=num_samples,
        given=given_BL, **options)
    return jax.device_get(drawn)

  def _copy_params(self, mesh):
    return jax.device_put(self._prior_params, sharding.replicated(mesh))

  def read(
      self,
      samples: Samples,
      context: Context,
      output_options: Options,
  ) -> Iterator[Outputs]:
    """f's outputs for one sample after the other, [1, H, W, …] on the device.

    The samples are those of one image. A place whose word is NO_WORD says
    nothing.
    """
    run = self.base_model(tuple(sorted(output_options.items())))
    for s in range(samples.code.shape[1]):
      vectors = samples.vectors
      if vectors is not None:
        vectors = vectors[:, s]
      yield run(self._arrays, samples.code[:, s], vectors, context)

  def reduce(self, outputs: Iterable[Outputs], reduce: str) -> readings.Answer:
    """One answer of all samples, see `readings.reduce_samples`."""
    stacked = jax.tree.map(lambda *samples: jnp.stack(samples), *outputs)
    return self._reduce(stacked, reduce)

  def _make_base_model(self, output_options):
    """The compiled base model, for these options of the task's outputs."""
    @jax.jit
    def run(arrays, code, vectors_BLE, context):
      spec = self._model.spec
      dropped_BL = masking.says_nothing(code, spec)
      if spec.is_discrete:
        # The words of dropped places do not matter, but must be words.
        code = jnp.maximum(code, 0)
      z_BLE = readings.code_vectors(
          self._model, arrays, code, vectors_BLE, dropped_BL)
      logits = self._model.base_model(arrays, z_BLE, context)
      return self._task.outputs(logits, **dict(output_options))
    return run

  @functools.cached_property
  def _reduce(self):
    def run(outputs, reduce):
      return readings.reduce_samples(self._task, outputs, reduce)
    return jax.jit(run, static_argnames="reduce")

  @functools.cached_property
  def _oracle(self):
    @jax.jit
    def run(arrays, x, context):
      return self._model.oracle(arrays, x, context).code
    return run

  @functools.cached_property
  def _score(self):
    return jax.jit(self._prior.log_prob)


def without_unsure_words(
    samples: Samples, drop_below: float | None, given_BL: Given,
) -> Samples:
  """The samples with NO_WORD where `drop_below` drops a word."""
  is_unsure_BSL = readings.unsure_words(samples, drop_below, given_BL)
  if is_unsure_BSL is None:
    return samples
  code = samples.code
  # A place may have several words, which are dropped together.
  has_one_word = code.ndim == is_unsure_BSL.ndim
  is_unsure = is_unsure_BSL if has_one_word else is_unsure_BSL[..., None]
  return samples.replace(code=np.where(is_unsure, NO_WORD, code))
