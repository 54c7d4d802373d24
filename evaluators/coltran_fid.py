"""FID-5k of colorization, as Kumar et al. 2021 (arXiv:2102.04432) measure it.

5,000 prescribed images are colorized, 5,000 others are the reference. All go
to 256×256 pixels of 8 bit, as if they had been written to files, and then
through Inception.
"""

import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from evaluators import common, fid
from evaluators import features as features_lib
from uvim.registry import ConfigError

_SIZE = 256
_NUM_FILES = 5000
# ImageNet and our own image folders; COCO and `rooms`.
_NAME_KEYS = ("file_name", "image/filename")


def area_resize(image: np.ndarray, size: int = _SIZE) -> np.ndarray:
  """[H,W,3] → float32 [size,size,3]: means over the area under each pixel."""
  import tensorflow as tf
  return tf.image.resize(image, (size, size), method="area").numpy()


def to_bytes(levels: np.ndarray) -> np.ndarray:
  """Rounds to the nearest of 0..255: uint8."""
  return np.clip(np.round(levels), 0, 255).astype(np.uint8)


class Evaluator:
  """Fréchet distance between features of predictions and of other images."""

  def __init__(self, predictions: Callable[[Any], Iterable[dict[str, Any]]],
               source: Any, *, reference_split: str | None = None,
               features: str | None = None,
               extractor: features_lib.Extractor | None = None,
               eval_files: str | None = None,
               reference_files: str | None = None,
               num_files: int = _NUM_FILES, pixel_scale: float = 127.5,
               input_tensor: str = "Mul:0", output_tensor: str = "pool_3:0"):
    """Loads the feature extractor and checks the files' names.

    Args:
      predictions: `predictions(variables)` gives, for each example of the
        source, {'color': float [h,w,3] in [-1,1]}.
      source: `.num_examples`, `.example(index)`, and where it comes from:
        `.dataset`, `.split`, `.folder`.
      reference_split: split of the same data set with the reference images;
        of each, the largest square in the middle is used. Required.
      features: path of Inception, or a name; see `features.make_extractor`.
      extractor: instead of `features`, uint8 [256,256,3] → float [d].
      eval_files: text file with the names of the images to predict, one a
        line: exactly those of the source. FID-5k is defined by these lists;
        without them all images are used and the result is called FID.
      reference_files: the same for the reference, which may hold more.
      num_files: how many names each list must hold.
      pixel_scale: an image's byte is (color + 1) * pixel_scale: 127.5 undoes
        value_range(-1, 1). The released evaluation has 128 both here and in
        what it feeds the model.
      input_tensor: of a frozen graph; see `features.make_extractor`.
      output_tensor: the same.

    Raises:
      ConfigError: no extractor, or a set of files that is not as prescribed.
    """
    from pp import builder

    # First, as it takes no time and is what most will lack.
    self._extract = extractor or features_lib.make_extractor(
        features, input_tensor=input_tensor, output_tensor=output_tensor)
    if not reference_split:
      raise ConfigError("coltran_fid: needs reference_split, the split of "
                        f"{source.dataset} that holds the reference images.")
    if bool(eval_files) != bool(reference_files):
      raise ConfigError("coltran_fid: give both eval_files and "
                        "reference_files, or neither.")
    self._predictions = predictions
    self._source = source
    self._pixel_scale = pixel_scale
    lists = [_read_list("eval_files", eval_files, num_files),
             _read_list("reference_files", reference_files, num_files)]
    self._reference = _open_split(source, reference_split)
    self._picked = _check_files(source, self._reference, *lists)
    self._square = builder.build("decode|central_crop")
    prescribed = eval_files and num_files == _NUM_FILES
    self._name = "FID_5k" if prescribed else "FID"
    self._statistics: tuple[np.ndarray, np.ndarray] | None = None

  def run(self, variables: Any) -> Iterator[tuple[str, float]]:
    """Yields FID_5k, or FID where no lists of 5,000 files are given."""
    if self._statistics is None:
      self._statistics = fid.mean_and_covariance(np.stack([
          self._extract(self._reference_image(i)) for i in self._picked]))
    found = [
        self._extract(to_bytes(
            (area_resize(prediction["color"]) + 1) * self._pixel_scale))
        for _, prediction in common.numbered(
            self._predictions(variables), self._source.num_examples)]
    yield self._name, fid.frechet_distance(
        *fid.mean_and_covariance(np.stack(found)), *self._statistics)

  def _reference_image(self, index: int) -> np.ndarray:
    """uint8 [256,256,3]."""
    import tensorflow as tf
    encoded = tf.constant(self._reference.example(index)["image"])
    return to_bytes(area_resize(self._square({"image": encoded})["image"]))


def _open_split(source: Any, split: str) -> Any:
  """Another split of the data set that `source` is a split of."""
  from pp import sources
  name = source.dataset.split(":")[0].split("/")[0]
  # TFDS's layout: data_dir/name/[config/]version.
  data_dir = source.folder.rpartition(f"/{name}/")[0]
  return sources.make_source(source.dataset, split, data_dir or None)


def _read_list(option: str, path: str | None, num_files: int
               ) -> frozenset[str] | None:
  """The names in a file, one a line; None where no file is given."""
  if not path:
    return None
  try:
    lines = pathlib.Path(path).read_text().splitlines()
  except OSError as error:
    raise ConfigError(f"coltran_fid: cannot read {option} {path!r}: "
                      f"{error.strerror}.") from error
  names = frozenset(filter(None, map(str.strip, lines)))
  if len(names) != num_files:
    raise ConfigError(f"coltran_fid: {option} {path!r} holds {len(names)} "
                      f"different names; num_files is {num_files}.")
  return names


def _file_names(source: Any) -> list[str]:
  """The name of each example's file, in order."""
  names = []
  for index in range(source.num_examples):
    example = source.example(index)
    key = next((key for key in _NAME_KEYS if key in example), None)
    if key is None:
      raise ConfigError(
          f"coltran_fid: the examples of {source.dataset} have no file name "
          f"({' or '.join(_NAME_KEYS)}); they have {', '.join(example)}.")
    names.append(bytes(example[key]).decode())
  return names


def _check_files(source: Any, reference: Any, eval_list: frozenset[str] | None,
                 reference_list: frozenset[str] | None) -> list[int]:
  """The places of the reference images, all sets of files being right."""
  names = _file_names(source)
  reference_names = _file_names(reference)
  wanted = set(names) if eval_list is None else eval_list
  picked = set(reference_names) if reference_list is None else reference_list
  if both := wanted & picked:
    raise ConfigError(f"coltran_fid: {len(both)} files are both evaluated and "
                      f"reference, such as {min(both)!r}.")
  missing, extra = wanted - set(names), set(names) - wanted
  if missing or extra or len(names) != len(wanted):
    raise ConfigError(
        f"coltran_fid: the split {source.split!r} has {len(names)} images and "
        f"must be exactly the {len(wanted)} of eval_files: {len(missing)} are "
        f"missing{_such_as(missing)}, {len(extra)} are extra{_such_as(extra)}.")
  if missing := picked - set(reference_names):
    raise ConfigError(
        f"coltran_fid: {len(missing)} of the {len(picked)} reference_files are "
        f"missing in the split {reference.split!r}{_such_as(missing)}.")
  first = {name: i for i, name in reversed(list(enumerate(reference_names)))}
  return sorted(first[name] for name in picked)


def _such_as(names: set[str] | frozenset[str]) -> str:
  return f" (such as {min(names)!r})" if names else ""
