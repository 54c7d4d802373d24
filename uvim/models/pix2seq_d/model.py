"""Pix2Seq-D as pure functions: loss and sampling.

B batch · H W image pixels · h w mask pixels · n analog bits of a pixel
F earlier frames of a video · G maps of a mask: semantics and instances
r c rows and columns of the decoder's finest map · C channels
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from uvim import fields
from uvim.diffusion import bits, instances, rows, schedules, steps
from uvim.diffusion.outputs import Target
from uvim.diffusion.schedules import Level
from uvim.encoders import image_encoder as image_encoder_lib
from uvim.encoders.image_encoder import Context, ImageEncoder, Seen
from uvim.models.pix2seq_d import sampling
from uvim.models.pix2seq_d.checks import check_network
from uvim.models.pix2seq_d.network import MAPS, Bits, Network, SeenImage
from uvim.nn import losses
from uvim.typing import (
  Array,
  Bool,
  Float,
  Int,
  Logs,
  PerExample,
  PRNGKey,
  PyTree,
  Seeds,
)

# Mixed into the keys of the examples, because `Pix2SeqD.draw` uses them, too.
_DROPOUT_SALT = 0x64726f70
_ESTIMATE_SALT = 0x65737469

Labels = Int[Array, "B h w G"]
LabelsBefore = Int[Array, "B h w F*G"]


class Drawn(NamedTuple):
  """Masks, and what training draws by chance for them.

  Attributes:
    labels: class and instance id of each pixel; the ids may be drawn.
    time_B: in [0, 1]; 1 is all noise.
    noise: from N(0, 1), of the shape of the bits.
    sees_estimate_B: whether the decoder sees a first try of its own; None: a
      model without self-conditioning.
  """
  labels: Labels
  time_B: PerExample
  noise: Bits
  sees_estimate_B: Bool[Array, "B"] | None = None


@dataclasses.dataclass(frozen=True)
class Pix2SeqD:
  """A model that takes the noise out of masks, bit by bit.

  Attributes:
    network: its network.
  """
  network: Network

  # ── How a config describes it ─────────────────────────────────────────────

  @classmethod
  def known_fields(
      cls, model_fields: Mapping[str, Any], where: str
  ) -> dict[str, fields.Field]:
    """All fields that a block such as `config.model` may have, by name."""
    del model_fields, where
    return fields.fields_of(Network)

  @classmethod
  def from_fields(cls, model_fields: Mapping[str, Any], where: str) -> Self:
    """Builds the model from one block of fields.

    Args:
      model_fields: such as `config.model`: fields of `Network`.
      where: path of that block, for messages.

    Raises:
      ConfigError: an unknown or missing field, a value that is not allowed,
        sizes that do not fit.
    """
    known = cls.known_fields(model_fields, where)
    fields.check_fields(known, model_fields, where)
    values = fields.hashable(model_fields)
    values[image_encoder_lib.NAME] = image_encoder_lib.make(
        model_fields.get(image_encoder_lib.NAME),
        f"{where}.{image_encoder_lib.NAME}")
    network = Network(**values)
    check_network(network, where)
    return cls(network)

  @property
  def image_encoder(self) -> ImageEncoder | None:
    """What sees the image in place of the ResNet."""
    return self.network.image_encoder

  @property
  def image_size(self) -> tuple[int, int]:
    """Height and width of the images it sees."""
    return self.network.input_size

  def init(self, rng: PRNGKey) -> PyTree:
    """Fresh float32 parameters; traceable."""
    params = _init(self.network, rng)
    if self.image_encoder is not None:
      # A key of its own: the other numbers are those of a model without one.
      encoder_rng = jax.random.fold_in(rng, 0)
      encoder_params = self.image_encoder.init(encoder_rng)
      params = {**params, image_encoder_lib.NAME: encoder_params}
    return params

  # ── Seeing and denoising ──────────────────────────────────────────────────

  def see(self, params: PyTree, image: Seen) -> Context:
    """Runs the image encoder, if there is one and it has not run."""
    return image_encoder_lib.see(self.image_encoder, params, image)

  def encode_image(
      self,
      params: PyTree,
      image: Seen,
      rngs_B: PRNGKey | None = None,
  ) -> SeenImage:
    """What the decoder sees of images in [-1, 1], the same at every step.

    Args:
      params: of the model.
      image: in [-1, 1].
      rngs_B: in training, a key for each example, those of `draw`; None:
        nothing is dropped.
    """
    context = self.see(params, image)
    dropout_rngs_B = None
    if rngs_B is not None and self.network.encoder_dropout:
      mix = functools.partial(jax.random.fold_in, data=_DROPOUT_SALT)
      dropout_rngs_B = jax.vmap(mix)(rngs_B)
    return self._apply(params, "encode", context, dropout_rngs_B)

  def encode_labels(self, labels: Labels) -> Bits:
    """Analog bits [B, h, w, n] of masks."""
    network = self.network
    return bits.encode_map(
        labels, network.num_bits, network.input_scale, network.coding)

  def decode_bits(self, analog: Bits) -> Labels:
    """int32 [B, h, w, 2], the masks that analog bits stand for by their sign.

    A class or id beyond the last becomes the last.
    """
    network = self.network
    return bits.decode_map(analog, network.sizes, network.coding)

  def denoise(
      self,
      params: PyTree,
      seen: SeenImage,
      noisy: Bits,
      level: Level,
      before: LabelsBefore | None = None,
      estimate: Bits | None = None,
  ) -> Bits:
    """The bits without noise, as the network expects them, in [-b, b].

    Args:
      params: of the model.
      seen: from `encode_image`.
      noisy: analog bits with noise.
      level: of each example, [B], or one for all, [].
      before: labels of the frames before; None: void. Only for a model with
        `frames_before`.
      estimate: what the step before took for them; None: nothing, as at the
        first step. A model without self-conditioning does not look at it.
    """
    batch_size = len(noisy)
    signal_B = jnp.broadcast_to(level.signal, (batch_size,))
    noise_B = jnp.broadcast_to(level.noise, (batch_size,))
    level_of_bits = Level(signal_B, noise_B).on_maps()
    output = self.network.make_output()

    def denoise_rows(arrays):
      features, noisy_rows = arrays
      numbers = self._apply(params, "head", features)
      return output.clean(numbers, noisy_rows, level_of_bits)

    features = self._features(
        params, seen, noisy, signal_B, before, estimate)
    return sampling.map_by_rows(
        denoise_rows, (features, noisy), self._num_chunks(batch_size))

  def _features(self, params, seen, noisy, signal_B, before, estimate):
    """The decoder without its last layer, [B, r, c, C]."""
    if not self.network.self_condition:
      estimate = None
    elif estimate is None:
      estimate = jnp.zeros_like(noisy)
    analog_before = None
    num_frames = self.network.frames_before
    if num_frames:
      if before is None:
        shape = (*noisy.shape[:3], num_frames * len(MAPS))
        before = jnp.zeros(shape, jnp.int32)
      network = self.network
      analog_before = bits.encode_map(
          before, num_frames * network.num_bits, network.input_scale,
          network.coding)
    return self._apply(
        params, "features", seen, noisy, signal_B, analog_before, estimate)

  def _num_chunks(self, batch_size):
    """In how many chunks the rows of the decoder's finest map are taken."""
    network = self.network
    numbers_of_place = network.num_numbers * network.mask_patch**2
    return rows.num_chunks(batch_size, network.grid_size, numbers_of_place)

  def _apply(self, params, method, *args):
    """A method of the network."""
    own_params = dict(params)
    own_params.pop(image_encoder_lib.NAME, None)
    return self.network.apply({"params": own_params}, *args, method=method)

  # ── Training ──────────────────────────────────────────────────────────────

  def draw(
      self,
      labels: Labels,
      rngs_B: PRNGKey,
      time_B: PerExample | None = None,
  ) -> Drawn:
    """What training draws for masks, from a key for each example.

    Args:
      labels: class and instance id of each pixel; 0 is void.
      rngs_B: the keys.
      time_B: times in [0, 1]; None: drawn, too.
    """
    network = self.network
    # One key each for time, noise and ids.
    split = functools.partial(jax.random.split, num=3)
    keys_B3 = jax.vmap(split)(rngs_B)
    if time_B is None:
      time_B = jax.vmap(jax.random.uniform)(keys_B3[:, 0])
    draw_noise = functools.partial(
        jax.random.normal, shape=(*labels.shape[1:3], network.num_bits))
    noise = jax.vmap(draw_noise)(keys_B3[:, 1])
    if network.random_ids:
      ids = instances.shuffle_ids(
          labels[..., 1], keys_B3[:, 2], network.num_ids)
      labels = jnp.stack([labels[..., 0], ids], axis=-1)
    return Drawn(labels, time_B, noise, self._draw_sees_estimate(rngs_B))

  def _draw_sees_estimate(self, rngs_B):
    """Whether each example sees a first try; None without self-conditioning."""
    probability = self.network.self_condition
    if not probability:
      return None
    mix = functools.partial(jax.random.fold_in, data=_ESTIMATE_SALT)
    draw = functools.partial(jax.random.bernoulli, p=probability)
    return jax.vmap(draw)(jax.vmap(mix)(rngs_B))

  def loss(
      self,
      params: PyTree,
      seen: SeenImage,
      drawn: Drawn,
      before: LabelsBefore | None = None,
  ) -> tuple[PerExample, Logs]:
    """The loss of each example, float32, and what else to log of it.

    Args:
      params: of the model.
      seen: from `encode_image`.
      drawn: from `draw`.
      before: as in `denoise`.

    Returns:
      The loss, and by name the loss of each map and the share of right bits.
    """
    level_B = schedules.level_at(drawn.time_B, self.network.schedule)
    level = level_B.on_maps()
    clean = self.encode_labels(drawn.labels)
    noisy = steps.corrupt(clean, drawn.noise, level)
    weight = self.pixel_weights(drawn.labels)
    estimate = None
    if drawn.sees_estimate_B is not None:
      # Nothing is learned through it: it is an input like any other.
      first_try = jax.lax.stop_gradient(
          self.denoise(params, seen, noisy, level_B, before))
      sees_estimate = drawn.sees_estimate_B[:, None, None, None]
      estimate = jnp.where(sees_estimate, first_try, 0)
    features = self._features(
        params, seen, noisy, level_B.signal, before, estimate)

    def loss_of_rows(params, arrays):
      features, noisy, clean, noise, weight = arrays
      numbers = self._apply(params, "head", features)
      target = Target(clean, noise, level, weight)
      return self._judge(numbers, noisy, target)

    arrays = (features, noisy, clean, drawn.noise, weight)
    loss_BG, bit_accuracy_B = rows.mean_by_rows(
        loss_of_rows, params, arrays, self._num_chunks(len(noisy)))
    logs = {"bit_accuracy": bit_accuracy_B}
    for index, name in enumerate(MAPS):
      logs[f"loss_{name}"] = loss_BG[:, index]
    return jnp.mean(loss_BG, axis=-1), logs

  def pixel_weights(self, labels: Labels) -> Float[Array, "B h w"]:
    """How much each pixel counts, by the area of its instance."""
    network = self.network
    return instances.pixel_weights(
        labels[..., 1], network.num_ids, network.weight_power)

  def _judge(self, numbers, noisy, target):
    """The loss of each map [B, G], and the share of right bits [B]."""
    output = self.network.make_output()
    loss_BG = jnp.mean(output.loss(numbers, target), axis=(1, 2))
    predicted = output.clean(numbers, noisy, target.level)
    is_right = (predicted > 0) == (target.clean > 0)
    return loss_BG, losses.per_example_mean(is_right)

  # ── Sampling ──────────────────────────────────────────────────────────────

  def generate(
      self,
      params: PyTree,
      image: Seen,
      seeds_B: Seeds,
      *,
      before: LabelsBefore | None = None,
      num_steps: int = 20,
      time_difference: float = 1.0,
      sampler: str = "ddim",
  ) -> Labels:
    """Masks of images, int32 [B, h, w, 2]: class and instance id.

    Args:
      params: of the model.
      image: in [-1, 1].
      seeds_B: one integer for each image. Its mask follows from its pixels, its
        seed and the options alone, whatever the batch.
      before: as in `denoise`.
      num_steps: how often the decoder runs.
      time_difference: see `steps.times`.
      sampler: `ddim`, `ddpm` or `ddpm_small`.

    Raises:
      ConfigError: an option that is not allowed.
    """
    options = _frozen_options(num_steps, time_difference, sampler)
    return _generate(self, params, image, seeds_B, before, options)

  generate.checks = {
      "num_steps": fields.integer(1, 10_000),
      "time_difference": fields.number(0),
      "sampler": steps.SAMPLER,
  }
  generate.docs = {
      "num_steps": "How often the network sees the mask.",
      "time_difference": "By how many steps each leads further than the time "
      "that the network is told next.",
      "sampler": "`ddim` adds no noise; `ddpm` and `ddpm_small` do.",
  }

  def generate_steps(
      self,
      params: PyTree,
      image: Seen,
      seeds_B: Seeds,
      kept: Sequence[int],
      *,
      before: LabelsBefore | None = None,
      num_steps: int = 20,
      time_difference: float = 1.0,
      sampler: str = "ddim",
  ) -> sampling.Steps:
    """The masks of some steps of `generate`, int32 [K, B, h, w, 2] each.

    Args:
      params, image, seeds_B, before: as in `generate`.
      kept: numbers of the steps, rising, from 1 to `num_steps`.
      num_steps, time_difference, sampler: as in `generate`.

    Returns:
      The masks that the network was given, and those that it made of them. The
      last one that it makes is what `generate` gives.

    Raises:
      ConfigError: an option that is not allowed.
    """
    options = _frozen_options(num_steps, time_difference, sampler)
    kept = jnp.asarray(sampling.check_kept(kept, num_steps))
    return _generate_steps(
        self, params, image, seeds_B, before, kept, options)


