"""Images and depth maps are paired by the usual names."""

import pytest

from tools.prepare import pairing
from uvim.registry import ConfigError


def make_files(folder, names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def names_of(matched, depth):
  """{name of an image: name of its depth map}."""
  names = {}
  for image_path, depth_path in matched.pairs:
    image = image_path.relative_to(matched.folder).as_posix()
    names[image] = depth_path.relative_to(depth.resolve()).as_posix()
  return names


# Image, depth map, and how the layout is called.
PAIRS = [
    ("seq-01/frame-000000.color.png", "seq-01/frame-000000.depth.png",
     "*.color.* with *.depth.* (7-Scenes)"),
    ("scene0000_00/color/0.jpg", "scene0000_00/depth/0.png",
     "*color/*.* with *depth/*.* (ScanNet)"),
    ("color/0.jpg", "depth/0.png", "*color/*.* with *depth/*.* (ScanNet)"),
    ("a/rgb/12.png", "a/depth/12.exr", "*rgb/*.* with *depth/*.*"),
    ("hall/rgb_00045.jpg", "hall/sync_depth_00045.png",
     "*rgb_*.* with *sync_depth_*.* (NYU Depth V2)"),
    ("hall/a_rgb.jpg", "hall/a_depth.png", "*_rgb.* with *_depth.*"),
    ("a_colors.png", "a_depth.png", "*_colors.* with *_depth.*"),
    ("a-color.png", "a-depth.tiff", "*-color.* with *-depth.*"),
    ("a.png", "a_depth.npy", "*.* with *_depth.*"),
    ("a_rgb.png", "a.npz", "*_rgb.* with *.*"),
    ("a.jpg", "a.png", "*.* with *.*"),
    ("a.png", "a.pfm", "*.* with *.*"),
]


@pytest.mark.parametrize("image, depth, text", PAIRS)
def test_usual_names_in_one_folder(tmp_path, image, depth, text):
  make_files(tmp_path, [image, depth, "notes.txt", "seq-01/frame.pose.txt"])
  matched = pairing.match(tmp_path, tmp_path)
  assert names_of(matched, tmp_path) == {image: depth}
  assert matched.text == f"1 as {text}"


def test_equal_names_in_two_folders(tmp_path):
  images = tmp_path / "left"
  depth = tmp_path / "range"
  make_files(images, ["x/1.png", "y/1.png", "y/2.JPG"])
  # A depth map without an image is no mistake.
  make_files(depth, ["x/1.png", "y/1.png", "y/2.png", "y/3.png"])
  matched = pairing.match(images, depth)
  assert names_of(matched, depth) == {
      "x/1.png": "x/1.png", "y/1.png": "y/1.png", "y/2.JPG": "y/2.png"}


def test_patterns_of_the_user(tmp_path):
  make_files(tmp_path, [
      "7_i0_1.jpg", "7_i1_1.jpg", "7_d0_1.png", "7_d1_1.png", "7_pano.jpg"])
  matched = pairing.match(tmp_path, tmp_path, ("*_i*.jpg", "*_d*.png"))
  assert names_of(matched, tmp_path) == {
      "7_i0_1.jpg": "7_d0_1.png", "7_i1_1.jpg": "7_d1_1.png"}
  # The same names, of which nothing is usual.
  with pytest.raises(ConfigError) as error:
    pairing.match(tmp_path, tmp_path)
  message = str(error.value)
  assert "\n" not in message
  assert "'7_d0_1.png'" in message and "--image_pattern" in message


@pytest.mark.parametrize("patterns", [
    ("*_a.png", "b.png"), ("a.*", "b.*"), ("*_*.png", "*.png")])
def test_patterns_that_share_nothing(tmp_path, patterns):
  make_files(tmp_path, ["x_a.png"])
  with pytest.raises(ConfigError, match="same number of `\\*`"):
    pairing.match(tmp_path, tmp_path, patterns)


def test_no_image(tmp_path):
  make_files(tmp_path, ["x_depth.png"])
  with pytest.raises(ConfigError, match="--images: no image below"):
    pairing.match(tmp_path, tmp_path)
  with pytest.raises(ConfigError, match="looked for \\*_left.png"):
    pairing.match(tmp_path, tmp_path, ("*_left.png", "*_depth.png"))


def test_two_images_for_one_depth_map(tmp_path):
  make_files(tmp_path, ["a_rgb.jpg", "a_colors.jpg", "a_depth.png"])
  with pytest.raises(ConfigError, match="a_depth.png: it would be that of"):
    pairing.match(tmp_path, tmp_path)


def test_nobody_knows_which_of_two_is_the_image(tmp_path):
  make_files(tmp_path, ["a.png", "a.tiff"])
  with pytest.raises(ConfigError, match="have no depth map"):
    pairing.match(tmp_path, tmp_path)
  matched = pairing.match(tmp_path, tmp_path, ("*.png", "*.tiff"))
  assert names_of(matched, tmp_path) == {"a.png": "a.tiff"}
