"""A tiny TFDS data set on disk, written once per test session."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
  """data_dir with 'tiny': 'train' of 11 in 3 files, 'validation' of 5.

  'image' is an encoded PNG of 4x6 pixels, all equal to the number of the
  example in 'value'; there is no 'image/id'.
  """
  import tensorflow_datasets as tfds

  class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Numbers as images."""
    name = "tiny"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.
                                   FeaturesDict({
          "image": tfds.features.Image(encoding_format="png"),
          "value": np.int64,
          "name": tfds.features.Text(),
      }))

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples(11),
              "validation": self._generate_examples(5)}

    def _generate_examples(self, count):
      for i in range(count):
        yield i, {"image": np.full((4, 6, 3), i, np.uint8), "value": i,
                  "name": f"number {i}"}

  folder = tmp_path_factory.mktemp("tfds")
  builder = Tiny(data_dir=folder)
  builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(num_shards=3))
  return folder
