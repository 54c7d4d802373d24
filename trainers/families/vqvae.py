"""Stage I: restricted oracle Ω and base model f, trained end to end.

  python -m trainers.vqvae --config configs/vqvae_….py --workdir W

B batch · L code length · E numbers of a code vector · Q number of words

The loss is the task's reconstruction loss of f(x, Ω(x, y)) (paper, section 2.2)
plus the quantizer's own loss. What the quantizer learns by other means, such as
its codebook, it learns after the step.
"""

import jax
import jax.numpy as jnp
import numpy as np

from trainers.families.base import CODE, Family, Report, check_size, label_logs
from trainers.families.drawing import draw_columns
from uvim.codes import masking, usage
from uvim.config import TrainConfig
from uvim.inference import readings
from uvim.models import make_model
from uvim.models.guided import Context, GuidedModel
from uvim.priors.base import example_seeds
from uvim.registry import ConfigError
from uvim.tasks import make_task
from uvim.tasks.base import RealTask


class VqvaeFamily(Family):
  """Stage I as the train loop sees it.

  Attributes:
    model: oracle, quantizer and base model.
  """

  kind = "vqvae"
  model: GuidedModel

  def __init__(self, config: TrainConfig):
    """Checks the sizes and builds model and task.

    Raises:
      ConfigError: unknown model or task, sizes that do not fit.
    """
    super().__init__(config)
    if config.task is None:
      raise ConfigError("config.task is missing; stage I needs one, such as "
                        "'panoptic_segmentation'.")
    self.model = make_model(config.model_name, config.model, "config.model")
    self.image_encoder = self.model.image_encoder
    self.task = make_task(config.task, config.model, **config.task_options)
    self.predictors = {
        "predict": self.predict,
        "samples": self.predict_samples,
        "loss": self.eval_loss,
        "zero_code": self.predict_zero_code,
    }

  @property
  def code_spec(self):
    return self.model.spec if self.model.has_oracle else None

  def num_words(self):
    return self.model.spec.num_words

  def init(self, rng):
    arrays = self.model.init(rng)
    # The optimizer trains the parameters; `after_step` changes the rest.
    extra = {}
    if arrays["state"]:
      extra["state"] = arrays["state"]
    num_entries = self.model.spec.num_entries
    if num_entries is not None:
      usage_shape = (num_entries,)
      extra["usage"] = jnp.zeros(usage_shape, jnp.int32)
    return arrays["params"], extra

  def image_key_of(self, pp):
    # In stage II the oracle may have an image of its own size.
    return "image_ctx" if "image_ctx" in pp else "image"

  @property
  def unused_keys(self):
    if not self.config.feature_cache or self.image_encoder.beside:
      return ()
    return ("image", "image_ctx")

  def check_batch(self, batch):
    data = self.task.inputs(batch)
    labels = data["x"]
    image = data["ctx"]
    needs_image = self.needs_pixels(batch)
    is_image_missing = needs_image and image is None
    if labels is None or is_image_missing:
      raise ConfigError("config.pp_train must keep 'image' and 'labels'; it "
                        f"leaves {', '.join(sorted(batch))}.")
    if image is None:
      return
    image_key = "image_ctx" if "image_ctx" in batch else "image"
    check_size(image, self.model.image_size, image_key, self.image_size_field)

  def loss(self, params, extra, frozen, batch, rngs_B, step):
    del frozen
    model = self.model
    quantizer_state = extra.get("state", {})
    arrays = {"params": params, "state": quantizer_state}
    labels = self.task.inputs(batch)["x"]
    # The encoder runs once for both parts, or not at all.
    ctx = self.see(arrays, batch)
    if not model.has_oracle:
      # The base model alone: no code, and nothing for a codebook to learn.
      z_BLE = model.embed_no_code(arrays, ctx.batch_size)
      loss, logs = model.loss(arrays, z_BLE, ctx, labels, self.task.loss)
      logs = logs | label_logs(self.task, batch)
      return loss, Report(logs, stats=None)

    # y → code → y: the oracle reads the labels that f must then predict.
    seen_labels = model.drop_labels(labels, rngs_B)
    coded = model.oracle(arrays, seen_labels, ctx, rngs_B, step)
    z_BLE = model.drop_for_training(arrays, coded.z_BLE, rngs_B)
    loss, logs = model.loss(arrays, z_BLE, ctx, labels, self.task.loss)
    loss += jnp.mean(coded.loss_B)
    logs = logs | coded.logs | label_logs(self.task, batch)
    return loss, Report(logs, stats=coded.stats)

  def after_step(self, params, extra, stats, rng, starts_epoch):
    del params
    if stats is None:
      return extra, {}
    quantizer = self.model.quantizer
    new_extra = dict(extra)
    logs = {}
    if "state" in extra:
      new_state, logs = quantizer.learn(extra["state"], stats, rng)
      new_extra["state"] = new_state
    counts_Q = quantizer.usage(stats)
    if counts_Q is not None:
      new_usage, usage_logs = usage.count_usage(
          extra["usage"], counts_Q, starts_epoch)
      new_extra["usage"] = new_usage
      logs |= usage_logs
    return new_extra, logs

  # ── Predictions ─────────────────────────────────────────────────────────

  def see(self, variables, batch) -> Context:
    """The batch's images as oracle and base model see them.

    Args:
      variables: see `Family.variables`.
      batch: with images, unless their features are all that is looked at. If
        it has 'features' of a cache, the image encoder does not run.
    """
    image = self.task.inputs(batch)["ctx"]
    ctx = Context(image, features=batch.get("features"))
    return self.model.see(variables, ctx)

  def encode(self, variables, batch, ctx=None) -> jax.Array:
    """The guiding codes of the batch's labels, without dropout.

    Args:
      variables: see `Family.variables`.
      batch: with labels.
      ctx: what `see` made of it; None: it has not run.
    """
    x_BLE = self.written(variables, batch, ctx)
    # Without keys per example: an evaluation must not depend on chance.
    return self.model.quantize(variables, x_BLE).code

  def written(self, variables, batch, ctx=None) -> jax.Array:
    """What the oracle writes, before the quantizer; arguments of `encode`."""
    data = self.task.inputs(batch)
    if ctx is None:
      ctx = data["ctx"]
    return self.model.written(variables, data["x"], ctx)

  def decode(self, variables, code, batch, mask=None, mask_region=None,
             seed=0, ctx=None, vectors=None, dropped=None):
    """The base model's logits for the codes and the batch's images.

    With a `mask`, for what it leaves of the codes (Fig 10); see
    `uvim.codes.masking.mask_code`. Its random words follow from
    (image/id, seed). `ctx` is what `see` made of the batch; None: it has not
    run. `vectors` [B, L, E], if there are any, are read in place of those of
    the words, but for places `dropped` [B, L].
    """
    dropped_BL = dropped
    if mask is not None:
      self._check_region(mask_region)
      # Only random words need an id; a batch without one can be masked too.
      seeds_B = None
      if mask == "random":
        seeds_B = example_seeds(batch["image/id"], seed)
      code, dropped_BL = masking.mask_code(
          code, mask, self.num_words(), region=mask_region,
          grid=self.model.grid, seeds_B=seeds_B)
      if dropped is not None:
        dropped_BL = dropped_BL | dropped
    z_BLE = readings.code_vectors(
        self.model, variables, code, vectors, dropped_BL)
    if ctx is None:
      ctx = self.see(variables, batch)
    return self.model.base_model(variables, z_BLE, ctx)

  def _check_region(self, mask_region):
    if mask_region is not None and self.model.grid is None:
      raise ConfigError(
          f"mask_region = {mask_region}; it must be None: with bottleneck "
          f"{self.model.vit.bottleneck!r} the words lie on no grid.")

  def predict(self, variables, batch, mask=None, mask_region=None, seed=0,
              **output_options):
    """Outputs of f given the oracle's code, and the code.

    A `mask` as in `decode`; the code is whole.
    """
    # With a mask, the missing oracle is an error: there is no code to mask.
    if not self.model.has_oracle and mask is None:
      return self.predict_zero_code(variables, batch, **output_options)
    ctx = self.see(variables, batch)
    code = self.encode(variables, batch, ctx)
    logits = self.decode(
        variables, code, batch, mask, mask_region, seed, ctx)
    outputs = self.task.outputs(logits, **output_options)
    return {**outputs, CODE: code}

  def predict_zero_code(self, variables, batch, **output_options):
    """Outputs of f when the code says nothing (Fig 10)."""
    ctx = self.see(variables, batch)
    z_BLE = self.model.embed_no_code(variables, ctx.batch_size)
    logits = self.model.base_model(variables, z_BLE, ctx)
    return self.task.outputs(logits, **output_options)

  def predict_samples(self, variables, batch, seed=0, num_samples=8,
                      **output_options):
    """Answers of f whose pixels are drawn one by one: name → [B, S, …].

    Each pixel gets a class by f's probabilities, whatever its neighbors get.
    That is all that a model without a code can say of what is likely. Samples
    of an image depend on (image/id, seed) only.

    Raises:
      ConfigError: a task of real numbers, which have no probabilities.
    """
    if isinstance(self.task, RealTask):
      raise ConfigError("pred = 'samples'; stage I has probabilities of "
                        "classes and bins alone, not of real numbers.")
    logits = self._logits(variables, batch)
    seeds_B = example_seeds(batch["image/id"], seed)

    def draw(number):
      noisy = {}
      for place, name in enumerate(sorted(logits)):
        noisy[name] = logits[name] + _gumbel_noise(
            seeds_B, number, place, logits[name].shape[1:])
      return self.task.outputs(noisy, **output_options)

    # One by one: the logits of all would not fit into the memory.
    outputs = jax.lax.map(draw, jnp.arange(num_samples))
    return {name: jnp.swapaxes(x, 0, 1) for name, x in outputs.items()}

  def _logits(self, variables, batch):
    """Of f given the oracle's code, or no code where there is no oracle."""
    ctx = self.see(variables, batch)
    if self.model.has_oracle:
      code = self.encode(variables, batch, ctx)
      return self.decode(variables, code, batch, ctx=ctx)
    z_BLE = self.model.embed_no_code(variables, ctx.batch_size)
    return self.model.base_model(variables, z_BLE, ctx)

  def eval_loss(self, variables, batch):
    """Per-example reconstruction loss with the oracle's code, undropped."""
    labels = self.task.inputs(batch)["x"]
    ctx = self.see(variables, batch)
    if self.model.has_oracle:
      code = self.encode(variables, batch, ctx)
      z_BLE = self.model.embed(variables, code)
    else:
      z_BLE = self.model.embed_no_code(variables, ctx.batch_size)
    loss_B, logs = self.model.loss_of_each(
        variables, z_BLE, ctx, labels, self.task.loss)
    return {"loss": loss_B, **logs}

  def panel(self, predict, variables, batch) -> dict[str, np.ndarray]:
    predictor_of = {"oracle's code": "predict", "no code": "zero_code"}
    outputs = {}
    for title, name in predictor_of.items():
      options = predict.scored(name)
      program = predict(name, **options)
      outputs[title] = program(variables, batch)
    return draw_columns(self.task, batch, outputs)


def _gumbel_noise(seeds_B, number, place, shape):
  """Noise [B, *shape] by which the largest logit is a draw by probabilities.

  Args:
    seeds_B: of the images.
    number: of the sample.
    place: of the logits among all.
    shape: of an image's logits.
  """
  def of_image(seed):
    key = jax.random.fold_in(jax.random.key(seed), number)
    return jax.random.gumbel(jax.random.fold_in(key, place), shape)

  return jax.vmap(of_image)(seeds_B)
