"""The images of a session of the explorer, with their truth.

H W pixels of an image
"""

import collections
import dataclasses
import hashlib
from typing import Any, BinaryIO

import numpy as np

from uvim import resize
from uvim.explorer.describe import data_url, describe_output
from uvim.inference import images
from uvim.inference.predictor import Predictor
from uvim.registry import ConfigError
from uvim.tasks.base import AbstractTask

MAX_IMAGES = 24  # The oldest is forgotten first.
MAX_PIXELS = 50_000_000  # Of an upload, before it is shrunk.
SIDE = 1024  # Pixels of the long side of what is kept.


@dataclasses.dataclass(frozen=True)
class Entry:
  """An image of the session.

  Attributes:
    image: uint8 [H, W, 3].
    labels: the truth, as the model takes it; None if it is unknown.
  """
  image: np.ndarray
  labels: np.ndarray | None = None


class Gallery:
  """A model and the images that it is asked about; takes one call at a time."""

  def __init__(self, predictor: Predictor, title: str):
    """Starts without images.

    Args:
      predictor: the model.
      title: what the page calls it.
    """
    self._predictor = predictor
    self._title = title
    # In the order of arrival; the oldest comes first.
    self._entries: dict[str, Entry] = collections.OrderedDict()
    self._examples: list[str] = []
    # Id → what is said of its labels, which never changes.
    self._descriptions: dict[str, dict[str, Any]] = {}

  def __len__(self) -> int:
    """How many images there are."""
    return len(self._entries)

  def __contains__(self, number: str) -> bool:
    return number in self._entries

  @property
  def task(self) -> AbstractTask:
    return self._predictor.task

  def add(self, file: BinaryIO) -> str:
    """Reads an uploaded image; returns its id.

    Raises:
      ConfigError: not an image, or one of too many pixels.
    """
    image = images.read(file, max_pixels=MAX_PIXELS, smallest_HW=(SIDE, SIDE))
    return self.add_entry(image)

  def add_example(self, image: np.ndarray, labels: Any) -> str:
    """Keeps an image with its truth for the whole session."""
    number = self.add_entry(image, labels)
    self._examples.append(number)
    return number

  def add_entry(self, image: np.ndarray, labels: Any = None) -> str:
    """Keeps an image; the same one has the same id."""
    # Only the shrunk copy stays in memory.
    image = images.fit(resize.to_bytes(image), SIDE)
    if labels is None and self.task.labels_from_image:
      labels = image
    number = _fingerprint(image)
    # Taken out first: the newest comes last.
    old = self._entries.pop(number, None)
    # An example that is uploaded again keeps its truth.
    if labels is None and old is not None:
      labels = old.labels
    self._entries[number] = Entry(image, labels)
    self._forget_the_oldest()
    return number

  def _forget_the_oldest(self) -> None:
    num_spare = len(self._entries) - MAX_IMAGES
    if num_spare <= 0:
      return
    # Examples stay for the whole session; only uploads go.
    uploads = [key for key in self._entries if key not in self._examples]
    for key in uploads[:num_spare]:
      self._forget(key)

  def _forget(self, number: str) -> None:
    """Frees what is kept of an image."""
    del self._entries[number]
    self._descriptions.pop(number, None)

  def _entry(self, number: str) -> Entry:
    if number not in self._entries:
      raise ConfigError("This image is not here any more; drop it in again.")
    return self._entries[number]

  def describe(self, number: str) -> dict[str, Any]:
    """The image, and with labels what is known of them."""
    entry = self._entry(number)
    height, width = entry.image.shape[:2]
    description = {"id": number, "width": width, "height": height,
                   "image": data_url(entry.image)}
    if entry.labels is None:
      return description
    # Computed once, however often somebody asks.
    if number not in self._descriptions:
      self._descriptions[number] = self._describe_labels(entry)
    return description | self._descriptions[number]

  def _describe_labels(self, entry: Entry) -> dict[str, Any]:
    """The truth."""
    height, width = entry.image.shape[:2]
    # The truth gets the size of the image, which the outputs have too.
    label = self.task.label_at(entry.labels, (height, width))
    truth = self.task.truth({"labels": label[None]})
    return {"truth": describe_output(self.task, truth)}


def _fingerprint(image_HWC: np.ndarray) -> str:
  """An id that depends on the pixels only: 16 hexadecimal digits."""
  # The shape counts too: 2x8 and 4x4 pixels may have the same bytes.
  content = repr(image_HWC.shape).encode() + image_HWC.tobytes()
  digest = hashlib.sha256(content).hexdigest()
  return digest[:16]
