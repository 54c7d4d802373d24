"""The notebooks run as they are: one on the model that the package ships, the
others on small models that were never trained."""

import base64
import io
import json
import pathlib
import re

import jax
import jupytext
import nbclient
import nbformat
import numpy as np
import pytest
from jupyter_client.manager import start_new_kernel
from PIL import Image

from configs import (
  lm_rooms_colorization,
  lm_rooms_depth,
  vqvae_rooms_colorization,
  vqvae_rooms_depth,
)
from tools.notebooks import __main__ as store
from trainers.families import make_family
from uvim.config import resolve
from uvim.store import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "tools" / "notebooks"
CONFIGS = {
    "depth": (vqvae_rooms_depth, lm_rooms_depth),
    "colorization": (vqvae_rooms_colorization, lm_rooms_colorization),
}


def save_run(workdir, config):
  """A workdir as a run leaves it, its arrays just drawn."""
  rng = np.random.default_rng(0)

  def draw(spec):
    return rng.normal(0, 0.3, spec.shape).astype(spec.dtype)

  family = make_family(config)
  params, extra = jax.eval_shape(family.init, jax.random.key(0))
  arrays = jax.tree.map(draw, {"params": params, "extra": extra})
  workdir.mkdir()
  (workdir / "config.json").write_text(json.dumps(config.to_json()))
  with checkpoint.Checkpointer(workdir) as saver:
    saver.save(1, jax.device_put(arrays), {})


def save_both(folder, task):
  """The workdir of stage II of a model; stage I lies beside it."""
  stage_i, stage_ii = CONFIGS[task]
  one = folder / "stage1"
  two = folder / "stage2"
  save_run(one, resolve(stage_i.get_config("tiny")))
  config = stage_ii.get_config("tiny")
  config.oracle.model_init = str(one)
  save_run(two, resolve(config))
  return two


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
  """One for all notebooks: most of the time of each would be its imports."""
  manager, client = start_new_kernel(
      cwd=str(tmp_path_factory.mktemp("notebook")))
  yield manager, client
  client.stop_channels()
  manager.shutdown_kernel(now=True)


def run(kernel, name, **constants):
  """Runs a notebook from the top, other values in its CAPITAL constants."""
  return execute(kernel, read(name, **constants))


def read(name, **constants):
  """A notebook with other values in its CAPITAL constants."""
  text = (FOLDER / f"{name}.py").read_text()
  text = text.replace("pathlib.Path.cwd()", f"pathlib.Path({str(ROOT)!r})")
  for key, value in constants.items():
    text, count = re.subn(rf"^{key} = [^#\n]*", f"{key} = {value!r}  ", text,
                          flags=re.MULTILINE)
    assert count == 1, key
  return jupytext.reads(text, fmt="py:percent")


def execute(kernel, notebook):
  manager, client = kernel
  runner = nbclient.NotebookClient(notebook, km=manager, timeout=120)
  runner.kc = client
  client.execute("%reset -f")
  runner.execute(reset_kc=False)
  return notebook


def shown(notebook):
  """(all that was printed, number of images)."""
  outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
  text = "".join(o.text for o in outputs if o.output_type == "stream")
  return text, sum("image/png" in o.get("data", {}) for o in outputs)


SCORES = {
    "depth": r"no code +RMSE (\d+\.\d+) m",
    "colorization": r"no code +PSNR (\d+\.\d+) dB"}


@pytest.mark.parametrize("task", CONFIGS)
def test_a_task(kernel, task, tmp_path):
  path = save_both(tmp_path, task)
  text, num_images = shown(run(kernel, task, CHECKPOINT=str(path)))
  assert "36 words of 16 in a code" in text
  assert num_images >= 4
  assert re.search(SCORES[task], text), text


# In place of the training of own_masks, which compiles for a minute: are these
# runs that could begin?
RESOLVE = """
from trainers import config_file
from uvim.config import resolve
for arguments in (STAGE_I, STAGE_II):
  overrides = [text for text in arguments if text.startswith("--config.")]
  config = resolve(config_file.load_config(arguments[1], overrides))
  print(config.kind, config.total_steps)
"""


def test_own_masks_up_to_the_training(kernel, tmp_path):
  notebook = read("own_masks", WORK=str(tmp_path), NUM_IMAGES=20, STEPS=7)
  [first_run] = [
      place for place, cell in enumerate(notebook.cells)
      if "def train_stage_i(" in cell.source]
  del notebook.cells[first_run:]
  notebook.cells.append(nbformat.v4.new_code_cell(RESOLVE))
  text, num_images = shown(execute(kernel, notebook))
  assert "mymasks train: 20 examples" in text
  assert num_images == 1  # The contact sheet.
  assert text.endswith("vqvae 7\nlm 7\n"), text


def test_the_model_of_the_package(kernel):
  text, num_images = shown(run(kernel, "panoptic"))
  assert "36 words of 256 in a code" in text
  assert num_images >= 5
  figures = dict(re.findall(r"(.+\S) +overlap (\d+\.\d) %", text))
  # It was trained: the truth says more than the image, and that more than
  # nothing.
  assert (float(figures["the oracle's code"]) > float(figures["UViM, T = 0"])
          > float(figures["no code"]) > 0)


def test_a_new_task(kernel):
  text, num_images = shown(run(
      kernel, "new_task", STEPS=3, NUM_TRAIN=16, NUM_TEST=2, BATCH=4))
  assert "outputs undo inputs: True" in text
  assert re.search(r"step +3  loss \d", text) and num_images == 1


def test_a_stored_image_is_small_and_still_the_same():
  image = np.zeros((60, 80, 3), np.uint8)
  image[:, 40:] = 255, 20, 60
  output = {"data": {"text/plain": "an image",
                     "image/jpeg": "…", "image/png": encoded(image)}}
  store.shrink(output)
  assert sorted(output["data"]) == ["image/png", "text/plain"]
  file = io.BytesIO(base64.b64decode(output["data"]["image/png"]))
  with Image.open(file) as kept:
    assert kept.mode == "P"
    np.testing.assert_array_equal(kept.convert("RGB"), image)


def encoded(image):
  """A PNG as a notebook holds it."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  return base64.b64encode(file.getvalue()).decode()


SOURCES = sorted(FOLDER.glob("[!_]*.py"))
# Those that need no checkpoint from elsewhere. GitHub shows their outputs.
STORED = ("new_task", "own_masks", "panoptic")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_stored_notebooks_are_up_to_date(path):
  """`python -m tools.notebooks NAME` makes them."""
  want = jupytext.read(path, fmt="py:percent").cells
  got = jupytext.read(path.with_suffix(".ipynb"))
  assert [(c.cell_type, c.source) for c in got.cells] == [
      (c.cell_type, c.source) for c in want]
  _, num_images = shown(got)
  assert (num_images > 0) == (path.stem in STORED)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_one_address_of_the_repository(path):
  """Whoever publishes the code changes one word, OWNER, everywhere."""
  address = re.search(r"^repo_url: https://(\S+)$",
                      (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[1]
  text = path.read_text()
  assert f'REPOSITORY = "https://{address}"' in text
  owner = address.removeprefix("github.com/")
  assert f"/github/{owner}/blob/main/tools/notebooks/{path.stem}.ipynb" in text
