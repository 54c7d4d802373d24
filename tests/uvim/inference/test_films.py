"""Films: what is written is read again; mistakes are one line."""

import fractions

import numpy as np
import pytest
from PIL import Image

from uvim.inference import films
from uvim.registry import ConfigError

LIMIT = 10_000


def gray(level, height=32, width=48):
  return np.full((height, width, 3), level, np.uint8)


def write(path, frames, rate=10):
  pytest.importorskip("av")
  films.write_film(path, frames, fractions.Fraction(rate))
  return path


def levels(film):
  return [round(float(frame.mean()))
          for frame in films.read_frames(film, max_pixels=LIMIT)]


def test_a_film_has_the_frames_that_were_written(tmp_path):
  # An odd last column is left out.
  frames = (gray(20 * number, 32, 49) for number in range(5))
  path = write(tmp_path / "film.mp4", frames, rate=12)
  film = films.open_film(path, max_pixels=LIMIT)
  assert film.rate == 12 and film.images is None
  for read, expected in zip(levels(film), range(0, 100, 20), strict=True):
    assert abs(read - expected) <= 3
  first = next(films.read_frames(film, max_pixels=LIMIT))
  assert first.shape == (32, 48, 3) and first.dtype == np.uint8


def test_a_film_that_breaks_off_is_not_there(tmp_path):
  def frames():
    yield gray(1)
    raise ConfigError("the second frame is damaged")

  with pytest.raises(ConfigError, match="damaged"):
    write(tmp_path / "film.mp4", frames())
  assert list(tmp_path.iterdir()) == []


def test_a_folder_is_a_film(tmp_path):
  for name, level in (("10.png", 30), ("2.png", 20), ("1/a.png", 10)):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(gray(level)).save(path)
  film = films.open_film(tmp_path, max_pixels=LIMIT)
  assert list(film.images) == ["1_a", "2", "10"]
  assert levels(film) == [10, 20, 30]
  assert film.rate == films.FOLDER_RATE


def refused(path, max_pixels=LIMIT):
  with pytest.raises(ConfigError) as caught:
    film = films.open_film(path, max_pixels=max_pixels)
    list(films.read_frames(film, max_pixels=max_pixels))
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_mistakes_in_films_are_named(tmp_path):
  path = write(tmp_path / "film.mp4", [gray(0)] * 30)
  assert "no such film or folder" in refused(tmp_path / "none.mp4")
  assert "48×32 = 1,536 pixels are more than 99" in refused(path, 99)
  text = tmp_path / "notes.txt"
  text.write_text("frames")
  assert "allowed: .mp4" in refused(text)
  # A playlist, which could name other files.
  playlist = tmp_path / "list.mp4"
  playlist.write_text(f"ffconcat version 1.0\nfile {path}\n")
  assert "cannot be read as a film" in refused(playlist)
  cut = tmp_path / "cut.mp4"
  cut.write_bytes(path.read_bytes()[:300])
  assert "cannot be read as a film" in refused(cut)


def test_mistakes_in_folders_are_named(tmp_path):
  assert "holds no images" in refused(tmp_path)
  Image.fromarray(gray(0)).save(tmp_path / "a.png")
  Image.fromarray(gray(0, 20, 20)).save(tmp_path / "b.png")
  assert "is 20×20 pixels; all frames must be 48×32 as a.png" in refused(
      tmp_path)
  Image.fromarray(gray(0)).save(tmp_path / "b.png")
  Image.fromarray(gray(0)).save(tmp_path / "b.bmp")
  assert "another frame has the name 'b'" in refused(tmp_path)
