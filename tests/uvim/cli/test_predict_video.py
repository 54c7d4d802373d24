"""A video in; masks with ids that stay, a film and a list of ids out."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.trainers import tiny_pix2seq_d
from uvim.cli import predict, predict_video
from uvim.inference import films
from uvim.inference.pix2seq_d_video import VideoPredictor

# All tests share what is compiled for these.
OPTIONS = dict(num_steps=2, later_steps=1, seed=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The workdir of a run that sees two frames before."""
  workdir = tmp_path_factory.mktemp("video") / "run"
  tiny_pix2seq_d.save_run(
      workdir, model=tiny_pix2seq_d.MODEL | {"frames_before": 2})
  return workdir


@pytest.fixture(scope="module")
def model(run):
  return VideoPredictor.from_checkpoint(run)


@pytest.fixture(scope="module")
def frames():
  rng = np.random.default_rng(0)
  return list(rng.integers(0, 256, (3, 20, 31, 3), np.uint8))


@pytest.fixture
def folder(tmp_path, frames):
  folder = tmp_path / "frames"
  folder.mkdir()
  for number, frame in enumerate(frames):
    Image.fromarray(frame).save(folder / f"shot_{number + 8}.png")
  return folder


def arguments(run, out, video):
  flags = [f"--{name}={value}" for name, value in OPTIONS.items()]
  return ["--checkpoint", str(run), "--out", str(out), str(video), *flags]


def test_a_video_as_a_user_meets_it(run, model, frames, folder, tmp_path):
  pytest.importorskip("av")
  out = tmp_path / "out"
  # The checkpoint tells that the folder is a video.
  argv = arguments(run, out, folder)
  assert predict_video.is_for_video(argv)
  assert predict_video.main([*argv, "--rate=4"], load=lambda path: model) == 0
  expected = list(model.predict_video(frames, **OPTIONS))
  listed = json.loads((out / "tracks.json").read_text())
  assert listed["frames"] == ["shot_8", "shot_9", "shot_10"]
  assert listed["rate"] == 4 and listed["settings"]["later_steps"] == 1
  color_of = {track["id"]: track["color"] for track in listed["tracks"]}
  assert len(color_of) > 1
  for name, panoptic in zip(listed["frames"], expected, strict=True):
    with Image.open(out / "masks" / f"{name}.png") as mask:
      np.testing.assert_array_equal(np.asarray(mask), panoptic[..., 1])
      colors = np.asarray(mask.convert("RGB"))
    for track_id in np.unique(panoptic[..., 1]).tolist():
      seen = colors[panoptic[..., 1] == track_id]
      assert (seen == color_of.get(track_id, [0, 0, 0])).all()
  film = films.open_film(out / "overlay.mp4", max_pixels=10**6)
  assert film.rate == 4
  assert len(list(films.read_frames(film, max_pixels=10**6))) == 3


def test_frames_alone_do_not_see_each_other(model, frames):
  alone = list(model.predict_video(frames, alone=True, **OPTIONS))
  swapped = [255 - frames[0], *frames[1:]]
  again = list(model.predict_video(swapped, alone=True, **OPTIONS))
  np.testing.assert_array_equal(alone[1:], again[1:])
  in_turn = list(model.predict_video(frames, **OPTIONS))
  np.testing.assert_array_equal(alone[0], in_turn[0])
  assert not np.array_equal(alone[1:], in_turn[1:])


def test_another_seed_or_clip_is_another_sample(model, frames):
  def predict_first(**changes):
    return next(model.predict_video(frames, **OPTIONS | changes))

  first = predict_first()
  np.testing.assert_array_equal(predict_first(), first)
  # Parameters of noise look little at the mask: many seeds give the same.
  for name in ("seed", "clip_id"):
    others = [predict_first(**{name: value}) for value in range(10, 40)]
    assert any(np.any(other != first) for other in others)


@pytest.mark.parametrize("argv, expected", [
    (["film.mp4"], True),
    (["--checkpoint", "w", "--out", "o", "a.png", "FILM.MOV"], True),
    (["--video", "--help"], True),
    (["--num_steps", "3", "a.png"], False),
    (["--out", "film.mp4", "a.png"], False),
    (["--checkpoint"], False),
    ([], False),
])
def test_which_arguments_mean_a_video(argv, expected):
  assert predict_video.is_for_video(argv) == expected


def test_images_of_a_video_model_are_images(run, folder):
  argv = arguments(run, "out", folder / "shot_8.png")
  assert not predict_video.is_for_video(argv)


@pytest.mark.parametrize("flags, message", [
    (["--max_pixels=7"], "more than 7"),
    (["--rate=0"], "--rate = 0.0"),
    (["--later_steps=0"], "later_steps = 0"),
    (["--checkpoint=none"], "none is no run"),
])
def test_mistakes_are_one_line(run, folder, tmp_path, capsys, flags, message):
  pytest.importorskip("av")
  out = tmp_path / "out"
  code = predict.main([*arguments(run, out, folder), "--video", *flags])
  error = capsys.readouterr().err
  assert code == 2 and message in error
  assert not out.exists()


def test_nothing_that_is_there_is_lost(run, folder, tmp_path, capsys):
  pytest.importorskip("av")
  (tmp_path / "tracks.json").write_text("{}")
  assert predict.main(arguments(run, tmp_path, folder)) == 2
  assert "holds tracks.json already" in capsys.readouterr().err
  assert predict.main(arguments(run, folder / "out", folder)) == 2
  assert "lies in the folder of the frames" in capsys.readouterr().err
