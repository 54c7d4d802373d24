"""Folders of photographs in, TFDS data sets out."""

import io

import numpy as np
import pytest
from PIL import Image

from pp import builder, sources
from tools.prepare import __main__ as prepare_data
from tools.prepare import image_files, tfds_folder


def picture(height=12, width=20):
  y, x = np.mgrid[:height, :width]
  return np.stack([10 * x, 18 * y, 5 * (x + y)], -1).astype(np.uint8)


def save(path, image, **kw):
  path.parent.mkdir(parents=True, exist_ok=True)
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(path, **kw)


def run(folder, *extra, name="photos", split="train", images="raw"):
  return prepare_data.main([
      "images", "--images", str(folder / images), "--name", name, "--split",
      split, "--data_dir", str(folder / "out"), *extra])


def examples(folder, name="photos", split="train"):
  source = sources.make_source(name, split, folder / "out")
  return [source.example(i) for i in range(len(source))]


def pixels(example):
  """What training sees and what Pillow sees; both must have 3 channels."""
  ours = builder.build("decode(precise=True)")(
      {"image": sources.tf.constant(example["image"])})["image"].numpy()
  other = np.asarray(Image.open(io.BytesIO(example["image"])).convert("RGB"))
  assert ours.dtype == np.uint8 and ours.shape == other.shape
  return ours.astype(int), other.astype(int)


def test_every_kind_of_picture_reads_the_same_everywhere(tmp_path):
  raw, rgb = tmp_path / "raw", picture()
  grey = Image.fromarray(rgb[..., 0])
  alpha = np.concatenate([rgb, rgb[..., :1]], -1)
  save(raw / "rgb.png", rgb)
  save(raw / "grey.png", grey)
  save(raw / "grey_alpha.png", Image.merge("LA", [grey, grey]))
  save(raw / "alpha.png", alpha)
  save(raw / "palette.png", Image.fromarray(rgb).quantize(9))
  save(raw / "bits.png", grey.convert("1"))
  save(raw / "rgb.jpg", rgb, quality=95)
  save(raw / "grey.jpg", grey, quality=95)
  copied = {path.name for path in raw.iterdir()}
  save(raw / "cmyk.jpg", Image.fromarray(rgb).convert("CMYK"), quality=95)
  save(raw / "rgb.webp", rgb, lossless=True)
  save(raw / "rgb.bmp", rgb)
  save(raw / "palette.bmp", Image.fromarray(rgb).quantize(9))
  save(raw / "rgb.gif", rgb)
  (raw / "._rgb.png").write_bytes(b"what some systems leave behind")
  assert run(tmp_path) == 0
  found = {e["file_name"].decode(): e for e in examples(tmp_path)}
  assert len(found) == 13 and copied < set(found)
  for name, e in found.items():
    same = e["image"] == (raw / name).read_bytes()
    assert same == (name in copied), name
    ours, other = pixels(e)
    assert abs(ours - other).max() <= 2, name
    with Image.open(raw / name) as image:
      truth = np.asarray(image.convert("RGB"), int)
    assert abs(ours - truth).max() <= (0 if name[-3:] != "jpg" else 12), name
  sheet = tmp_path / "out/photos/1.0.0/contact_sheet_train.png"
  assert np.asarray(Image.open(sheet)).std() > 20


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_pictures_are_turned_upright_once(tmp_path, kind):
  exif = Image.Exif()
  exif[274] = 6  # To be turned by 90° clockwise.
  save(tmp_path / f"raw/turned.{kind}", picture(), exif=exif, quality=95)
  exif[274] = 1
  save(tmp_path / f"raw/upright.{kind}", picture(), exif=exif, quality=95)
  assert run(tmp_path) == 0
  found = {e["file_name"].decode()[:-4]: e for e in examples(tmp_path)}
  path = tmp_path / f"raw/upright.{kind}"
  assert found["upright"]["image"] == path.read_bytes()
  ours, other = pixels(found["turned"])
  assert ours.shape == (20, 12, 3)
  assert abs(ours - np.rot90(picture().astype(int), -1)).max() <= 15
  # Nor does anyone who honours EXIF turn it again.
  again = Image.open(io.BytesIO(found["turned"]["image"]))
  assert again.getexif().get(274, 1) == 1 and again.size == (12, 20)


