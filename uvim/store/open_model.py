"""What a checkpoint holds: models and their arrays, ready to predict.

A run's workdir tells its fields; bare arrays (a `.npz`, a published name) show
them by their names and shapes (`uvim.store.fields_of`).
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from uvim import tree
from uvim.models import make_model
from uvim.models.guided import GuidedModel
from uvim.priors.base import Prior
from uvim.registry import ConfigError
from uvim.store import checkpoint, fields_of, published
from uvim.tasks import make_task
from uvim.tasks.base import AbstractTask
from uvim.typing import PyTree

# Kinds of families; see `trainers.families`.
STAGE_I = "vqvae"
STAGE_II = "lm"

Path = str | os.PathLike
Config = dict[str, Any]
# (id, name, is a thing) of class 1, 2, ….
Categories = tuple[tuple[int, str, bool], ...]


@dataclasses.dataclass(frozen=True)
class OpenModel:
  """A trained model with its arrays.

  Attributes:
    task: turns logits into outputs, and outputs into images.
    model: oracle, quantizer and base model.
    arrays: theirs, {"params", "state"}.
    prior: predicts the code from the image, or None.
    prior_params: its parameters, or None.
    antialias: whether the run's images were resized with antialias.
    dataset: what the run learned from; "" where nobody knows.
    categories: (id, name, is a thing) of class 1, 2, …; () where nobody knows.
  """
  task: AbstractTask
  model: GuidedModel
  arrays: PyTree
  prior: Prior | None = None
  prior_params: PyTree = None
  antialias: bool = False
  dataset: str = ""
  categories: Categories = ()


def open_model(
    path: Path,
    *,
    lm: Path | None = None,
    code_len: int | None = None,
    task_options: Mapping[str, Any] | None = None,
) -> OpenModel:
  """Opens both stages, or stage I alone.

  Arguments and errors as `uvim.inference.api.UViM.from_checkpoint`.
  """
  path, lm = _both_stages(path, lm)
  arrays = _read_arrays(path, STAGE_I)
  prior_arrays = _read_arrays(lm, STAGE_II) if lm else None

  prior_fields = _prior_fields(lm, prior_arrays) if lm else {}
  # Bare arrays of stage I may not tell how long their codes are; those of
  # stage II do.
  code_len = code_len or prior_fields.get("seq_len", fields_of.CODE_LEN)
  model_fields, task, known_options = _stage_i_fields(path, arrays, code_len)
  config = read_config(path)
  if lm:
    config = config | read_config(lm)
  _check_same_task(path, task, lm, config)

  model = make_model("vit", model_fields, "the checkpoint's model")
  task_options = task_options or known_options
  opened = OpenModel(
      task=make_task(task, model_fields, **task_options),
      model=model,
      arrays=arrays,
      antialias=_resizes_with_antialias(config),
      dataset=config.get("dataset", ""),
      categories=_categories(path))
  if not lm:
    return opened
  return _with_prior(opened, lm, prior_fields, prior_arrays)


def _with_prior(opened, lm, prior_fields, prior_arrays) -> OpenModel:
  """Stage I together with the stage II that `lm` names, if they fit."""
  prior = make_model("lm", prior_fields, "the checkpoint's language model")
  prior.check_code(opened.model.spec, "the checkpoint's language model")
  meta = read_meta(lm)
  if meta:
    check_oracle(meta, tree.fingerprint(opened.arrays), lm)
  return dataclasses.replace(
      opened, prior=prior, prior_params=prior_arrays["params"])


def _both_stages(path, lm):
  """(path of stage I, path of stage II or None) of what was named."""
  if is_name(path):
    return f"{path}-stage1", lm or f"{path}-stage2"
  config = read_config(path)
  # Bare arrays have no config; without `lm` they are of stage I.
  kind = config.get("kind", STAGE_I)
  if kind == STAGE_I:
    return path, lm
  if kind != STAGE_II:
    raise ConfigError(f"{path} is a run of kind {kind!r}; it has no guiding "
                      "code, so it cannot be opened as a UViM model.")
  if lm:
    raise ConfigError(
        f"{path} is a run of stage II with a language model of its own, but "
        f"another was given: {lm}. For that one give a stage I run, such as "
        f"{oracle_path(path, config)}.")
  return oracle_path(path, config), path


def check_oracle(meta: Mapping[str, Any], crc32: int, path) -> None:
  """Checks that a prior is used with the oracle whose code it learned.

  Words mean nothing to another oracle, even to one of the same sizes.

  Args:
    meta: of a checkpoint of stage II; one from elsewhere, which does not tell
      its oracle, goes with every oracle.
    crc32: `tree.fingerprint` of the oracle's arrays, {"params", "state"}.
    path: of the checkpoint, for the message.

  Raises:
    ConfigError: it learned the code of other arrays.
  """
  known = meta.get("oracle_crc32")
  # None: a checkpoint from elsewhere.
  if known not in (None, crc32):
    raise ConfigError(
        f"{path} learned the code of another stage I model than the one it is "
        "used with now, though of the same sizes. Was that one trained on or "
        "replaced since? Go back to the old one, or train stage II anew.")


def is_name(path) -> bool:
  """Whether it is a published name of both stages, such as 'uvim-depth'."""
  return f"{path}-stage1" in published.MODELS


def read_config(path) -> Config:
  """The config a run left in its workdir; {} for anything else.

  Raises:
    ConfigError: a run of version 0.1.0, whose checkpoints look otherwise.
  """
  path = os.fspath(path)
  is_file = path.endswith(".npz") or path.startswith("https://")
  if is_file or path in published.MODELS:
    return {}
  file = epath.Path(path) / "config.json"
  if not file.exists():
    return {}
  config = json.loads(file.read_text())
  if "kind" not in config:
    raise ConfigError(
        f"{path} is a run of version 0.1.0, whose checkpoints this version "
        "does not read. Convert it there with tools.convert_checkpoint.")
  return config


def read_meta(path) -> dict[str, Any]:
  """The meta of a run's newest checkpoint; {} for anything but a run."""
  return checkpoint.read_meta(path) if read_config(path) else {}


