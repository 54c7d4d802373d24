"""One run on eight devices, on one, and in two processes of four each."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

from tests.trainers import cli
from tests.trainers.test_loop import read_lines
from tools.stress.drill import read_arrays
from trainers import cluster
from uvim.lock import Lock
from uvim.registry import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
FAILED = "failed/broken"
# An evaluator on five examples: the second process has one of them. A
# dictionary that forgets quickly, so that entries die and are split. Each
# message between two processes costs milliseconds: kernels alone are split over
# the devices (tests/trainers/test_stages splits everything), and few steps of
# the twenty are taken together.
EXTRA = """
config.mesh = [("data", -1)]
config.sharding = [(".*kernel", "fsdp(data)"), (".*", "replicate")]
config.total_steps = 20
config.log_eval_steps = 10
config.checkpoint_steps = 16
config.optax_name = "scale_by_adafactor"
config.optax = dict(dtype_momentum="float32")
config.model.dict_momentum = 0.7
config.evals = [("score", "mean")]
del config.zero_code
config.score = dict(split="validation[:5]", log_steps=10, pred="loss",
                    pp=config.pp_eval)
"""


def call_two(runs, timeout=900):
  """The exit codes of each run, by two processes of four devices each.

  Args:
    runs: pairs (log, arguments).
    timeout: of all together, in seconds.
  """
  process = subprocess.Popen(
      [sys.executable, "-m", "tests.trainers.two_processes", "2",
       json.dumps(runs)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
      start_new_session=True, env={
          **os.environ, "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu",
          # A program that one process compiles and another reads from the
          # cache runs its collectives in another order there: gloo aborts.
          "JAX_ENABLE_COMPILATION_CACHE": "false"})
  try:
    out, _ = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    pytest.fail(f"two processes hang; their words are in the logs of {runs}")
  return [json.loads(line) for line in out.splitlines()[-len(runs):]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, rooms_tiny_dir):
  """A config, and an unbroken run of it on eight devices: `whole`."""
  folder = tmp_path_factory.mktemp("processes")
  cli.write_config(folder, "vqvae", EXTRA + f"""
