"""Tracks of a video: one number, one color, one class for each."""

import numpy as np

from uvim import palette
from uvim.categories import Category
from uvim.inference import tracks

CUP, SEA = 1, 2
CATEGORIES = (Category(7, "cup", True), Category(9, "sea", False))


def frame(*pairs):
  """A row of pixels, (class, id) each."""
  return np.array([pairs], np.int32)


def test_a_track_keeps_its_color_whatever_comes_and_goes():
  found = tracks.Tracks(CATEGORIES)
  found.add(0, frame((SEA, 9), (CUP, 4), (0, 0)))
  early = found.colors()
  # Another cup with a smaller id, and the first one is called a sea.
  found.add(1, frame((CUP, 2), (SEA, 4), (0, 5)))
  late = found.colors()
  np.testing.assert_array_equal(early[[0, 4, 9]], late[[0, 4, 9]])
  np.testing.assert_array_equal(late[4], palette.class_color(CUP))
  np.testing.assert_array_equal(late[9], palette.class_color(SEA))
  assert len(np.unique(late[[0, 2, 4, 9]], axis=0)) == 4
  # Void has no track, whatever its id.
  assert not late[5].any()
  assert found.names() == ["", "cup #2", "", "cup #4"] + [""] * 4 + ["sea #9"]


def test_what_is_told_of_a_track():
  found = tracks.Tracks(CATEGORIES)
  for number, class_id in enumerate((CUP, SEA, SEA)):
    found.add(2 * number, frame((class_id, 3), (class_id, 3)))
  record, = found.records()
  assert record == {
      "id": 3, "class_id": SEA, "class": "sea", "first_frame": 0,
      "last_frame": 4, "num_frames": 3,
      "color": palette.class_color(CUP).tolist()}
  assert tracks.Tracks().records() == [] and tracks.Tracks().names() == []


def test_a_mask_holds_ids_and_shows_colors():
  found = tracks.Tracks()
  panoptic = frame((CUP, 4), (0, 0), (SEA, 200))
  found.add(0, panoptic)
  mask = tracks.make_mask(panoptic, found)
  np.testing.assert_array_equal(np.asarray(mask), [[4, 0, 200]])
  np.testing.assert_array_equal(
      np.asarray(mask.convert("RGB"))[0], found.colors()[[4, 0, 200]])


def test_a_drawing_shows_tracks_over_the_frame():
  found = tracks.Tracks(CATEGORIES)
  panoptic = np.zeros((20, 30, 2), np.int32)
  panoptic[:, :15] = CUP, 6
  found.add(0, panoptic)
  photo = np.full((20, 30, 3), 200, np.uint8)
  drawn = tracks.draw_frame(photo, panoptic, found)
  assert drawn.dtype == np.uint8 and drawn.shape == (320, 480, 3)
  # Void shows the frame; a track is mixed with its color.
  assert (drawn[:, 300:] == 200).all()
  corner = drawn[0, 0].astype(int)
  color = palette.class_color(CUP).astype(int)
  assert (np.abs(corner - color) < np.abs(photo[0, 0] - color)).all()
