"""Feature extractors for the Fréchet distance: uint8 [H,W,3] → float [d].

An extractor sees one image at a time. So the features of an image cannot
depend on the other images of a batch.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from uvim.registry import ConfigError

Extractor = Callable[[np.ndarray], np.ndarray]

_INCEPTION_SIZE = 299
_HOW_TO = (
    "features is the Inception network of 2015-12-05, which the figures in the "
    "literature are measured with. To get it, unpack http://download.tensorflow"
    ".org/models/image/imagenet/inception-2015-12-05.tgz and give the path of "
    "classify_image_graph_def.pb in it; or unpack https://tfhub.dev/tensorflow/"
    "tfgan/eval/inception/1 and give the path of the folder. Without it, "
    "features='quadrants' compares colors only; its figures can be compared "
    "with each other only")


def quadrants(image: np.ndarray) -> np.ndarray:
  """Mean color of the four quarters, f64 [12]: for trials, needs no file.

  The quarters are in reading order: upper left first.
  """
  middle_row = image.shape[0] // 2
  middle_column = image.shape[1] // 2
  means = []
  # An odd row or column goes to the second half.
  for half in (image[:middle_row], image[middle_row:]):
    for quarter in (half[:, :middle_column], half[:, middle_column:]):
      means.append(quarter.mean((0, 1), dtype=np.float64))
  return np.concatenate(means)


EXTRACTORS: dict[str, Extractor] = {"quadrants": quadrants}


def make_extractor(
    features: str | None,
    *,
    input_tensor: str = "Mul:0",
    output_tensor: str = "pool_3:0",
) -> Extractor:
  """The extractor that a name or a path stands for, ready to use.

  Args:
    features: a key of EXTRACTORS, a frozen graph (.pb), or the folder of a TF
      SavedModel.
    input_tensor: of a frozen graph. 'Mul:0' is behind the graph's own resize
      and scaling, so it is given 299×299 pixels in [-1,1]; 'ExpandDims:0' is
      before them and is given the image as it is.
    output_tensor: of a frozen graph. The part before the colon is the output
      of a SavedModel that has several.

  Raises:
    ConfigError: nothing there, with instructions; or not what it should be.
  """
  if features in EXTRACTORS:
    return EXTRACTORS[features]
  if not features:
    raise ConfigError(f"coltran_fid: needs features. {_HOW_TO}.")
  path = pathlib.Path(features)
  # A SavedModel is a folder, a frozen graph a single file.
  if (path / "saved_model.pb").is_file():
    output_name = output_tensor.partition(":")[0]
    return _load_saved_model(path, output_name)
  if path.is_file():
    return _load_frozen_graph(path, input_tensor, output_tensor)
  raise ConfigError(
      f"coltran_fid: features={features!r} is neither a file, nor a folder "
      f"with a saved_model.pb, nor one of {', '.join(EXTRACTORS)}. {_HOW_TO}.")


def _scaled(image: np.ndarray) -> np.ndarray:
  """float32 [1,H,W,3] in [-1,1), by 128 as the network was trained."""
  return image[None].astype(np.float32) / 128 - 1


def _load_frozen_graph(
    path: pathlib.Path,
    input_tensor: str,
    output_tensor: str,
) -> Extractor:
  """The extractor of a .pb file; see `make_extractor`."""
  import tensorflow as tf
  definition = tf.compat.v1.GraphDef()
  graph = tf.Graph()
  try:
    definition.ParseFromString(path.read_bytes())
    with graph.as_default():
      tf.import_graph_def(definition, name="")
    output = graph.get_tensor_by_name(output_tensor)
    entry = graph.get_tensor_by_name(input_tensor)
  # The parser, the import and the look-up each raise errors of their own.
  except Exception as error:
    raise ConfigError(
        f"coltran_fid: features={str(path)!r} is not a frozen graph with "
        f"tensors {input_tensor!r} and {output_tensor!r}: {error}") from error
  # A session, because some ops of 2015 run in no other way.
  session = tf.compat.v1.Session(graph=graph)
  # These tensors lie before the graph's resize, so it gets raw levels.
  resizes_itself = input_tensor.startswith("ExpandDims")

  def extract(image: np.ndarray) -> np.ndarray:
    if resizes_itself:
      pixels = image[None].astype(np.float32)
    else:
      pixels = _inception_size(image)
    return session.run(output, {entry: pixels}).reshape(-1)

  return extract


def _inception_size(image: np.ndarray) -> np.ndarray:
  """As `_scaled`, resized as the graph itself would have done it."""
  import tensorflow as tf
  size = (_INCEPTION_SIZE, _INCEPTION_SIZE)
  # Version 1: version 2 puts the centres of pixels elsewhere.
  return tf.compat.v1.image.resize_bilinear(_scaled(image), size).numpy()


def _load_saved_model(path: pathlib.Path, output_name: str) -> Extractor:
  """The extractor of a SavedModel's folder; see `make_extractor`."""
  import tensorflow as tf
  try:
    model = tf.saved_model.load(str(path))
  except Exception as error:
    raise ConfigError(f"coltran_fid: features={str(path)!r} cannot be loaded "
                      f"as a SavedModel: {error}") from error
  call = _entry_point(model, path)

  def extract(image: np.ndarray) -> np.ndarray:
    outputs = call(tf.constant(_scaled(image)))
    # A signature returns a dict of outputs, a callable model may return one.
    if isinstance(outputs, dict):
      outputs = _choose_output(outputs, output_name)
    return np.asarray(outputs).reshape(-1)

  return extract


def _choose_output(outputs: dict[str, Any], name: str) -> Any:
  """The output of this name, or the only one there is."""
  if name in outputs:
    return outputs[name]
  if len(outputs) > 1:
    raise ConfigError(
        f"coltran_fid: output_tensor {name!r} is not among the outputs "
        f"of the SavedModel: {', '.join(sorted(outputs))}.")
  return next(iter(outputs.values()))


def _entry_point(model: Any, path: pathlib.Path) -> Callable[[Any], Any]:
  """What is called with images: the model itself, or its only signature."""
  if callable(model):
    return model
  signatures = list(model.signatures.values())
  if len(signatures) != 1:
    raise ConfigError(
        f"coltran_fid: features={str(path)!r} can neither be called nor has it "
        f"one signature: {', '.join(model.signatures) or 'none'}.")
  # A signature takes its input by name only.
  signature = signatures[0]
  _, keyword_inputs = signature.structured_input_signature
  input_name = next(iter(keyword_inputs))

  def call(images):
    return signature(**{input_name: images})

  return call
