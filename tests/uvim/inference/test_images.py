"""Reading images of every kind, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from uvim import resize
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


def test_floats_of_an_unknown_range_are_refused():
  levels = noise(6, 4)
  with pytest.raises(ConfigError, match=r"value_range=\(0, 1\)"):
    images.read_all([levels, levels / 255])
  # What a bicubic resize makes of [0, 1] is still no [-1, 1].
  with pytest.raises(ConfigError, match="value_range"):
    images.read(np.clip(levels / 255 - 0.05, -0.05, 1))
  for scale, value_range in ((255, (0, 1)), (1, (0, 255))):
    image = images.read(levels / scale, value_range=value_range)
    np.testing.assert_array_equal(resize.to_bytes(image), levels)
  bright = np.full((3, 3), 0.5)
  assert images.read(bright, value_range=(-1, 1)).max() == 0.5
  for bad in ((1, 0), (0, np.nan), "01", (0, 10**400)):
    with pytest.raises(ConfigError, match="value_range = "):
      images.read(levels / 255, value_range=bad)


@pytest.mark.parametrize("given", [
    None, 3, b"photo.jpg", {"image": noise(3, 3)}, object(), [None],
    noise(3, 3).tolist(), np.array([[None, 1]], object), np.zeros((3, 3), "c8"),
    np.zeros((3, 3), "M8[s]"), np.full((3, 3), "a"), np.array(3),
    noise(9, 8).transpose(2, 0, 1), np.ma.masked_less(noise(3, 3), 100),
    noise(3, 3).astype(np.uint16), io.StringIO("text"), "no\nphoto", "",
    Image.new("RGB", (0, 3)), []])
def test_what_is_no_image_is_one_line(given):
  with pytest.raises(ConfigError) as error:
    images.read_all(given)
  assert "\n" not in str(error.value)


def test_pixels_of_a_data_set_stay_where_its_labels_are():
  levels = noise(4, 8)
  exif = Image.Exif()
  exif[274] = 6
  file = save(Image.fromarray(levels), "PNG", exif=exif)
  np.testing.assert_array_equal(images.read(file, upright=False), levels)
  turned = np.rot90(levels, -1)
  np.testing.assert_array_equal(images.read(file), turned)
  picture = Image.open(file)
  np.testing.assert_array_equal(images.read(picture), turned)


def test_many_strips_are_one_image():
  levels = noise(300, 5000)
  assert levels[..., 0].size > images._STRIP_PIXELS
  np.testing.assert_array_equal(images.read(Image.fromarray(levels)), levels)


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
  fails(tmp_path, "no file, but a folder")
  fails(io.BytesIO(b""), "not an image")
  fails(save(Image.new("F", (3, 3)), "TIFF"), "floats")
  with pytest.raises(ConfigError, match="20,000 pixels are more than 9"):
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
