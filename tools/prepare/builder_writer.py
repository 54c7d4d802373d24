"""Writes a split with TFDS's own builder, in TFDS's own order.

The order decides which of COCO's images 'train[:4096]' holds out, so a data
set that TFDS has too must be in the order in which TFDS would write it.
"""

import contextlib
import dataclasses
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from tools.prepare import tfds_folder
from tools.prepare.writer import Found, MakeExample, Target
from uvim import progress


@dataclasses.dataclass(frozen=True)
class BuilderWriter:
  """Writes splits in the order of a hash of their keys, as TFDS does.

  Attributes:
    key_of: item → its key, a text that no other item of the split has.
    num_bytes: items → size of their files.
    free_bytes: existing folder → free space of its disk.
  """
  key_of: Callable[[Any], str]
  num_bytes: Callable[[Sequence[Any]], int]
  free_bytes: Callable[[pathlib.Path], int] = tfds_folder.free_bytes

  def write(self, target: Target, found: Found, make_example: MakeExample,
            check_lock: tfds_folder.CheckLock) -> None:
    """Writes all splits or, after an error, none; see `Writer.write`.

    Raises:
      ConfigError: the disk is too small, or the lock was lost.
    """
    items = found.all_items()
    # TFDS sorts in files of its own before it writes the final ones.
    tfds_folder.check_space(target.data_dir, len(items),
                            2 * self.num_bytes(items),
                            free_bytes=self.free_bytes)

    def generate_examples(split):
      items = found.splits[split]
      shown = progress.bar(items, total=len(items), label="Writing",
                           unit="examples")
      # TFDS hashes the key and sorts by it, so this order does not matter.
      for position, item in enumerate(shown):
        yield self.key_of(item), make_example(position, item)

    # A folder of its own, so that an error leaves the data set as it was.
    with tfds_folder.work_folder(
        target.name, target.data_dir, check_lock) as work:
      builder = make_builder(target.name, work, found, generate_examples)
      run_builder(builder)
      new_folder = pathlib.Path(builder.data_dir)
      found.write_extra_files(new_folder)
      check_lock()
      tfds_folder.merge(new_folder, target.folder, list(found.splits))


def make_builder(name: str, data_dir: str, found: Found,
                 generate_examples: Callable[[str], Any]) -> Any:
  """A TFDS builder of the splits that were found.

  Args:
    name: TFDS name, with an optional config after a slash.
    data_dir: root folder for the new files.
    found: the splits and the features.
    generate_examples: split → iterator of (key, example).
  """
  import tensorflow_datasets as tfds

  from pp.example_writer import ExampleWriter
  version = tfds_folder.version_of(name)
  dataset, _, config = name.partition("/")
  configs = []
  if config:
    configs.append(tfds.core.BuilderConfig(name=config, version=version))

  # The class is made for each data set, since TFDS takes name, version and
  # configs from it. Unregistered, it cannot hide a data set of TFDS.
  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Files that were prepared by `python -m tools.prepare_data`."""
    VERSION = tfds.core.Version(version)
    BUILDER_CONFIGS = configs

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=found.features)

    def _split_generators(self, dl_manager):
      # TFDS asks for the splits and gets an iterator for each.
      return {split: self._generate_examples(split) for split in found.splits}

    def _generate_examples(self, split):
      return generate_examples(split)

    def _example_writer(self):
      return ExampleWriter(self.info.file_format)

  # TFDS would take the name from that of the class.
  Builder.name = dataset
  if config:
    return Builder(data_dir=data_dir, config=config)
  return Builder(data_dir=data_dir)


def run_builder(builder: Any) -> None:
  """Runs `download_and_prepare` without TFDS's announcements and bars."""
  import tensorflow as tf
  import tensorflow_datasets as tfds
  tfds.display_progress_bar(False)
  try:
    # TFDS prints its announcements to the standard output.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare()
  except RuntimeError as error:
    # TFDS wraps what TensorFlow says of a full disk.
    if isinstance(error.__cause__, tf.errors.OpError):
      raise error.__cause__ from None
    raise
  finally:
    tfds.display_progress_bar(True)
