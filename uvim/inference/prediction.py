"""What a model sees in some images; shows it, ranks it and saves it.

n images · S samples per image · L code length · H W pixels of an image
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uvim import resize
from uvim.inference import export, legend, naming, overlay, sheet
from uvim.inference import segments as segments_lib
from uvim.inference.segments import Segment
from uvim.registry import ConfigError
from uvim.tasks.base import AbstractTask, Categories
from uvim.tasks.output_files import Path
from uvim.typing import Float, Int

# For each image an array, whose size is that of the image.
ArrayOfEach = Sequence[np.ndarray]
Codes = Int[np.ndarray, "n S L"]
LogProb = Float[np.ndarray, "n S L"]

_GAP = 6  # Pixels between the images of a plot.
_MAX_ASPECT = 8  # Of an image in a plot: width over height.
_MAX_SIZES = 4  # Of images that `repr` lists.


@dataclasses.dataclass(frozen=True, repr=False)
class Prediction:
  """What a model sees in n images.

  Attributes:
    task: draws the outputs.
    photos: the images, [H, W, 3] each, as `uvim.inference.images.read` gives
      them.
    outputs: the task's outputs by name: per image an array [S, H, W, …] of
      its size.
    codes: the guiding codes behind them, -1 is no word; of a mean those of
      all samples; None where the model has no codes. With `soft_words` in the
      settings f has read other vectors than those of these words.
    logprob: log-probability of each word in nats; None where the code does
      not come from a language model, and of a mean.
    settings: what the samples depend on: temperature, seed, ….
    categories: rows with .id, .name and .isthing: what class 1, 2, … stands
      for; empty where nobody knows, or where the task has no classes.
  """
  task: AbstractTask
  photos: ArrayOfEach
  outputs: Mapping[str, ArrayOfEach]
  codes: Codes | None
  logprob: LogProb | None
  settings: Mapping[str, Any]
  categories: Categories = ()

  def __len__(self) -> int:
    return len(self.photos)

  def __repr__(self) -> str:
    """Task, number of images and samples, sizes; no arrays."""
    sizes = [f"{photo.shape[0]}×{photo.shape[1]}" for photo in self.photos]
    if len(sizes) > _MAX_SIZES:
      sizes[_MAX_SIZES:] = ["…"]
    return (f"Prediction({'/'.join(self.outputs)}, images: {len(self)}, "
            f"samples: {self.num_samples}, height×width: {', '.join(sizes)})")

  @property
  def num_samples(self) -> int:
    """S."""
    # All outputs have the same samples: one of them tells how many.
    arrays = next(iter(self.outputs.values()))
    return len(arrays[0])

  @property
  def log_likelihood(self) -> Float[np.ndarray, "n S"]:
    """The log-likelihood of each whole code, in nats."""
    if self.logprob is None and self.codes is None:
      raise ConfigError("This model has no code, so nothing tells how likely "
                        "its samples are.")
    if self.logprob is None:
      raise ConfigError("These codes were not written by the language model, "
                        "or the outputs are a mean; "
                        "UViM.log_prob gives the likelihood of any code.")
    # Each word is given those before it, so the logarithms add up.
    return self.logprob.sum(-1)

  @property
  def segments(self) -> list[list[Segment]]:
    """For each image the segments of its likeliest sample.

    Where nobody knows the likelihood, of its first one. The other samples
    give the scores, see `segments.Segment`.

    Raises:
      ConfigError: the task has no classes.
    """
    if self.task.num_categories is None:
      raise ConfigError(f"{'/'.join(self.outputs)} has no segments.")
    best_n = np.zeros(len(self), int)
    if self.logprob is not None:
      best_n = self.log_likelihood.argmax(-1)
    found = []
    for i, best in enumerate(best_n):
      pairs = segments_lib.pairs_of(self.task, self._outputs_of(i))
      others = np.delete(pairs, best, axis=0)
      found.append(segments_lib.find_segments(
          pairs[best], others, categories=self.categories))
    return found

  def best(self) -> "Prediction":
    """Only the likeliest sample of each image, as S = 1."""
    best_n = self.log_likelihood.argmax(-1)
    outputs = {}
    for key, arrays in self.outputs.items():
      outputs[key] = []
      for samples, best in zip(arrays, best_n, strict=True):
        # A slice keeps the axis of the samples.
        outputs[key].append(samples[best:best + 1])
    return dataclasses.replace(
        self,
        outputs=outputs,
        codes=_choose(self.codes, best_n),
        logprob=_choose(self.logprob, best_n),
        settings={**self.settings, "rerank": True})

  def one(self, i: int) -> "Prediction":
    """Only image i, as n = 1."""
    outputs = {}
    for key, output in self._outputs_of(i).items():
      outputs[key] = [output]
    codes = self.codes
    if codes is not None:
      # Slices keep the axis of the images.
      codes = codes[i:i + 1]
    logprob = self.logprob
    if logprob is not None:
      logprob = logprob[i:i + 1]
    return dataclasses.replace(
        self,
        photos=[self.photos[i]],
        outputs=outputs,
        codes=codes,
        logprob=logprob)

  def _outputs_of(self, i: int) -> dict[str, np.ndarray]:
    """The outputs [S, H, W, …] of image i."""
    outputs = {}
    for key, arrays in self.outputs.items():
      outputs[key] = arrays[i]
    return outputs

  def pictures(self) -> list[np.ndarray]:
    """The outputs as the task draws them, uint8 [S, H, W, 3] per image."""
    drawings = []
    for i in range(len(self)):
      samples = self._outputs_of(i)
      # One by one: a drawing takes far more memory while it is made.
      drawn = []
      for s in range(self.num_samples):
        # A slice keeps the axis of the samples.
        outputs = {key: output[s:s + 1] for key, output in samples.items()}
        drawn.append(self.task.render(outputs))
      drawings.append(np.concatenate(drawn))
    return drawings

  def overlay(self, i: int = 0, sample: int = 0, *,
              side_by_side: bool = False):
    """A PIL image: the prediction over the image, named, with a legend.

    Args:
      i: which image.
      sample: which of its samples.
      side_by_side: the image alone stands beside it.
    """
    return overlay.draw_picture(
        self.task, self._sample(i, sample), self.photos[i],
        categories=self.categories, overlay=True, side_by_side=side_by_side)

  def _sample(self, i: int, sample: int) -> dict[str, np.ndarray]:
    """The outputs [H, W, …] of one sample of image i."""
    samples = self._outputs_of(i)
    return {key: output[sample] for key, output in samples.items()}

  def plot(self, height: int = 200, *, plain: bool = False):
    """A PIL image: a row per image, the image first, then its samples.

    Args:
      height: the height of a row, in pixels.
      plain: without outlines, names and legend.
    """
    rows = []
    for i, photo in enumerate(self.photos):
      row = [to_height(resize.to_bytes(photo), height)]
      if plain:
        drawings = self.one(i).pictures()[0]
        row += [to_height(drawing, height) for drawing in drawings]
      else:
        row += self._named_drawings(i, row[0].size)
      rows.append(row)
    if not plain:
      rows += self._legend_row(rows)
    return sheet.draw_sheet(rows, gap=_GAP)

  def _named_drawings(self, i: int, size: tuple[int, int]) -> list[Any]:
    """PIL images of this width and height: the samples of image i."""
    width, height = size
    drawings = []
    for sample in range(self.num_samples):
      drawings.append(overlay.draw(
          self.task, self._sample(i, sample), (height, width),
          categories=self.categories))
    return drawings

  def _legend_row(self, rows) -> list[list[Any]]:
    """The legend of these rows as a row of its own, if there is one."""
    widths = []
    for row in rows:
      widths.append(sum(image.width + _GAP for image in row) - _GAP)
    samples = [self._outputs_of(i) for i in range(len(self))]
    width = max(widths, default=0)
    explained = legend.draw_legend(
        self.task, samples, categories=self.categories, width=width,
        font_size=overlay.font_size(width // 2))
    return [] if explained is None else [[explained]]

  def save(self, folder: Path, *,
           names: Sequence[str] | None = None,
           categories: Categories = None,
           overwrite: bool = False,
           overlay: bool = False,
           side_by_side: bool = True) -> None:
    """Writes the files of `uvim.inference.export.Writer`.

    Args:
      folder: made if need be.
      names: of the images, without an ending; None: 0, 1, 2, ….
      categories: panoptic: rows with .id, .name and .isthing, one for each
        class; None: those of the prediction. Where it has none, the files have
        the classes' own numbers, and a warning says so.
      overwrite: replaces files that are there.
      overlay: the pictures show the prediction over the image.
      side_by_side: they show the image beside it.

    Raises:
      ConfigError: names that no files can have, or fewer than images; another
        number of categories than of classes; a file is there, or cannot be
        written.
    """
    if names is None:
      names = list(map(str, range(len(self))))
    naming.check_names(names, len(self))
    if categories is None:
      categories = self.categories or None
    export.check_categories(self.task, categories, "categories")
    unnamed = export.unnamed_classes(self.task, categories, "categories=…")
    if unnamed:
      warnings.warn(unnamed, stacklevel=2)
    writer = export.Writer(
        folder, self.task, num_samples=self.num_samples,
        categories=categories, overwrite=overwrite, overlay=overlay,
        side_by_side=side_by_side)
    # One at a time: the writer never holds more than one image's drawings.
    for i, name in enumerate(names):
      writer.add(name, self.one(i))
    writer.close(self.settings)


def put_sample(output: np.ndarray, samples: np.ndarray | None, place: int,
               num_samples: int) -> np.ndarray:
  """The samples [S, …] of an image with one more in its place.

  `np.stack` would hold all of them twice, and they may be huge.

  Args:
    output: one sample.
    samples: those before it; None: it is the first.
    place: of `output`.
    num_samples: S.
  """
  if num_samples == 1:
    return output[None]
  if samples is None:
    samples = np.empty((num_samples, *output.shape), output.dtype)
  samples[place] = output
  return samples


def _choose(values_nSL, best_n):
  """[n, 1, L] of the best samples; None of None."""
  if values_nSL is None:
    return None
  # Two index arrays pick one sample for each image and drop the axis S. The
  # last line puts it back.
  images_n = np.arange(len(best_n))
  chosen_nL = values_nSL[images_n, best_n]
  return chosen_nL[:, None]


def to_height(image_HWC: np.ndarray, height: int):
  """A PIL image of this height, its aspect kept unless it is very wide."""
  from PIL import Image
  old_height, old_width = image_HWC.shape[:2]
  width = round(old_width * height / old_height)
  width = max(1, width)
  # A strip 20,000 pixels wide must not make a sheet of that width.
  width = min(width, _MAX_ASPECT * height)
  # Small images keep sharp pixels.
  is_larger = height > old_height
  method = Image.Resampling.BOX
  if is_larger:
    method = Image.Resampling.NEAREST
  image = Image.fromarray(image_HWC)
  return image.resize((width, height), method)
