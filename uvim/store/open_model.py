"""What a checkpoint holds: models and their arrays, ready to predict.

The workdir of a run and a pack tell their fields; bare arrays (a `.npz`, a
published name) show them by their names and shapes (`uvim.store.shapes`).
"""

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

from uvim import categories as categories_lib
from uvim import fields, files, finder, tree
from uvim.categories import Category
from uvim.config import TrainConfig
from uvim.models import make_model
from uvim.models.guided import GuidedModel
from uvim.models.pix2seq_d import Pix2SeqD
from uvim.priors.base import Prior
from uvim.registry import ConfigError
from uvim.store import checkpoint, download, givt_files, pack, published, shapes
from uvim.tasks import make_task
from uvim.tasks.base import AbstractTask
from uvim.typing import PyTree

# In the workdir of a run.
CONFIG = "config.json"
# Kinds of families; see `trainers.families`.
STAGE_I = "vqvae"
STAGE_II = "lm"

Path = str | os.PathLike
Config = dict[str, Any]
# Of class 1, 2, ….
Categories = tuple[Category, ...]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class OpenModel:
  """A trained model with its arrays.

  Attributes:
    task: turns logits into outputs, and outputs into images.
    model: oracle, quantizer and base model; or a Pix2Seq-D.
    arrays: of the model, {"params", "state"}.
    prior: predicts the code from the image, or None.
    prior_params: its parameters, or None.
    antialias: whether the run's images were resized with antialias.
    dataset: what the run learned from; "" where nobody knows.
    categories: what class 1, 2, … stands for; () where nobody knows, or where
      the task has no classes.
    preprocessing: how the run prepares the images that it evaluates; "" where
      nobody knows.
  """
  task: AbstractTask
  model: GuidedModel | Pix2SeqD
  arrays: PyTree
  prior: Prior | None = None
  prior_params: PyTree = None
  antialias: bool = False
  dataset: str = ""
  categories: Categories = ()
  preprocessing: str = ""


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
  path = published.locate_pack(finder.expand(path))
  lm = finder.expand(lm) if lm else None
  path, lm = _both_stages(path, lm)
  arrays = _read_arrays(path, STAGE_I)
  prior_arrays = _read_arrays(lm, STAGE_II) if lm else None

  prior_fields = _prior_fields(lm, prior_arrays) if lm else {}
  # Bare arrays of stage I may not tell how long their codes are; those of
  # stage II do.
  code_len = code_len or prior_fields.get("seq_len", shapes.CODE_LEN)
  model_fields, task, known_options = _stage_i_fields(path, arrays, code_len)
  config = read_config(path)
  if lm:
    config = config | read_config(lm)
  _check_same_task(path, task, lm, config)

  model = make_model("vit", model_fields, "the checkpoint's model")
  check_arrays(path, arrays, model.init)
  task_options = task_options or known_options
  made_task = make_task(task, model_fields, **task_options)
  dataset = config.get("dataset", "")
  opened = OpenModel(
      task=made_task,
      model=model,
      arrays=arrays,
      antialias=resizes_with_antialias(config),
      dataset=dataset,
      preprocessing=config.get("pp_eval") or "",
      categories=categories_of(path, made_task.num_categories, dataset))
  if not lm:
    return opened
  return _with_prior(opened, lm, prior_fields, prior_arrays)


def _with_prior(opened, lm, prior_fields, prior_arrays) -> OpenModel:
  """Stage I together with the stage II that `lm` names, if they fit."""
  prior = make_model("lm", prior_fields, "the checkpoint's language model")
  check_arrays(lm, prior_arrays, lambda rng: {"params": prior.init(rng)})
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


def check_oracle(meta: Mapping[str, Any], crc32: int, path,
                 change: str = "") -> None:
  """Checks that a prior is used with the oracle whose code it learned.

  Words mean nothing to another oracle, even to one of the same sizes.

  Args:
    meta: of a checkpoint of stage II; one from elsewhere, which does not tell
      its oracle, goes with every oracle.
    crc32: `tree.fingerprint` of the oracle's arrays, {"params", "state"}.
    path: of the checkpoint, for the message.
    change: where the oracle was and where it is now, if that is known.

  Raises:
    ConfigError: it learned the code of other arrays.
  """
  known = meta.get("oracle_crc32")
  # None: a checkpoint from elsewhere.
  if known not in (None, crc32):
    where = f"{change}; " if change else ""
    raise ConfigError(
        f"{path} learned the code of another stage I model than the one it is "
        f"used with now, though of the same sizes ({where}checksum "
        f"{known:08x} → {crc32:08x}). Was that one trained on or replaced "
        "since? Go back to the old one, or train stage II anew.")


