"""The frozen form of a config: unknown keys rejected, names resolved.

`configs/*.py` and the command line produce an `ml_collections.ConfigDict`;
`resolve` turns it once into a `TrainConfig`. Nothing below this file sees a
ConfigDict, and only `trainers/` sees a TrainConfig.

Field names follow the listings of Appendix D. Where the listings are silent:
  * eval blocks fall back to the top level for dataset, data_dir, batch_size;
  * `val_split` + `pp_eval` + `log_eval_steps` mean a validation-loss
    evaluator, named `val`;
  * stage II has no top-level `task`: its task is the oracle's.
"""

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from uvim.registry import ConfigError, lookup, nearest, unknown

# What may differ between the run in a workdir and the one that resumes it:
# how often it reports, where its data lies and where it is computed, and what
# it does about the mishap that stopped it; never what it computes.
RESUME_FREE = frozenset({
    "data_dir", "evals", "log_training_steps", "log_eval_steps",
    "checkpoint_steps", "keep_checkpoint_steps", "panel_steps", "val_split",
    "pp_eval", "mesh", "sharding", "grad_accum_steps", "skip_bad_steps",
    "on_bad_example", "code_cache"})
ON_BAD_EXAMPLE = ("error", "skip")
# The family that trains a model, where a config does not say `kind`.
KINDS = {"vit": "vqvae", "proj.uvim.vit": "vqvae",
         "lm": "lm", "proj.uvim.lm": "lm"}


