"""Images with truth for the explorer, from a run's own data set."""

import io
from collections.abc import Iterator

import numpy as np

from uvim.inference import images
from uvim.registry import ConfigError
from uvim.store import open_model
from uvim.tasks.base import AbstractTask


def find_examples(checkpoint: str, task: AbstractTask, count: int
                  ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
  """Reads examples of the split that the run never trained on.

  Args:
    checkpoint: a run's workdir; no other checkpoint tells its data set.
    task: of the model.
    count: how many at most.

  Yields:
    (image [H, W, 3], labels as the oracle takes them). The labels are None
    where an image is its own label.

  Raises:
    ConfigError: the data set is unknown or not there.
  """
  config = open_model.read_config(checkpoint)
  pp = config.get("pp_eval")
  if not (config.get("val_split") and pp):
    raise ConfigError("the checkpoint does not tell its data set")
  data_dir = config.get("data_dir")
  if "://" in (data_dir or ""):
    # The run may come from a stranger.
    raise ConfigError(f"its data_dir is {data_dir}, which is not asked")
  # Imported late: TensorFlow takes seconds.
  import tensorflow as tf

  from pp import stream
  from trainers import config_file
  config_file.quiet_absl()  # TFDS warns of its own calls.
  split = stream.open_tfds_split(
      config["dataset"], config["val_split"], data_dir)
  preprocess = split.make_preprocess(pp, config.get("pp_modules"))
  for index in range(min(count, split.num_examples)):
    example = split.source.tensors(index)
    seen = preprocess(example, tf.zeros([2], tf.int64))
    if "crop" in pp or "flip" in pp:
      # Only what the string makes of the image fits the labels.
      image = seen.get("image_ctx", seen["image"]).numpy()
    else:
      # As stored: labels know nothing of a rotation in EXIF.
      data = io.BytesIO(example["image"].numpy())
      image = images.read(data, upright=False)
    labels = None if task.labels_from_image else seen["labels"].numpy()
    yield image, labels
