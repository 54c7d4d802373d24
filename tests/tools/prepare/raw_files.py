"""Raw files for the tests of tools/prepare, and what is made of them.

H W pixels of an image
"""

import numpy as np
from PIL import Image

from pp import sources
from tools.prepare import __main__ as prepare_data


def gradient(height=12, width=20):
  """An image without two equal pixels side by side: uint8 [H, W, 3]."""
  y_HW, x_HW = np.mgrid[:height, :width]
  channels = [10 * x_HW, 18 * y_HW, 5 * (x_HW + y_HW)]
  return np.stack(channels, -1).astype(np.uint8)


def plain(value=90, height=6, width=9):
  """An image of one gray value: uint8 [H, W, 3]."""
  return np.full((height, width, 3), value, np.uint8)


def save(path, image, **options):
  """Saves an array or a PIL image; makes the folder."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".npy":
    np.save(path, image)
    return
  if path.suffix == ".npz":
    np.savez(path, image)
    return
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(path, **options)


def arguments(command, data_dir, **options):
  """A command line. An option may be one value or a list of values."""
  argv = [command, "--data_dir", str(data_dir)]
  for option, values in options.items():
    if not isinstance(values, list):
      values = [values]
    argv.append(f"--{option}")
    argv += [str(value) for value in values]
  return argv


def failure(argv, capsys):
  """The message of a command that must end with exit code 2."""
  capsys.readouterr()
  assert prepare_data.main(argv) == 2
  message = capsys.readouterr().err
  assert "error: " in message
  assert "Traceback" not in message
  return message


def read_examples(name, split, data_dir):
  """All examples of a split, in its order."""
  source = sources.make_source(name, split, data_dir)
  return [source.example(index) for index in range(source.num_examples)]


def by_file_name(examples):
  return {example["file_name"].decode(): example for example in examples}


def assert_not_empty(sheet_path):
  """A contact sheet that shows something is not of one color."""
  with Image.open(sheet_path) as sheet:
    assert np.asarray(sheet).std() > 20
