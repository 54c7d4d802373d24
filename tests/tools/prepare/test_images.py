"""Folders of images in, TFDS data sets out."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from pp import builder, sources
from tests.tools.prepare import raw_files
from tests.tools.prepare.raw_files import gradient, save
from tools.prepare import __main__ as prepare_data
from tools.prepare import image_files

NO_CLASS = -1


def argv(folder, *, name="photos", split="train", images="raw", **options):
  if not isinstance(images, list):
    images = [images]
  return raw_files.arguments(
      "images", folder / "out", images=[folder / image for image in images],
      name=name, split=split, **options)


def run(folder, **options):
  return prepare_data.main(argv(folder, **options))


def failure(folder, capsys, **options):
  return raw_files.failure(argv(folder, **options), capsys)


def read(folder, name="photos", split="train"):
  return raw_files.read_examples(name, split, folder / "out")


def file_names(examples):
  return [example["file_name"].decode() for example in examples]


def labels(examples):
  return [int(example["label"]) for example in examples]


def decode_both_ways(example):
  """What training sees and what Pillow sees; both must have 3 channels."""
  decode = builder.build("decode(precise=True)")
  ours = decode({"image": sources.tf.constant(example["image"])})
  ours = ours["image"].numpy()
  image = Image.open(io.BytesIO(example["image"]))
  theirs = np.asarray(image.convert("RGB"))
  assert ours.dtype == np.uint8
  assert ours.shape == theirs.shape
  return ours.astype(int), theirs.astype(int)


def test_every_kind_of_image_reads_the_same_everywhere(tmp_path):
  raw = tmp_path / "raw"
  rgb = Image.fromarray(gradient())
  gray = Image.fromarray(gradient()[..., 0])
  save(raw / "rgb.png", rgb)
  save(raw / "grey.png", gray)
  save(raw / "grey_alpha.png", Image.merge("LA", [gray, gray]))
  save(raw / "alpha.png", Image.merge("RGBA", [*rgb.split(), gray]))
  save(raw / "palette.png", rgb.quantize(9))
  save(raw / "bits.png", gray.convert("1"))
  save(raw / "rgb.jpg", rgb, quality=95)
  save(raw / "grey.jpg", gray, quality=95)
  copied = {path.name for path in raw.iterdir()}
  save(raw / "cmyk.jpg", rgb.convert("CMYK"), quality=95)
  save(raw / "rgb.webp", rgb, lossless=True)
  save(raw / "rgb.bmp", rgb)
  save(raw / "palette.bmp", rgb.quantize(9))
  save(raw / "rgb.gif", rgb)
  (raw / "._rgb.png").write_bytes(b"what some systems leave behind")
  assert run(tmp_path) == 0
  found = raw_files.by_file_name(read(tmp_path))
  assert len(found) == 13
  assert copied < set(found)
  for name, example in found.items():
    is_copy = example["image"] == (raw / name).read_bytes()
    assert is_copy == (name in copied), name
    ours, theirs = decode_both_ways(example)
    assert abs(ours - theirs).max() <= 2, name
    with Image.open(raw / name) as image:
      truth = np.asarray(image.convert("RGB"), int)
    tolerance = 12 if name.endswith("jpg") else 0
    assert abs(ours - truth).max() <= tolerance, name
  raw_files.assert_not_empty(
      tmp_path / "out/photos/1.0.0/contact_sheet_train.png")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_images_are_rotated_upright_once(tmp_path, suffix):
  exif = Image.Exif()
  exif[274] = 6  # To be rotated by 90° clockwise.
  save(tmp_path / f"raw/rotated.{suffix}", gradient(), exif=exif, quality=95)
  exif[274] = 1
  upright_path = tmp_path / f"raw/upright.{suffix}"
  save(upright_path, gradient(), exif=exif, quality=95)
  assert run(tmp_path) == 0
  found = raw_files.by_file_name(read(tmp_path))
  upright = found[f"upright.{suffix}"]
  rotated = found[f"rotated.{suffix}"]
  assert upright["image"] == upright_path.read_bytes()
  ours, _ = decode_both_ways(rotated)
  assert ours.shape == (20, 12, 3)
  expected = np.rot90(gradient().astype(int), -1)
  assert abs(ours - expected).max() <= 15
  # A reader that honors EXIF does not rotate it again.
  again = Image.open(io.BytesIO(rotated["image"]))
  assert again.getexif().get(274, 1) == 1
  assert again.size == (12, 20)


def test_wrong_images_are_named_before_anything_is_written(tmp_path, capsys):
  raw = tmp_path / "raw"
  assert "not a folder" in failure(tmp_path, capsys)
  raw.mkdir()
  assert "no image below" in failure(tmp_path, capsys)
  gray = gradient()[..., 0]
  save(raw / "fine.jpg", gradient())
  save(raw / "deep.png", gray.astype(np.uint16) * 200)
  save(raw / "float.tiff", gray.astype(np.float32))
  rng = np.random.default_rng(0)
  save(raw / "short.jpg", rng.integers(0, 255, (99, 99, 3), np.uint8))
  content = (raw / "short.jpg").read_bytes()
  (raw / "short.jpg").write_bytes(content[:-len(content) // 3])
  (raw / "text.jpg").write_text("not a picture")
  message = failure(tmp_path, capsys)
  for part in ("4 problems", "deep.png: its mode is I;16", "8 bits",
               "float.tiff: its mode is F", "short.jpg: cannot be read: image "
               "file is truncated", "text.jpg: not an image; allowed: JPEG"):
    assert part in message
  assert "fine.jpg" not in message
  assert not (tmp_path / "out").exists()


def test_formats_that_start_other_programs_are_refused(tmp_path, capsys):
  path = tmp_path / "raw/photo.jpg"
  path.parent.mkdir()
  path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
  assert "photo.jpg: not an image" in failure(tmp_path, capsys)


def test_what_pillow_reads_and_training_does_not_is_found(tmp_path, capsys):
  """Pillow does not compare the checksum of a PNG's pixels."""
  path = tmp_path / "raw/flipped.png"
  save(path, gradient())
  content = bytearray(path.read_bytes())
  checksum_end = content.index(b"IEND") - 4
  content[checksum_end - 1] ^= 1
  path.write_bytes(content)
  message = failure(tmp_path, capsys)
  assert "flipped.png: the image is cut short, damaged" in message