def is_name(path) -> bool:
  """Whether it is a published name of both stages, such as 'uvim-depth'."""
  return f"{path}-stage1" in published.MODELS


def read_config(path) -> Config:
  """The config of a run, from its workdir; {} for anything else.

  It stands in config.json, and where that is missing or damaged, in the newest
  checkpoint.

  Raises:
    ConfigError: a run of version 0.1.0, whose checkpoints look otherwise;
      values that no run has written.
  """
  folder = _folder_of_run(path)
  if folder is None:
    return {}
  problems = []
  for place, config in _left_configs(folder):
    problem = _problem(config)
    if not problem:
      for line in problems:
        log.warning("%s So the newest checkpoint was asked.", line)
      return config
    problems.append(f"{place}: {problem}")
  if problems:
    raise ConfigError(problems[0])
  return {}


def _left_configs(folder: epath.Path) -> Iterator[tuple[str, Config]]:
  """(where it stands, a config) for each that a run left, the best first."""
  # A user may have edited the file, if only the path of the oracle.
  config = files.read_json(folder / CONFIG)
  if config:
    yield f"{folder / CONFIG}", config
  config = checkpoint.read_meta(folder).get("config")
  if config:
    yield f"the newest checkpoint of {folder}", config


def _problem(config: Any) -> str:
  """Why that is not the config of a run; "" if it is."""
  if not isinstance(config, dict):
    return f"its config is {config!r}."
  if "kind" not in config:
    return ("this is a run of version 0.1.0, whose checkpoints this version "
            "does not read. Convert it there with tools.convert_checkpoint.")
  oracle = config.get("oracle")
  if not isinstance(oracle, dict | None):
    return f"config.oracle = {oracle!r}; it must be a block."
  known = fields.fields_of(TrainConfig)
  try:
    for name in known.keys() & config.keys():
      fields.check_value(known[name], config[name], "config")
  except ConfigError as error:
    return str(error)
  return ""


def _folder_of_run(path) -> epath.Path | None:
  """The folder that a path leads to; None for a file, an address or a name."""
  path = os.fspath(path)
  is_file = path.endswith(".npz") or path.startswith("https://")
  if is_file or path in published.MODELS:
    return None
  folder = epath.Path(path)
  return folder if folder.is_dir() else None


def read_meta(path) -> dict[str, Any]:
  """The meta of a run's newest checkpoint, or of a pack; {} for all else."""
  if not read_config(path):
    return {}
  if pack.is_pack(path):
    return pack.read_meta(path)
  return checkpoint.read_meta(path)


def oracle_path(path, config) -> str:
  """Stage I of a stage II run: as the run named it, or beside the run.

  A pack of both stages has its own.

  The run may come from a stranger. So an address in it is followed only if
  that asks nobody but the publisher of known weights, or nobody at all.

  Args:
    path: of the stage II checkpoint.
    config: what it says of itself.

  Raises:
    ConfigError: an address that the user has not named.
  """
  if pack.is_pack(path):
    return pack.stage_i_of(path)
  oracle = (config.get("oracle") or {}).get("model_init")
  if not oracle or not isinstance(oracle, str):
    raise ConfigError(f"{path} names no stage I model: "
                      f"config.oracle.model_init = {oracle!r}.")
  oracle = finder.expand(oracle)
  if published.is_remote(oracle):
    _check_address(oracle, path)
    return oracle
  folder = epath.Path(os.fspath(path)).parent
  beside = folder / epath.Path(oracle).name
  # Both runs were copied together, so the old path leads nowhere.
  is_moved = not epath.Path(oracle).exists() and beside.exists()
  return os.fspath(beside) if is_moved else oracle


def _check_address(address: str, path) -> None:
  """Raises a ConfigError if following an address would ask a stranger."""
  if address in published.MODELS.values():
    return
  is_fetched = False
  if address.startswith("https://"):
    is_fetched = download.cache_path(address).exists()
  if not is_fetched:
    raise ConfigError(
        f"{path} names {address} as its stage I model, which is not fetched "
        f"unless you name it yourself: --checkpoint {address} --lm {path}; for "
        f"tools.evaluate --oracle {address}.")


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


def resizes_with_antialias(config) -> bool:
  """Whether the evaluated images are resized with antialias."""
  pp = config.get("pp_eval") or config.get("pp_train") or ""
  return bool(re.search(r"resize\([^)]*antialias\s*=\s*True", pp))