def test_wrong_pictures_are_named_before_anything_is_written(tmp_path, capsys):
  raw = tmp_path / "raw"
  assert run(tmp_path) == 2 and "not a folder" in capsys.readouterr().err
  raw.mkdir()
  assert run(tmp_path) == 2 and "no picture below" in capsys.readouterr().err
  save(raw / "fine.jpg", picture())
  save(raw / "deep.png", picture()[..., 0].astype(np.uint16) * 200)
  save(raw / "float.tiff", picture()[..., 0].astype(np.float32))
  save(raw / "short.jpg", np.random.default_rng(0).integers(
      0, 255, (99, 99, 3), np.uint8))
  data = (raw / "short.jpg").read_bytes()
  (raw / "short.jpg").write_bytes(data[:-len(data) // 3])
  (raw / "text.jpg").write_text("not a picture")
  assert run(tmp_path) == 2
  error = capsys.readouterr().err
  for part in ("4 problem(s)", "deep.png: its mode is I;16", "8 bits",
               "float.tiff: its mode is F", "short.jpg: cannot be read: image "
               "file is truncated", "text.jpg: cannot be read"):
    assert part in error
  assert "fine.jpg" not in error and not (tmp_path / "out").exists()


def classes(folder, **counts):
  for label, count in counts.items():
    for i in range(count):
      save(folder / label / f"{label}_{i}.png", picture() + i)


def test_a_list_gives_the_files_and_their_order(tmp_path, capsys):
  classes(tmp_path / "raw", dog=6, cat=6)
  path = tmp_path / "list.txt"
  names = ["dog_4.png", "cat_5.png", "dog_0.png", "cat_1.png", "dog_1.png"]
  path.write_text("\n".join(names) + "\n\n")
  assert run(tmp_path, "--list", str(path), split="fid_eval") == 0
  found = examples(tmp_path, split="fid_eval")
  assert [e["file_name"].decode() for e in found] == names
  assert [int(e["image/id"]) for e in found] == [0, 1, 2, 3, 4]
  assert [int(e["label"]) for e in found] == [1, 0, 1, 0, 1]
  capsys.readouterr()
  path.write_text("dog_4.png\ncow_1.png\ndog_4.png")
  assert run(tmp_path, "--list", str(path)) == 2
  error = capsys.readouterr().err
  assert "cow_1.png: no photographs" in error
  assert "dog_4.png: named 2 times" in error
  assert run(tmp_path, "--list", str(tmp_path / "none.txt")) == 2
  assert "--list: cannot read" in capsys.readouterr().err
  # All of them, without a list: mixed, not class after class.
  assert run(tmp_path) == 0
  labels = [int(e["label"]) for e in examples(tmp_path)]
  assert sorted(labels) == [0] * 6 + [1] * 6 and labels != sorted(labels)
  assert 0 < sum(labels[:6]) < 6


def test_names_and_labels(tmp_path, capsys):
  # Two files of one name are told apart by their folders.
  for label in ("dog", "cat"):
    save(tmp_path / "raw" / label / "1.png", picture())
  path = tmp_path / "list.txt"
  path.write_text("1.png")
  assert run(tmp_path, "--list", str(path)) == 2
  assert "1.png: 2 photographs" in capsys.readouterr().err
  path.write_text("dog/1.png")
  assert run(tmp_path, "--list", str(path)) == 0
  assert [(e["file_name"], int(e["label"])) for e in examples(tmp_path)] == [
      (b"dog/1.png", 1)]
  # A second split may lack classes, but not have others.
  classes(tmp_path / "more", dog=2)
  assert run(tmp_path, images="more", split="validation") == 0
  assert [int(e["label"]) for e in examples(tmp_path, split="validation")] == [
      1, 1]
  classes(tmp_path / "other", cow=2)
  capsys.readouterr()
  assert run(tmp_path, images="other", split="test") == 2
  assert "cow: not a class" in capsys.readouterr().err
  # Two folders at once, no class: no label.
  save(tmp_path / "flat/9.png", picture())
  assert prepare_data.main([
      "images", "--images", str(tmp_path / "flat"), str(tmp_path / "more"),
      "--name", "flat", "--split", "train", "--data_dir",
      str(tmp_path / "out")]) == 0
  found = examples(tmp_path, "flat")
  assert len(found) == 3 and all("label" not in e for e in found)


def test_a_stopped_run_goes_on_with_the_missing_files(
    tmp_path, monkeypatch, capsys):
  made, make = [], image_files.make_example

  def count(position, photo, features):
    made.append(position)
    if position == stop and made.count(position) > 1:  # Once as a sample.
      raise RuntimeError("stopped")
    return make(position, photo, features)

  for i in range(40):
    save(tmp_path / f"raw/{i}.png", picture() + i)
  monkeypatch.setattr(tfds_folder, "_SHARD_BYTES", 1000)
  monkeypatch.setattr(tfds_folder, "_SAMPLE", 40)
  stop = None
  assert run(tmp_path, name="whole") == 0
  monkeypatch.setattr(image_files, "make_example", count)
  stop = 30
  with pytest.raises(RuntimeError, match="stopped"):
    run(tmp_path)
  assert not (tmp_path / "out/photos").exists()
  stop, made = None, made[:0]
  capsys.readouterr()
  assert run(tmp_path) == 0
  assert "Going on where a run was stopped" in capsys.readouterr().out
  assert 40 < len(made) < 60  # The samples, and less than the half.
  files, whole = (sorted((tmp_path / "out" / name / "1.0.0").glob("*record*"))
                  for name in ("photos", "whole"))
  assert len(files) > 4
  for a, b in zip(files, whole, strict=True):
    assert a.read_bytes() == b.read_bytes()
  assert not list((tmp_path / "out").glob(".*"))


def test_what_is_left_of_other_files_is_not_gone_on_with(tmp_path, monkeypatch):
  monkeypatch.setattr(tfds_folder, "merge", lambda *_: 1 / 0)
  for i in range(2):
    save(tmp_path / "raw/x.png", picture() + i)
    with pytest.raises(ZeroDivisionError):
      run(tmp_path)
    (left,) = (x for x in (tmp_path / "out").glob(".*") if x.is_dir())
    assert len(list(left.glob("*.tfrecord-*"))) == 1
  monkeypatch.undo()
  assert run(tmp_path, split="test") == 0
  assert left.is_dir()  # Another split is none of its business.
  assert run(tmp_path) == 0
  assert not list((tmp_path / "out").glob(".*"))
  assert (pixels(examples(tmp_path)[0])[0] == picture() + 1).all()


@pytest.fixture
def imagenet(tmp_path):
  """A data_dir with what TFDS would call imagenet2012, of two classes."""
  import tensorflow_datasets as tfds

  class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The features of TFDS's own."""
    VERSION = tfds.core.Version("5.1.0")

    def _info(self):
      return tfds.core.DatasetInfo(
          builder=self, description="Theirs.",
          features=tfds.features.FeaturesDict({
              "image": tfds.features.Image(encoding_format="jpeg"),
              "label": tfds.features.ClassLabel(names=["n01", "n02"]),
              "file_name": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for i in range(4):
        yield i, {"image": picture() + i, "label": i % 2,
                  "file_name": f"n0{i % 2 + 1}_{i}.JPEG"}

  Imagenet2012.name = "imagenet2012"
  Imagenet2012(data_dir=tmp_path / "out").download_and_prepare()
  return tmp_path


def test_splits_can_be_added_to_imagenet(imagenet):
  """As for FID-5k: listed validation files, whose classes are not known."""
  import tensorflow_datasets as tfds
  before = sources.make_source("imagenet2012", "train", imagenet / "out")
  records = before.read(range(4))
  assert before.example(2)["file_name"].decode()[:2] == "n0"
  for i in range(3):
    save(imagenet / f"raw/val_{i}.JPEG", picture() + 9 * i)
  path = imagenet / "list.txt"
  path.write_text("val_2.JPEG\nval_0.JPEG")
  assert run(imagenet, "--list", str(path), name="imagenet2012",
             split="fid_eval") == 0
  found = examples(imagenet, "imagenet2012", "fid_eval")
  assert [(e["file_name"], int(e["label"])) for e in found] == [
      (b"val_2.JPEG", -1), (b"val_0.JPEG", -1)]
  again = sources.make_source("imagenet2012", "train", imagenet / "out")
  assert again.read(range(4)) == records
  # TFDS still reads it, and its description stayed.
  theirs = tfds.builder_from_directory(imagenet / "out/imagenet2012/5.1.0")
  assert theirs.info.description == "Theirs."
  data = tfds.as_numpy(theirs.as_dataset(split="fid_eval"))
  assert [e["file_name"] for e in data] == [b"val_2.JPEG", b"val_0.JPEG"]


def test_other_data_sets_take_no_photographs(imagenet, capsys):
  save(imagenet / "raw/x.png", picture())
  save(imagenet / "raw/x_depth.png", picture()[..., 0].astype(np.uint16))
  args = ["rgbd", "--images", str(imagenet / "raw"), "--depth",
          str(imagenet / "raw"), "--data_dir", str(imagenet / "out"),
          "--split", "test", "--name"]
  assert prepare_data.main([*args, "imagenet2012"]) == 2
  assert "has other features (" in capsys.readouterr().err
  assert prepare_data.main([*args, "pairs"]) == 0
  (imagenet / "raw/x_depth.png").unlink()
  capsys.readouterr()
  assert run(imagenet, name="pairs") == 2
  error = capsys.readouterr().err
  assert "has the features" in error and "scene" in error


def test_real_photographs_as_they_are(shared):
  """All 75 pass the check and are copied; the grey ones too."""
  photos = image_files.find([shared / "data/photos"])
  assert len(photos) == 75
  for photo in photos:
    assert not image_files.check(photo.path, photo.name)
    assert image_files.encoded(photo.path) == photo.path.read_bytes()