def test_links_count_and_what_others_leave_does_not(tmp_path, capsys):
  save_classes(tmp_path / "elsewhere", dog=2)
  save_classes(tmp_path / "raw", cat=2)
  (tmp_path / "raw/dog").symlink_to(tmp_path / "elsewhere/dog")
  save(tmp_path / "raw/.thumbs/x.png", gradient())
  save(tmp_path / "raw/__MACOSX/cat/x.png", gradient())
  os.mkfifo(tmp_path / "raw/cat/pipe.png")
  assert run(tmp_path) == 0
  assert "Found 4 images with 2 classes" in capsys.readouterr().out
  assert sorted(labels(read(tmp_path))) == [0, 0, 1, 1]


def test_it_says_why_there_are_no_classes(tmp_path, capsys):
  save_classes(tmp_path / "raw", cat=2)
  save(tmp_path / "raw/cover.png", gradient())
  assert run(tmp_path) == 0
  assert "no classes, as 'cover.png' is not" in capsys.readouterr().out


def test_a_name_that_is_no_text_is_refused(tmp_path, capsys):
  save(tmp_path / "raw/a.png", gradient())
  (tmp_path / "raw/a.png").rename(tmp_path / "raw" / os.fsdecode(b"\xff.png"))
  assert "is not text in UTF-8; rename it" in failure(tmp_path, capsys)


def test_a_list_may_be_written_by_any_editor(tmp_path, capsys):
  """With a byte order mark, in UTF-16, with ./, and with accents apart."""
  save(tmp_path / "raw/caf\u00e9.png", gradient())
  save(tmp_path / "raw/b.png", gradient())
  list_path = tmp_path / "list.txt"
  for split, encoding in (("one", "utf-8-sig"), ("two", "utf-16")):
    list_path.write_text("./b.png\r\ncafe\u0301.png\r\n", encoding=encoding)
    assert run(tmp_path, list=list_path, split=split) == 0
    found = read(tmp_path, split=split)
    assert file_names(found) == ["b.png", "caf\u00e9.png"]
  list_path.write_text("caf\u00e9.png", encoding="latin-1")
  message = failure(tmp_path, capsys, list=list_path, split="three")
  assert "is not text in UTF-8 (byte 3). Save it as UTF-8." in message
  list_path.write_text("b.png\n./b.png")
  message = failure(tmp_path, capsys, list=list_path, split="three")
  assert "b.png: named 2 times" in message


def test_a_column_of_pixels_fits_on_the_sheet(tmp_path):
  save(tmp_path / "raw/tall.png", raw_files.plain(200, 20000, 1))
  assert run(tmp_path) == 0
  sheet_path = tmp_path / "out/photos/1.0.0/contact_sheet_train.png"
  with Image.open(sheet_path) as sheet:
    assert sheet.height < 1000