def categories_of(path, num_classes: int | None, dataset: str) -> Categories:
  """What the classes of a model stand for; () where nobody knows.

  These are the categories of the data set that the run learned from. Weights
  that do not tell their data set, such as the published ones, have COCO's.
  """
  categories = _categories_of_run(path)
  if not categories and not dataset:
    categories = categories_lib.coco_panoptic()
  # As many as there are classes, or they are names of something else.
  return categories if len(categories) == num_classes else ()


def _categories_of_run(path) -> Categories:
  """The list in the checkpoint of a run, if there is one."""
  rows = read_meta(path).get("categories")
  if not rows:
    return ()
  try:
    records = [{"id": number, "name": name, "isthing": is_thing}
               for number, name, is_thing in rows]
    return categories_lib.from_records(records, os.fspath(path))
  # The checkpoint of a stranger may have anything there.
  except (ConfigError, TypeError, ValueError) as error:
    log.warning("%s: the names of its classes are damaged: %s", path, error)
    return ()


def _read_arrays(path, kind: str) -> dict[str, Any]:
  """The arrays of a checkpoint, which must be of this kind."""
  located = published.locate(path, kind=kind)
  if located.endswith(".npz") and "://" not in located:
    # Arrays of something else, maybe gigabytes, are refused by their headers.
    known = files.npz_shapes(located)
    if known is not None and not givt_files.is_stage_i(known):
      _check_kind(path, known, kind)
      _FIELDS_OF[kind](known)
  arrays = published.load_params(located, kind=kind)
  _check_kind(path, tree.flatten(arrays), kind)
  # A quantizer that learns nothing leaves no state.
  if kind == STAGE_I:
    arrays.setdefault("state", {})
  return arrays


def _check_kind(path, arrays: Mapping[str, Any], kind: str) -> None:
  """Raises a ConfigError if arrays of these names are of another kind."""
  found = shapes.kind_of(arrays)
  if found not in _FIELDS_OF:
    raise ConfigError(
        f"{path} is a checkpoint of {found}, and no array tells all fields of "
        "its model. Open the workdir of its run, or a pack.")
  if found != kind:
    stages = {STAGE_I: 1, STAGE_II: 2}
    raise ConfigError(
        f"{path} is a checkpoint of stage {stages[found]}; stage "
        f"{stages[kind]} is needed here.")


# A ConfigError where the shapes are those of no model.
_FIELDS_OF = {STAGE_I: shapes.stage_i_fields, STAGE_II: shapes.stage_ii_fields}


def check_arrays(path, arrays: PyTree, init: Callable) -> None:
  """Raises a ConfigError unless a model can compute with these arrays.

  Arrays that nobody needs do not matter, nor does the width of the numbers. A
  file may also lack all arrays of the oracle: it can then predict.

  Args:
    path: of the arrays, for the message.
    arrays: as read.
    init: the model's; takes a key.
  """
  key = jax.random.key(0)
  wanted = _shapes(jax.eval_shape(init, key))
  found = _shapes(arrays)
  has_oracle = any(name.startswith("params/encoder/") for name in found)
  for name, shape in wanted.items():
    if name not in found and has_oracle:
      raise ConfigError(f"{path} lacks the array {name!r} {list(shape)}.")
    if found.get(name, shape) != shape:
      raise ConfigError(f"{path}: {name!r} is {list(found[name])}; its model "
                        f"needs {list(shape)}.")


def _shapes(arrays) -> dict[str, tuple[int, ...]]:
  flat = tree.flatten(arrays)
  return {name: tuple(array.shape) for name, array in flat.items()}


def _stage_i_fields(path, arrays, code_len):
  """(model fields, task name, task options) of a stage I checkpoint."""
  config = read_config(path)
  if config:
    model_fields = value_of(config, "model", path)
    task = value_of(config, "task", path)
    return model_fields, task, config.get("task_options", {})
  model_fields = shapes.stage_i_fields(_shapes(arrays), code_len)
  return model_fields, shapes.task_name(model_fields), {}


def _prior_fields(path, arrays) -> Mapping[str, Any]:
  """The model fields of a stage II checkpoint."""
  config = read_config(path)
  if config:
    return value_of(config, "model", path)
  found = _shapes(arrays)
  model_fields = shapes.stage_ii_fields(found)
  is_published = os.fspath(path) in published.MODELS
  if shapes.style_of(found) is None and not is_published:
    log.warning("%s does not tell the style of its prior; it is opened as %r, "
                "word by word. A workdir, a pack and what `uvim convert` makes "
                "of them tell it.", path, shapes.STYLE_OF_UNMARKED)
  return model_fields


def value_of(config: Config, name: str, path) -> Any:
  """A value that every run of the kind has."""
  if config.get(name) is None:
    raise ConfigError(f"{path} does not tell config.{name}.")
  return config[name]
