"""Makes a pack of a run; see `uvim.store.pack` for what that is."""

import dataclasses
import functools
import math
import os
import pathlib
import tempfile
from typing import NamedTuple

import jax
import numpy as np

from uvim import config as config_lib
from uvim import files, priors, tree
from uvim.diffusion import schedules
from uvim.registry import ConfigError
from uvim.store import card, open_model, pack, run_scores
from uvim.store.open_model import STAGE_I, STAGE_II, Config, OpenModel
from uvim.store.open_pix2seq_d import PIX2SEQ_D, open_pix2seq_d
from uvim.tasks import TASKS, task_class
from uvim.tasks.base import AbstractTask
from uvim.typing import PyTree

_TITLES = {
    STAGE_I: "stage I", STAGE_II: "stage II", PIX2SEQ_D: "the network"}


class Stage(NamedTuple):
  """One stage of a pack; Pix2Seq-D has a single one.

  Attributes:
    config: of its run, without places of this machine.
    arrays: {"params", and of stage I "state"}, as they are written. Where a
      run averages its parameters, the average.
    version: of the package that trained it; "" where nobody knows.
  """
  config: Config
  arrays: PyTree
  version: str


# By kind.
Stages = dict[str, Stage]


def write(workdir: str, target: str, *, packed_with: str, half: bool = False,
          license_id: str | None = None) -> card.Facts:
  """Makes a pack.

  Args:
    workdir: of a run of stage II, whose stage I comes along; of stage I; or of
      Pix2Seq-D.
    target: the folder to be made; must not exist.
    packed_with: the program that makes it, for the card.
    half: writes parameters as float16. They are loaded as float32.
    license_id: for the card, such as "cc-by-4.0"; None: it names none.

  Returns:
    What the card says.

  Raises:
    ConfigError: no such run, stages that do not go together, something is at
      `target`, no such license.
  """
  card.check_license(license_id)
  _check_target(target)
  config = _config_of(workdir)
  is_pix2seq_d = config["kind"] == PIX2SEQ_D
  open_run = open_pix2seq_d if is_pix2seq_d else open_model.open_model
  opened = open_run(workdir)
  stages = _stages(workdir, config, opened)
  rounding = ""
  if half:
    stages = _halve(stages)
    rounding = _rounding(opened, stages)
  folder = pathlib.Path(target)
  folder.parent.mkdir(parents=True, exist_ok=True)
  # Renamed when it is complete.
  with tempfile.TemporaryDirectory(
      dir=folder.parent, prefix=".packing_") as temporary:
    unfinished = pathlib.Path(temporary) / folder.name
    _write_stages(unfinished, stages, opened)
    facts = dataclasses.replace(
        _facts(workdir, stages, opened),
        name=folder.name, packed_with=packed_with, rounding=rounding,
        precision="float16" if half else "float32",
        num_bytes=_weight_bytes(unfinished), license=license_id)
    files.write_text(unfinished / pack.CARD, card.write(facts))
    unfinished.rename(folder)
  return facts


def _check_target(target: str) -> None:
  """Raises a ConfigError unless a folder can be made there."""
  if "://" in target:
    raise ConfigError(f"DST = {target!r}; a pack is written to this machine.")
  # A link that leads nowhere is somebody's too.
  if os.path.lexists(target):
    raise ConfigError(f"{target} exists already; nothing is overwritten.")


def _config_of(workdir: str) -> Config:
  """The config of a run that a pack can be made of."""
  if pack.is_pack(workdir):
    # Its scores stand in its card alone.
    raise ConfigError(f"SRC = {workdir!r} is a pack already; copy the folder.")
  config = open_model.read_config(workdir)
  if config.get("kind") not in _TITLES:
    raise ConfigError(f"SRC = {workdir!r}; a pack is made of the workdir of a "
                      "run of stage I or II, or of Pix2Seq-D.")
  return config


def _stages(workdir: str, config: Config, opened: OpenModel) -> Stages:
  """What is written of a run."""
  kind = config["kind"]
  if kind != STAGE_II:
    return {kind: _stage(workdir, config, opened.arrays)}
  oracle = open_model.oracle_path(workdir, config)
  oracle_config = open_model.read_config(oracle)
  if not oracle_config:
    # Bare arrays come without a config, but stage II knows theirs.
    oracle_config = _config_of_oracle(config)
  prior_arrays = {files.PARAMS: opened.prior_params}
  stage_i = _stage(oracle, oracle_config, opened.arrays)
  stage_ii = _stage(workdir, config, prior_arrays)
  # Where stage I is from now on.
  stage_ii.config["oracle"]["model_init"] = pack.STAGE_I
  return {STAGE_I: stage_i, STAGE_II: stage_ii}


def _stage(path: str, config: Config, arrays: PyTree) -> Stage:
  version = open_model.read_meta(path).get("version", "")
  return Stage(pack.without_places(config), arrays, version)


def _halve(stages: Stages) -> Stages:
  halved = {}
  for kind, stage in stages.items():
    halved[kind] = stage._replace(arrays=pack.halve(stage.arrays))
  return halved


def _config_of_oracle(config: Config) -> Config:
  """The config of stage I, as far as that of stage II tells it."""
  oracle = config["oracle"]
  told = {name: oracle[name]
          for name in ("task", "task_options", "model_name", "model")}
  # What it learned from is the same, and it is evaluated alike.
  return {**config, **told, "kind": STAGE_I, "oracle": None, "evals": []}


