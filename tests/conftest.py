"""Strict numerics for every test; eight virtual devices."""

import gc
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Compiling is most of the time of a test: less of it, and once only. In the
# environment, so that the commands that tests start share it too.
# (The older emitters of kernels take half the time of the newer.)
os.environ["XLA_FLAGS"] = " ".join([
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    # Programs are small, and tests fill all cores already.
    "--xla_cpu_parallel_codegen_split_count=1",
    os.environ.get("XLA_FLAGS", "")])
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR",
                      str(ROOT / ".pytest_cache" / "jax"))
# Every program is kept, the smallest too: there are thousands of them, and to
# read one takes a tenth of the time of compiling it.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish():
  """Looks through what JAX and TensorFlow brought along once, not for ever."""
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def shared():
  """The folder of real samples and parity fixtures, where there is one."""
  if not SHARED.is_dir():
    pytest.skip("skipped: no ../shared folder with samples and fixtures")
  return SHARED


@pytest.fixture(scope="session")
def rooms_tiny_dir(tmp_path_factory):
  """A data_dir that holds `rooms/tiny`."""
  from pp.rooms import builder as rooms
  folder = tmp_path_factory.mktemp("rooms")
  rooms.build(folder, "tiny")
  return folder


@pytest.fixture(scope="session")
def coco_dir(shared, tmp_path_factory):
  """A data_dir: `coco/2017_panoptic` with five images as its validation."""
  from tests.tools.prepare import raw_files
  from tools.prepare import __main__ as prepare_data
  raw = shared / "data" / "coco_panoptic"
  folder = tmp_path_factory.mktemp("coco")
  argv = raw_files.arguments(
      "coco", folder, images=raw / "val2017",
      panoptic=raw / "panoptic_val2017",
      annotations=raw / "panoptic_val2017.json", split="validation")
  assert prepare_data.main(argv) == 0
  return folder


@pytest.fixture(scope="session")
def pix2seq_d_run(tmp_path_factory):
  """(workdir of a run of Pix2Seq-D, its family, its state beside params)."""
  from tests.trainers import tiny_pix2seq_d
  workdir = tmp_path_factory.mktemp("pix2seq_d") / "run"
  return workdir, *tiny_pix2seq_d.save_run(workdir)


@pytest.fixture(scope="session")
def fixtures(shared):
  return shared / "fixtures"
