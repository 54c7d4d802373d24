"""Predictions as files: complete, readable without pickle, never half."""

import pathlib
import types

import jax.numpy as jnp
import numpy as np
import pytest

import evaluators
from evaluators import base, save_predictions
from uvim.registry import ConfigError


def _make(num, folder):
  source = types.SimpleNamespace(num_examples=num)
  return evaluators.make_evaluator(
      "proj.uvim.save_predictions", source, {"save_dir": folder})


def _run(predictions, folder, num=None):
  evaluator = _make(len(predictions) if num is None else num, folder)
  return base.score(evaluator, predictions)


def test_every_array_of_every_example_comes_back(tmp_path):
  rng = np.random.default_rng(0)
  predictions = [{"depth": rng.random((3, 4)).astype(np.float32),
                  "codes": rng.integers(0, 9, 5), "nll": np.float32(i),
                  "image/id": 10**10 + i} for i in range(3)]
  folder = tmp_path / "new" / "folder"
  assert _run(predictions, str(folder)) == {"num_saved": 3}
  assert sorted(p.name for p in folder.iterdir()) == [
      f"01000000000{i}.npz" for i in range(3)]
  for i, prediction in enumerate(predictions):
    saved = np.load(folder / f"01000000000{i}.npz", allow_pickle=False)
    assert set(saved) == {"depth", "codes", "nll"}
    for key in saved:
      np.testing.assert_array_equal(saved[key], prediction[key])


def test_bfloat16_becomes_float32_and_objects_are_refused(tmp_path):
  half = np.asarray(jnp.array([1.5, -2], jnp.bfloat16))
  _run([{"x": half}], str(tmp_path))
  saved = np.load(tmp_path / "000000000000.npz")["x"]
  assert saved.dtype == np.float32 and saved.tolist() == [1.5, -2]
  with pytest.raises(ValueError, match="'x' is no array"):
    _run([{"x": np.array([None])}], str(tmp_path))


def test_a_broken_write_leaves_the_old_file(tmp_path):
  _run([{"x": np.arange(3)}], str(tmp_path))
  path = tmp_path / "000000000000.npz"

  def fail(file, **arrays):
    file.write(b"half")
    raise OSError("disk full")

  with pytest.raises(OSError):
    save_predictions.save_arrays(path, {"x": np.arange(9)}, write=fail)
  np.testing.assert_array_equal(np.load(path)["x"], np.arange(3))
  assert list(tmp_path.iterdir()) == [path]


def test_only_one_process_writes(tmp_path):
  folder = pathlib.Path(tmp_path) / "none"
  evaluator = _make(1, str(folder))
  assert evaluator.is_writer  # This is process 0.
  evaluator.is_writer = False
  assert base.score(evaluator, [{"x": np.zeros(1)}]) == {"num_saved": 1}
  assert not folder.exists()


def test_an_example_without_an_id_is_named_by_its_place(tmp_path):
  _run([None, {"x": np.zeros(1)}], str(tmp_path))
  assert [p.name for p in tmp_path.iterdir()] == ["000000000001.npz"]


def test_mistakes_are_named(tmp_path):
  with pytest.raises(ConfigError, match="needs save_dir"):
    _run([], None)
  with pytest.raises(ValueError, match="1 predictions for the 2"):
    _run([{"x": np.zeros(1)}], str(tmp_path), num=2)
