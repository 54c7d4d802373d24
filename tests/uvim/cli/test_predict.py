"""Images in, files in the task's format out; mistakes are one line."""

import argparse
import copy
import errno
import functools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.trainers import tiny
from uvim.cli import convert, options, predict
from uvim.inference import naming
from uvim.inference.api import UViM
from uvim.inference.opening import open_predictor
from uvim.registry import ConfigError
from uvim.tasks import make_task

ROOT = pathlib.Path(__file__).parents[3]


def noise_image(height, width, seed=0):
  return np.random.default_rng(seed).integers(
      0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / "images"
  (folder / "more").mkdir(parents=True)
  Image.fromarray(noise_image(20, 31)).save(folder / "7.png")
  Image.fromarray(noise_image(16, 18, 1)).save(folder / "more" / "b.jpg")
  return folder


def arguments(weights, out, *paths):
  return ["--checkpoint", str(weights[0]), "--lm", str(weights[1]), "--out",
          str(out), *map(str, paths)]


@pytest.fixture
def call(load_once):
  """The command: its exit code."""
  def call(argv):
    return predict.main(argv, load=load_once)

  return call


@pytest.fixture
def fails(call, weights, tmp_path, capsys):
  """Calls the command, which must refuse in one line; returns that."""
  def expect_failure(*paths, code=2, **flags):
    extra = [f"--{k}={v}" for k, v in flags.items()]
    argv = arguments(weights, tmp_path / "out", *paths)
    assert call([*argv, *extra]) == code
    error = [x for x in capsys.readouterr().err.splitlines()
             if x.strip() and "Predicting" not in x
             and not x.startswith("warning: ")]
    assert len(error) == 1 and error[0].startswith("error: "), error
    return error[0]

  return expect_failure


def read(path):
  with Image.open(path) as picture:
    return np.asarray(picture)


def test_the_command_as_a_user_meets_it(weights, folder, tmp_path):
  """Without TensorFlow; the files say what the model says."""
  out = tmp_path / "out"
  code = ("import sys\nfor name in ('tensorflow', 'tensorflow_datasets'):\n"
          "  sys.modules[name] = None\nfrom uvim.cli import main\n"
          "sys.exit(main.main(sys.argv[1:]))")
  done = subprocess.run(
      [sys.executable, "-c", code, "predict",
       *arguments(weights, out, folder)],
      cwd=ROOT, capture_output=True, text=True, timeout=300,
      env={**os.environ, "JAX_PLATFORMS": "cpu"})
  assert done.returncode == 0, done.stderr
  assert "2 of 2 images predicted" in done.stdout
  expected = UViM.from_checkpoint(weights[0], lm=weights[1]).predict(
      folder / "7.png").outputs["panoptic"][0][0]
  written = json.loads((out / "panoptic.json").read_text())
  assert [(x["id"], x["height"], x["width"]) for x in written["images"]] == [
      (7, 20, 31), (naming.image_id("b"), 16, 18)]
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
  # 16×18 pixels, enlarged 27 times; a gap, and a legend below.
  height, width, _ = read(out / "pictures/b.png").shape
  assert height > 16 * 27 and width == 2 * 18 * 27 + 6
  summary = json.loads((out / "predictions.json").read_text())
  assert summary["settings"] == {
      "checkpoint": str(weights[0]), "temperature": 0.0, "seed": 0,
      "top_k": None, "top_p": None, "num_samples": 1, "min_fraction": 0.0,
      "soft_words": None, "soft_inputs": None, "drop_below": None,
      "reduce": None, "instance_label": "logit_sum"}
  assert len(summary["images"][0]["codes"][0]) == tiny.LENGTH


def test_samples_and_their_best(call, weights, folder, tmp_path):
  def run(out, *extra):
    argv = arguments(weights, out, folder / "7.png")
    assert call([*argv, "--num_samples=3", "--temperature=1",
                         "--seed=4", "--min_fraction=0.01", *extra]) == 0
    return json.loads((out / "predictions.json").read_text())

  three = run(tmp_path / "three")
  best = run(tmp_path / "best", "--rerank")
  assert best["settings"]["reduce"] == "likelihood"
  agreed = run(tmp_path / "agreed", "--rerank", "agreement")
  assert agreed["settings"]["reduce"] == "agreement"
  assert agreed["images"][0]["codes"][0] in three["images"][0]["codes"]
  assert three["settings"]["min_fraction"] == 0.01
  chances = three["images"][0]["log_likelihood"]
  assert best["images"][0]["log_likelihood"] == [max(chances)]
  sample = tmp_path / f"three/sample{np.argmax(chances)}"
  for name in ("panoptic/7.png", "pictures/7.png", "panoptic.json"):
    assert (sample / name).read_bytes() == (
        tmp_path / "best" / name).read_bytes()


def test_rerank_may_stand_alone_before_an_image(
    call, weights, folder, tmp_path, capsys):
  argv = arguments(weights, tmp_path / "out", folder / "7.png")
  assert call(["--rerank", *argv]) == 0
  assert call(["--rerank", *argv, "--reduce", "mean", "--overwrite"]) == 2
  assert "--rerank likelihood with --reduce mean;" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(call, weights, folder, tmp_path, fails):
  argv = arguments(weights, tmp_path / "out", folder / "7.png")
  assert call(argv) == 0
  before = (tmp_path / "out/panoptic/7.png").read_bytes()
  message = fails(folder / "7.png", seed=9, temperature=2)
  assert "holds predictions with seed = 0; now seed = 9" in message
  assert (tmp_path / "out/panoptic/7.png").read_bytes() == before
  assert call([*argv, "--overwrite"]) == 0
  assert not list((tmp_path / "out").rglob("*.partial"))


# ── Unlucky inputs ───────────────────────────────────────────────────────────


def test_inputs_that_are_not_there(fails, tmp_path):
  assert "no such file or folder" in fails(tmp_path / "absent.jpg")
  (tmp_path / "empty").mkdir()
  assert "no image in this folder" in fails(tmp_path / "empty")
  assert not (tmp_path / "out").exists()


def test_a_bad_file_does_not_stop_the_others(fails, folder, tmp_path):
  (folder / "bad.jpg").write_text("not an image")
  assert "bad.jpg: not an image" in fails(folder)
  summary = json.loads((tmp_path / "out/predictions.json").read_text())
  assert [x["name"] for x in summary["images"]] == ["7", "b"]


@pytest.mark.parametrize("name, shown", [
    (b"\xff\xfe", "\\udcff\\udcfe"), (b"a\nb", "a\\nb"),
    (b"a\r\x1b[2J", "a\\r\\x1b[2J"), ("é\u2028".encode(), "é\\u2028")])
def test_odd_names_are_printed_in_one_line(
    name, shown, call, weights, tmp_path, capsys):
  odd = os.fsdecode(name)
  folder = tmp_path / odd
  folder.mkdir()
  Image.fromarray(noise_image(8, 9)).save(folder / f"{odd}.png")
  (folder / f"bad {odd}.png").write_text("no image")
  assert call(arguments(weights, tmp_path / f"out{odd}", folder)) == 2
  printed = capsys.readouterr()
  line, = printed.out.splitlines()
  assert line.startswith("1 of 2 images predicted, in ")
  assert line.endswith(f"out{shown}")
  error, = [x for x in printed.err.splitlines() if x.startswith("error: ")]
  assert f"bad {shown}.png: not an image" in error
  # The same command again is answered by one line of the other kind.
  assert call([*arguments(weights, tmp_path / f"out{odd}", folder),
               "--seed=3"]) == 2
  error, = [x for x in capsys.readouterr().err.splitlines()
            if not x.startswith("warning: ")]
  assert f"out{shown}: holds predictions with seed = 0" in error
  out = tmp_path / f"out{odd}"
  assert (out / "panoptic" / f"{odd}.png").exists()
  summary = json.loads((out / "predictions.json").read_text())
  assert summary["images"][0]["name"] == odd


def test_odd_images_are_predicted(call, weights, tmp_path):
  folder = tmp_path / "odd"
  folder.mkdir()
  Image.new("RGB", (1, 1), "red").save(folder / "one.png")
  Image.new("L", (20000, 3)).save(folder / "wide.png")
  Image.new("CMYK", (9, 8)).save(folder / "print.jpg")
  frames = [Image.fromarray(noise_image(8, 9, s)).convert("P") for s in (1, 2)]
  frames[0].save(folder / "movie.gif", save_all=True, append_images=frames[1:])
  assert call(arguments(weights, tmp_path / "out", folder)) == 0
  for name, size in (("one", (1, 1)), ("wide", (3, 20000)),
                     ("print", (8, 9)), ("movie", (8, 9))):
    assert read(tmp_path / f"out/panoptic/{name}.png").shape == (*size, 3)
  assert read(tmp_path / "out/pictures/wide.png").shape[1] == 2054


def test_an_overlay_is_another_look_of_the_same_prediction(
    call, weights, folder, tmp_path, fails):
  # 20×31 pixels, enlarged 16 times; a legend stands below.
  image = folder / "7.png"
  widths = {}
  for look in ("", "--overlay", "--overlay --side_by_side"):
    out = tmp_path / f"out{look}"
    assert call([*arguments(weights, out, image), *look.split()]) == 0
    widths[look] = read(out / "pictures/7.png").shape[1]
    assert (out / "panoptic.json").read_bytes() == (
        tmp_path / "out/panoptic.json").read_bytes()
  assert list(widths.values()) == [2 * 496 + 6, 496, 2 * 496 + 6]
  # One folder has one look.
  assert "holds predictions with overlay" in fails(image, "--overlay")


def test_what_has_no_classes_and_no_depths_lies_over_nothing():
  spec = {"color": (3, 16)}
  task = make_task("colorization", dict(
      inputs=spec, outputs=spec, input_size=(8, 8), patch_size=(4, 4)))
  predict.check_overlay(False, task)
  with pytest.raises(ConfigError, match="--overlay: .* neither classes nor"):
    predict.check_overlay(True, task)


def test_options_of_another_task_and_out_of_range(fails, folder):
  assert "full_luma is an option of colorization" in (
      fails(folder, "--full_luma"))
  assert "temperature = -1" in fails(folder, temperature=-1)
  assert "top_k = 99" in fails(folder, top_k=99, temperature=1)
  assert "temperature = hot" in fails(folder, temperature="hot")
  assert "top_p = 2; it must be None or a number in (0, 1]" in (
      fails(folder, top_p=2, temperature=1))
  assert "--batch_size = 0; it must be None or an integer in 1..4096" in (
      fails(folder, batch_size=0))


def test_options_come_from_priors_and_tasks():
  """Whatever a prior or a task lists can be said; names stay as they were."""
  sampling = options.sampling_options()
  outputs = options.output_options()
  assert list(sampling) == [
      "temperature", "top_k", "top_p", "soft_words", "soft_inputs", "num_iter",
      "choice_temperature", "temp", "temp_probs", "beam_size", "fan_size",
      "num_steps", "time_difference", "sampler"]
  assert {"min_fraction", "instance_label", "full_luma", "bins"} == set(outputs)
  parser = argparse.ArgumentParser()
  options.add_options(parser, "codes", sampling)
  options.add_options(parser, "outputs", outputs)
  args = parser.parse_args(["--temperature=1", "--top_k", "3", "--full_luma",
                            "--instance_label=majority"])
  given = options.given_options(args, sampling)
  assert given == {"temperature": 1.0, "top_k": 3}
  assert isinstance(given["temperature"], float)
  given = options.given_options(args, outputs)
  assert given == {"full_luma": True, "instance_label": "majority"}
  assert "Default: 0.0" in parser.format_help()


def test_a_run_of_pix2seq_d(pix2seq_d_run, folder, tmp_path, capsys):
  load = functools.cache(open_predictor)
  argv = ["--checkpoint", str(pix2seq_d_run[0]), "--num_steps=2", "--out",
          str(tmp_path / "out"), str(folder / "7.png")]
  assert predict.main(argv, load=load) == 0
  summary = json.loads((tmp_path / "out/predictions.json").read_text())
  assert summary["settings"]["num_steps"] == 2
  assert summary["settings"]["sampler"] == "ddim"
  assert read(tmp_path / "out/panoptic/7.png").shape == (20, 31, 3)
  capsys.readouterr()
  for extra, words in (
      ("--temperature=1", "temperature = 1.0; Pix2Seq-D has no such option"),
      ("--reduce=agreement", "reduce = 'agreement'; Pix2Seq-D has no such"),
      ("--instance_label=pixel", "It has: num_steps, time_difference, sampler"),
      ("--time_difference=-1", "time_difference = -1"),
      ("--lm=two.npz", "lm = 'two.npz' with")):
    assert predict.main([*argv, extra], load=load) == 2
    error, = capsys.readouterr().err.strip().splitlines()[-1:]
    assert words in error


def test_steps_are_an_option_of_pix2seq_d_alone(fails, folder):
  assert "num_steps = 3; this prior has no such option" in (
      fails(folder, num_steps=3))


def test_a_batch_writes_what_single_images_get(
    call, weights, folder, tmp_path):
  Image.fromarray(noise_image(9, 8, 2)).save(folder / "a.png")
  for size in (1, 2):
    argv = arguments(weights, tmp_path / f"out{size}", folder)
    assert call([*argv, f"--batch_size={size}", "--seed=3",
                 "--temperature=1"]) == 0
  for name in ("panoptic.json", "panoptic/a.png", "panoptic/b.png",
               "pictures/7.png"):
    assert (tmp_path / "out1" / name).read_bytes() == (
        tmp_path / "out2" / name).read_bytes()
  # How many ran at once says nothing of a prediction.
  argv = arguments(weights, tmp_path / "out1", folder)
  assert call([*argv, "--seed=3", "--temperature=1", "--batch_size=8"]) == 0


def test_a_full_disk(fails, folder, monkeypatch, tmp_path):
  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(Image.Image, "save", full)
  message = fails(folder / "7.png")
  assert "Cannot write" in message and "No space left on device" in message
  assert not list((tmp_path / "out").rglob("*.p*"))


def test_stages_that_do_not_go_together(call, weights, tmp_path, folder,
                                        capsys):
  argv = ["--out", str(tmp_path / "out"), str(folder), "--checkpoint"]
  for path, words in ((weights[1], "checkpoint of stage 2; stage 1"),
                      (weights[0], "no language model"),
                      (tmp_path / "no.npz", "No checkpoint at")):
    assert call([*argv, str(path)]) == 2
    assert words in capsys.readouterr().err
  # Codes of one size, but of two tasks: only the config tells.
  workdir = tmp_path / "lm"
  convert.convert(str(weights[1]), str(workdir))
  config = tiny.stage_ii_config(weights[0]).to_json()
  config["oracle"]["task"] = "depth"
  (workdir / "config.json").write_text(json.dumps(config))
  assert call([*argv, str(workdir)]) == 2
  assert "do not go together" in capsys.readouterr().err
  # One of two language models would have been left out, silently.
  assert call([*argv, str(workdir), "--lm", str(weights[1])]) == 2
  assert "another was given" in capsys.readouterr().err


def with_preprocessing(weights, load_once, preprocessing):
  """A loader of the model, as if its run had this `pp_eval`."""
  model = copy.copy(load_once(str(weights[0]), lm=str(weights[1])))
  model.preprocessing = preprocessing
  return lambda *_, **__: model


def test_crop_eval_shows_what_the_evaluation_shows(
    weights, load_once, tmp_path, capsys):
  load = with_preprocessing(
      weights, load_once, "decode|nyu_depth|nyu_eval_crop(top=54)|resize(32)")
  frame = noise_image(480, 640)
  for name, image in (("frame", frame), ("part", frame[54:480, 41:601])):
    Image.fromarray(image).save(tmp_path / f"{name}.png")
  for out, name, extra in (
      ("cut", "frame", ["--crop", "eval"]), ("part", "part", [])):
    argv = arguments(weights, tmp_path / out, tmp_path / f"{name}.png")
    assert predict.main([*argv, *extra], load=load) == 0
  cut = read(tmp_path / "cut/panoptic/frame.png")
  assert cut.shape[:2] == (426, 560)
  np.testing.assert_array_equal(cut, read(tmp_path / "part/panoptic/part.png"))
  notes = [line for line in capsys.readouterr().out.splitlines()
           if line.startswith("note: ")]
  # Only the second command sees whole images.
  assert len(notes) == 1 and "nyu_eval_crop(top=54)" in notes[0]
  assert "--crop eval" in notes[0]
  # What is there was predicted of other pixels.
  argv = arguments(weights, tmp_path / "cut", tmp_path / "frame.png")
  assert predict.main(argv, load=load) == 2
  assert "crop" in capsys.readouterr().err


def test_crop_eval_of_another_size_or_an_unknown_evaluation(
    weights, load_once, folder, tmp_path, capsys, fails):
  load = with_preprocessing(
      weights, load_once, "decode|nyu_eval_crop|resize(32)")
  argv = arguments(weights, tmp_path / "a", folder / "7.png")
  assert predict.main([*argv, "--crop", "eval"], load=load) == 2
  assert "7.png: has 20×31 pixels" in capsys.readouterr().err
  # The weights are a .npz, which has no config.
  assert "--crop eval: this checkpoint does not tell" in fails(
      folder, crop="eval")


def test_images_in_out_are_refused(call, weights, folder, capsys):
  assert call(arguments(weights, folder, folder)) == 2
  assert "holds images that are to be predicted" in capsys.readouterr().err
