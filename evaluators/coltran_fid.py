"""FID-5k of colorization, as Kumar et al. 2021 (arXiv:2102.04432) measure it.

The model colorizes 5,000 prescribed images; 5,000 others are the reference.
Every image becomes 256×256 pixels of 8 bits, as if it came from a file. Then
Inception turns it into features.

Suffixes: d features of an image.
"""

import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from evaluators import base, fid
from evaluators import features as features_lib
from uvim import fields
from uvim.registry import ConfigError

_SIZE = 256
# The feature with the name of an image's file: in ImageNet and our own image
# folders; in COCO and `rooms`.
_NAME_KEYS = ("file_name", "image/filename")

# The features f [d] of each image, in order.
State = tuple[np.ndarray, ...]


def area_resize(image: np.ndarray, size: int = _SIZE) -> np.ndarray:
  """[H,W,3] → float32 [size,size,3]: means over the area under each pixel."""
  import tensorflow as tf
  resized = tf.image.resize(image, (size, size), method="area")
  return resized.numpy()


def to_bytes(levels: np.ndarray) -> np.ndarray:
  """Rounds to the nearest of 0..255: uint8."""
  rounded = np.round(levels)
  return np.clip(rounded, 0, 255).astype(np.uint8)


class ColtranFid(base.Evaluator):
  """Fréchet distance between features of predictions and of other images.

  Options:
    reference_split: split of the same data set with the reference images. It
      uses the largest central square of each. Required.
    features: path of Inception, or a name; see `features.make_extractor`.
    eval_files: text file with the names of the images to predict, one a line:
      exactly those of the split. FID-5k is defined by these lists; without
      them all images are used and the result is called FID.
    reference_files: the same for the reference split, which may hold others
      too.
    num_files: how many names each list must hold.
    pixel_scale: an image's byte is (color + 1) * pixel_scale: 127.5 undoes
      value_range(-1, 1). The released evaluation has 128 both here and in
      what it feeds the model.
    input_tensor: of a frozen graph; see `features.make_extractor`.
    output_tensor: as `input_tensor`.
    extractor: instead of `features`, uint8 [256,256,3] → float [d]; for
      callers from Python.
    open_split: (dataset, split, data_dir) → the reference split; None:
      `pp.splits.open_split`; for callers from Python.

  Attributes:
    num_prescribed: how many files each list of FID-5k names.
  """

  needs_truth = False
  num_prescribed = 5000
  checks = {
      "reference_split": fields.optional(fields.TEXT),
      "features": fields.optional(fields.PATH),
      "eval_files": fields.optional(fields.PATH),
      "reference_files": fields.optional(fields.PATH),
      "num_files": fields.integer(1),
      "pixel_scale": fields.POSITIVE,
      "input_tensor": fields.TEXT,
      "output_tensor": fields.TEXT,
  }

  def __init__(
      self,
      split: Any,
      *,
      reference_split: str | None = None,
      features: str | None = None,
      eval_files: str | None = None,
      reference_files: str | None = None,
      num_files: int = num_prescribed,
      pixel_scale: float = 127.5,
      input_tensor: str = "Mul:0",
      output_tensor: str = "pool_3:0",
      extractor: features_lib.Extractor | None = None,
      open_split: Callable[..., Any] | None = None,
  ):
    """Loads the feature extractor and checks the names of the files.

    Args:
      split: see `base.Evaluator`. It also tells where it comes from:
        `.dataset`, `.split`, `.folder`.
      **options: see above.

    Raises:
      ConfigError: no extractor, or a set of files that is not as prescribed.
    """
    # Imported late: it needs TensorFlow.
    from pp import builder
    super().__init__(split)
    fields.check_options(
        type(self), num_files=num_files, pixel_scale=pixel_scale)
    # First, because it takes no time and is what most runs will lack.
    self._extract = extractor or features_lib.make_extractor(
        features, input_tensor=input_tensor, output_tensor=output_tensor)
    if not reference_split:
      raise ConfigError("coltran_fid: needs reference_split, the split of "
                        f"{split.dataset} that holds the reference images.")
    if bool(eval_files) != bool(reference_files):
      raise ConfigError("coltran_fid: give both eval_files and "
                        "reference_files, or neither.")
    self._pixel_scale = pixel_scale
    eval_list = _read_list("eval_files", eval_files, num_files)
    reference_list = _read_list("reference_files", reference_files, num_files)
    self._reference = _open_sibling(split, reference_split, open_split)
    self._reference_places = _check_files(
        split, self._reference, eval_list, reference_list)
    self._crop_square = builder.build("decode|central_crop")
    # The literature's FID-5k is defined by these lists, so only they give its
    # name to the result.
    is_prescribed = eval_list and num_files == self.num_prescribed
    self._metric = "FID_5k" if is_prescribed else "FID"
    self._reference_statistics: tuple[np.ndarray, np.ndarray] | None = None

  @classmethod
  def risks(cls, options: Mapping[str, Any]) -> list[str]:
    """See the base class. A graph of TensorFlow can write files."""
    is_built_in = str(options.get("features")) in features_lib.EXTRACTORS
    return [] if is_built_in else ["features"]

  def initial(self) -> State:
    """The state of no example. The first call measures the reference."""
    # A reference image that cannot be read then costs no predictions.
    if self._reference_statistics is None:
      reference = [self._extract(self._reference_image(place))
                   for place in self._reference_places]
      self._reference_statistics = fid.mean_and_covariance(
          np.stack(reference))
    return ()

  def update(
      self,
      state: State,
      prediction: base.Prediction,
      truth: None,
  ) -> State:
    """`prediction` has 'color' float [h,w,3] in [-1,1]."""
    del truth
    color = area_resize(prediction["color"])
    # Rounded to 8 bits, as if the prediction came from a file.
    levels = (color + 1) * self._pixel_scale
    features_d = self._extract(to_bytes(levels))
    return (*state, features_d)

  def merge(self, first: State, second: State) -> State:
    return first + second

  def result(self, state: State) -> dict[str, float]:
    """FID_5k, or FID where no lists of 5,000 files are given."""
    mean, covariance = fid.mean_and_covariance(np.stack(state))
    distance = fid.frechet_distance(
        mean, covariance, *self._reference_statistics)
    return {self._metric: distance}

  def _reference_image(self, place: int) -> np.ndarray:
    """uint8 [256,256,3]."""
    import tensorflow as tf
    example = self._reference.example(place)
    encoded = tf.constant(example["image"])
    square = self._crop_square({"image": encoded})["image"]
    return to_bytes(area_resize(square))


