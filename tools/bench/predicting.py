"""C9: the pass of `uvim predict` over files, against one image after the other.

Both sides read the same files, predict with the same model and write the same
files. Ours runs images in batches, and reads and writes meanwhile.
"""

import functools
import json
import pathlib
import tempfile

import jax
import numpy as np
from PIL import Image

from tools.bench import measure, noise, rows
from tools.bench.measure import require, say
from tools.bench.rows import Row
from tools.bench.sizes import Size
from uvim.cli.predict_files import predict_files
from uvim.inference import export, images
from uvim.inference.api import UViM
from uvim.learn import devices
from uvim.models import make_model
from uvim.store.open_model import OpenModel
from uvim.tasks import make_task

# The largest share of words that may differ: one near tie changes a word, and
# the words after it differ to the end of the code.
MAX_DIFFERENT = 0.125
# Images are smooth, like those of cameras: so many pixels apart are free.
_SMOOTH = 16


def predicting(size: Size, batch_size: int) -> Row:
  """Images per second, at a number of images that run at once."""
  # As the command does.
  devices.add_spare()
  name = f"C9 batch {batch_size}"
  model = _make_model(size)
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    paths = _write_images(folder, size)
    our_folder = folder / "ours"
    naive_folder = folder / "naive"
    ours = functools.partial(
        predict_files, model, paths, str(our_folder), overwrite=True,
        batch_size=batch_size)
    naive = functools.partial(
        _predict_one_by_one, model, paths, naive_folder)
    # Each compiles its programs here.
    problems = ours()
    require(not problems, f"{name}: {problems}")
    naive()
    _require_same(name, our_folder, naive_folder)
    times = measure.alternate(ours, naive, repeats=size.repeats)
  return rows.timed_row(name, times, items=len(paths), unit="images/s")


def _make_model(size: Size) -> UViM:
  """Both stages, with parameters of noise."""
  base_model = make_model("vit", size.stage_i, "stage_i")
  prior = make_model("lm", size.stage_ii, "stage_ii")
  shapes = jax.eval_shape(base_model.init, jax.random.key(0))
  prior_shapes = jax.eval_shape(prior.init, jax.random.key(0))
  params = noise.draw_params(shapes["params"])
  for key in size.stage_i["outputs"]:
    head = params[f"head_{key}"]
    # All pixels of a patch get one answer. Otherwise each would be a segment.
    one_pixel = head["kernel"][..., :1]
    head["kernel"] = np.broadcast_to(one_pixel, head["kernel"].shape)
  return UViM(OpenModel(
      task=make_task("panoptic_segmentation", size.stage_i),
      model=base_model,
      arrays={
          "params": params,
          "state": noise.draw_quantizer_state(shapes["state"]),
      },
      prior=prior,
      prior_params=noise.draw_params(prior_shapes),
  ))


def _write_images(folder: pathlib.Path, size: Size) -> list[pathlib.Path]:
  """JPEG files of smooth noise."""
  height, width = size.photos.shape
  small_shape = (height // _SMOOTH + 1, width // _SMOOTH + 1, 3)
  rng = np.random.default_rng(0)
  paths = []
  for number in range(size.photos.num_images):
    small = rng.integers(0, 256, small_shape, np.uint8)
    image = Image.fromarray(small).resize((width, height))
    path = folder / f"{number}.jpg"
    image.save(path)
    paths.append(path)
  return paths


def _predict_one_by_one(
    model: UViM, paths: list[pathlib.Path], folder: pathlib.Path) -> None:
  """Reads, predicts and writes an image before the next one."""
  writer = export.Writer(folder, model.task, overwrite=True)
  for name, path in writer.plan(paths):
    image = images.read(path)
    prediction = model.predict(image, batch_size=1)
    writer.add(name, prediction, str(path))
  writer.close({})


def _require_same(
    name: str, ours: pathlib.Path, naive: pathlib.Path) -> None:
  """Raises Disagree if other images, or too many other words, were written."""
  our_codes = _read_codes(ours)
  naive_codes = _read_codes(naive)
  require(list(our_codes) == list(naive_codes), f"{name}: other images.")
  our_words = np.array(list(our_codes.values()))
  naive_words = np.array(list(naive_codes.values()))
  different = float(np.mean(our_words != naive_words))
  require(different <= MAX_DIFFERENT,
          f"{name}: {different:.1%} of the words differ.")
  say(f"{name}: {1 - different:.1%} of {our_words.size} words agree")


def _read_codes(folder: pathlib.Path) -> dict[str, list[list[int]]]:
  """Name of an image → its codes, as they were written."""
  summary = json.loads((folder / export.SUMMARY).read_text())
  return {image["name"]: image["codes"] for image in summary["images"]}