@dataclasses.dataclass(frozen=True)
class OracleConfig:
  """The frozen stage I model that stage II learns to imitate.

  Attributes:
    task: name of the task (`panoptic_segmentation`, …).
    task_options: fields only that task has (depth: its range in metres).
    model_init: stage I: a workdir, a `.npz`, an address or a published name.
    model_name: architecture, `proj.uvim.vit`.
    model: constructor fields of the architecture.
  """

  task: str
  model_init: str
  model: Mapping[str, Any]
  model_name: str = "proj.uvim.vit"
  task_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """One evaluator: what it measures, on which data and how often.

  Attributes:
    name: the entry of `config.evals`; also the key of its block.
    type: the evaluator, a name in `evaluators.EVALUATORS`.
    dataset: data set name.
    data_dir: where data sets lie; None means the default of TFDS.
    split: examples to score.
    pp: preprocessing string.
    batch_size: global batch size; the last batch is padded and masked.
    prefix: put before every metric name.
    log_steps: period in steps; the last step is always evaluated.
    pred: which of the stage's prediction functions is measured.
    pred_kw: its options (temperature, seed, min_fraction, …).
    options: the evaluator's own options.
  """

  name: str
  type: str
  dataset: str
  split: str
  pp: str
  batch_size: int
  log_steps: int
  data_dir: str | None = None
  prefix: str = ""
  pred: str = "predict"
  pred_kw: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Everything a run depends on. See docs/configs.md for each field."""

  dataset: str
  train_split: str
  batch_size: int
  pp_train: str
  model_name: str
  model: Mapping[str, Any]
  lr: float
  kind: str = ""
  task: str | None = None
  task_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  oracle: OracleConfig | None = None
  data_dir: str | None = None
  val_split: str | None = None
  pp_eval: str | None = None
  pp_modules: Sequence[str] | None = None
  shuffle_buffer_size: int | None = None
  num_epochs: float | None = None
  total_steps: int | None = None
  seed: int = 0
  log_training_steps: int = 50
  log_eval_steps: int = 1000
  checkpoint_steps: int = 1000
  keep_checkpoint_steps: int | None = None
  panel_steps: int | None = None
  model_init: Any = None
  optax_name: str = "scale_by_adafactor"
  optax: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  wd: float = 0.0
  lr_mults: Sequence[tuple[str, float]] = ()
  schedule: Any = dataclasses.field(
      default_factory=lambda: {"decay_type": "cosine", "warmup_steps": 0})
  grad_clip_norm: float | None = None
  evals: tuple[EvalConfig, ...] = ()
  mesh: Sequence[tuple[str, int]] = (("data", -1),)
  sharding: Sequence[tuple[str, str]] = ((".*", "replicate"),)
  grad_accum_steps: int = 1
  skip_bad_steps: int = 0
  on_bad_example: str = "error"
  code_cache: str | None = None
  codes_per_image: int | None = None

  def num_steps(self, num_examples: int) -> int:
    """Training steps; epochs × examples / batch, rounded to nearest."""
    if self.total_steps:
      return int(self.total_steps)
    return max(1, round(self.num_epochs * num_examples / self.batch_size))

  def to_json(self) -> dict[str, Any]:
    """A plain JSON form, stable across runs."""
    return json.loads(json.dumps(dataclasses.asdict(self), default=list))


def check_keys(cls, given: Mapping[str, Any], path: str) -> None:
  """Raises a ConfigError if `given` does not fit the dataclass `cls`."""
  fields = {f.name: f for f in dataclasses.fields(cls)}
  for key, value in given.items():
    if key not in fields:
      near = nearest(key, fields)
      hint = f" Did you mean '{path}.{near}'?" if near else ""
      raise ConfigError(
          f"Unknown key '{path}.{key}' = {value!r}.{hint} "
          f"Known: {', '.join(sorted(fields))}.")
  missing = [k for k, f in fields.items() if k not in given
             and f.default is dataclasses.MISSING
             and f.default_factory is dataclasses.MISSING]
  if missing:
    raise ConfigError(f"Missing key '{path}.{missing[0]}' "
                      f"(all that are missing: {', '.join(missing)}).")


def resolve(config) -> TrainConfig:
  """Turns a ConfigDict (or dict) into a TrainConfig.

  Args:
    config: as a config file returns it, after command-line overrides.

  Raises:
    ConfigError: an unknown or missing key, with its path, value and the
      nearest known name; a field of the wrong kind.
  """
  # Copied once, after the overrides: `outputs = inputs` may be one shared
  # object and `get_ref` is lazy.
  if hasattr(config, "copy_and_resolve_references"):
    config = config.copy_and_resolve_references().to_dict()
  given = copy.deepcopy(dict(config))
  if "eval" in given:
    raise ConfigError(
        "Unknown key 'config.eval'. Did you mean 'config.evals'? One print of "
        "the paper's listing says eval, the other evals; evals it is.")
  fields = {f.name for f in dataclasses.fields(TrainConfig)}
  for name, _ in _eval_pairs(given.get("evals", ())):
    if name in fields:
      raise ConfigError(f"config.evals names {name!r}, which is a field of the "
                        "config itself; choose another name.")
  blocks = {name: given.pop(name, None)
            for name, _ in _eval_pairs(given.get("evals", ()))}
  evals = tuple(_resolve_eval(name, kind, blocks[name], given)
                for name, kind in _eval_pairs(given.pop("evals", ())))
  if given.get("oracle") is not None:
    check_keys(OracleConfig, given["oracle"], "config.oracle")
    given["oracle"] = OracleConfig(**given["oracle"])
  check_keys(TrainConfig, given, "config")
  given.pop("evals", None)
  if not given.get("kind"):
    given["kind"] = lookup(KINDS, given["model_name"], "config.model_name")
  out = TrainConfig(**given, evals=_with_validation_loss(evals, given))
  _check_values(out)
  return out


def _eval_pairs(evals) -> list[tuple[str, str]]:
  pairs = [tuple(pair) for pair in evals or ()]
  for pair in pairs:
    if len(pair) != 2 or not all(isinstance(x, str) for x in pair):
      raise ConfigError(f"config.evals holds {pair!r}; each entry must be "
                        "(name, evaluator type).")
  return pairs


def _resolve_eval(name, kind, block, top) -> EvalConfig:
  """One block of `config.evals`, completed from the top level."""
  if block is None:
    raise ConfigError(f"config.evals names {name!r}, but there is no block "
                      f"'config.{name}'.")
  block = dict(block)
  for key in ("dataset", "data_dir", "batch_size"):
    if key not in block and key in top:
      block[key] = top[key]
  block.setdefault("log_steps", top.get("log_eval_steps", 1000))
  block.setdefault("prefix", f"{name}/")
  fields = {"name": name, "type": kind, **block}
  check_keys(EvalConfig, fields, f"config.{name}")
  return EvalConfig(**fields)


def _with_validation_loss(evals, top) -> tuple[EvalConfig, ...]:
  """Adds the evaluator that val_split + pp_eval + log_eval_steps imply."""
  if not (top.get("val_split") and top.get("pp_eval")):
    return evals
  if any(e.name == "val" for e in evals):
    return evals
  val = EvalConfig(
      name="val", type="mean", dataset=top["dataset"], pred="loss",
      data_dir=top.get("data_dir"), split=top["val_split"], pp=top["pp_eval"],
      batch_size=top["batch_size"], prefix="val/",
      log_steps=top.get("log_eval_steps", 1000))
  return (val, *evals)


def _check_values(config: TrainConfig) -> None:
  """Cheap checks of single fields, before any data or compile."""
  if bool(config.num_epochs) == bool(config.total_steps):
    raise ConfigError(
        "Give one of config.num_epochs and config.total_steps; got "
        f"{config.num_epochs!r} and {config.total_steps!r}.")
  for name in ("batch_size", "log_training_steps", "log_eval_steps",
               "checkpoint_steps"):
    _check_integer(config, name, 1)
  _check_integer(config, "skip_bad_steps", 0)
  _check_integer(config, "grad_accum_steps", 1)
  if config.batch_size % config.grad_accum_steps:
    raise ConfigError(
        f"config.grad_accum_steps = {config.grad_accum_steps} does not divide "
        f"config.batch_size = {config.batch_size} into equal parts.")
  if config.on_bad_example not in ON_BAD_EXAMPLE:
    raise unknown("config.on_bad_example", config.on_bad_example,
                  ON_BAD_EXAMPLE)
  if config.codes_per_image is not None:
    _check_integer(config, "codes_per_image", 1)
  for name in ("code_cache", "codes_per_image"):
    if getattr(config, name) is not None and config.oracle is None:
      raise ConfigError(f"config.{name} is for stage II, which learns an "
                        "oracle's codes; this config has no config.oracle.")


def _check_integer(config: TrainConfig, name: str, least: int) -> None:
  value = getattr(config, name)
  if type(value) is not int or value < least:
    raise ConfigError(
        f"config.{name} = {value!r}; must be an integer ≥ {least}.")


def config_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Lines 'path: old → new' for every field that changes what is computed."""
  lines = []

  def walk(a, b, path):
    if isinstance(a, Mapping) and isinstance(b, Mapping):
      for key in sorted({*a, *b}):
        if path or key not in RESUME_FREE:
          walk(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif a != b:
      lines.append(f"config.{path}: {a!r} → {b!r}")

  walk(old, new, "")
  return lines
