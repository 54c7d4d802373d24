"""The frozen form of a config: unknown keys rejected, names resolved.

`configs/*.py` and the command line produce an `ml_collections.ConfigDict`;
`resolve` makes a `TrainConfig` of it, once. No file below this one sees a
ConfigDict, and only `trainers/` and `tools/` see a TrainConfig.

Each field is described where it is declared. The checks below and
docs/configs.md are both made from these descriptions; after a change run
`python -m tools.config_docs`.

Field names follow the listings of Appendix D. Where the listings are silent:
  * an evaluator's block takes what FROM_TOP lists from the top level;
  * `val_split` + `pp_eval` + `log_eval_steps` mean a validation-loss
    evaluator, named `val`;
  * stage II has no top-level `task`: its task is the oracle's.
"""

import copy
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from uvim import fields, finder
from uvim.fields import check_fields, field, fields_of
from uvim.registry import ConfigError, lookup

# What may differ between the run in a workdir and the one that resumes it: how
# often it reports, where its data lies, where it is computed, and what it does
# about the mishap that stopped it. None of these changes what a run computes
# that meets no mishap, but for rounding.
RESUME_FREE = frozenset({
    "data_dir", "evals", "log_training_steps", "log_eval_steps",
    "checkpoint_steps", "keep_checkpoint_steps", "panel_steps", "val_split",
    "pp_eval", "mesh", "sharding", "grad_accum_steps", "skip_bad_steps",
    "on_bad_example", "on_other_data", "code_cache", "feature_cache"})
# The family that trains a model, where a config does not say `kind`.
KINDS = {"vit": "vqvae", "proj.uvim.vit": "vqvae",
         "lm": "lm", "proj.uvim.lm": "lm", "mae": "mae", "dino": "dino",
         "pix2seq_d": "pix2seq_d"}
