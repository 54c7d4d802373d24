"""Train steps are compiled from shapes alone, and their traffic is read."""

import pathlib

import jax
import pytest

from tests.trainers import tiny
from tools import aot
from uvim.learn import sharding

PROGRAM = """
  %a = f32[8,16]{1,0} all-gather(f32[1,16]{1,0} %x), dimensions={0}
  %b = (bf16[4]{0}, f32[]) all-reduce-start(bf16[4]{0} %y, f32[] %z)
  %c = f32[2,3]{1,0} all-gather(f32[1,3]{1,0} %w), dimensions={0}
  %d = f32[100]{0} add(f32[100]{0} %v, f32[100]{0} %v)
"""


def test_traffic_is_counted_by_kind():
  assert aot.collectives(PROGRAM) == {
      "all-gather": (2, 4 * (8 * 16 + 2 * 3)), "all-reduce": (1, 4 * 2 + 4)}


def test_bytes_are_those_of_one_device():
  mesh = sharding.make_mesh([("data", 4)])
  split = sharding.batch_sharding(mesh)
  whole = sharding.replicated(mesh)
  shapes = [jax.ShapeDtypeStruct((8, 3), "float32", sharding=split),
            jax.ShapeDtypeStruct((5,), "int16", sharding=whole)]
  assert aot.bytes_per_device(shapes) == 4 * 8 * 3 // 4 + 2 * 5


def test_stage_ii_is_compiled_without_its_oracle(tmp_path, capsys):
  config = tiny.stage_ii_config(
      tmp_path / "no_oracle.npz", mesh=[("data", 1)],
      model_init={"encoder": "no_encoder.npz"}, code_cache="no_cache",
      codes_per_image=1)
  compiled, arguments = aot.compile_step(config)
  assert set(arguments.batch) == {"image", "image_ctx", "labels"}
  assert arguments.batch["labels"].shape == (8, 16, 16, 2)
  assert "dictionary" in arguments.frozen["state"]
  aot.report(compiled, arguments, 1.0)
  assert "frozen oracle" in capsys.readouterr().out
  assert not list(pathlib.Path(tmp_path).iterdir())


@pytest.mark.parametrize("argv,words", [
    (["--config", "configs/nothing.py"], "no such file"),
    ([], "--config")])
def test_mistakes_are_one_line(argv, words, capsys):
  assert aot.main(argv) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and words in error
