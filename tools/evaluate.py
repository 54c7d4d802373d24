"""Runs evaluators on any checkpoint and writes what they found as JSON.

  python -m tools.evaluate --checkpoint W
    [--config configs/NAME.py[:arg] [--config.field=value …]]
    [--evaluator NAME …] [--set KEY=VALUE …] --out F.json

W is a run's workdir of either stage, which knows its config; or a .npz or a
published name, which need --config. --evaluator chooses among the config's
evaluators (default: all). --set changes them: a field (split, pp, dataset,
data_dir, batch_size, pred), an option of the prediction (temperature, seed,
top_k, top_p, min_fraction, mask, …) or of the evaluator (merge_stuff, crop_top,
…), such as --set temperature=1.0 --set "split='validation[:100]'".
"""

import argparse
import ast
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trainers import main as main_lib
from uvim.config import TrainConfig, from_json, resolve
from uvim.registry import ConfigError, unknown
from uvim.store import open_model as load
from uvim.store import published as released

EXIT_BAD_INPUT = 2
_FIELDS = ("dataset", "data_dir", "split", "pp", "batch_size", "pred")


def read_config(checkpoint: str, config: str | None,
                overrides: Sequence[str] = ()) -> TrainConfig:
  """The config file named, or else the one in the workdir.

  Args:
    checkpoint: as `--checkpoint`.
    config: as `--config`, or None.
    overrides: `--config.field=value`, for a config file.
  """
  if config:
    return resolve(_load_config(["evaluate", f"--config={config}", *overrides]))
  if overrides:
    raise ConfigError(f"{overrides[0]} needs --config; what --set changes "
                      "needs none.")
  fields = load.read_config(checkpoint)
  if not fields:
    raise ConfigError(f"--checkpoint {checkpoint} has no config.json; name the "
                      "config with --config configs/NAME.py.")
  return from_json(fields)


def _load_config(argv):
  from absl import flags
  from ml_collections import config_flags
  values = flags.FlagValues()
  try:
    main_lib.check_overrides(argv)
    flag = config_flags.DEFINE_config_file(
        "config", None, "", lock_config=True, flag_values=values,
        sys_argv=argv)
    values(argv)
  except ConfigError:
    raise
  except Exception as e:  # Whatever a config file or an override raises.
    raise ConfigError(f"{argv[1]}: {' '.join(str(e).split())}") from e
  return flag.value


def load_stage(checkpoint: str, config: TrainConfig,
               oracle: str | None = None) -> tuple[Any, dict[str, Any]]:
  """(stage, its variables) of a checkpoint.

  Args:
    checkpoint: as `--checkpoint`.
    config: of the stage; its own starting point is not read.
    oracle: stage II: the stage I checkpoint, where it is not as the config
      says.

  Raises:
    ConfigError: nothing there, or of another model, task or stage.
  """
  import jax

  from trainers import lm, vqvae
  from uvim import tree
  from uvim.codes.vq import Codebook
  from uvim.store import start_from as model_init
  config = dataclasses.replace(config, model_init=None)
  if config.oracle is None:
    stage = vqvae.VqvaeStage(config)
    arrays = tree.unflatten(model_init.load_all(
        checkpoint, stage.wanted_arrays(), "--checkpoint"))
    return stage, {"params": arrays["params"], "frozen": None,
                   "codebook": Codebook(**arrays["state"])}
  path = oracle or _oracle_of(checkpoint, config)
  stage = lm.LmStage(dataclasses.replace(
      config, oracle=dataclasses.replace(config.oracle, model_init=path)))
  params, _ = jax.eval_shape(stage.init, jax.random.key(0))
  arrays = tree.unflatten(model_init.load_all(
      checkpoint, {"params": params}, "--checkpoint"))
  if meta := load.read_meta(checkpoint):
    load.check_oracle(meta, tree.fingerprint(stage.frozen), checkpoint)
  return stage, {"params": arrays["params"], "codebook": None,
                 "frozen": stage.frozen}


def _oracle_of(checkpoint, config) -> str:
  """Stage I by the same name, beside the workdir, or as the config says."""
  if load.is_name(checkpoint) or checkpoint in released.MODELS:
    return f"{checkpoint.removesuffix('-stage2')}-stage1"
  return load.oracle_path(checkpoint, {"oracle": {
      "model_init": config.oracle.model_init}})


def changed(block: EvalConfig, changes: Mapping[str, Any],
            predict_options: Sequence[str]) -> EvalConfig:
  """The evaluator with other fields or options; see --set."""
  fields = {k: v for k, v in changes.items() if k in _FIELDS}
  pred = {k: v for k, v in changes.items() if k in predict_options}
  rest = {k: v for k, v in changes.items() if k not in {*fields, *pred}}
  return dataclasses.replace(
      block, **fields, pred_kw={**block.pred_kw, **pred},
      options={**block.options, **rest})