def save_classes(folder, **counts):
  for label, count in counts.items():
    for number in range(count):
      save(folder / label / f"{label}_{number}.png", gradient() + number)


def test_a_list_gives_the_files_and_their_order(tmp_path, capsys):
  save_classes(tmp_path / "raw", dog=6, cat=6)
  list_path = tmp_path / "list.txt"
  names = ["dog_4.png", "cat_5.png", "dog_0.png", "cat_1.png", "dog_1.png"]
  list_path.write_text("\n".join(names) + "\n\n")
  assert run(tmp_path, list=list_path, split="fid_eval") == 0
  found = read(tmp_path, split="fid_eval")
  assert file_names(found) == names
  assert [int(example["image/id"]) for example in found] == [0, 1, 2, 3, 4]
  assert labels(found) == [1, 0, 1, 0, 1]
  list_path.write_text("dog_4.png\ncow_1.png\ndog_4.png")
  message = failure(tmp_path, capsys, list=list_path)
  assert "cow_1.png: no images" in message
  assert "dog_4.png: named 2 times" in message
  message = failure(tmp_path, capsys, list=tmp_path / "none.txt")
  assert "cannot be read: there is no such file" in message


def test_without_a_list_the_classes_are_mixed(tmp_path):
  save_classes(tmp_path / "raw", dog=6, cat=6)
  assert run(tmp_path) == 0
  found = labels(read(tmp_path))
  assert sorted(found) == [0] * 6 + [1] * 6
  assert found != sorted(found)
  assert 0 < sum(found[:6]) < 6


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path, capsys):
  save(tmp_path / "raw/dog/1.png", gradient())
  save(tmp_path / "raw/cat/1.png", gradient())
  list_path = tmp_path / "list.txt"
  list_path.write_text("1.png")
  message = failure(tmp_path, capsys, list=list_path)
  assert "1.png: 2 images" in message
  list_path.write_text("dog/1.png")
  assert run(tmp_path, list=list_path) == 0
  found = read(tmp_path)
  assert file_names(found) == ["dog/1.png"]
  assert labels(found) == [1]


def test_a_second_split_may_lack_classes_but_not_add_some(tmp_path, capsys):
  save_classes(tmp_path / "raw", dog=1, cat=1)
  assert run(tmp_path) == 0
  save_classes(tmp_path / "more", dog=2)
  assert run(tmp_path, images="more", split="validation") == 0
  assert labels(read(tmp_path, split="validation")) == [1, 1]
  save_classes(tmp_path / "other", cow=2)
  message = failure(tmp_path, capsys, images="other", split="test")
  assert "cow: not a class" in message


def test_two_folders_without_a_class_give_no_label(tmp_path):
  save_classes(tmp_path / "more", dog=2)
  save(tmp_path / "flat/9.png", gradient())
  assert run(tmp_path, images=["flat", "more"]) == 0
  found = read(tmp_path)
  assert len(found) == 3
  for example in found:
    assert "label" not in example


@pytest.fixture
def imagenet(tmp_path):
  """A data_dir with what TFDS would call imagenet2012, of two classes."""
  import tensorflow_datasets as tfds

  class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The features of TFDS's own."""
    VERSION = tfds.core.Version("5.1.0")

    def _info(self):
      features = tfds.features.FeaturesDict({
          "image": tfds.features.Image(encoding_format="jpeg"),
          "label": tfds.features.ClassLabel(names=["n01", "n02"]),
          "file_name": tfds.features.Text()})
      return tfds.core.DatasetInfo(builder=self, description="Theirs.",
                                   features=features)

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for number in range(4):
        label = number % 2
        yield number, {"image": gradient() + number, "label": label,
                       "file_name": f"n0{label + 1}_{number}.JPEG"}

  Imagenet2012.name = "imagenet2012"
  Imagenet2012(data_dir=tmp_path / "out").download_and_prepare()
  return tmp_path