config.data_dir = {str(rooms_tiny_dir)!r}
""")
  assert cli.call("vqvae", folder / "vqvae.py", folder / "whole") == 0
  return folder


def half_of(folder, name):
  """A copy of the run on eight devices as it was after step 16."""
  workdir = shutil.copytree(folder / "whole", folder / name)
  shutil.rmtree(workdir / "checkpoints" / "20")
  return workdir


def assert_agree(workdir, whole):
  """Losses, scores, parameters and dictionary to 1e-5."""
  got = [line for line in read_lines(workdir) if FAILED not in line]
  want = read_lines(whole)
  assert [line.keys() for line in got] == [line.keys() for line in want]
  assert any(line.get("train/code/splits") for line in want[-6:])
  assert any("score/loss" in line for line in want)
  for a, b in zip(got, want, strict=True):
    assert a.pop("settings", None) == b.pop("settings", None)
    np.testing.assert_allclose(
        list(a.values()), list(b.values()), rtol=1e-5, atol=1e-7)
  got, want = read_arrays(workdir, 20), read_arrays(whole, 20)
  assert got.keys() == want.keys()
  for name, value in want.items():
    # A key's bias has no gradient but rounding; Adafactor makes it a step.
    if "['key']['bias']" not in name:
      np.testing.assert_allclose(
          got[name], value, rtol=1e-5, err_msg=name,
          atol=1e-5 * np.abs(value).max(initial=1))


def with_a_broken_evaluator(folder):
  """The config; before its evaluator comes one that fails in process 0 alone.

  That one writes files, and where the folder must be is a file.
  """
  (folder / "file").write_text("")
  save_dir = folder / "file" / "under"
  text = (folder / "vqvae.py").read_text()
  text = text.replace('[("score", "mean")]',
                      '[("broken", "save_predictions"), ("score", "mean")]')
  text = text.replace("  return config", f"""
  config.broken = dict(
      config.score, options=dict(save_dir={str(save_dir)!r}))
  return config""")
  (folder / "two.py").write_text(text)
  return folder / "two.py"


class Ended(NamedTuple):
  """A run of two processes: exit codes, and what each of them wrote."""
  workdir: pathlib.Path
  codes: list[int]
  texts: list[str]


@pytest.fixture(scope="module")
def ended(folder):
  """A run that goes on in two processes, and one whose workdir is in use."""
  # The name of the workdir is a pattern, and no data are there yet: one of the
  # processes renders them. Their bytes may differ, if not what they say.
  goes_on = half_of(folder, "two[1]*")
  held = half_of(folder, "held")
  runs = [
      (f"{folder}/log", cli.arguments(
          with_a_broken_evaluator(folder), goes_on,
          data_dir=folder / "no_data", on_other_data="warn")),
      (f"{folder}/held_log", cli.arguments(folder / "vqvae.py", held))]
  with Lock(held / "run.lock", "W"):
    codes = call_two(runs)
  found = []
  for workdir, (log, _), codes_of_run in zip(
      (goes_on, held), runs, codes, strict=True):
    texts = [pathlib.Path(f"{log}.{i}").read_text() for i in (0, 1)]
    found.append(Ended(workdir, codes_of_run, texts))
  return found


def test_a_run_of_eight_devices_goes_on_in_two_processes(folder, ended):
  workdir, codes, texts = ended[0]
  assert codes == [0, 0], "\n".join(texts)
  assert "".join(texts).count("Rendering 96 scenes") == 1
  assert "resumed at step 16" in texts[0] and "8 device(s)" in texts[0]
  # The second process reports nothing.
  assert "step 20/20" in texts[0] and "step" not in texts[1]
  # The config of the run that goes on is written anew.
  written = (workdir / "config.json").stat().st_mtime_ns
  assert written > (folder / "whole/config.json").stat().st_mtime_ns
  # An evaluator may fail in one process alone; neither waits for the other.
  assert "could not score at step 20: NotADirectoryError" in texts[0]
  failed, = [line for line in read_lines(workdir) if FAILED in line]
  assert failed[FAILED] == 1
  assert_agree(workdir, folder / "whole")


def test_a_refusal_of_one_process_ends_both(ended):
  """Neither waits for the other."""
  workdir, codes, texts = ended[1]
  assert codes == [2, 2], "\n".join(texts)
  refusal = f"--workdir {workdir} is in use by process {os.getpid()}"
  assert f"error: {refusal}" in texts[0]
  assert f"error: process 0: {refusal}" in texts[1]


def test_a_run_of_eight_devices_goes_on_on_one(folder):
  workdir = half_of(folder, "one")
  text = (folder / "vqvae.py").read_text()
  (folder / "one.py").write_text(text.replace('("data", -1)', '("data", 1)'))
  assert cli.call("vqvae", folder / "one.py", workdir) == 0
  assert_agree(workdir, folder / "whole")


@pytest.mark.parametrize("environ, expected", [
    ({}, False),
    ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, False),
    ({"SLURM_STEP_NUM_TASKS": "1"}, False),
    ({"SLURM_STEP_NUM_TASKS": "2"}, True),
    ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
])
def test_only_a_launcher_makes_a_process_look_for_others(environ, expected):
  assert cluster.launched_together(environ) is expected


def test_flags_of_a_process_belong_together(monkeypatch):
  def never(**kwargs):
    raise AssertionError("tried")

  for name in cluster.COUNTS + (cluster.HOSTS,):
    monkeypatch.delenv(name, raising=False)
  cluster.join()
  with pytest.raises(ConfigError, match="--process_id is missing"):
    cluster.join("host:1234", 2)
  with pytest.raises(AssertionError, match="tried"):
    cluster.join("host:1234", 2, 0, initialize=never)
