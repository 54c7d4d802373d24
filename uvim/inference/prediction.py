"""What UViM saw in some photographs: to look at, to rank, to keep.

n images · S samples per image · L code length · H W pixels of a picture
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uvim.inference import images
from uvim.registry import ConfigError
from uvim.tasks.base import AbstractTask
from uvim.typing import Float, Int

_GAP = 6
_PAPER = 255


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What UViM sees in n photographs.

  Attributes:
    task: draws the outputs.
    photos: [H, W, 3] each, as `uvim.inference.images.read` gives them.
    outputs: the task's outputs by name: per photograph an array [S, H, W, …]
      of its size.
    codes: the guiding codes behind them; -1 is no word.
    logprob: log-probability of each word in nats; None where no language model
      wrote the code.
    settings: what the samples depend on: temperature, seed, ….
  """
  task: AbstractTask
  photos: Sequence[np.ndarray]
  outputs: Mapping[str, Sequence[np.ndarray]]
  codes: Int[np.ndarray, "n S L"]
  logprob: Float[np.ndarray, "n S L"] | None
  settings: Mapping[str, Any]

  def __len__(self) -> int:
    return len(self.photos)

  @property
  def num_samples(self) -> int:
    return self.codes.shape[1]

  @property
  def log_likelihood(self) -> Float[np.ndarray, "n S"]:
    """Of each whole code under the language model, in nats."""
    if self.logprob is None:
      raise ConfigError("These codes were not written by the language model; "
                        "UViM.log_prob gives the likelihood of any code.")
    return self.logprob.sum(-1)

  def best(self) -> "Prediction":
    """The likeliest of each photograph's samples alone, as S = 1."""
    pick = self.log_likelihood.argmax(-1)
    keep = np.arange(len(self)), pick
    return dataclasses.replace(
        self, codes=self.codes[keep][:, None],
        logprob=self.logprob[keep][:, None],
        outputs={key: [x[i:i + 1] for x, i in zip(xs, pick, strict=True)]
                 for key, xs in self.outputs.items()},
        settings={**self.settings, "rerank": True})

  def pictures(self) -> list[np.ndarray]:
    """The outputs as the task draws them, uint8 [S, H, W, 3] per photograph."""
    return [self.task.render({k: xs[i] for k, xs in self.outputs.items()})
            for i in range(len(self))]

  def plot(self, height: int = 200):
    """A PIL image: a row per photograph, the photograph first.

    Args:
      height: of a row, in pixels.
    """
    from PIL import Image
    rows = [[images.to_bytes(photo), *drawn] for photo, drawn in
            zip(self.photos, self.pictures(), strict=True)]
    rows = [[_to_height(x, height) for x in row] for row in rows]
    width = max(sum(x.width + _GAP for x in row) for row in rows) - _GAP
    sheet = Image.new("RGB", (width, len(rows) * (height + _GAP) - _GAP),
                      (_PAPER,) * 3)
    for i, row in enumerate(rows):
      left = 0
      for x in row:
        sheet.paste(x, (left, i * (height + _GAP)))
        left += x.width + _GAP
    return sheet

  def save(self, folder: str | os.PathLike, *,
           names: Sequence[str] | None = None,
           categories: Sequence[Any] | None = None,
           overwrite: bool = False) -> None:
    """Writes the files of `uvim.inference.export.Writer`.

    Args:
      folder: made if need be.
      names: of the photographs, without an ending; None: 0, 1, 2, ….
      categories: panoptic: rows with .id, .name and .isthing, where class c
        is categories[c - 1]; None: the classes' own numbers.
      overwrite: replaces files that are there.

    Raises:
      ConfigError: a file is there, or cannot be written.
    """
    from uvim.inference import export
    names = names or [str(i) for i in range(len(self))]
    writer = export.Writer(folder, num_samples=self.num_samples,
                           categories=categories, overwrite=overwrite)
    for i, name in enumerate(names):
      writer.add(name, self.one(i))
    writer.close(self.settings)

  def one(self, i: int) -> "Prediction":
    """Photograph i alone, as n = 1."""
    return dataclasses.replace(
        self, photos=[self.photos[i]], codes=self.codes[i:i + 1],
        logprob=None if self.logprob is None else self.logprob[i:i + 1],
        outputs={key: [xs[i]] for key, xs in self.outputs.items()})


def _to_height(picture, height):
  from PIL import Image
  width = max(1, round(picture.shape[1] * height / picture.shape[0]))
  grows = height > picture.shape[0]
  # A 20,000 pixel wide strip must not make a sheet of that width.
  width = min(width, 8 * height)
  return Image.fromarray(picture).resize(
      (width, height), Image.Resampling.NEAREST if grows else
      Image.Resampling.BOX)
