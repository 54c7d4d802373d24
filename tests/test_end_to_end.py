"""The first command of the README, at a size of seconds."""

import json
import pathlib
import shutil

import pytest

from tools import quickstart
from trainers import main
from uvim import lock
from uvim.store import open_model

FIELDS = {"oracle_pq", "uvim_pq", "zero_code_pq", "bits_per_codeword",
          "wall_seconds"}


def run_here(command):
  """A trainer's command in this process, which has paid for the imports.

  On one device, which is quicker to compile for and to save.
  """
  python, flag, module, *argv = command
  assert pathlib.Path(python).name.startswith("python") and flag == "-m"
  argv.append('--config.mesh=(("data", 1),)')
  return main.main(module.removeprefix("trainers."), module, argv)


@pytest.fixture(scope="module")
def quick(tmp_path_factory, rooms_tiny_dir):
  """(workdir, the function that runs quickstart in it)."""
  workdir = tmp_path_factory.mktemp("quick") / "start"
  argv = ["--arg", "tiny", "--workdir", str(workdir),
          "--data_dir", str(rooms_tiny_dir)]

  def again():
    return quickstart.main(argv, run=run_here)

  assert again() == 0
  return workdir, again


def read(workdir):
  return json.loads((workdir / "results.json").read_text())


def test_results_and_page(quick):
  workdir, _ = quick
  results = read(workdir)
  assert set(results) == FIELDS
  for name in ("oracle_pq", "uvim_pq", "zero_code_pq"):
    assert 0 <= results[name] <= 100
  # A few steps leave 16 words nearly equally likely: 4 bits, as 17 are 4.09.
  assert 3 < results["bits_per_codeword"] < 5
  assert results["wall_seconds"] > 1
  page = (workdir / "report.html").read_text()
  # All in one file: images of both stages and the curves.
  assert page.count("data:image/png;base64,") >= 2
  assert page.count("<svg") >= 10
  assert "http://" not in page and "https://" not in page
  assert "PQ of UViM, T = 0" in page
  for stage in ("stage1", "stage2"):  # Each run has its own as well.
    page = (workdir / stage / "report.html").read_text()
    assert "Use of each word" in page and "step</td><td>4 of 4" in page


def test_a_second_call_reuses_what_is_there(quick, capfd):
  workdir, again = quick
  before = read(workdir)
  checkpoints = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")
                 if p.is_file() and "checkpoints" in p.parts}
  capfd.readouterr()
  assert again() == 0
  printed = capfd.readouterr()
  assert read(workdir) == before  # Wall time included: that of the training.
  assert printed.err.count("resumed at step") == 2
  assert "new run" not in printed.err and "/4  loss" not in printed.err
  assert "PQ with the oracle's code" in printed.out
  assert f"{workdir}/pack: 0." in printed.err and " MB" in printed.err
  assert checkpoints == {p: p.stat().st_mtime_ns for p in checkpoints}


def test_the_pack_predicts_without_the_run(quick, tmp_path):
  workdir, _ = quick
  folder = shutil.copytree(workdir / "pack", tmp_path / "pack")
  names = [path.name for path in workdir.iterdir()]
  assert "unfinished" not in names
  opened = open_model.open_model(folder)
  assert opened.prior is not None and opened.dataset == "rooms/tiny"
  text = (folder / "README.md").read_text()
  for name in ("uvim_pq", "oracle_pq", "zero_code_pq"):
    value = read(workdir)[name]
    shown = f"{value:.2f}" if value >= 1 else f"{value:.3g}"
    assert f"| {shown} |" in text


def test_a_failing_stage_ends_it(quick, capfd):
  """A workdir in use: the trainer's message and its exit code."""
  workdir, again = quick
  with lock.Lock(workdir / "stage1" / "run.lock", "the test"):
    assert again() == 2
  assert "is in use by process" in capfd.readouterr().err
