"""Names of data sets and splits, and descriptions that are damaged."""

import pytest

from tests.tools.prepare import raw_files
from tools.prepare import __main__ as prepare_data
from tools.prepare import tfds_folder
from uvim.registry import ConfigError


@pytest.mark.parametrize("name", [
    "", "Mine", "1mine", "mine/", "mine/a/b", "../mine", "mine.a", "mine\n",
    "größe", "mine/größe", "mine/１"])
def test_names_that_are_refused(name):
  with pytest.raises(ConfigError, match="--name: "):
    tfds_folder.check_names(name, ["train"])


@pytest.mark.parametrize("split", [
    "", "all", "train[:5]", "train+test", "1st", "a-b", "prüfung", "train\n"])
def test_splits_that_are_refused(split):
  with pytest.raises(ConfigError, match="--split: "):
    tfds_folder.check_names("mine", ["train", split])


def test_names_that_are_taken():
  tfds_folder.check_names("mine_2/A1", ["train", "all_2", "Test"])


@pytest.fixture
def photos(tmp_path):
  """Two images in a folder, as the split train of a data set beside them."""
  for number in range(2):
    raw_files.save(tmp_path / f"{number}.png", raw_files.gradient() + number)
  assert prepare_data.main(argv(tmp_path, "train")) == 0
  return tmp_path


def argv(folder, split):
  return raw_files.arguments("images", folder / "sets", images=folder,
                             name="photos", split=split)


def test_a_contact_sheet_is_no_image_of_the_next_split(photos):
  assert (photos / "sets/photos/1.0.0/contact_sheet_train.png").is_file()
  assert prepare_data.main(argv(photos, "test")) == 0
  assert len(raw_files.read_examples("photos", "test", photos / "sets")) == 2


@pytest.mark.parametrize("content", [
    None, "", "{", "null", "[]", "{}", '{"pythonClassName": "os.path"}',
    '{"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text"}'
])
def test_damaged_features_are_named(photos, capsys, content):
  path = photos / "sets/photos/1.0.0/features.json"
  path.unlink()
  if content is not None:
    path.write_text(content)
  # The folder of the data set lacks a file, so its sheet would be an image.
  (path.parent / "contact_sheet_train.png").unlink()
  message = raw_files.failure(argv(photos, "test"), capsys)
  assert "error: --name: " in message and str(path) in message
  assert message.splitlines()[-1].startswith("error: ")
