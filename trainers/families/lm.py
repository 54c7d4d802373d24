"""Stage II: a prior learns the oracle's guiding code from the image.

  python -m trainers.lm --config configs/lm_….py \
      --config.oracle.model_init=STAGE_I_WORKDIR --workdir W

The oracle is frozen: it is passed to the step as data. It sees the augmented
labels in evaluation mode, and the prior learns the code that it writes.
"""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np

from trainers.families.base import (
  CODE,
  PASSES,
  Family,
  Opened,
  Report,
  check_size,
  label_logs,
  nested,
)
from trainers.families.drawing import draw_columns
from trainers.families.vqvae import VqvaeFamily
from uvim import priors
from uvim.codes import usage
from uvim.config import TrainConfig
from uvim.encoders import image_encoder as image_encoder_lib
from uvim.encoders.image_encoder import Context, Seen
from uvim.inference import readings
from uvim.models import make_model
from uvim.priors.base import Prior, Samples, example_seeds
from uvim.registry import ConfigError
from uvim.store import code_cache, open_model, published
from uvim.typing import PyTree

# The predictors that draw codes from the prior.
_DRAWING = ("predict", "samples")


class LmFamily(Family):
  """Stage II as the train loop sees it.

  Attributes:
    prior: predicts the code from the image.
    oracle: stage I, whose code is predicted.
  """

  kind = "lm"
  prior: Prior
  oracle: VqvaeFamily

  def __init__(self, config: TrainConfig):
    """Checks the sizes and builds the prior and the oracle's model.

    Raises:
      ConfigError: unknown model or task, sizes that do not fit.
    """
    super().__init__(config)
    if config.oracle is None:
      raise ConfigError("config.oracle is missing; stage II needs a stage I "
                        "model.")
    self.prior = make_model(config.model_name, config.model, "config.model")
    self.image_encoder = self.prior.image_encoder
    self.oracle = VqvaeFamily(_oracle_config(config))
    self.task = self.oracle.task
    if not self.oracle.model.has_oracle:
      raise ConfigError("config.oracle.model.oracle_depth = 0: without an "
                        "oracle there is no code to learn.")
    self.prior.check_code(self.oracle.model.spec, "config.model")
    self._check_code_grid()
    self.predictors = {
        "predict": self.predict,
        "samples": self.predict_samples,
        "loss": self.eval_loss,
        # The best that a prior could do, and the worst.
        "oracle": self._of_oracle(self.oracle.predict),
        "zero_code": self._of_oracle(self.oracle.predict_zero_code),
    }

  def _check_code_grid(self):
    """A prior can be told where the words lie only if they lie somewhere."""
    code_grid = self.config.model.get("code_grid")
    if code_grid is not None and self.oracle.model.grid is None:
      bottleneck = self.oracle.model.vit.bottleneck
      raise ConfigError(
          f"config.model.code_grid = {tuple(code_grid)}; it must be None: with "
          f"bottleneck {bottleneck!r} the oracle's words lie on no grid.")

  @classmethod
  def config_for(cls, config, checkpoint, oracle=None):
    oracle = oracle or _oracle_of(checkpoint, config)
    oracle_config = dataclasses.replace(config.oracle, model_init=oracle)
    return dataclasses.replace(
        config, model_init=None, code_cache=None, feature_cache=None,
        oracle=oracle_config)

  def _of_oracle(self, function):
    """A predictor of stage I, on stage II's variables."""
    def predict(variables, batch, **options):
      batch = self._batch_of_oracle(variables, batch)
      return function(variables["frozen"], batch, **options)
    # Its options are stage I's, and options are read from signatures.
    predict.__signature__ = inspect.signature(function)
    return predict

  def _batch_of_oracle(self, variables, batch):
    """A batch to predict, with no features but those of the oracle's encoder.

    Features of a cache are what the prior's encoder makes of 'image'. They are
    the oracle's too where `variables` shares the encoder, unless the oracle has
    an image of its own.
    """
    if "features" not in batch:
      return batch
    is_shared = image_encoder_lib.NAME not in variables["params"]
    if is_shared and "image_ctx" not in batch:
      return batch
    own = dict(batch)
    del own["features"]
    return own

  def options(self, predictor):
    options = super().options(predictor)
    if predictor not in _DRAWING:
      return options
    options |= self.prior.options | readings.OPTIONS
    default = options["num_samples"].default
    options["num_samples"] = dataclasses.replace(
        readings.NUM_SAMPLES, default=default)
    if predictor == "samples":
      # Each sample is an answer of its own.
      del options["reduce"]
    return options

  def check_options(self, predictor, given, where):
    if predictor in _DRAWING:
      # Before "unknown": a config whose style was changed has these.
      priors.refuse_options_of_others(self.prior, given, where)
    super().check_options(predictor, given, where)
    if predictor in _DRAWING:
      num_answers = 1
      if predictor == "predict":
        num_answers = given.get("num_samples", 1)
      readings.check(given, task=self.task, spec=self.code_spec,
                     num_samples=num_answers, mask=given.get("mask"))

  @property
  def code_spec(self):
    return self.oracle.code_spec

  def num_words(self):
    return self.oracle.num_words()

  def init(self, rng):
    extra = {}
    num_entries = self.oracle.model.spec.num_entries
    if num_entries is not None:
      # How often training saw each word of the oracle, for the reports.
      extra["usage"] = jnp.zeros((num_entries,), jnp.int32)
    return self.prior.init(rng), extra

  def open(self, store):
    config = self.config
    flat_oracle_arrays = store.read_all(
        config.oracle.model_init,
        self.oracle.wanted_arrays(),
        "config.oracle.model_init",
        kind=self.oracle.kind)
    oracle_arrays = nested(flat_oracle_arrays)
    cached = {}
    if config.code_cache:
      cached["code"] = code_cache.open_codes(
          config.code_cache, config, oracle_arrays)
    initial = store.read_start(
        config.model_init,
        self.wanted_arrays(),
        kind=self.kind,
        encoder_specs=self.encoder_specs)
    cached |= self._open_features(initial)
    return Opened(frozen=oracle_arrays, initial=initial, cached=cached)

  @property
  def unused_keys(self):
    if not self.config.code_cache:
      return ()
    # Only the oracle looks at these.
    keys = ("labels", "image_ctx")
    if self.config.feature_cache and not self.image_encoder.beside:
      keys += ("image",)
    return keys

  @property
  def encoder_specs(self):
    return self.prior.encoder_specs

  def check_batch(self, batch):
    # With codes from a cache, the oracle sees no batch.
    if "code" not in batch:
      of_oracle = dict(batch)
      # These stand for what the prior sees.
      of_oracle.pop("features", None)
      self.oracle.check_batch(of_oracle)
    needs_image = self.needs_pixels(batch)
    if "image" in batch:
      check_size(batch["image"], self.prior.input_size, "image",
                 self.image_size_field)
    elif needs_image:
      raise ConfigError("config.pp_train must keep 'image'.")

  def targets(self, frozen, batch, rngs_B=None, ctx=None) -> jax.Array:
    """The codes to learn: from a cache, or the oracle's.

    Args:
      frozen: the oracle's arrays.
      batch: with 'code' from a cache, or labels.
      rngs_B: a key per example in training. Numbers of a code are then drawn,
        as stage I draws them; words do not depend on chance.
      ctx: what `VqvaeFamily.see` made of the batch; None: it has not run.
    """
    if self.code_spec.is_discrete:
      if "code" in batch:
        return batch["code"]
      return self.oracle.encode(frozen, batch, ctx)
    # Of numbers, a cache has what the oracle wrote.
    x_BLE = batch.get("code")
    if x_BLE is None:
      x_BLE = self.oracle.written(frozen, batch, ctx)
    return self.oracle.model.quantize(frozen, x_BLE, rngs_B).code

  def loss(self, params, extra, frozen, batch, rngs_B, step):
    del extra, step
    code = self.targets(frozen, batch, rngs_B)
    code = jax.lax.stop_gradient(code)
    image = batch.get("image")
    if "features" in batch:
      # From a cache: the image encoder need not run.
      image = Context(image, features=batch["features"])
    nll_B, logs_B = self.prior.loss(params, image, code, rngs_B)
    stats = None
    spec = self.oracle.model.spec
    if spec.is_discrete:
      stats = {"counts": usage.count_entries(code, spec)}
    logs = {name: jnp.mean(value_B) for name, value_B in logs_B.items()}
    logs |= label_logs(self.task, batch)
    return jnp.mean(nll_B), Report(logs, stats)

  def after_step(self, params, extra, stats, rng, starts_epoch):
    del params, rng
    if stats is None:
      return extra, {}
    usage_Q, logs = usage.count_usage(
        extra["usage"], stats["counts"], starts_epoch)
    return {**extra, "usage": usage_Q}, logs

  # ── Predictions ─────────────────────────────────────────────────────────

  def variables(self, params, extra, frozen):
    """As `Family.variables`; an encoder that both stages share is there once.

    Where the prior's frozen encoder is that of the oracle, number by number,
    the prior's parameters lack it. `_of_prior` gives it back.
    """
    variables = super().variables(params, extra, frozen)
    if self._shares_encoder(variables["params"], frozen):
      own_params = dict(variables["params"])
      del own_params[image_encoder_lib.NAME]
      variables["params"] = own_params
    return variables

  def _shares_encoder(self, params, frozen) -> bool:
    encoder = self.image_encoder
    if encoder is None or not encoder.frozen:
      return False
    if not encoder.is_like(self.oracle.image_encoder):
      return False
    return image_encoder_lib.same_params(
        params[image_encoder_lib.NAME],
        frozen["params"][image_encoder_lib.NAME])

  def _of_prior(self, variables, batch, ctx) -> tuple[PyTree, Seen]:
    """(the prior's parameters, what it sees).

    Args:
      variables: see `variables`.
      batch: with its image. If it has 'features' of a cache, the image encoder
        does not run.
      ctx: what `VqvaeFamily.see` made of the batch; None: it has not run.
    """
    params = variables["params"]
    image = batch["image"]
    if "features" in batch:
      image = Context(image, features=batch["features"])
    is_whole = image_encoder_lib.NAME in params
    if self.image_encoder is None or is_whole:
      return params, image
    shared = variables["frozen"]["params"][image_encoder_lib.NAME]
    params = {**params, image_encoder_lib.NAME: shared}
    # The oracle may have an image of its own, 'image_ctx'.
    if ctx is not None and ctx.image is image:
      # The encoder need not run again.
      return params, ctx
    return params, image

  def draw(self, variables, batch, seed=0, ctx=None, **options) -> Samples:
    """Guiding codes; those of an image depend on (image/id, seed) only.

    `ctx` as in `targets`.
    """
    seeds_B = example_seeds(batch["image/id"], seed)
    options = readings.sampling_options(
        options, self.oracle.model, variables["frozen"])
    params, image = self._of_prior(variables, batch, ctx)
    return self.prior.sample(params, image, seeds_B, **options)

  def sample(self, variables, batch, seed=0, **options) -> jax.Array:
    """One guiding code per image, see `draw`."""
    return self.draw(variables, batch, seed, **options).code[:, 0]

  def predict(self, variables, batch, mask=None, mask_region=None, seed=0,
              num_samples=1, drop_below=None, reduce=None, **options):
    """UViM: f(image, LM(image)) (paper, section 2.2), and the code LM(image).

    Options are those of the prior, of `readings` and of the task's outputs.
    With a `mask`, for what it leaves of the code: see `VqvaeFamily.decode`. The
    code is whole, whatever is dropped; of a mean it is that of the first
    sample.
    """
    samples, outputs = self._read(
        variables, batch, options, mask=mask, mask_region=mask_region,
        seed=seed, num_samples=num_samples, drop_below=drop_below,
        reduce=reduce)
    answer = readings.reduce_samples(self.task, outputs, reduce)
    made_of = readings.samples_of(answer, samples)
    prediction = {**answer.outputs, CODE: made_of.code[:, 0]}
    if made_of.passes is not None:
      prediction[PASSES] = made_of.passes[:, 0]
    return prediction

  def predict_samples(self, variables, batch, mask=None, mask_region=None,
                      seed=0, num_samples=8, drop_below=None, **options):
    """UViM's answer to each of several codes: name → [B, S, …].

    Options are those of `predict`, but for `reduce`.
    """
    _, outputs = self._read(
        variables, batch, options, mask=mask, mask_region=mask_region,
        seed=seed, num_samples=num_samples, drop_below=drop_below)
    return {name: jnp.swapaxes(x, 0, 1) for name, x in outputs.items()}

  def _read(self, variables, batch, options, *, mask, mask_region, seed,
            num_samples, drop_below, reduce=None):
    """(samples of the prior, f's outputs for each, [S, B, …]); see `predict`.

    `options` are those of the prior and of the task's outputs. With `reduce`
    'likelihood', only the likeliest sample is read.
    """
    sampling = {}
    output_options = {}
    for name, value in options.items():
      if name in self.prior.options:
        sampling[name] = value
      else:
        output_options[name] = value
    frozen = variables["frozen"]
    ctx = self.oracle.see(frozen, self._batch_of_oracle(variables, batch))
    samples = self.draw(
        variables, batch, seed, ctx, num_samples=num_samples, **sampling)
    samples = readings.samples_to_read(samples, reduce)
    dropped_BSL = readings.unsure_words(samples, drop_below)

    def outputs_of(sample):
      code, vectors_BLE, dropped_BL = sample
      logits = self.oracle.decode(
          frozen, code, batch, mask, mask_region, seed, ctx, vectors_BLE,
          dropped_BL)
      return self.task.outputs(logits, **output_options)

    outputs = readings.outputs_of_each(
        outputs_of, (samples.code, samples.vectors, dropped_BSL))
    return samples, outputs

  def eval_loss(self, variables, batch):
    """Per-example mean NLL of the oracle's code, in nats per word."""
    frozen = variables["frozen"]
    ctx = self.oracle.see(frozen, self._batch_of_oracle(variables, batch))
    code = self.targets(frozen, batch, ctx=ctx)
    params, image = self._of_prior(variables, batch, ctx)
    nll_B, logs_B = self.prior.loss(params, image, code)
    metrics_B = self.prior.metrics(nll_B)
    return {"loss": nll_B, **metrics_B, **logs_B}

  def panel(self, predict, variables, batch) -> dict[str, np.ndarray]:
    def output(name, batch, **options):
      options = predict.scored(name) | options
      return predict(name, **options)(variables, batch)

    # As the evaluators' batches are: who does not need labels gets none.
    unlabelled = dict(batch)
    unlabelled.pop("labels", None)
    outputs = {
        "oracle's code": output("oracle", batch),
        "no code": output("zero_code", unlabelled),
    }
    reduce = predict.scored("predict").get("reduce")
    # A column that is a sample is one, whatever is scored.
    single = {"num_samples": 1, "reduce": None} if reduce else {}
    for title, options in self.prior.panel.items():
      outputs[title] = output("predict", unlabelled, **options, **single)
    if reduce:
      outputs[f"as scored: {reduce}"] = output("predict", unlabelled)
    return draw_columns(self.task, batch, outputs)


def _oracle_of(checkpoint: str, config: TrainConfig) -> str:
  """Stage I by the same name, beside the workdir, or as the config says."""
  is_published = checkpoint in published.MODELS
  if open_model.is_name(checkpoint) or is_published:
    task_name = checkpoint.removesuffix("-stage2")
    return f"{task_name}-stage1"
  named = config.oracle.model_init
  if published.is_remote(named) and not open_model.read_config(checkpoint):
    # Bare arrays come without a config, so the user has given this one.
    return named
  run_config = {"oracle": {"model_init": named}}
  return open_model.oracle_path(checkpoint, run_config)


def _oracle_config(config: TrainConfig) -> TrainConfig:
  """The stage I fields of a stage II config."""
  oracle = config.oracle
  return dataclasses.replace(
      config,
      kind="vqvae",
      task=oracle.task,
      task_options=oracle.task_options,
      model_name=oracle.model_name,
      model=oracle.model,
      model_init=None,
      oracle=None)
