"""What a family of models is: the contract with the one train loop.

B batch · H W image pixels

A family is what can be trained: stage I (`vqvae`), stage II (`lm`), and what
comes later. The loop, the evaluators and the tools know a family by this class
and by its `kind`, which config.json carries. A new family is one file with one
class and one line in `trainers/families/__init__.py`.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax
import jax
import jax.numpy as jnp
import numpy as np

from trainers import cluster
from uvim import fields, tree
from uvim.codes import masking
from uvim.codes.base import CodeSpec
from uvim.config import TrainConfig
from uvim.encoders import image_encoder as image_encoder_lib
from uvim.encoders.base import EncoderSpec
from uvim.encoders.image_encoder import ImageEncoder
from uvim.learn import sharding
from uvim.registry import ConfigError, lookup
from uvim.store import feature_cache
from uvim.store.example_cache import Stored
from uvim.store.start_from import Arrays, Store
from uvim.tasks.base import AbstractTask
from uvim.typing import Logs, PyTree

# What a state holds besides the parameters: "state", "usage", "ema".
Extra = dict[str, PyTree]
Batch = dict[str, jax.Array]
# What predictors take: {"params", "state", "frozen"}.
Variables = dict[str, PyTree]
# The name in a prediction of the code that it was made with, [B, L, …].
CODE = "code"
# The name of how many passes of the prior that took, int32 [B].
PASSES = "passes"


class Report(flax.struct.PyTreeNode):
  """What a loss tells besides the scalar.

  Attributes:
    logs: name → scalar, a mean over the examples.
    stats: a tree of sums over the examples, for `Family.after_step`; None
      where nothing is learned outside of the gradient.
  """
  logs: Logs
  stats: PyTree


@dataclasses.dataclass(frozen=True)
class Opened:
  """What a family reads before it starts.

  Attributes:
    frozen: arrays that are used but not trained (stage II: the oracle). They
      are an argument of the compiled step, never a constant inside it.
    initial: arrays by name ('params/…', 'state/…') that replace those of
      `Family.init` in a new run.
    cached: key of the batch → what a cache holds for it: 'code', 'features'.
  """
  frozen: PyTree = None
  initial: Arrays = dataclasses.field(default_factory=dict)
  cached: dict[str, Stored] = dataclasses.field(default_factory=dict)


class Family(abc.ABC):
  """One kind of model as the train loop sees it.

  The constructor checks sizes and builds the model; it reads nothing. Whatever
  comes from a disk or a network is read by `open`.

  Attributes:
    kind: name of the family, a key of FAMILIES.
    config: the run's config.
    task: what is predicted; turns outputs into images. None: a family that
      learns from images alone.
    predictors: name → function (variables, batch, **options) → dict of
      [B, …]. `variables` is what `variables` returns.
    image_encoder: what the model sees the image with; None: its own layers.
  """

  kind: ClassVar[str]
  config: TrainConfig
  task: AbstractTask | None
  predictors: Mapping[str, Callable[..., Batch]]
  image_encoder: ImageEncoder | None = None

  def __init__(self, config: TrainConfig):
    self.config = config

  @classmethod
  def config_for(
      cls,
      config: TrainConfig,
      checkpoint: str,
      oracle: str | None = None,
  ) -> TrainConfig:
    """The config to open a trained checkpoint with.

    Args:
      config: of the run.
      checkpoint: what is to be opened.
      oracle: where the oracle is, if not where the config says; families
        without an oracle do not look at it.
    """
    del checkpoint, oracle
    # A trained model reads its own arrays, not those it started from.
    return dataclasses.replace(config, model_init=None, feature_cache=None)

  @abc.abstractmethod
  def init(self, rng: jax.Array) -> tuple[PyTree, Extra]:
    """Parameters and `TrainState.extra` at step 0; traceable."""

  @property
  def encoder_specs(self) -> dict[str, EncoderSpec]:
    """The image encoders that pretrained weights may fill.

    The key is the part of the parameters where the encoder stands.
    """
    if self.image_encoder is None:
      return {}
    return {image_encoder_lib.NAME: self.image_encoder.spec}

  def frozen_patterns(self) -> tuple[str, ...]:
    """Parameters that are not trained, whatever `config.schedule` says.

    Regular expressions, each of which matches the whole name of some.
    """
    if self.image_encoder is None or not self.image_encoder.frozen:
      return ()
    return (f"{image_encoder_lib.NAME}/.*",)

  def wanted_arrays(self) -> dict[str, PyTree]:
    """Shapes of the arrays of a checkpoint, in the published layout."""
    params, extra = jax.eval_shape(self.init, jax.random.key(0))
    wanted = {"params": params}
    if extra.get("state"):
      wanted["state"] = extra["state"]
    return wanted

  def open(self, store: Store) -> Opened:
    """Reads what the config names.

    Raises:
      ConfigError: nothing there, or arrays that do not fit.
    """
    initial = store.read_start(
        self.config.model_init,
        self.wanted_arrays(),
        kind=self.kind,
        encoder_specs=self.encoder_specs)
    return Opened(initial=initial, cached=self._open_features(initial))

  def _open_features(self, initial: Arrays) -> dict[str, Stored]:
    """{'features': what config.feature_cache holds}; {} without one."""
    path = self.config.feature_cache
    if not path:
      return {}
    self.check_has_features()
    features = feature_cache.open_features(
        path, self.config, self.image_encoder, self.image_key)
    # A run that is resumed has its encoder in the checkpoint, which comes
    # later: see `check_features`.
    params = feature_cache.encoder_arrays(initial)
    if params is not None:
      feature_cache.check_params(path, params)
    return {"features": features}

  def check_features(self, params: PyTree) -> None:
    """Raises a ConfigError if config.feature_cache is of another encoder.

    Args:
      params: of the state. All processes must call.
    """
    path = self.config.feature_cache
    if path:
      on_host = sharding.gather_to_host(params[image_encoder_lib.NAME])
      cluster.together(lambda: feature_cache.check_params(path, on_host))

  def check_has_features(self) -> None:
    """Raises a ConfigError unless there is a frozen image encoder."""
    encoder = self.image_encoder
    if encoder is None:
      raise ConfigError("config.feature_cache: the model has no image_encoder "
                        "that features could stand for.")
    if not encoder.frozen:
      raise ConfigError("config.feature_cache: config.model.image_encoder."
                        "frozen = False; only a frozen encoder has features "
                        "that do not change.")

  def open_evaluated_features(self, split: Any, pp: str) -> dict[str, Stored]:
    """{'features': what config.feature_cache holds of an evaluator's examples}.

    {} without a cache, and of a cache that was written without them. Then the
    encoder runs.

    Args:
      split: the opened `pp.splits.Split`.
      pp: the evaluator's preprocessing.

    Raises:
      ConfigError: features of another encoder or of other data.
    """
    path = self.config.feature_cache
    if not path:
      return {}
    features = feature_cache.open_evaluated(
        path, self.config, self.image_encoder, self.image_key_of(pp), pp,
        split.fingerprint(pp))
    return {} if features is None else {"features": features}

  @property
  def image_key(self) -> str:
    """Which image of a training batch the image encoder looks at."""
    return self.image_key_of(self.config.pp_train)

  def image_key_of(self, pp: str) -> str:
    """Which image of a batch the image encoder looks at.

    Args:
      pp: the preprocessing that made the batch.
    """
    del pp
    return "image"

  def seen_image(self, batch: Mapping[str, Any]) -> Any:
    """That image, [B, H, W, 3]."""
    return batch[self.image_key]

  @property
  def unused_keys(self) -> tuple[str, ...]:
    """Keys of a training batch in whose place something cached stands."""
    return ()

  def check_start(self, initial: Arrays) -> None:
    """Raises a ConfigError if a new run would keep what it drew by chance.

    Args:
      initial: see `Opened`.
    """
    encoder = self.image_encoder
    if encoder is None or not encoder.frozen:
      return
    beginning = f"params/{image_encoder_lib.NAME}/"
    if not any(name.startswith(beginning) for name in initial):
      raise ConfigError(
          "config.model.image_encoder is frozen, but nothing loads its "
          "weights: set config.model_init = {'image_encoder': …}, or frozen = "
          "False.")

  @abc.abstractmethod
  def check_batch(self, batch: Mapping[str, np.ndarray]) -> None:
    """Raises a ConfigError if the model cannot take such a numpy batch."""

  def needs_pixels(self, batch: Mapping[str, Any]) -> bool:
    """Whether the model looks at the image of such a training batch.

    Where the batch brings `features` [B, T, D] of a cache, a frozen image
    encoder need not run.

    Raises:
      ConfigError: features of another shape, or without an encoder that they
        could stand for.
    """
    if "features" not in batch:
      return True
    self.check_has_features()
    encoder = self.image_encoder
    found = tuple(batch["features"].shape[1:])
    if found != encoder.features_shape:
      raise ConfigError(
          f"config.feature_cache has features of shape {found}; the model's "
          f"image_encoder makes {encoder.features_shape}.")
    return encoder.beside

  @property
  def image_size_field(self) -> str:
    """Which field of the model says how large its image is."""
    if self.image_encoder is None:
      return "input_size"
    return "image_encoder.input_size"

  @abc.abstractmethod
  def loss(
      self,
      params: PyTree,
      extra: Extra,
      frozen: PyTree,
      batch: Batch,
      rngs_B: jax.Array,
      step: jax.Array,
  ) -> tuple[jax.Array, Report]:
    """The training loss, a mean over the examples.

    Args:
      params: what the gradient is taken of.
      extra: as it was before this step.
      frozen: see `Opened`.
      batch: a batch, or one of the parts it is computed in.
      rngs_B: a key for each example of it.
      step: int32 []; updates made so far.
    """

  def after_step(
      self,
      params: PyTree,
      extra: Extra,
      stats: PyTree,
      rng: jax.Array,
      starts_epoch: jax.Array,
  ) -> tuple[Extra, Logs]:
    """(extra after the step, what to log).

    Args:
      params: after the update.
      extra: before the step.
      stats: `Report.stats` summed over the whole batch.
      rng: the same on every device.
      starts_epoch: bool []; whether the step is the first of an epoch.
    """
    del params, stats, rng, starts_epoch
    return extra, {}

  def variables(
      self,
      params: PyTree,
      extra: Extra,
      frozen: PyTree,
  ) -> Variables:
    """What predictors take: {"params", "state", "frozen"}."""
    return {
        # Averaged parameters, where a family keeps some, predict better.
        "params": extra.get("ema", params),
        "state": extra.get("state", {}),
        "frozen": frozen,
    }

  @abc.abstractmethod
  def panel(
      self,
      predict: Callable[..., Callable],
      variables: Variables,
      batch: Batch,
  ) -> dict[str, np.ndarray]:
    """Title → uint8 images [B, H, W, 3] of a few examples.

    Args:
      predict: (name, **options) → that predictor, compiled. It is a
        `Compiled`, which knows too with which options it is scored.
      variables: what predictors take.
      batch: the examples.
    """

  def compile(self, predictor: str, function: Callable) -> Callable:
    """The compiled function (variables, batch, seed=…) → dict of [B, …].

    Args:
      predictor: a key of `predictors`.
      function: that predictor with its options, but for the seed.
    """
    del predictor
    return jax.jit(function)

  def options(self, predictor: str) -> dict[str, fields.Field]:
    """The options of a predictor, those of the task's outputs included."""
    function = lookup(self.predictors, predictor, "prediction")
    options = fields.options_of(function)
    if fields.takes_any_option(function):
      options |= fields.options_of(self.task.outputs)
    for name, check in self._option_checks().items():
      if name in options:
        options[name] = dataclasses.replace(options[name], check=check)
    return options

  def check_options(
      self,
      predictor: str,
      given: Mapping[str, Any],
      where: str,
  ) -> None:
    """Raises a ConfigError for options that a predictor does not allow.

    Args:
      predictor: a key of `predictors`.
      given: some of its `options`, with values.
      where: path of the block that holds them.
    """
    fields.check_fields(self.options(predictor), given, where)

  def _option_checks(self) -> dict[str, fields.Check]:
    """Which values the options that families share may have."""
    checks = {"seed": fields.SEED}
    num_words = self.num_words()
    if num_words is not None or self.code_spec is not None:
      checks["mask"] = fields.optional(masking.mask_check(num_words))
    return checks

  @property
  def label_text(self) -> str:
    """What the model makes of a label, for people; "": tokens of patches."""
    return ""

  @property
  def code_spec(self) -> CodeSpec | None:
    """What its codes look like; None: it has none."""
    return None

  def num_words(self) -> int | None:
    """Q of the code whose usage is reported; None without such a code."""
    return None


def label_logs(task: AbstractTask, batch: Batch) -> Logs:
  """'labels/FLAW' → the share of examples whose labels have that flaw."""
  logs = {}
  # With codes from a cache, a batch of stage II has no labels.
  if "labels" in batch:
    for flaw in task.label_flaws(batch["labels"]):
      logs[f"labels/{flaw.name}"] = jnp.mean(flaw.is_bad_B)
  return logs


def check_size(
    image_BHWC: np.ndarray,
    size: tuple[int, int],
    name: str,
    field: str = "input_size",
) -> None:
  """Raises a ConfigError if images of config.pp_train have another size.

  Args:
    image_BHWC: a batch of them.
    size: what the model wants.
    name: of the images in the batch.
    field: of the model, which says so.
  """
  found = tuple(image_BHWC.shape[1:3])
  if found != tuple(size):
    raise ConfigError(
        f"config.pp_train makes {name!r} of {found} pixels; the model's "
        f"{field} is {tuple(size)}. Change its resize(…).")


def nested(arrays: Arrays) -> dict[str, Any]:
  """{'params': …, 'state': …} of arrays by name."""
  # Stage II, and a quantizer that learns nothing, have no "state".
  return {"state": {}, **tree.unflatten(arrays)}
