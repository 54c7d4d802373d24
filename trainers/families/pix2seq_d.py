"""Pix2Seq-D: a mask of random bits becomes that of the image, step by step.

  python -m trainers.pix2seq_d --config configs/pix2seq_d_….py --workdir W

B batch · H W mask pixels · C channels (semantics, instance)

One training, and no code: the network sees the image and a mask with noise, and
learns which mask it was. Predictions take a running average of the parameters,
`extra["ema"]`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from trainers.families.base import Family, Report, check_size, label_logs
from trainers.families.drawing import draw_columns
from uvim import fields
from uvim.config import TrainConfig
from uvim.encoders.image_encoder import Context
from uvim.learn import ema
from uvim.models import make_model
from uvim.models.pix2seq_d import Pix2SeqD
from uvim.models.pix2seq_d import bound as bound_lib
from uvim.priors.base import example_seeds
from uvim.registry import ConfigError
from uvim.tasks import make_task, task_class
from uvim.tasks.base import AbstractTask
from uvim.tasks.instances import OPTION_CHECKS, panoptic_from_labels
from uvim.tasks.panoptic import PanopticTask, fields_of_pixels

# The times at which a validation scores each mask. At times drawn by chance the
# loss would differ more from one validation to the next than by training.
EVAL_TIMES = (0.125, 0.375, 0.625, 0.875)


class Pix2SeqDFamily(Family):
  """Pix2Seq-D as the train loop sees it.

  Attributes:
    model: network, loss and sampling.
  """

  kind = "pix2seq_d"
  model: Pix2SeqD

  def __init__(self, config: TrainConfig):
    """Checks the sizes and builds model and task.

    Raises:
      ConfigError: unknown model, another task, sizes that do not fit.
    """
    super().__init__(config)
    if config.oracle is not None:
      raise ConfigError("config.oracle is for stage II alone; Pix2Seq-D has "
                        "no code.")
    self.model = make_model(config.model_name, config.model, "config.model")
    self.image_encoder = self.model.image_encoder
    self.task = self._make_task()
    self.predictors = {
        "predict": self.predict,
        "steps": self.predict_steps,
        "loss": self.eval_loss,
        "bound": self.bound,
    }

  def _make_task(self) -> AbstractTask:
    """The task, whose patches are single pixels of the mask."""
    name = self.config.task
    if name is None or task_class(name) is not PanopticTask:
      raise ConfigError(f"config.task = {name!r}; Pix2Seq-D needs "
                        "'panoptic_segmentation'.")
    network = self.model.network
    pixels = fields_of_pixels(network.sizes, network.mask_size)
    return make_task(name, pixels, **self.config.task_options)

  def init(self, rng):
    params = self.model.init(rng)
    # The average follows faster at first, so it must know how many updates
    # there were.
    state = {"updates": jnp.zeros((), jnp.int32)}
    return params, {"ema": params, "state": state}

  @property
  def unused_keys(self):
    if not self.config.feature_cache or self.image_encoder.beside:
      return ()
    return ("image",)

  def check_batch(self, batch):
    needs_image = self.needs_pixels(batch)
    is_image_missing = needs_image and "image" not in batch
    if "labels" not in batch or is_image_missing:
      raise ConfigError("config.pp_train must keep 'image' and 'labels'; it "
                        f"leaves {', '.join(sorted(batch))}.")
    # Raises if the labels are no integers, or of another size.
    self.task.inputs(batch)
    if "image" in batch:
      check_size(batch["image"], self.model.image_size, "image",
                 self.image_size_field)

  @property
  def label_text(self):
    network = self.model.network
    num_classes, num_ids = network.sizes
    return (f"{network.num_bits} bits each, for {num_classes} classes and "
            f"{num_ids} ids, void included")

  # ── Training ────────────────────────────────────────────────────────────

  def loss(self, params, extra, frozen, batch, rngs_B, step):
    del extra, frozen, step
    drawn, before = self._draw(batch, rngs_B)
    seen = self.model.encode_image(params, self._image(batch), rngs_B)
    loss_B, logs_B = self.model.loss(params, seen, drawn, before)
    logs = jax.tree.map(jnp.mean, logs_B)
    logs = logs | label_logs(self.task, batch)
    return jnp.mean(loss_B), Report(logs, stats=None)

  def after_step(self, params, extra, stats, rng, starts_epoch):
    del stats, rng, starts_epoch
    updates = extra["state"]["updates"]
    decay = ema.decay_at(updates, self.model.network.ema_decay)
    new_extra = {
        "ema": ema.move(extra["ema"], params, decay),
        "state": {"updates": updates + 1},
    }
    return new_extra, {}

  def _image(self, batch) -> Context:
    """The images of a batch, or their features from a cache."""
    return Context(batch.get("image"), features=batch.get("features"))

  def _draw(self, batch, rngs_B, time_B=None):
    """What training draws for a batch, and the masks of the frames before."""
    labels = self._known_labels(batch["labels"])
    return self.model.draw(labels, rngs_B, time_B), None

  def _before(self, batch) -> jax.Array | None:
    """The masks of the frames before that a prediction sees."""
    del batch
    return None

  def _known_labels(self, labels) -> jax.Array:
    """The labels, with void where the model has no such class or id.

    The model has no pixels without a label: void is an answer like any other.
    """
    sizes = np.array(self.model.network.sizes)[None, None, None]
    is_known = (labels >= 0) & (labels < sizes)
    is_known = jnp.all(is_known, axis=-1, keepdims=True)
    return jnp.where(is_known, labels, 0)

  # ── Predictions ─────────────────────────────────────────────────────────

  def predict(self, variables, batch, num_steps=20, time_difference=1.0,
              sampler="ddim", seed=0, min_fraction=0.0):
    """{'panoptic': int32 [B, H, W, 2]}, sampled by (image/id, seed).

    All pixels of an instance vote for its class, as in UViM.
    """
    labels = self.model.generate(
        variables["params"],
        self._image(batch),
        example_seeds(batch["image/id"], seed),
        before=self._before(batch),
        num_steps=num_steps,
        time_difference=time_difference,
        sampler=sampler)
    return {"panoptic": self._vote(labels, min_fraction)}

  predict.checks = {
      **Pix2SeqD.generate.checks,
      "min_fraction": OPTION_CHECKS["min_fraction"],
  }
  predict.docs = {
      **Pix2SeqD.generate.docs,
      "seed": "With the image's id, the seed of its sample.",
      "min_fraction": "Drops segments under this share of the image.",
  }

  def predict_steps(self, variables, batch, num_steps=20, time_difference=1.0,
                    sampler="ddim", seed=0, min_fraction=0.0):
    """`predict`, and what it would say after some of its steps.

    Returns:
      'panoptic' as in `predict`, and 'steps', int32 [B, K, H, W, 2]: the masks
      after each of `strip_of(num_steps)`.
    """
    masks = self.model.generate_steps(
        variables["params"],
        self._image(batch),
        example_seeds(batch["image/id"], seed),
        strip_of(num_steps),
        before=self._before(batch),
        num_steps=num_steps,
        time_difference=time_difference,
        sampler=sampler)

    def vote(labels):
      return self._vote(labels, min_fraction)

    panoptic_KBHWC = jax.lax.map(vote, masks.clean)
    return {
        "panoptic": panoptic_KBHWC[-1],
        "steps": jnp.swapaxes(panoptic_KBHWC, 0, 1),
    }

  predict_steps.checks = predict.checks
  predict_steps.docs = predict.docs

  def _vote(self, labels, min_fraction) -> jax.Array:
    """One class for each instance of masks; small ones become void."""
    return panoptic_from_labels(
        labels, sizes=self.model.network.sizes, min_fraction=min_fraction)

  def eval_loss(self, variables, batch, seed=0):
    """The loss of each example, a mean over EVAL_TIMES.

    Its noise and its ids follow from (image/id, seed).
    """
    params = variables["params"]
    seeds_B = example_seeds(batch["image/id"], seed)
    rngs_B = jax.vmap(jax.random.key)(seeds_B)
    seen = self.model.encode_image(params, self._image(batch))

    def at_time(time):
      time_B = jnp.full(len(seeds_B), time)
      drawn, before = self._draw(batch, rngs_B, time_B)
      return self.model.loss(params, seen, drawn, before)

    losses_TB, logs_TB = jax.lax.map(at_time, jnp.array(EVAL_TIMES))
    # With so much noise that nothing is left to see, a high loss is no fault.
    logs = {f"loss_at/{time}": loss_B
            for time, loss_B in zip(EVAL_TIMES, losses_TB, strict=True)}
    for name, values_TB in logs_TB.items():
      logs[name] = jnp.mean(values_TB, axis=0)
    return {"loss": jnp.mean(losses_TB, axis=0), **logs}

  def bound(self, variables, batch, seed=0, num_levels=8):
    """{'bits_per_pixel': [B]}: how many bits the labels cost at most.

    Noise, its levels and the ids follow from (image/id, seed).
    """
    params = variables["params"]
    seeds_B = example_seeds(batch["image/id"], seed)
    rngs_B = jax.vmap(jax.random.key)(seeds_B)
    drawn, before = self._draw(batch, rngs_B)
    seen = self.model.encode_image(params, self._image(batch))
    bits_B = bound_lib.bits_per_pixel(
        self.model, params, seen, drawn, rngs_B, before=before,
        num_levels=num_levels)
    return {"bits_per_pixel": bits_B}

  bound.checks = {"num_levels": fields.integer(1, 1024)}
  bound.docs = {
      "seed": "With the image's id, the seed of noise and ids.",
      "num_levels": "At how many levels of noise each image is looked at.",
  }

  def panel(self, predict, variables, batch) -> dict[str, np.ndarray]:
    scored = predict.scored("predict")
    num_steps = scored.get(
        "num_steps", fields.options_of(self.predict)["num_steps"].default)
    options = {**scored, "num_steps": num_steps, "seed": 0}
    drawn = predict("steps", **options)(variables, batch)
    other = predict("steps", **{**options, "seed": 1})(variables, batch)
    outputs = {}
    for place, number in enumerate(strip_of(num_steps)):
      of_step = drawn["steps"][:, place]
      outputs[f"step {number} of {num_steps}"] = {"panoptic": of_step}
    outputs["another seed"] = {"panoptic": other["panoptic"]}
    return draw_columns(self.task, batch, outputs)


def strip_of(num_steps: int) -> list[int]:
  """The numbers of at most four steps that a strip shows, the last included."""
  parts = {1, num_steps // 4, num_steps // 2, num_steps}
  return sorted(parts - {0})
