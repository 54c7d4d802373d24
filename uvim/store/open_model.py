"""What a checkpoint holds: arrays, and the fields to build models from.

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
from uvim.codes.vq import Codebook
from uvim.models import make_model
from uvim.registry import ConfigError
from uvim.store import checkpoint
from uvim.store import fields_of as infer
from uvim.store import published as released
from uvim.tasks import make_task
from uvim.tasks.base import AbstractTask


@dataclasses.dataclass(frozen=True)
class Parts:
  """What `uvim.inference.api.UViM` is made of.

  Attributes:
    task, model, params, codebook: stage I.
    lm, lm_params: stage II, or None.
    antialias: whether the run's pictures were resized with antialias.
    dataset: what the run learned from; "" where nobody knows.
  """
  task: AbstractTask
  model: Any
  params: Any
  codebook: Codebook
  lm: Any = None
  lm_params: Any = None
  antialias: bool = False
  dataset: str = ""


def load(path: str | os.PathLike, *, lm: str | os.PathLike | None = None,
         code_len: int | None = None,
         task_options: Mapping[str, Any] | None = None) -> Parts:
  """Arguments and errors as `uvim.inference.api.UViM.from_checkpoint`."""
  if is_name(path):
    path, lm = f"{path}-stage1", lm or f"{path}-stage2"
  config = read_config(path)
  if config.get("oracle"):
    if lm:
      raise ConfigError(
          f"{path} is a run of stage II with a language model of its own, but "
          f"another was given: {lm}. For that one give a stage I run, such as "
          f"{oracle_path(path, config)}.")
    path, lm = oracle_path(path, config), path
  stage_i = _load(path, 1)
  lm_arrays = _load(lm, 2) if lm else None
  lm_fields = _lm_fields(lm, lm_arrays) if lm else None
  code_len = code_len or (lm_fields or {}).get("seq_len", infer.CODE_LEN)
  fields, task, options = _stage_i_fields(path, stage_i, code_len)
  config = read_config(path) | (read_config(lm) if lm else {})
  _check_task(path, task, lm, config)
  codebook = Codebook(**stage_i["state"])
  if lm and (meta := read_meta(lm)):
    oracle = {"params": stage_i["params"], "codebook": codebook}
    check_oracle(meta, tree.fingerprint(oracle), lm)
  model = make_model("vit", fields, "the checkpoint's model")
  return Parts(
      make_task(task, fields, **(task_options or options)), model,
      stage_i["params"], codebook,
      make_lm(lm_fields, model) if lm else None,
      lm_arrays["params"] if lm else None,
      antialias=_antialias(config), dataset=config.get("dataset", ""))


def make_lm(fields: Mapping[str, Any], model: Any) -> Any:
  """The language model; it must speak the code of `model`."""
  lm = make_model("lm", fields, "the checkpoint's language model")
  want = {"vocab_size": model.dict_size + 1, "seq_len": model.code_len}
  for name, value in want.items():
    if getattr(lm, name) != value:
      raise ConfigError(f"The language model's {name} is {getattr(lm, name)};"
                        f" the code of this stage I model needs {value}.")
  return lm


def check_oracle(meta: Mapping[str, Any], crc32: int, path) -> None:
  """Words mean nothing to another oracle, though its sizes be the same.

  Args:
    meta: of a checkpoint of stage II; of one from elsewhere, which does not
      tell its oracle, everything is taken.
    crc32: `tree.fingerprint` of the arrays in use, {"params", "codebook"}.
    path: of the checkpoint, for the message.

  Raises:
    ConfigError: it learned the code of other arrays.
  """
  known = meta.get("oracle_crc32")
  if known not in (None, crc32):
    raise ConfigError(
        f"{path} learned the code of another stage I model than the one it is "
        "used with now, though of the same sizes. Was that one trained on or "
        "replaced since? Go back to the old one, or train stage II anew.")


def is_name(path) -> bool:
  """Whether it is a published name of both stages, such as 'uvim-depth'."""
  return f"{path}-stage1" in released.MODELS


def read_config(path) -> dict[str, Any]:
  """The config a run left in its workdir; {} for anything else."""
  path = os.fspath(path)
  if (path.endswith(".npz") or path.startswith("https://")
      or path in released.MODELS):
    return {}
  file = epath.Path(path) / "config.json"
  return json.loads(file.read_text()) if file.exists() else {}


def read_meta(path) -> dict[str, Any]:
  """The meta of a run's newest checkpoint; {} for anything but a run."""
  return checkpoint.read_meta(path) if read_config(path) else {}


def oracle_path(path, config) -> str:
  """Stage I of a stage II run: as the run named it, or beside the run."""
  oracle = config["oracle"]["model_init"]
  beside = epath.Path(os.fspath(path)).parent / epath.Path(oracle).name
  moved = not epath.Path(oracle).exists() and beside.exists()
  return os.fspath(beside) if moved else oracle


def _check_task(path, task, lm, config):
  """Two tasks may well have codes of one size."""
  other = (config.get("oracle") or {}).get("task", task)
  names = [x.removeprefix("proj.uvim.").removesuffix("_task")
           .removesuffix("_segmentation") for x in (task, other)]
  if names[0] != names[1]:
    raise ConfigError(f"{path} is a model of {task}, the language model {lm} "
                      f"one of {other}: they do not go together.")


def _antialias(config) -> bool:
  """Whether the evaluated pictures are resized with antialias."""
  pp = config.get("pp_eval") or config.get("pp_train") or ""
  return bool(re.search(r"resize\([^)]*antialias\s*=\s*True", pp))


def _load(path, stage: int) -> dict[str, Any]:
  arrays = released.load_params(path, stage=stage)
  is_stage_i = infer.is_stage_i(tree.flatten(arrays))
  if is_stage_i != (stage == 1):
    raise ConfigError(f"{path} is a checkpoint of stage {2 - is_stage_i}; "
                      f"stage {stage} is needed here.")
  return arrays


def _shapes(arrays) -> dict[str, tuple[int, ...]]:
  return {name: tuple(x.shape) for name, x in tree.flatten(arrays).items()}


def _stage_i_fields(path, arrays, code_len):
  """(model fields, task name, task options) of a stage I checkpoint."""
  config = read_config(path)
  if config:
    return config["model"], config["task"], config.get("task_options", {})
  fields = infer.stage_i_fields(_shapes(arrays), code_len)
  return fields, infer.task_name(fields), {}


def _lm_fields(path, arrays) -> Mapping[str, Any]:
  config = read_config(path)
  return config["model"] if config else infer.stage_ii_fields(_shapes(arrays))
