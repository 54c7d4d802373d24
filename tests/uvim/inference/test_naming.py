"""Names and numbers of predictions."""

import pathlib

from uvim.inference import naming


def test_files_of_one_name():
  paths = [pathlib.Path(x) for x in ("a/x.jpg", "b/X.png", "x.gif", "x_2.jpg")]
  assert naming.file_names(paths) == ["x", "X_2", "x_3", "x_2_2"]
  assert naming.file_names(paths[:1], taken=["X"]) == ["x_2"]


def test_thousands_of_one_name():
  paths = [pathlib.Path(f"{i}/x.jpg") for i in range(30_000)]
  names = naming.file_names(paths)
  assert len(set(names)) == 30_000 and names[-1] == "x_30000"


def test_long_names_are_shortened_to_distinct_ones():
  paths = [pathlib.Path("ü" * 120 + end + ".jpg") for end in "ab"]
  one, other = naming.file_names(paths)
  assert one != other and max(len(x.encode()) for x in (one, other)) <= 120
  assert naming.file_names(paths) == [one, other]


def test_ids_are_distinct_and_do_not_depend_on_others():
  ids = set()
  for name in ("2", "b", "0002", "3", "9" * 30, "٣"):
    ids.add(naming.image_id(name, ids))
  assert len(ids) == 6 and {2, 3} <= ids
  assert all(0 <= number < 2**53 for number in ids)
  assert naming.image_id("b") == naming.image_id("b", {1, 2})
  assert naming.image_id("b", {naming.image_id("b")}) not in (
      naming.image_id("b"), 2)
