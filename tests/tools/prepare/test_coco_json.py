"""What the JSON of panoptic files may hold, and what is said if it does not."""

import hashlib

import pytest

from tests.tools.prepare import raw_files
from tests.tools.prepare.raw_coco import CATEGORIES, NAME, RawCoco
from tools.prepare import __main__ as prepare_data


@pytest.fixture
def raw(tmp_path):
  return RawCoco(tmp_path)


# Entry of the JSON, key, value, and what the message says.
WRONG_VALUES = [
    ("images", "id", None, "images[1].id: null; allowed: a whole number"),
    ("images", "id", 2**63, "images[1].id: 9223372036854775808; allowed"),
    ("images", "id", -1, "images[1].id: -1; allowed"),
    ("images", "id", 10.5, "images[1].id: 10.5; allowed"),
    ("images", "id", True, "images[1].id: true; allowed"),
    ("images", "height", "8", "images[1].height: the text '8'; allowed"),
    ("images", "width", 0, "images[1].width: 0; allowed"),
    ("images", "file_name", None, "images[1].file_name: null; allowed"),
    ("images", "file_name", "", "images[1].file_name: the text ''; allowed"),
    ("images", "file_name", "a\0", "images[1].file_name: the text 'a"),
    ("images", "file_name", "\ud800", "images[1].file_name: the text"),
    ("images", "file_name", "x" * 300, "images[1].file_name: there is no file"),
    ("images", "file_name", "./30.jpg", "is also that of images[0]"),
    ("annotations", "file_name", "30.png", "is also that of annotations[0]"),
    ("annotations", "image_id", 30, "is also that of annotations[0]"),
    ("annotations", "image_id", [10], "[1].image_id: a list; allowed"),
    ("annotations", "segments_info", None, "segments_info: null; allowed: a"),
    ("annotations", "segments_info", {}, "segments_info: an object; allowed"),
    ("annotations", "segments_info", [7], "segments_info[0]: 7; allowed: an"),
    ("annotations", "segments_info", [{}], "segments_info[0] has no 'id'"),
    ("segment", "id", 0, "[1].id: 0; allowed: a whole number from 1 to"),
    ("segment", "id", 2**24, "[1].id: 16777216; allowed"),
    ("segment", "id", 300, "[1].id: 300 is also that of annotations[1].seg"),
    ("segment", "category_id", "3", "category_id: the text '3'; allowed"),
    ("segment", "iscrowd", "0", "iscrowd: the text '0'; allowed: 0, 1, false"),
    ("segment", "iscrowd", 2, "iscrowd: 2; allowed: 0, 1, false or true"),
]


@pytest.mark.parametrize("place, key, value, expected", WRONG_VALUES)
def test_a_wrong_value_of_the_json_is_named(raw, capsys, place, key, value,
                                            expected):
  if place == "segment":
    entry = raw.data["annotations"][1]["segments_info"][1]
  else:
    entry = raw.data[place][1]
  entry[key] = value
  assert expected in raw.failure(capsys)


def test_all_wrong_values_of_the_json_come_in_one_message(raw, capsys):
  raw.data["images"][0]["id"] = None
  raw.data["annotations"][2]["image_id"] = None
  raw.data["categories"] = [{**CATEGORIES[0], "isthing": "0"}]
  message = raw.failure(capsys)
  assert "3 problems" in message
  for place in ("images[0].id", "annotations[2].image_id",
                "categories[0].isthing: the text '0'"):
    assert place in message


@pytest.mark.parametrize("content, expected", [
    (b"null", "has no list images, annotations, categories"),
    (b"3", "has no list images"),
    (b'{"images": 3, "annotations": [], "categories": []}', "no list images"),
    (b'{"images": [], "annotations": [], "categories": []}', "categories is"),
    (b'{"images": [], "images": [1]}', "has the key 'images' twice"),
    (b"[" * 100_000, "is not JSON"),
    (b'{"images": [', "is not JSON"),
    (b"", "is not JSON"),
])
def test_what_is_no_coco_json(raw, capsys, content, expected):
  argv = raw.argv()
  (raw.folder / "panoptic.json").write_bytes(content)
  assert expected in raw_files.failure(argv, capsys)
  assert not raw.data_dir.exists()


def test_ids_that_are_texts_get_stable_numbers(raw, capsys):
  texts = {30: "0007", 10: "b5e0-uuid", 20: "2"}
  for image in raw.data["images"]:
    image["id"] = texts[image["id"]]
  for annotation in raw.data["annotations"]:
    annotation["image_id"] = texts[annotation["image_id"]]
  # As a number, this is the same id.
  raw.data["images"][2]["id"] = 2
  assert raw.run() == 0
  assert "2 image ids are texts" in capsys.readouterr().out
  ids = {}
  for example in raw_files.read_examples(NAME, "train", raw.data_dir):
    ids[example["image/filename"].decode()] = int(example["image/id"])
  hashed = int(hashlib.sha256(b"b5e0-uuid").hexdigest()[:13], 16)
  assert ids == {"30.jpg": 7, "20.jpg": 2, "10.jpg": hashed}


def test_two_texts_of_one_number_are_refused(raw, capsys):
  raw.data["images"][0]["id"] = "010"
  assert "images[1].id: 10 is also that of images[0]" in raw.failure(capsys)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_of_the_json(raw, encoding):
  argv = raw.argv()
  path = raw.folder / "panoptic.json"
  path.write_bytes(path.read_text().encode(encoding))
  assert prepare_data.main(argv) == 0
