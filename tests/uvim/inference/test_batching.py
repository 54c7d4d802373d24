"""How many images make a batch."""

import pytest

from uvim.inference import batching
from uvim.inference.api import UViM
from uvim.inference.pix2seq_d import Pix2SeqDPredictor
from uvim.registry import ConfigError


@pytest.mark.parametrize("batch_size, num_samples, num_images, size", [
    (8, 1, 1, 1),
    # A power of two, so that few programs are compiled.
    (8, 1, 3, 4),
    (8, 1, 5000, 8),
    # What the user says, if there are enough images.
    (6, 1, 5, 6),
    # Samples count as well, and an image is never divided.
    (8, 3, 5000, 2),
    (8, 10_000, 5000, 1),
])
def test_a_batch_has_as_many_images_as_may_run(
    batch_size, num_samples, num_images, size):
  assert batching.images_at_once(batch_size, num_samples, num_images) == size


def test_no_item_is_lost_or_added():
  batches = list(batching.split("abcde", 2))
  assert batches == ["ab", "cd", "e"]
  assert batching.pad(batches[-1], 2) == ["e", "e"]
  assert batching.pad(batches[0], 2) == ["a", "b"]


def test_what_is_no_batch_size_is_refused():
  batching.check_batch_size(None)
  batching.check_batch_size(4096)
  with pytest.raises(ConfigError, match="--batch_size = 0; it must be None or"):
    batching.check_batch_size(0, "--batch_size")


def test_a_cpu_gets_small_batches():
  for kind in (UViM, Pix2SeqDPredictor):
    assert 1 <= kind.rows_on_cpu < kind.rows_elsewhere