def _open_sibling(split: Any, name: str,
                  open_split: Callable[..., Any] | None) -> Any:
  """Another split of the data set that `split` is a split of."""
  from pp import splits
  open_split = open_split or splits.open_split
  # TFDS's layout: data_dir/name/[config/]version.
  # The name without version or config: 'imagenet2012:5.1.0' or 'coco/2017'.
  dataset_name = split.dataset.split(":")[0].split("/")[0]
  data_dir = split.folder.rpartition(f"/{dataset_name}/")[0]
  return open_split(split.dataset, name, data_dir or None)


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
  stripped = [line.strip() for line in lines]
  names = frozenset(name for name in stripped if name)
  # A name that is listed twice counts once, so this finds it as well.
  if len(names) != num_files:
    raise ConfigError(f"coltran_fid: {option} {path!r} holds {len(names)} "
                      f"different names; num_files is {num_files}.")
  return names


def _file_names(split: Any) -> list[str]:
  """The name of each example's file, in order."""
  names = []
  for place in range(split.num_examples):
    example = split.example(place)
    # Reads every record once; the names are not stored apart.
    keys = [key for key in _NAME_KEYS if key in example]
    if not keys:
      raise ConfigError(
          f"coltran_fid: the examples of {split.dataset} have no file name "
          f"({' or '.join(_NAME_KEYS)}); they have {', '.join(example)}.")
    # TFDS gives texts as bytes.
    name = bytes(example[keys[0]])
    names.append(name.decode())
  return names


def _check_files(
    split: Any,
    reference: Any,
    eval_list: frozenset[str] | None,
    reference_list: frozenset[str] | None,
) -> list[int]:
  """The places of the reference images in their split.

  Raises:
    ConfigError: a set of files that is not as prescribed.
  """
  names = _file_names(split)
  reference_names = _file_names(reference)
  # Without lists, all images of the two splits are compared.
  wanted = eval_list or frozenset(names)
  wanted_reference = reference_list or frozenset(reference_names)

  # An image that is its own reference makes the distance too small.
  in_both = wanted & wanted_reference
  if in_both:
    raise ConfigError(
        f"coltran_fid: {len(in_both)} files are both evaluated and "
        f"reference, such as {min(in_both)!r}.")
  # All images of the split are predicted, so it must hold no other.
  _check_exact(split, names, wanted)
  missing = wanted_reference - set(reference_names)
  if missing:
    raise ConfigError(
        f"coltran_fid: {len(missing)} of the {len(wanted_reference)} "
        "reference_files are missing in the split "
        f"{reference.split!r}{_such_as(missing)}.")
  return _first_places(reference_names, wanted_reference)


def _first_places(names: list[str], wanted: frozenset[str]) -> list[int]:
  """Where the wanted names stand; of equal names the first."""
  places = []
  seen = set()
  for place, name in enumerate(names):
    if name in wanted and name not in seen:
      places.append(place)
      seen.add(name)
  return places


def _check_exact(split: Any, names: list[str], wanted: frozenset[str]) -> None:
  """Raises a ConfigError unless the split has each wanted file once."""
  missing = wanted - set(names)
  extra = set(names) - wanted
  if missing or extra or len(names) != len(wanted):
    raise ConfigError(
        f"coltran_fid: the split {split.split!r} has {len(names)} images and "
        f"must be exactly the {len(wanted)} of eval_files: {len(missing)} are "
        f"missing{_such_as(missing)}, {len(extra)} are extra{_such_as(extra)}.")


def _such_as(names: Collection[str]) -> str:
  """A name from the collection as an example, for messages."""
  return f" (such as {min(names)!r})" if names else ""
