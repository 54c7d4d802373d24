"""Draws the columns of a panel: images, their truth and predictions.

B batch · H W image pixels · C channels
"""

from collections.abc import Mapping

import jax
import numpy as np

from trainers.families.base import Batch
from uvim.learn import sharding
from uvim.tasks.base import AbstractTask


def draw_columns(
    task: AbstractTask,
    batch: Mapping[str, jax.Array],
    outputs: Mapping[str, Batch],
) -> dict[str, np.ndarray]:
  """The columns of a panel: image, truth, and every output by its title."""
  batch = sharding.gather_to_host(batch)
  # The image at label size, where the prior sees one of another size.
  image_key = "image_ctx" if "image_ctx" in batch else "image"
  columns = {
      "image": render_image(batch[image_key]),
      "truth": task.render(task.truth(batch)),
  }
  # One by one: a tree of them would come back in alphabetical order.
  for title, output in outputs.items():
    output = sharding.gather_to_host(output)
    columns[title] = task.render(output)
  return columns


def render_image(image_BHWC: np.ndarray) -> np.ndarray:
  """Images in [−1, 1] as uint8."""
  scaled_BHWC = np.asarray(image_BHWC) * 127.5 + 127.5
  return np.uint8(np.clip(scaled_BHWC, 0, 255))
