"""Recordings of TUM RGB-D are paired by time."""

import pytest

from tools.prepare import tum
from uvim.registry import ConfigError


def make_recording(folder, image_times, depth_times):
  folder.mkdir(parents=True)
  for name, times in (("rgb", image_times), ("depth", depth_times)):
    lines = [f"{time} {name}/{time}.png\n" for time in times]
    (folder / f"{name}.txt").write_text("# color images\n" + "".join(lines))


def times_of(matched):
  return [(float(image.stem), float(depth.stem))
          for image, depth in matched.pairs]


def test_the_nearest_in_time_go_together(tmp_path):
  make_recording(
      tmp_path / "fr1", [1.00, 1.03, 1.06, 2.00],
      [1.025, 1.010, 1.075, 2.03, 1.085])
  recordings = tum.find_recordings(tmp_path, tmp_path)
  matched = tum.match(recordings, tmp_path)
  # 1.025 is nearer to 1.03 than to 1.00; 2.03 is too late for 2.00.
  assert times_of(matched) == [(1.00, 1.010), (1.03, 1.025), (1.06, 1.075)]
  assert matched.unit.whole == 5000
  assert "3 by time" in matched.text
  assert "1 images without a depth map in time are left out" in matched.text


def test_a_depth_map_has_one_image(tmp_path):
  make_recording(tmp_path / "fr1", [1.00, 1.01], [1.008])
  matched = tum.match([tmp_path / "fr1"], tmp_path)
  assert times_of(matched) == [(1.01, 1.008)]


def test_the_folders_inside_of_a_recording_will_do(tmp_path):
  make_recording(tmp_path / "fr1", [1.0], [1.0])
  images = tmp_path / "fr1/rgb"
  assert tum.find_recordings(images, tmp_path / "fr1/depth") == [
      tmp_path / "fr1"]
  matched = tum.match([tmp_path / "fr1"], images)
  assert matched.folder == tmp_path / "fr1"


@pytest.mark.parametrize("line", [
    "1.0", "soon rgb/1.png", "nan rgb/1.png", "1.0 ../1.png", "1.0 /etc/x.png"])
def test_a_line_that_names_no_frame(tmp_path, line):
  make_recording(tmp_path / "fr1", [1.0], [1.0])
  path = tmp_path / "fr1/rgb.txt"
  path.write_text(f"1.0 rgb/1.0.png\n{line}\n")
  with pytest.raises(ConfigError, match="line 2: .* allowed: a time"):
    tum.read_list(path)


def test_nothing_in_time(tmp_path):
  make_recording(tmp_path / "fr1", [1.0], [7.0])
  with pytest.raises(ConfigError, match="no time in rgb.txt is within"):
    tum.match([tmp_path / "fr1"], tmp_path)