def choose(config: TrainConfig, names: Sequence[str] | None
           ) -> list[EvalConfig]:
  """The evaluators of these names; all of them by default."""
  blocks = {block.name: block for block in config.evals}
  for name in names or ():
    if name not in blocks:
      raise unknown("evaluator (of this config)", name, blocks)
  return [blocks[name] for name in names or blocks]


def evaluate(checkpoint: str, config: TrainConfig, *,
             names: Sequence[str] | None = None,
             changes: Mapping[str, Any] | None = None,
             oracle: str | None = None) -> list[dict[str, Any]]:
  """Runs the evaluators.

  Args:
    checkpoint: as `--checkpoint`.
    config: the stage's.
    names: of `config.evals`; None: all.
    changes: key → value, as `--set`.
    oracle: see `load_stage`.

  Returns:
    Per evaluator: its name, type, data, metrics and every setting.

  Raises:
    ConfigError: as `load_stage`; an unknown evaluator or option; no data.
  """
  import jax

  from trainers import evaluation
  from trainers.family import Compiled
  from uvim.learn import sharding
  blocks = choose(config, names)
  stage, variables = load_stage(checkpoint, config, oracle)
  mesh = sharding.make_mesh((("data", -1),))
  predict = Compiled(stage)
  evaluations = []
  for block in blocks:
    name = block.pred if block.pred in stage.predictors else "predict"
    block = changed(block, changes or {}, list(stage.options(name)))
    evaluations.append(evaluation.make_evaluation(
        block, stage, predict, mesh, pp_modules=config.pp_modules))
  variables = jax.device_put(variables, sharding.replicated(mesh))
  return [_run(x, variables) for x in evaluations]


def _run(item, variables) -> dict[str, Any]:
  started = time.monotonic()
  metrics = {item.config.prefix + name: value
             for name, value in item.run(variables).items()}
  for name, value in metrics.items():
    print(f"{name:40} {value:.6g}", flush=True)
  fields = dataclasses.asdict(item.config)
  return {"metrics": metrics, "settings": dict(item.settings),
          **{k: fields[k] for k in ("name", "type", *_FIELDS)},
          "seconds": round(time.monotonic() - started, 1)}


def _changes(texts: Sequence[str]) -> dict[str, Any]:
  out = {}
  for text in texts:
    key, equals, value = text.partition("=")
    if not equals:
      raise ConfigError(f"--set {text}: it must be KEY=VALUE.")
    try:
      out[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      out[key] = value  # A bare word or string.
  return out


def _write(path: pathlib.Path, content: Any) -> None:
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(content, indent=1, default=str) + "\n")
    os.replace(partial, path)
  except OSError as e:
    raise ConfigError(f"--out {path} cannot be written: {e.strerror}.") from e


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog="python -m tools.evaluate", description=__doc__,
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add("--checkpoint", required=True)
  add("--config", help="configs/NAME.py[:argument]; default: the workdir's")
  add("--oracle", help="stage II: its stage I checkpoint")
  add("--evaluator", action="append", help="repeat for several")
  add("--set", dest="changes", action="append", default=[],
      metavar="KEY=VALUE")
  add("--out", required=True, help="the JSON file to write")
  add("--overwrite", action="store_true", help="replace the file")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """The command; 0, or 2 after a mistake that the message explains."""
  args, overrides = _parser().parse_known_args(argv)
  main_lib.quiet_tensorflow()
  from absl import logging
  logging.set_verbosity(logging.ERROR)  # TFDS warns of its own calls.
  out = pathlib.Path(args.out)
  try:
    if out.exists() and not args.overwrite:
      raise ConfigError(f"--out {out} is there already; --overwrite replaces "
                        "it.")
    wrong = [x for x in overrides if not x.startswith("--config.")]
    if wrong:
      raise ConfigError(f"Unexpected argument {wrong[0]!r}.")
    config = read_config(args.checkpoint, args.config, overrides)
    results = evaluate(
        args.checkpoint, config, names=args.evaluator, oracle=args.oracle,
        changes=_changes(args.changes))
    _write(out, {
        "checkpoint": args.checkpoint, "config": config.to_json(),
        "versions": {name: importlib.metadata.version(name)
                     for name in ("jax", "flax", "numpy")},
        "evaluations": results})
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_BAD_INPUT
  return 0


if __name__ == "__main__":
  sys.exit(main())
