"""Reading images of every kind, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from uvim.inference import images
from uvim.registry import ConfigError


def noise(height, width, seed=0):
  return np.random.default_rng(seed).integers(
      0, 256, (height, width, 3), np.uint8)


def save(picture, *args, **kwargs):
  out = io.BytesIO()
  picture.save(out, *args, **kwargs)
  out.seek(0)
  return out


def test_kinds_of_files():
  rgb = noise(6, 4)
  picture = Image.fromarray(rgb)
  same = [save(picture, "PNG"), picture, rgb, rgb[..., [0, 1, 2, 2]],
          save(picture.convert("RGBA"), "PNG"), save(picture, "TIFF")]
  for source in same:
    np.testing.assert_array_equal(images.read(source), rgb)
  grey = rgb[..., 0]
  deep = grey.astype(np.uint16) * 256 + 99
  for source in (grey, grey[..., None], save(Image.fromarray(grey), "PNG"),
                 deep, save(Image.fromarray(deep), "PNG")):
    np.testing.assert_array_equal(
        images.read(source), np.repeat(grey[..., None], 3, -1))
  palette = Image.fromarray(rgb).convert("P")
  np.testing.assert_array_equal(
      images.read(save(palette, "GIF")), np.asarray(palette.convert("RGB")))


def test_cmyk_animation_and_rotation():
  red = Image.new("RGB", (8, 4), (250, 10, 10))
  blue = Image.new("RGB", (8, 4), (10, 10, 250))
  cmyk = images.read(save(red.convert("CMYK"), "JPEG", quality=95))
  assert np.abs(cmyk.astype(int) - (250, 10, 10)).max() < 12
  movie = images.read(save(red, "GIF", save_all=True, append_images=[blue]))
  assert (movie == (250, 10, 10)).mean() > 0.9
  exif = Image.Exif()
  exif[274] = 6  # Turned by a quarter when it is shown.
  turned = images.read(save(red, "JPEG", exif=exif))
  assert turned.shape == (8, 4, 3)


def test_floats_are_taken_as_they_are_and_others_refused():
  x = np.linspace(-1, 1, 27, dtype=np.float32).reshape(3, 3, 3)
  np.testing.assert_array_equal(images.read(x), x)
  for bad in (2 * x, np.full((3, 3), np.nan), np.full((3, 3), 300),
              np.zeros((3, 3, 2)), np.zeros((0, 3, 3)), np.zeros(3)):
    with pytest.raises(ConfigError, match="no image"):
      images.read(bad)


def test_unreadable_files(tmp_path):
  def fails(source, *words):
    with pytest.raises(ConfigError) as error:
      images.read(source)
    assert "\n" not in str(error.value)
    for word in words:
      assert word in str(error.value)

  text, torn = tmp_path / "text.jpg", tmp_path / "torn.jpg"
  text.write_text("<svg>no picture</svg>")
  torn.write_bytes(save(Image.fromarray(noise(64, 64)), "JPEG").read()[:900])
  fails(text, str(text), "not an image")
  fails(torn, str(torn), "cannot be read", "truncated")
  fails(tmp_path / "absent.png", "no such file")
  fails(tmp_path, "cannot be read")
  fails(io.BytesIO(b""), "not an image")
  fails(save(Image.new("F", (3, 3)), "TIFF"), "floats")
  with pytest.raises(ConfigError, match="20000×1 pixels are more than 9"):
    images.read(save(Image.new("L", (20000, 1)), "PNG"), max_pixels=9)


def test_finding_pictures(tmp_path):
  (tmp_path / "a" / "b").mkdir(parents=True)
  for name in ("a/z.JPG", "a/b/y.png", "a/notes.txt", "x.jpg"):
    (tmp_path / name).write_text("")
  found = images.find([tmp_path / "x.jpg", tmp_path / "a", tmp_path / "a"])
  assert [str(p.relative_to(tmp_path)) for p in found] == [
      "x.jpg", "a/b/y.png", "a/z.JPG"]
  with pytest.raises(ConfigError, match="no such file or folder"):
    images.find([tmp_path / "nothing"])
  (tmp_path / "empty").mkdir()
  with pytest.raises(ConfigError, match="no image in this folder"):
    images.find([tmp_path / "empty"])