def _write_stages(folder: pathlib.Path, stages: Stages,
                  opened: OpenModel) -> None:
  write_stage = functools.partial(
      pack.write_stage, categories=opened.categories)
  if STAGE_II not in stages:
    stage, = stages.values()
    write_stage(folder, stage.config, stage.arrays, version=stage.version)
    return
  stage_i = stages[STAGE_I]
  write_stage(folder / pack.STAGE_I, stage_i.config, stage_i.arrays,
              version=stage_i.version)
  stage_ii = stages[STAGE_II]
  # Of stage I as it will be loaded: rounding has changed it.
  oracle_crc32 = tree.fingerprint(pack.as_loaded(stage_i.arrays))
  write_stage(folder, stage_ii.config, stage_ii.arrays,
              version=stage_ii.version, oracle_crc32=oracle_crc32)


def _weight_bytes(folder: pathlib.Path) -> int:
  sizes = [path.stat().st_size for path in folder.rglob(pack.WEIGHTS)]
  return sum(sizes)


# ── What the card says ──────────────────────────────────────────────────────


def _facts(workdir: str, stages: Stages, opened: OpenModel) -> card.Facts:
  """What the run tells; the rest is left empty."""
  # Stage II comes after stage I; any other run has one stage.
  outer = list(stages.values())[-1]
  config = config_lib.from_json(outer.config)
  parameters = {}
  for kind, stage in stages.items():
    parameters[_TITLES[kind]] = _num_parameters(stage.arrays)
  return card.Facts(
      kind=config.kind,
      task=_task_name(opened.task),
      dataset=config.dataset,
      split=config.train_split,
      input_size=opened.model.image_size,
      categories=opened.categories,
      parameters=parameters,
      style=_style_of_prior(config),
      version=outer.version,
      commit=run_scores.read_commit(workdir),
      scores=run_scores.read_scores(workdir, config))


def _style_of_prior(config: config_lib.TrainConfig) -> str:
  """How stage II predicts words; "" of stage I."""
  if config.kind != STAGE_II:
    return ""
  return config.model.get(priors.STYLE.name, priors.STYLE.default)


def _task_name(task: AbstractTask) -> str:
  """The task's own name: the released code has others for the same."""
  names = [name for name in TASKS if task_class(name) is type(task)]
  return names[0]


def _num_parameters(arrays: PyTree) -> int:
  sizes = [math.prod(array.shape)
           for array in tree.flatten(arrays[files.PARAMS]).values()]
  return sum(sizes)


# ── What half precision changes ─────────────────────────────────────────────


def _rounding(opened: OpenModel, stages: Stages) -> str:
  """How much the outputs move, for an image of noise.

  Args:
    opened: the model in full precision.
    stages: in half precision.
  """
  if PIX2SEQ_D in stages:
    rounded = pack.as_loaded(stages[PIX2SEQ_D].arrays)
    return _change_of_bits(opened, rounded)
  spec = opened.model.spec
  if spec.num_words is None:
    return "not measured: the code of this model has no words"
  rng = np.random.default_rng(0)
  code = rng.integers(0, spec.num_words, (1, *spec.shape), np.int32)
  rounded = pack.as_loaded(stages[STAGE_I].arrays)
  text = "for an image and a code of noise, "
  text += _change_of_logits(opened, rounded, code)
  if STAGE_II in stages:
    rounded = pack.as_loaded(stages[STAGE_II].arrays)
    text += _change_of_likelihoods(opened, rounded, code)
  return text


def _change_of_logits(opened: OpenModel, rounded: PyTree, code: np.ndarray
                      ) -> str:
  model = opened.model
  image = _noise_image(model.image_size)

  @jax.jit
  def logits(arrays):
    return model.base_model(arrays, model.embed(arrays, code), image)

  full = logits(opened.arrays)
  half = logits({files.STATE: {}, **rounded})
  change = _largest_difference(full, half)
  return (f"logits of the base model move by at most {change:.2g} (the largest "
          f"is {_largest(full):.3g})")


def _change_of_likelihoods(opened: OpenModel, rounded: PyTree, code: np.ndarray
                           ) -> str:
  """The same of the prior; "" if it has no likelihoods."""
  image = _noise_image(opened.prior.input_size)
  log_prob = jax.jit(opened.prior.log_prob)
  full = log_prob(opened.prior_params, image, code)
  if full is None:
    return ""
  half = log_prob(rounded[files.PARAMS], image, code)
  change = _largest_difference(full, half)
  return f", log-probabilities of words by at most {change:.2g} nats"


def _change_of_bits(opened: OpenModel, rounded: PyTree) -> str:
  """How much the bits of a mask move that has as much noise as signal."""
  model = opened.model
  network = model.network
  image = _noise_image(network.input_size)
  rng = np.random.default_rng(0)
  shape = (1, *network.mask_size, network.num_bits)
  noisy = rng.normal(size=shape).astype(np.float32)
  level = schedules.level_at(np.float32(0.5), network.schedule)

  @jax.jit
  def bits(params):
    seen = model.encode_image(params, image)
    return model.denoise(params, seen, noisy, level)

  full = bits(opened.arrays[files.PARAMS])
  half = bits(rounded[files.PARAMS])
  change = _largest_difference(full, half)
  return (f"for an image and a mask of noise, the bits of a step move by at "
          f"most {change:.2g} (they lie between -{network.input_scale:g} and "
          f"{network.input_scale:g})")


def _noise_image(size: tuple[int, int]) -> np.ndarray:
  """A gray image [1, H, W, 3] in [-1, 1], which every task can see."""
  rng = np.random.default_rng(1)
  gray = rng.uniform(-1, 1, (1, *size, 1)).astype(np.float32)
  return np.repeat(gray, 3, axis=-1)


def _largest_difference(full: PyTree, half: PyTree) -> float:
  differences = jax.tree.map(lambda one, other: one - other, full, half)
  return _largest(differences)


def _largest(arrays: PyTree) -> float:
  """The largest magnitude in a tree of arrays."""
  return max(float(abs(array).max()) for array in jax.tree.leaves(arrays))