def oracle_path(path, config) -> str:
  """Stage I of a stage II run: as the run named it, or beside the run."""
  oracle = config["oracle"]["model_init"]
  folder = epath.Path(os.fspath(path)).parent
  beside = folder / epath.Path(oracle).name
  # Both runs were copied together, so the old path leads nowhere.
  is_moved = not epath.Path(oracle).exists() and beside.exists()
  return os.fspath(beside) if is_moved else oracle


def _check_same_task(path, task, lm, config):
  """Two tasks may well have codes of one size."""
  oracle = config.get("oracle") or {}
  other = oracle.get("task", task)
  if _plain_task(task) != _plain_task(other):
    raise ConfigError(
        f"{path} is a model of {task}, the language model {lm} one of {other}: "
        "they do not go together.")


def _plain_task(name: str) -> str:
  """One spelling for 'proj.uvim.depth_task' and 'depth'."""
  name = name.removeprefix("proj.uvim.").removesuffix("_task")
  return name.removesuffix("_segmentation")


def _resizes_with_antialias(config) -> bool:
  """Whether the evaluated images are resized with antialias."""
  pp = config.get("pp_eval") or config.get("pp_train") or ""
  return bool(re.search(r"resize\([^)]*antialias\s*=\s*True", pp))


def _categories(path) -> Categories:
  """Those of the data set that a run learned from, if it says so."""
  categories = []
  for number, name, is_thing in read_meta(path).get("categories", ()):
    categories.append((int(number), str(name), bool(is_thing)))
  return tuple(categories)


def _read_arrays(path, kind: str) -> dict[str, Any]:
  """The arrays of a checkpoint, which must be of this kind."""
  arrays = published.load_params(path, kind=kind)
  found = fields_of.kind_of(tree.flatten(arrays))
  if found != kind:
    stages = {STAGE_I: 1, STAGE_II: 2}
    raise ConfigError(
        f"{path} is a checkpoint of stage {stages[found]}; stage "
        f"{stages[kind]} is needed here.")
  # A quantizer that learns nothing leaves no state.
  if kind == STAGE_I:
    arrays.setdefault("state", {})
  return arrays


def _shapes(arrays) -> dict[str, tuple[int, ...]]:
  flat = tree.flatten(arrays)
  return {name: tuple(array.shape) for name, array in flat.items()}


def _stage_i_fields(path, arrays, code_len):
  """(model fields, task name, task options) of a stage I checkpoint."""
  config = read_config(path)
  if config:
    options = config.get("task_options", {})
    return config["model"], config["task"], options
  fields = fields_of.stage_i_fields(_shapes(arrays), code_len)
  return fields, fields_of.task_name(fields), {}


def _prior_fields(path, arrays) -> Mapping[str, Any]:
  """The model fields of a stage II checkpoint."""
  config = read_config(path)
  if config:
    return config["model"]
  return fields_of.stage_ii_fields(_shapes(arrays))