def _frozen_options(num_steps, time_difference, sampler):
  """The options of `generate`, checked and hashable."""
  options = {
      "num_steps": num_steps,
      "time_difference": time_difference,
      "sampler": sampler,
  }
  fields.check_options(Pix2SeqD.generate, **options)
  return tuple(sorted(options.items()))


# Jitted for its cache: a run asks for the shapes several times, seconds each.
@functools.partial(jax.jit, static_argnums=0)
def _init(network, rng):
  encoder = network.image_encoder
  image = Context(jnp.zeros((1, *network.input_size, 3)))
  if encoder is not None:
    features = jnp.zeros((1, *encoder.features_shape))
    image = Context(None, features)
  noisy = jnp.zeros((1, *network.mask_size, network.num_bits))
  before = None
  if network.frames_before:
    before = jnp.concatenate([noisy] * network.frames_before, axis=-1)
  estimate = noisy if network.self_condition else None
  variables = network.init(
      rng, image, noisy, jnp.zeros(1), before, estimate)
  return variables["params"]


@functools.partial(jax.jit, static_argnums=(0, 5))
def _generate(model, params, image, seeds_B, before, options):
  denoise, draw_noise = _start(model, params, image, seeds_B, before)
  analog = sampling.generate(
      denoise, draw_noise, schedule=model.network.schedule, **dict(options))
  return model.decode_bits(analog)


@functools.partial(jax.jit, static_argnums=(0, 6))
def _generate_steps(model, params, image, seeds_B, before, kept, options):
  denoise, draw_noise = _start(model, params, image, seeds_B, before)
  return sampling.generate_steps(
      denoise, draw_noise, kept, model.decode_bits,
      schedule=model.network.schedule, **dict(options))


def _start(model, params, image, seeds_B, before):
  """The network that has seen the images, and the noise of their seeds."""
  network = model.network
  # Outside of the loop: it does not depend on the mask.
  seen = model.encode_image(params, image)

  def denoise(noisy, level, estimate):
    return model.denoise(params, seen, noisy, level, before, estimate)

  draw_noise = sampling.noise_of_seeds(
      seeds_B, (*network.mask_size, network.num_bits))
  return denoise, draw_noise
