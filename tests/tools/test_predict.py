"""Photographs in, files in the task's format out; mistakes are one line."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.trainers import tiny
from tools import predict
from uvim.inference import export
from uvim.inference.api import UViM
from uvim.inference.prediction import Prediction
from uvim.tasks import make_task

pytestmark = pytest.mark.usefixtures("load_once")
ROOT = pathlib.Path(__file__).parents[2]


def photo(height, width, seed=0):
  return np.random.default_rng(seed).integers(
      0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def photos(tmp_path):
  folder = tmp_path / "photos"
  (folder / "more").mkdir(parents=True)
  Image.fromarray(photo(20, 31)).save(folder / "7.png")
  Image.fromarray(photo(16, 18, 1)).save(folder / "more" / "b.jpg")
  return folder


def arguments(weights, out, *paths):
  return ["--checkpoint", str(weights[0]), "--lm", str(weights[1]), "--out",
          str(out), *map(str, paths)]


@pytest.fixture
def fails(weights, tmp_path, capsys):
  """Calls the command, which must refuse in one line; returns that."""
  def call(*paths, code=2, **flags):
    extra = [f"--{k}={v}" for k, v in flags.items()]
    argv = arguments(weights, tmp_path / "out", *paths)
    assert predict.main([*argv, *extra]) == code
    error = [x for x in capsys.readouterr().err.splitlines()
             if x.strip() and "Predicting" not in x]
    assert len(error) == 1 and error[0].startswith("error: "), error
    return error[0]

  return call


def read(path):
  with Image.open(path) as picture:
    return np.asarray(picture)


def test_the_command_as_a_user_meets_it(weights, photos, tmp_path):
  """Without TensorFlow; the files say what the model says."""
  out = tmp_path / "out"
  code = ("import sys\nfor name in ('tensorflow', 'tensorflow_datasets'):\n"
          "  sys.modules[name] = None\nfrom tools import predict\n"
          "sys.exit(predict.main(sys.argv[1:]))")
  done = subprocess.run(
      [sys.executable, "-c", code, *arguments(weights, out, photos)],
      cwd=ROOT, capture_output=True, text=True, timeout=300,
      env={**os.environ, "JAX_PLATFORMS": "cpu"})
  assert done.returncode == 0, done.stderr
  assert "2 of 2 photographs predicted" in done.stdout
  expected = UViM.from_checkpoint(weights[0], lm=weights[1]).predict(
      photos / "7.png").outputs["panoptic"][0][0]
  written = json.loads((out / "panoptic.json").read_text())
  assert [(x["id"], x["height"], x["width"]) for x in written["images"]] == [
      (7, 20, 31), (2, 16, 18)]
  record = written["annotations"][0]
  ids_HW = read(out / "panoptic" / record["file_name"]).astype(int) @ [
      1, 256, 65536]
  assert ids_HW.shape == (20, 31)
  assert {x["id"] for x in record["segments_info"]} == set(
      np.unique(ids_HW)) - {0}
  for segment in record["segments_info"]:
    mask_HW = ids_HW == segment["id"]
    assert segment["area"] == mask_HW.sum()
    # Of one class and instance, and all of it.
    pairs = np.unique(expected[mask_HW], axis=0)
    assert len(pairs) == 1 and pairs[0, 0] == segment["category_id"]
    np.testing.assert_array_equal((expected == pairs[0]).all(-1), mask_HW)
    left, top, width, height = segment["bbox"]
    box = mask_HW[top:top + height, left:left + width]
    assert box.sum() == segment["area"]
    assert box[0].any() and box[-1].any()
    assert box[:, 0].any() and box[:, -1].any()
  np.testing.assert_array_equal(ids_HW == 0, expected[..., 0] == 0)
  assert read(out / "pictures/b.png").shape == (16, 36, 3)
  summary = json.loads((out / "predictions.json").read_text())
  assert summary["settings"] == {
      "checkpoint": str(weights[0]), "temperature": 0.0, "seed": 0,
      "top_k": None, "top_p": None, "num_samples": 1, "min_fraction": 0.0,
      "instance_label": "logit_sum"}
  assert len(summary["images"][0]["codes"][0]) == tiny.LENGTH


def test_samples_and_their_best(weights, photos, tmp_path, capsys):
  def run(out, *extra):
    argv = arguments(weights, out, photos / "7.png")
    assert predict.main([*argv, "--num_samples=3", "--temperature=1",
                         "--seed=4", "--min_fraction=0.01", *extra]) == 0
    return json.loads((out / "predictions.json").read_text())

  three = run(tmp_path / "three")
  best = run(tmp_path / "best", "--rerank")
  assert best["settings"]["rerank"] and not three["settings"].get("rerank")
  assert three["settings"]["min_fraction"] == 0.01
  chances = three["images"][0]["log_likelihood"]
  assert best["images"][0]["log_likelihood"] == [max(chances)]
  sample = tmp_path / f"three/sample{np.argmax(chances)}"
  for name in ("panoptic/7.png", "pictures/7.png", "panoptic.json"):
    assert (sample / name).read_bytes() == (
        tmp_path / "best" / name).read_bytes()


def test_nothing_is_overwritten_unasked(weights, photos, tmp_path, fails):
  argv = arguments(weights, tmp_path / "out", photos / "7.png")
  assert predict.main(argv) == 0
  before = (tmp_path / "out/panoptic/7.png").read_bytes()
  message = fails(photos / "7.png", seed=9, temperature=2)
  assert "predictions.json and 3 more: there already" in message
  assert (tmp_path / "out/panoptic/7.png").read_bytes() == before
  assert predict.main([*argv, "--overwrite"]) == 0
  assert not list((tmp_path / "out").rglob("*.partial"))


# ── Unlucky inputs ───────────────────────────────────────────────────────────


def test_inputs_that_are_not_there(fails, tmp_path):
  assert "no such file or folder" in fails(tmp_path / "absent.jpg")
  (tmp_path / "empty").mkdir()
  assert "no picture in this folder" in fails(tmp_path / "empty")
  assert not (tmp_path / "out").exists()


def test_a_bad_file_does_not_stop_the_others(fails, photos, tmp_path):
  (photos / "bad.jpg").write_text("not an image")
  assert "bad.jpg: not a picture" in fails(photos)
  summary = json.loads((tmp_path / "out/predictions.json").read_text())
  assert [x["name"] for x in summary["images"]] == ["7", "b"]


def test_odd_pictures_are_predicted(weights, tmp_path):
  folder = tmp_path / "odd"
  folder.mkdir()
  Image.new("RGB", (1, 1), "red").save(folder / "one.png")
  Image.new("L", (20000, 3)).save(folder / "wide.png")
  Image.new("CMYK", (9, 8)).save(folder / "print.jpg")
  frames = [Image.fromarray(photo(8, 9, s)).convert("P") for s in (1, 2)]
  frames[0].save(folder / "movie.gif", save_all=True, append_images=frames[1:])
  assert predict.main(arguments(weights, tmp_path / "out", folder)) == 0
  for name, size in (("one", (1, 1)), ("wide", (3, 20000)),
                     ("print", (8, 9)), ("movie", (8, 9))):
    assert read(tmp_path / f"out/panoptic/{name}.png").shape == (*size, 3)
  assert read(tmp_path / "out/pictures/wide.png").shape == (1, 2048, 3)


def test_options_of_another_task_and_out_of_range(fails, photos):
  assert "full_luma is an option of colorization" in (
      fails(photos, "--full_luma"))
  assert "temperature = -1" in fails(photos, temperature=-1)
  assert "top_k = 99" in fails(photos, top_k=99, temperature=1)


def test_a_full_disk(fails, photos, monkeypatch, tmp_path):
  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(Image.Image, "save", full)
  message = fails(photos / "7.png")
  assert "Cannot write" in message and "No space left on device" in message
  assert not list((tmp_path / "out").rglob("*.p*"))


def test_stages_that_do_not_go_together(weights, tmp_path, photos, capsys):
  argv = ["--out", str(tmp_path / "out"), str(photos), "--checkpoint"]
  for path, words in ((weights[1], "checkpoint of stage 2; stage 1"),
                      (weights[0], "no language model"),
                      (tmp_path / "no.npz", "No checkpoint at")):
    assert predict.main([*argv, str(path)]) == 2
    assert words in capsys.readouterr().err
  # Codes of one size, but of two tasks: only the config tells.
  workdir = tmp_path / "lm"
  workdir.mkdir()
  (workdir / "config.json").write_text(json.dumps({
      "oracle": {"task": "depth", "model_init": str(weights[0])}, "model": {}}))
  from uvim.store import open_model as load
  with pytest.raises(Exception, match="do not go together"):
    load._check_task(weights[0], "panoptic_segmentation", workdir,
                     load.read_config(workdir))
  # One of two language models would have been left out, silently.
  assert predict.main([*argv, str(workdir), "--lm", str(weights[1])]) == 2
  assert "another was given" in capsys.readouterr().err


# ── Formats of the other tasks ───────────────────────────────────────────────


def one_prediction(task, key, output):
  spec = {key: ({"depth": 4, "color": 3}[key], 64)}
  task = make_task(task, dict(inputs=spec, outputs=spec, input_size=(8, 8),
                              patch_size=(8, 8)))
  return Prediction(task, [photo(*output.shape[:2])], {key: [output[None]]},
                    np.zeros((1, 1, 4), np.int32), None, {})


def test_depth_in_millimetres_and_colours(tmp_path):
  depth = np.array([[0.0204, 1.5], [9.98, 80.0]], np.float32)
  one_prediction("depth", "depth", depth).save(tmp_path, names=["a"])
  with Image.open(tmp_path / "depth/a.png") as file:
    assert file.mode == "I;16"
    assert np.asarray(file).tolist() == [[20, 1500], [9980, 65535]]
  color = np.linspace(-1, 1, 48, dtype=np.float32).reshape(4, 4, 3)
  prediction = one_prediction("colorization", "color", color)
  prediction.save(tmp_path / "c", names=["a"])
  np.testing.assert_array_equal(
      read(tmp_path / "c/color/a.png"),
      np.rint(color * 127.5 + 127.5))
  writer = export.Writer(tmp_path / "c", prediction.task)
  with pytest.raises(Exception, match="there already"):
    writer.add("a", prediction)


def test_categories(tmp_path):
  assert predict.choose_categories(None, "", 133)[132].id == 200
  assert predict.choose_categories(None, "rooms/tiny", 12)[3].id == 5
  assert predict.choose_categories(None, "mydata", 133) is None
  path = tmp_path / "categories.json"
  path.write_text('[{"id": 9, "name": "cup", "isthing": 1}]')
  assert predict.choose_categories(str(path), "mydata", 1)[0].id == 9
  with pytest.raises(Exception, match="1 categories, the model has 2"):
    predict.choose_categories(str(path), "mydata", 2)
  with pytest.raises(Exception, match="--categories nowhere"):
    predict.choose_categories("nowhere", "mydata", 2)


def test_files_of_one_name():
  paths = [pathlib.Path(x) for x in ("a/x.jpg", "b/X.png", "x.gif", "x_2.jpg")]
  assert predict.file_names(paths) == ["x", "X_2", "x_3", "x_2_2"]