# A field of an evaluator's block that the block does not name → the field of
# the top level whose value it has.
FROM_TOP = {"dataset": "dataset", "data_dir": "data_dir",
            "batch_size": "batch_size", "log_steps": "log_eval_steps"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OracleConfig:
  """The frozen stage I model that stage II learns to imitate."""

  task: str = field(doc="As `task`.", source="L2 `panoptic_segmentation`")
  task_options: Mapping[str, Any] = field(
      factory=dict, doc="As `task_options`.")
  model_init: str = field(
      doc="The stage I checkpoint: a workdir, a `.npz` in the published "
      "layout, `gs://`, `https://` or a name (`uvim-panoptic`). Names, shapes "
      "and dtypes must agree.", source="L2 `oracle.npz`")
  model_name: str = field(
      "proj.uvim.vit", doc="As `model_name`.", source="L2 `proj.uvim.vit`")
  model: Mapping[str, Any] = field(
      doc="As `model` of stage I. It must have the sizes it was trained with.",
      source="L2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """One evaluator: what it measures, on which data and how often."""

  name: str = field(
      doc="From `evals`; not written in the block.", source="L1, L2")
  type: str = field(
      doc="From `evals`; not written in the block. One of the "
      "[evaluators](#evaluators-and-their-options).",
      source="L1, L2 `coco_panoptic`")
  dataset: str = field(doc="The data set.")
  data_dir: str | None = field(None, doc="Its folder.")
  split: str = field(doc="The examples to score.", source="L1, L2")
  pp: str = field(
      doc="Preprocessing. `decode` is put in front where no op decodes.",
      source="L1, L2")
  batch_size: int = field(
      doc="Examples per batch, over all devices. The last batch is padded; the "
      "padding is not scored.", check=fields.integer(1))
  log_steps: int = field(
      doc="Period in steps. The last step is always evaluated.",
      source="L1, L2 10 000", check=fields.optional(fields.integer(0)))
  prefix: str = field("", doc="Put before every metric's name.",
                      source="L1, L2")
  pred: str = field(
      "predict", doc="What is measured, see [below](#predictions).")
  pred_kw: Mapping[str, Any] = field(
      factory=dict, doc="Its options, see [below](#predictions).")
  options: Mapping[str, Any] = field(
      factory=dict, doc="The evaluator's own options, see "
      "[below](#evaluators-and-their-options).")
  only_style: str = field(
      "", doc="The evaluator is left out unless `model.style` has this value. "
      '`""`: it never is.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """Everything a run depends on."""

  # Task and data.
  kind: str = field(
      "", doc="The family that trains the model: `vqvae` (stage I), `lm` "
      '(stage II), `mae` or `dino` (an image encoder alone), `pix2seq_d` (no '
      'code). `""`: the family of `model_name`.')
  task: str | None = field(
      None, doc="The task of stage I: `panoptic_segmentation`, `depth`, "
      "`colorization` (these also as `proj.uvim.panoptic_task`, …), `normals` "
      "or `semantic_segmentation`. Stage II has `oracle.task` instead.",
      source="L1 `panoptic_segmentation`")
  task_options: Mapping[str, Any] = field(
      factory=dict, doc="Fields that only this task has, see "
      "[below](#task-options).")
  oracle: OracleConfig | None = field(
      None, doc="Stage II: the frozen stage I model, see "
      "[below](#oracle-oracleconfig).", source="L2")
  dataset: str = field(
      doc="TFDS name: `coco/2017_panoptic`, `rooms`, `mydata`, "
      "`mydata:1.0.0`; or `arrays:DIR` for what `tools.cache_arrays` wrote.",
      source="L1, L2 `coco/2017_panoptic`")
  data_dir: str | None = field(
      None, doc="Folder of the TFDS data sets. None: `$TFDS_DATA_DIR`, or "
      "`~/tensorflow_datasets` where that is not set.")
  train_split: str = field(
      doc="Split or sub-split to train on.", source="L1, L2 `train[4096:]`")
  val_split: str | None = field(
      None, doc="With `pp_eval`: the split whose loss is reported as `val/…` "
      "every `log_eval_steps`, and whose first images the panels show.",
      source="L1, L2 `train[:4096]`")
  pp_train: str = field(
      doc="[Preprocessing](data.md#the-preprocessing-language) of training "
      "examples.", source="L1, L2")
  pp_eval: str | None = field(
      None, doc="Preprocessing of `val_split`.", source="L1, L2")
  pp_modules: Sequence[str] | None = field(
      None, doc="Tables of ops that the strings may use: `ops_general`, "
      "`ops_image`, `ops_colors`, `ops_normals`, `ops_clips`, "
      "`proj.uvim.pp_ops`. None: all.",
      source="L2 `ops_general`, `ops_image`, `proj.uvim.pp_ops`")
  shuffle_buffer_size: int | None = field(
      None, doc="No code reads it. It is accepted because both listings set "
      "it. Here the order of the examples is a permutation of the whole split, "
      "drawn anew for each epoch, and needs no buffer.",
      source="L1 25 000, L2 50 000")
  batch_size: int = field(
      doc="Examples per step over all devices; a multiple of the devices on "
      "mesh axis `data`.", source="L1 1024, L2 512", check=fields.integer(1))
  seed: int = field(
      0, doc="Seed of the initial parameters, the order of examples, "
      "augmentation, code dropout and codebook splits.", check=fields.SEED)

  # Length and periods.
  num_epochs: float | None = field(
      None, doc="Length in epochs: steps = epochs × examples / batch size, "
      "rounded to the nearest.", source="L1 1000, L2 200",
      check=fields.optional(fields.number(0)))
  total_steps: int | None = field(
      None, doc="Length in steps. A config must give exactly one of "
      "`num_epochs` and `total_steps`.",
      check=fields.optional(fields.integer(0)))
  log_training_steps: int = field(
      50, doc="Period of the `train/…` metrics and of the progress line.",
      source="L1, L2 50", check=fields.integer(1))
  log_eval_steps: int = field(
      1000, doc="Period of the validation loss; default period of evaluators "
      "and panels.", source="L1 250, L2 1000", check=fields.integer(1))
  checkpoint_steps: int = field(
      1000, doc="Period of checkpoints. The newest two are kept.",
      source="L1, L2 1000", check=fields.integer(1))
  keep_checkpoint_steps: int | None = field(
      None, doc="Checkpoints at multiples of this are kept for ever.",
      source="L1 20 000, L2 5000", check=fields.optional(fields.integer(0)))
  panel_steps: int | None = field(
      None, doc="Period of the panels, which show a few images with their "
      "predictions. None: `log_eval_steps`.",
      check=fields.optional(fields.integer(0)))

  # Model.
  model_name: str = field(
      doc="`proj.uvim.vit` or `vit` (stage I), `proj.uvim.lm` or `lm` (stage "
      "II), `mae`, `dino`, `pix2seq_d`.",
      source="L1 `proj.uvim.vit`, L2 `proj.uvim.lm`")
  model: Mapping[str, Any] = field(
      doc="Fields of that model, see [stage I](#stage-i-model), [stage "
      "II](#stage-ii-model), [MAE](#mae-model), [DINO](#dino-model) and "
      "[Pix2Seq-D](#pix2seq-d-model).",
      source="L1, L2")
  model_init: Any = field(
      None, doc="The parameters to start from, see "
      "[below](#starting-parameters).",
      source="L2 `{'encoder': 'howto-i21k-L/16'}`")

  # Optimizer.
  optax_name: str = field(
      "scale_by_adafactor", doc="How gradients are scaled: "
      "`scale_by_adafactor` (also `big_vision.scale_by_adafactor`) or "
      "`scale_by_adam`.", source="L1, L2")
  optax: Mapping[str, Any] = field(
      factory=dict, doc="Its options, see [below](#optimizer-options).",
      source="L1, L2 `beta2_cap=0.95`")
  lr: float = field(doc="Peak step size.", source="L1 4e-4, L2 1e-3",
                    check=fields.number(0))
  wd: float = field(0.0, doc="Weight decay.", source="L1 4e-5, L2 1e-6",
                    check=fields.number(0))
  lr_mults: Sequence[tuple[str, float]] = field(
      (), doc="Pairs (pattern, factor > 0). A pattern matches whole parameter "
      "names. The first match wins. A pattern that matches nothing is an "
      "error.", source="L2: encoder, its position and patch embeddings 0.1, "
      "`decoder.*` 1.0")
  schedule: Any = field(
      factory=lambda: {"decay_type": "cosine", "warmup_steps": 0},
      doc="Options of one schedule, or pairs (pattern, options) that cover "
      "every parameter. None in place of options freezes. See "
      "[below](#schedule-options).",
      source="L1, L2 `cosine`, `warmup_steps=4_000`")
  grad_clip_norm: float | None = field(
      None, doc="Largest global norm of the gradient. None: no limit.",
      source="L1 1.0; not in L2", check=fields.optional(fields.number(0)))

  # Evaluators.
  evals: tuple[EvalConfig, ...] = field(
      (), doc="List of (name, type). Each name is also the key of a "
      "[block](#an-evaluators-block-evalconfig). (One print of Listing 2 says "
      "`eval`: an error with a hint.)", source="L1, L2")

  # Devices.
  mesh: Sequence[tuple[str, int]] = field(
      (("data", -1),), doc="(name, size) pairs, outermost first. One name is "
      "`data`. One size may be −1, which stands for the rest.")
  sharding: Sequence[tuple[str, str]] = field(
      ((".*", "replicate"),), doc="(pattern, rule) pairs over parameter names; "
      "the first match wins. `replicate`; `fsdp(axis)`: parameter and "
      "optimizer state are split over that axis, along the largest dimension "
      "that it divides; `spec(None,axis)`: a mesh axis or None for each "
      "dimension. The configs of the paper's size set `fsdp(data)`.")
  grad_accum_steps: int = field(
      1, doc="The number of parts in which a batch is computed, one after the "
      "other; it divides `batch_size`. The update is that of the whole batch, "
      "to float rounding.", check=fields.integer(1))

  # Mishaps.
  skip_bad_steps: int = field(
      0, doc="How many steps in a row may have a loss or gradient that is not "
      "finite. Such a step changes nothing and is counted in `train/skipped`. "
      "0: the first one stops the run.", check=fields.integer(0))
  on_bad_example: str = field(
      "error", doc="`error` names the example and stops. `skip` puts another "
      "one in its place (training) or leaves it out (evaluation), and counts "
      "it. See [data](data.md).", check=fields.one_of(("error", "skip")))
  on_other_data: str = field(
      "error", doc="What happens when a run is resumed on other data than it "
      "began with. `error` refuses and names what differs; `warn` says it and "
      "goes on. A data set that was moved is no other data.",
      check=fields.one_of(("error", "warn")))

  # What need not be computed anew in each epoch.
  codes_per_image: int | None = field(
      None, doc="After so many epochs the augmentations of an image repeat. "
      "None: they never do.", check=fields.optional(fields.integer(1)))
  code_cache: str | None = field(
      None, doc="Folder that `tools.cache_codes` wrote. It holds the codes of "
      "`codes_per_image` augmentations of each image, so the oracle does not "
      "run. None: the oracle runs.")
  feature_cache: str | None = field(
      None, doc="Folder that `tools.cache_features` wrote. It holds what the "
      "model's frozen `image_encoder` sees in `codes_per_image` augmentations "
      "of each image, in half precision, so the encoder does not run in "
      "training. None: it runs.")

  def num_steps(self, num_examples: int) -> int:
    """Training steps; epochs × examples / batch, rounded to nearest."""
    if self.total_steps:
      return int(self.total_steps)
    return max(1, round(self.num_epochs * num_examples / self.batch_size))

  def to_json(self) -> dict[str, Any]:
    """A plain JSON form, stable across runs."""
    return json.loads(json.dumps(dataclasses.asdict(self), default=list))


def resolve(config) -> TrainConfig:
  """Makes a TrainConfig of a ConfigDict (or dict).

  Args:
    config: as a config file returns it, after command-line overrides.

  Raises:
    ConfigError: an unknown or missing key, with its path, value and the
      nearest known name; a value that is not allowed.
  """
  values = _plain_dict(config)
  _expand_home(values)
  if "eval" in values:
    raise ConfigError(
        "Unknown key 'config.eval'. Did you mean 'config.evals'? One print of "
        "the paper's listing says eval, the other evals; evals it is.")
  entries = _eval_entries(values.pop("evals", ()))
  blocks = [_take_block(entry, values) for entry in entries]

  values["oracle"] = _oracle_of(values)
  check_fields(fields_of(TrainConfig), values, "config")
  values["kind"] = _kind_of(values)
  top = TrainConfig(**values)

  evals = []
  for entry, block in zip(entries, blocks, strict=True):
    evaluator = _resolve_eval(entry, block, top)
    if evaluator.only_style in ("", top.model.get("style")):
      evals.append(evaluator)
  if _implies_validation_loss(top, entries):
    evals.insert(0, _validation_loss(top))
  resolved = dataclasses.replace(top, evals=tuple(evals))
  check_together(resolved)
  return resolved


def from_json(values: Mapping[str, Any]) -> TrainConfig:
  """The inverse of `TrainConfig.to_json`.

  Args:
    values: what config.json holds.

  Raises:
    ConfigError: an unknown or missing key, a value that is not allowed.
  """
  values = dict(values)
  check_fields(fields_of(TrainConfig), values, "config")
  values["oracle"] = _oracle_of(values)
  evals = []
  for block in _listed(values.get("evals")):
    _check_is_block(block, "config.evals")
    check_fields(fields_of(EvalConfig), block, "config.evals")
    evals.append(EvalConfig(**block))
  values["evals"] = tuple(evals)
  # The files of version 0.1.0 name no kind.
  values["kind"] = _kind_of(values)
  return TrainConfig(**values)


def _plain_dict(config) -> dict[str, Any]:
  """A deep copy as dicts, with the references of a ConfigDict resolved."""
  if hasattr(config, "copy_and_resolve_references"):
    # References are lazy, and `outputs = inputs` may be one shared object. So
    # both are resolved here, once, after the overrides.
    config = config.copy_and_resolve_references().to_dict()
  return copy.deepcopy(dict(config))


def _expand_home(values: dict[str, Any]) -> None:
  """Replaces `~` in all paths of a plain config, in place."""
  for name in ("data_dir", "code_cache", "feature_cache", "model_init"):
    values[name] = _expanded(values.get(name))
  for block in values.values():
    if not isinstance(block, dict):
      continue
    # The oracle has the one, the block of an evaluator may have the other.
    for name in ("data_dir", "model_init"):
      if name in block:
        block[name] = _expanded(block[name])


def _expanded(path: Any) -> Any:
  """A path, or each of a mapping's paths, without `~`."""
  if isinstance(path, str):
    return finder.expand(path)
  if isinstance(path, dict):
    return {name: _expanded(item) for name, item in path.items()}
  return path


def _oracle_of(values: Mapping[str, Any]) -> OracleConfig | None:
  """The block `oracle` of a config, checked."""
  block = values.get("oracle")
  if block is None:
    return None
  _check_is_block(block, "config.oracle")
  check_fields(fields_of(OracleConfig), block, "config.oracle")
  return OracleConfig(**block)


def _check_is_block(block: Any, where: str) -> None:
  if not fields.MAPPING.fits(block):
    raise ConfigError(
        f"{where} = {block!r}; it must be {fields.MAPPING.allowed}.")


def _kind_of(values: Mapping[str, Any]) -> str:
  """The family that a config names, or else that of its model."""
  kind = values.get("kind")
  if kind:
    return kind
  return lookup(KINDS, values["model_name"], "config.model_name")


def _listed(evals: Any) -> Sequence[Any]:
  """The entries of `config.evals`; None stands for none."""
  if not isinstance(evals, (list, tuple, type(None))):
    raise ConfigError(f"config.evals = {evals!r}; it must be a list.")
  return evals or ()


class _EvalEntry(NamedTuple):
  """One entry of `config.evals`."""
  name: str
  type: str


def _eval_entries(evals: Any) -> list[_EvalEntry]:
  """The entries of `config.evals`, checked."""
  known = fields_of(TrainConfig)
  entries = []
  for pair in _listed(evals):
    pair = tuple(pair) if isinstance(pair, (list, tuple)) else pair
    is_pair = isinstance(pair, tuple) and len(pair) == 2
    if not is_pair or not all(isinstance(text, str) for text in pair):
      raise ConfigError(f"config.evals holds {pair!r}; each entry must be "
                        "(name, evaluator type).")
    entry = _EvalEntry(*pair)
    if entry.name in known:
      raise ConfigError(f"config.evals names {entry.name!r}, which is a field "
                        "of the config itself; choose another name.")
    entries.append(entry)
  return entries


def _take_block(entry: _EvalEntry, values: dict[str, Any]) -> dict[str, Any]:
  """Takes the block of an evaluator out of the top level's values."""
  block = values.pop(entry.name, None)
  if block is None:
    raise ConfigError(f"config.evals names {entry.name!r}, but there is no "
                      f"block 'config.{entry.name}'.")
  _check_is_block(block, f"config.{entry.name}")
  return dict(block)


def _resolve_eval(entry: _EvalEntry, block: Mapping[str, Any],
                  top: TrainConfig) -> EvalConfig:
  """An evaluator from its block, completed from the top level."""
  values = {"name": entry.name, "type": entry.type,
            "prefix": f"{entry.name}/"}
  for name, name_at_top in FROM_TOP.items():
    values[name] = getattr(top, name_at_top)
  values.update(block)
  check_fields(fields_of(EvalConfig), values, f"config.{entry.name}")
  return EvalConfig(**values)


def _implies_validation_loss(top: TrainConfig,
                             entries: Iterable[_EvalEntry]) -> bool:
  """Whether the config asks for the loss on `val_split`.

  An evaluator that the config itself calls `val` takes its place.
  """
  is_named = any(entry.name == "val" for entry in entries)
  return bool(top.val_split and top.pp_eval) and not is_named


def _validation_loss(top: TrainConfig) -> EvalConfig:
  """The evaluator that val_split + pp_eval + log_eval_steps mean."""
  return _resolve_eval(
      _EvalEntry("val", "mean"),
      {"pred": "loss", "split": top.val_split, "pp": top.pp_eval}, top)


def check_together(config: TrainConfig) -> None:
  """Checks fields that depend on each other, before any data or compile.

  Raises:
    ConfigError: names the fields, what came and what is allowed.
  """
  if bool(config.num_epochs) == bool(config.total_steps):
    raise ConfigError(
        "Give one of config.num_epochs and config.total_steps; got "
        f"{config.num_epochs!r} and {config.total_steps!r}.")
  if config.batch_size % config.grad_accum_steps:
    raise ConfigError(
        f"config.grad_accum_steps = {config.grad_accum_steps} does not divide "
        f"config.batch_size = {config.batch_size} into equal parts.")
  if config.code_cache is not None and config.oracle is None:
    raise ConfigError("config.code_cache is for stage II, which learns an "
                      "oracle's codes; this config has no config.oracle.")
