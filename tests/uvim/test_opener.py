"""The one opener of images."""

import io

import pytest
from PIL import Image

from uvim import opener
from uvim.registry import ConfigError


def encode(size, format_, **options):
  file = io.BytesIO()
  Image.new("RGB", size).save(file, format_, **options)
  return file.getvalue()


def test_formats_that_start_other_programs_are_never_tried(tmp_path):
  path = tmp_path / "photo.jpg"
  path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
  with pytest.raises(ConfigError, match=r"photo.jpg: not an image; allowed"):
    with opener.open_image(path, "photo.jpg"):
      pass


def test_only_the_formats_asked_for():
  file = io.BytesIO(encode((4, 4), "GIF"))
  with pytest.raises(ConfigError, match="allowed: PNG"):
    with opener.open_image(file, "a", formats=("PNG",)):
      pass


def test_a_large_image_is_refused_by_its_header():
  # Only the header is there: decoding would fail.
  content = encode((3000, 2000), "PNG")[:60]
  with pytest.raises(ConfigError, match=r"a: 3000×2000 = 6,000,000 pixels"):
    with opener.open_image(io.BytesIO(content), "a", max_pixels=10**6):
      pass


def test_a_jpeg_is_decoded_small_where_that_is_enough():
  file = io.BytesIO(encode((3000, 2000), "JPEG"))
  with opener.open_image(file, "a", smallest_HW=(500, 700)) as image:
    assert image.size == (750, 500)
    image.load()
  # In several passes all pixels are kept, whatever the reduced size.
  with pytest.raises(ConfigError, match="pixels"):
    with opener.open_image(file, "a", max_pixels=10**6, smallest_HW=(50, 70)):
      pass


def test_a_pil_image_gets_the_same_limit_and_stays_open():
  image = Image.new("RGB", (30, 20))
  with pytest.raises(ConfigError, match=r"a: 30×20 = 600 pixels"):
    with opener.open_image(image, "a", max_pixels=99):
      pass
  with opener.open_image(image, "a") as same:
    assert same is image
  image.load()


def test_damaged_pixels_are_one_line():
  content = encode((300, 200), "PNG")
  file = io.BytesIO(content[:len(content) // 2])
  with pytest.raises(ConfigError, match="^a: cannot be read: ") as caught:
    with opener.open_image(file, "a") as image:
      image.load()
  assert "\n" not in str(caught.value)


def test_a_folder_is_no_image(tmp_path):
  with pytest.raises(ConfigError, match="folder"):
    with opener.open_image(tmp_path, "a"):
      pass
