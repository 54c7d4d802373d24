"""The trainers' command lines, called as functions."""

import pathlib

from trainers import main

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"

# `rooms` configs of a few steps, with one evaluator at most.
FILE = """
from configs import {trainer}_rooms_panoptic

def get_config():
  config = {trainer}_rooms_panoptic.get_config("tiny")
  config.total_steps = 8
  # Orbax cuts each array into a slice per replica: a second of tracing a save.
  config.mesh = [("data", 1)]
  config.val_split = None
  config.evals = {evals!r}
  for name in {unused!r}:
    del config[name]
{extra}
  return config
"""


def write_config(folder, trainer, extra=""):
  """A config file; `extra` are lines that change `config`."""
  evals = {"vqvae": ("zero_code", "oracle_code"),
           "lm": ("zero_code", "oracle_code", "uvim")}[trainer]
  keep = evals[:1] if trainer == "vqvae" else ()
  path = folder / f"{trainer}.py"
  path.write_text(FILE.format(
      trainer=trainer, evals=[(name, "coco_panoptic") for name in keep],
      unused=[name for name in evals if name not in keep],
      extra="".join(f"  {line}\n" for line in extra.splitlines())))
  return path


def arguments(config, workdir, *overrides, **fields):
  """The arguments of a trainer; `fields` are top-level overrides."""
  return ["--config", str(config), "--workdir", str(workdir),
          *overrides, *(f"--config.{k}={v}" for k, v in fields.items())]


def call(trainer, config, workdir, *overrides, services=None, **fields):
  """The exit code of a trainer; `services` as in `trainers.main.main`."""
  return main.main(trainer, f"trainers.{trainer}",
                   arguments(config, workdir, *overrides, **fields),
                   **(services or {}))
