"""How many images go through a model at once.

A program is compiled for a number of images. These numbers are few: the batches
of a call have one size, a power of two unless the user says otherwise, and the
last batch is padded. So a call with one image runs a program for one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from uvim import fields
from uvim.registry import ConfigError

BATCH_SIZE = fields.integer(1, 4096)

Item = TypeVar("Item")


def check_batch_size(batch_size: Any, where: str = "batch_size") -> None:
  """Raises a ConfigError unless it is a number that a batch may have, or None.

  Args:
    batch_size: what the user said.
    where: starts the message.
  """
  if batch_size is None or BATCH_SIZE.fits(batch_size):
    return
  raise ConfigError(f"{where} = {batch_size!r}; it must be None or "
                    f"{BATCH_SIZE.allowed}.")


def images_at_once(batch_size: int, num_samples: int, num_images: int) -> int:
  """How many images a batch has.

  Args:
    batch_size: images times samples that may run at once.
    num_samples: of each image; if they alone are more, an image runs alone.
    num_images: that there are; a batch is less than twice as large.
  """
  most = max(1, batch_size // num_samples)
  return min(most, next_power_of_two(num_images))


def next_power_of_two(number: int) -> int:
  """The least power of two that is not below a positive number."""
  return 1 << (number - 1).bit_length()


def split(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
  """Yields the items in batches of `size`; the last one may be smaller."""
  for start in range(0, len(items), size):
    yield items[start:start + size]


def pad(items: Sequence[Item], size: int) -> list[Item]:
  """The items, and the last of them again until there are `size`."""
  num_missing = size - len(items)
  return [*items, *[items[-1]] * num_missing]
