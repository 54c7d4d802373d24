"""A data set of somebody else runs no code of its own when it is opened."""

import json
import shutil
import sys

import pytest

from pp import features_file, sources
from uvim.registry import ConfigError

TFDS = "tensorflow_datasets.core.features"
DICT = f"{TFDS}.features_dict.FeaturesDict"
SEQUENCE = f"{TFDS}.sequence_feature.Sequence"
EVIL = "evil_features.Evil"
OLD_EVIL = {"type": EVIL, "content": {}}

# Every place from which TFDS reads the name of a class.
HOSTILE = {
    "a new file": {"pythonClassName": EVIL, "jsonFeature": {"json": "{}"}},
    "the other spelling": {
        "python_class_name": EVIL, "jsonFeature": {"json": "{}"}},
    "an old file": OLD_EVIL,
    "in a dict": {
        "pythonClassName": DICT, "featuresDict": {"features": {
            "type": {"pythonClassName": EVIL, "text": {}}}}},
    "in a sequence": {
        "pythonClassName": SEQUENCE,
        "sequence": {"feature": {"pythonClassName": EVIL, "text": {}}}},
    "in an old dict": {"type": DICT, "content": {"image": OLD_EVIL}},
    "in a text": {
        "pythonClassName": DICT,
        "jsonFeature": {"json": json.dumps({"image": OLD_EVIL})}},
    "in a text with spaces": {
        "pythonClassName": DICT,
        "jsonFeature": {"json": f" \n {json.dumps({'image': OLD_EVIL})}"}},
    "in a text of an old file": {
        "type": DICT, "proto_cls": "tensorflow_datasets.FeaturesDict",
        "content": json.dumps({"features": {
            "image": {"pythonClassName": EVIL, "text": {}}}})},
}


@pytest.fixture
def theirs(tiny_data, tmp_path, monkeypatch):
  """A copy of a data set, and a module whose import leaves a file."""
  shutil.copytree(tiny_data / "tiny", tmp_path / "tiny")
  (tmp_path / "evil_features.py").write_text(
      "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
  monkeypatch.syspath_prepend(tmp_path)
  yield tmp_path
  sys.modules.pop("evil_features", None)


def refusal(data_dir):
  with pytest.raises(ConfigError) as caught:
    sources.make_source("tiny", "train", data_dir)
  message = str(caught.value)
  assert "\n" not in message
  assert str(data_dir / "tiny/1.0.0/features.json") in message
  return message


@pytest.mark.parametrize("place", HOSTILE)
def test_classes_of_others_are_not_imported(theirs, place):
  path = theirs / "tiny/1.0.0/features.json"
  path.write_text(json.dumps(HOSTILE[place]))
  message = refusal(theirs)
  assert f"names the class {EVIL!r}; allowed: the classes of" in message
  assert not (theirs / "ran").exists()


@pytest.mark.parametrize("name", [
    "os.path", "antigravity.Text", "Image", "", f"{TFDS}.image_feature_test.X"])
def test_names_that_are_no_features(theirs, name):
  path = theirs / "tiny/1.0.0/features.json"
  content = json.loads(path.read_text())
  features = content["featuresDict"]["features"]
  features["image"]["pythonClassName"] = name
  path.write_text(json.dumps(content))
  assert f"names the class {name!r}" in refusal(theirs)


@pytest.mark.parametrize("name", ["Tiny", "tiny:1.0.0", "tiny:1.*.*"])
def test_what_is_checked_is_what_is_opened(theirs, name):
  assert len(sources.make_source(name, "train", theirs)) == 11
  path = theirs / "tiny/1.0.0/features.json"
  path.write_text(json.dumps(OLD_EVIL))
  with pytest.raises(ConfigError, match="names the class"):
    sources.make_source(name, "train", theirs)


def test_features_that_read_another_file(theirs):
  path = theirs / "tiny/1.0.0/features.json"
  label = {"type": f"{TFDS}.class_label_feature.ClassLabel",
           "content": {"names_file": "/etc/hostname"}}
  path.write_text(json.dumps({"type": DICT, "content": {"label": label}}))
  assert "names the file '/etc/hostname' as names_file" in refusal(theirs)


def test_features_of_tfds_are_let_through(tmp_path):
  import tensorflow_datasets as tfds
  # Texts and names that look like what is refused.
  features = tfds.features.FeaturesDict({
      "type": tfds.features.Text(doc='{"type": 1}'),
      "labels": tfds.features.ClassLabel(names=["os.path"]),
      "content": tfds.features.Sequence({"box": tfds.features.BBoxFeature()}),
      "mask": tfds.features.LabeledImage(labels=3, shape=(None, None, 1)),
      "words": tfds.features.Translation(["en", "fr"]),
      "sound": tfds.features.Audio(),
      "film": tfds.features.Video(shape=(None, 8, 8, 3)),
  })
  features.save_config(tmp_path)
  features_file.check(tmp_path, "dataset")


def test_the_default_config_of_a_data_set(tiny_data, tmp_path):
  shutil.copytree(tiny_data / "tiny", tmp_path / "tiny/some")
  with pytest.raises(ConfigError, match="'tiny' is not prepared"):
    sources.make_source("tiny", "train", tmp_path)
  assert len(sources.make_source("tiny/some", "train", tmp_path)) == 11
  (tmp_path / "tiny/.config").mkdir()
  (tmp_path / "tiny/.config/metadata.json").write_text(
      '{"default_config_name": "some"}')
  assert len(sources.make_source("tiny", "train", tmp_path)) == 11