def test_splits_can_be_added_to_imagenet(imagenet):
  """As for FID-5k: listed validation files, whose classes are not known."""
  import tensorflow_datasets as tfds
  train = sources.make_source("imagenet2012", "train", imagenet / "out")
  records = train.read(range(4))
  assert train.example(2)["file_name"].decode()[:2] == "n0"
  for number in range(3):
    save(imagenet / f"raw/val_{number}.JPEG", gradient() + 9 * number)
  list_path = imagenet / "list.txt"
  names = ["val_2.JPEG", "val_0.JPEG"]
  list_path.write_text("\n".join(names))
  assert run(imagenet, list=list_path, name="imagenet2012",
             split="fid_eval") == 0
  found = read(imagenet, "imagenet2012", "fid_eval")
  assert file_names(found) == names
  assert labels(found) == [NO_CLASS, NO_CLASS]
  again = sources.make_source("imagenet2012", "train", imagenet / "out")
  assert again.read(range(4)) == records
  # TFDS still reads it, and its description stayed.
  theirs = tfds.builder_from_directory(imagenet / "out/imagenet2012/5.1.0")
  assert theirs.info.description == "Theirs."
  data = tfds.as_numpy(theirs.as_dataset(split="fid_eval"))
  assert file_names(data) == names


def test_other_data_sets_take_no_images(imagenet, capsys):
  raw = imagenet / "raw"
  save(raw / "x.png", gradient())
  # In millimetres: numbers of 8 bits would be depth drawn for the eye.
  save(raw / "x_depth.png", gradient()[..., 0].astype(np.uint16) * 100)

  def rgbd(name):
    return raw_files.arguments("rgbd", imagenet / "out", images=raw, depth=raw,
                               split="test", name=name)

  message = raw_files.failure(rgbd("imagenet2012"), capsys)
  assert "has other features (" in message
  assert prepare_data.main(rgbd("pairs")) == 0
  (raw / "x_depth.png").unlink()
  message = failure(imagenet, capsys, name="pairs")
  assert "has the features" in message
  assert "scene" in message


@pytest.mark.parametrize("text", ["{", "[]", '{"splits": [1]}', ""])
def test_a_damaged_description_is_one_line(tmp_path, capsys, text):
  save(tmp_path / "raw/a.png", gradient())
  info_path = tmp_path / "out/photos/1.0.0/dataset_info.json"
  info_path.parent.mkdir(parents=True)
  info_path.write_text(text)
  message = failure(tmp_path, capsys)
  assert "--name: " in message and "dataset_info.json" in message
  assert info_path.read_text() == text


METADATA = {
    "metadata.jsonl": """
{"file_name": "b.png", "label": "cat", "text": "a cat"}

{"file_name": "deep/a.png", "label": 7}
{"file_name": "c.png"}
""",
    "metadata.csv": """file_name,label,text
b.png,cat,"a cat,
asleep"
deep/a.png,7
c.png,,,,
""",
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_of_hugging_face_names_files_and_labels(tmp_path, name):
  raw = tmp_path / "raw"
  for value, short_path in enumerate(("deep/a.png", "b.png", "c.png", "d.png")):
    save(raw / short_path, raw_files.plain(value))
  (raw / name).write_text(METADATA[name])
  assert run(tmp_path) == 0
  found = raw_files.by_file_name(read(tmp_path))
  # The classes are 7 and cat, in this order.
  assert {file_name: int(example["label"])
          for file_name, example in found.items()} == {
              "a.png": 0, "b.png": 1, "c.png": NO_CLASS}


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("metadata.jsonl", '{"file_name": "a.png"}\n{"name": 1}',
     "line 2 has no 'file_name'"),
    ("metadata.jsonl", '{"file_name": "a.png"', "line 1 is not JSON"),
    ("metadata.jsonl", '{"file_name": "a.png", "label": [1]}',
     "line 1.label: a list; allowed: a text, a whole number or null"),
    ("metadata.jsonl", '{"file_name": "../raw/a.png"}',
     "line 1.file_name: '../raw/a.png' leads out of the folder"),
    ("metadata.csv", "file_name\nz.png", "metadata.csv[0].file_name: there is"),
    ("metadata.csv", "file_name\na.png\na.png",
     "metadata.csv[1].file_name: the text"),
    ("metadata.csv", "file,label\na.png,b", "line 2 has no 'file_name'"),
])
def test_broken_metadata_is_named(tmp_path, capsys, name, text, expected):
  save(tmp_path / "raw/a.png", gradient())
  (tmp_path / "raw" / name).write_text(text)
  assert expected in failure(tmp_path, capsys)


def test_real_photographs_as_they_are(shared):
  """All 75 pass the check and are copied; the gray ones too."""
  found = image_files.find([shared / "data/photos"])
  assert len(found) == 75
  for image_file in found:
    assert not image_files.check(image_file.path, image_file.name)
    content = image_file.path.read_bytes()
    assert image_files.encoded(image_file.path) == content
