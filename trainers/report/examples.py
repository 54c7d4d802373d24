"""The worst and the best images of an evaluator, with truth and prediction."""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evaluators.base import Example
from trainers.report import panel
from uvim import opener

Render = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def draw(examples: Sequence[Example], render: Render) -> np.ndarray:
  """A row for each example: image, truth and prediction, with its caption.

  Args:
    examples: what to draw.
    render: see `AbstractTask.render`.

  Returns:
    uint8 [height, width, 3].

  Raises:
    ConfigError: an image that cannot be read.
  """
  columns = {"image": [], "truth": [], "prediction": []}
  for example in examples:
    truth = _render_one(example.truth, render)
    columns["image"].append(_image_of(example, truth.shape))
    columns["truth"].append(truth)
    columns["prediction"].append(_render_one(example.prediction, render))
  names = [example.caption for example in examples]
  return panel.draw_panel(columns, rows=len(examples), names=names)


def _render_one(outputs: Mapping[str, np.ndarray], render: Render
                ) -> np.ndarray:
  """The drawing [H, W, 3] of a single example."""
  batch = {name: value[None] for name, value in outputs.items()}
  return render(batch)[0]


def _image_of(example: Example, shape: Sequence[int]) -> np.ndarray:
  """The pixels of an example's image; gray where there is none."""
  if example.image is None:
    return np.full(shape, 128, np.uint8)
  file = io.BytesIO(example.image)
  with opener.open_image(file, example.caption) as image:
    return np.asarray(image.convert("RGB"))
