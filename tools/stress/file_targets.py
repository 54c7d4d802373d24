"""What the fuzz throws broken files at: images, COCO JSON, workdirs, .npz."""

import contextlib
import io
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tools.stress.strategies import edited_bytes, edited_text, encoded_json
from tools.stress.targets import Target, encode_image, shipped_config
from uvim.registry import ConfigError


@contextlib.contextmanager
def _emptied(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder that is there for one case."""
  folder.mkdir()
  try:
    yield folder
  finally:
    shutil.rmtree(folder)


# ── Images ──────────────────────────────────────────────────────────────────


class Images(Target):
  """Image files, as training decodes them and as prepare_data checks them."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder / "images"

  def cases(self) -> st.SearchStrategy[tuple[bytes, str]]:
    """(content of a file, its name)."""
    names = st.sampled_from(("a.jpg", "a.png", "a.gif", "a.bmp"))
    return st.tuples(edited_bytes(_image_files()), names)

  def run(self, case: tuple[bytes, str]) -> None:
    import tensorflow as tf

    from pp import builder
    content, name = case
    with _emptied(self._folder) as folder:
      problems = self._prepare(content, folder / name)
    builder.build("decode|resize(8)|value_range(-1, 1)")(
        {"image": tf.constant(content)})
    if problems:
      raise ConfigError(problems[0])

  def _prepare(self, content: bytes, path: pathlib.Path) -> list[str]:
    """What prepare_data says of a file, which it must leave as it is."""
    from tools.prepare import image_files
    path.write_bytes(content)
    problems = image_files.check(path, path.name)
    if not problems:
      image_files.encoded(path)
    if path.read_bytes() != content:
      raise AssertionError("the file has changed")
    return problems


def _image_files() -> list[bytes]:
  """Contents of files of many formats, and of two that are no images."""
  rng = np.random.default_rng(0)
  color = rng.integers(0, 256, (24, 20, 3)).astype(np.uint8)
  color_image = Image.fromarray(color)
  gray = color[..., 0]
  rotated = Image.Exif()
  rotated[274] = 6  # Orientation: to be rotated by 90°.
  return [
      encode_image(color, "JPEG", exif=rotated),
      encode_image(gray, "JPEG"),
      encode_image(color, "JPEG", progressive=True),
      encode_image(color_image.convert("CMYK"), "JPEG"),
      encode_image(color, "PNG"),
      encode_image(gray, "PNG"),
      encode_image(color, "BMP"),
      encode_image(np.uint16(gray) * 257, "PNG"),  # 16 bits.
      encode_image(color, "GIF"),
      encode_image(color, "GIF", save_all=True,  # Two frames.
                   append_images=[Image.fromarray(gray)]),
      encode_image(color_image.quantize(9), "PNG"),  # With a palette.
      encode_image(color, "WEBP"),
      encode_image(color, "TIFF"),
      b"",
      b"no image"]


# ── COCO JSON ───────────────────────────────────────────────────────────────


class CocoJson(Target):
  """The annotation file of a panoptic data set, up to what is written."""

  def __init__(self, folder: pathlib.Path):
    self._data_dir = folder / "data"
    self._source = folder / "coco"
    (self._source / "images").mkdir(parents=True)
    (self._source / "panoptic").mkdir()
    self._document = _write_coco(self._source)
    self._json = folder / "json"

  def cases(self) -> st.SearchStrategy[bytes]:
    return encoded_json([self._document])

  def run(self, case: bytes) -> None:
    from tools import passes
    from tools.prepare.coco import CocoReader
    from tools.prepare.writer import Target as WriteTarget
    with _emptied(self._json) as folder:
      path = folder / "panoptic.json"
      path.write_bytes(case)
      reader = CocoReader.from_options(self._options(path))
      with contextlib.redirect_stdout(io.StringIO()):
        found = reader.find(WriteTarget("fuzz", str(self._data_dir)))
        items = found.all_items()
        problems = []
        for item in items:
          problems += reader.problems(item)
        passes.raise_problems(problems, "problems")
        for position, item in enumerate(items):
          example = reader.make_example(position, item)
          found.features.encode_example(
              {key: example[key] for key in found.features})

  def _options(self, path: pathlib.Path) -> Any:
    """The parsed options of `tools.prepare_data coco`."""
    from tools.prepare.coco import CocoReader
    from uvim.cli import app
    parser = app.make_parser("fuzz", None)
    CocoReader.add_options(parser)
    return parser.parse_args([
        f"--images={self._source / 'images'}",
        f"--panoptic={self._source / 'panoptic'}", f"--annotations={path}",
        "--name=fuzz", "--split=train"])


def _write_coco(folder: pathlib.Path) -> dict[str, Any]:
  """Two images with two segments each; the JSON to them."""
  document = {"images": [], "annotations": [], "categories": [
      {"id": 1, "name": "ball", "isthing": 1, "supercategory": "toy"},
      {"id": 92, "name": "floor", "isthing": 0}]}
  ids_HW3 = np.zeros((8, 10, 3), np.uint8)
  ids_HW3[:4, :, 0] = 5
  ids_HW3[4:, :, 1] = 1  # Id 256.
  for number in (1, 2):
    image = encode_image(np.full((8, 10, 3), number, np.uint8), "PNG")
    (folder / f"images/{number}.png").write_bytes(image)
    labels = encode_image(ids_HW3, "PNG")
    (folder / f"panoptic/{number}.png").write_bytes(labels)
    document["images"].append({
        "id": number, "file_name": f"{number}.png", "height": 8, "width": 10})
    document["annotations"].append({
        "image_id": number, "file_name": f"{number}.png", "segments_info": [
            {"id": 5, "category_id": 1, "iscrowd": 0, "area": 40,
             "bbox": [0, 0, 10, 4]},
            {"id": 256, "category_id": 92}]})
  return document


# ── The files of a workdir ──────────────────────────────────────────────────


class Workdirs(Target):
  """A workdir with one damaged file, as report and predict read it."""

  def __init__(self, folder: pathlib.Path):
    self._workdir = folder / "workdir"
    from uvim.config import resolve
    config = resolve(shipped_config("lm_rooms_panoptic.py:tiny")).to_json()
    session = {"started": "2025-01-01", "step": 0, "total_steps": 4,
               "command": "vqvae", "devices": "1 × cpu", "versions": {}}
    self._documents = {
        "config.json": config,
        "sessions.json": [session],
        "code_usage.json": {"step": 4, "uses": [3, 1, 0]},
        "categories.json": [{"id": 1, "name": "ball", "isthing": 1}]}
    self._metrics = "\n".join([
        '{"step": 2, "train/loss": 3.0, "train/code/usage": 0.5}',
        '{"step": 4, "train/loss": 2.0}',
        '{"step": 4, "uvim/PQ": 20.5, "settings": {"temperature": 0.0}}', ""])

  def cases(self) -> st.SearchStrategy[tuple[str, bytes]]:
    """(name of a file, what it holds)."""
    damaged = [
        st.tuples(st.just(name), encoded_json([document]))
        for name, document in self._documents.items()]
    lines = edited_text([self._metrics]).map(
        lambda text: text.encode(errors="replace"))
    damaged.append(st.tuples(st.just("metrics.jsonl"), lines))
    metrics = edited_bytes([self._metrics.encode()])
    damaged.append(st.tuples(st.just("metrics.jsonl"), metrics))
    return st.one_of(damaged)

  def run(self, case: tuple[str, bytes]) -> None:
    from trainers.report import run_page
    from uvim import categories
    from uvim.store import open_model
    damaged_name, content = case
    with _emptied(self._workdir) as workdir:
      for name, document in self._documents.items():
        (workdir / name).write_text(json.dumps(document))
      (workdir / "metrics.jsonl").write_text(self._metrics)
      (workdir / damaged_name).write_bytes(content)
      run_page.write_page(workdir)
      open_model.read_config(workdir)
      categories.load(workdir / "categories.json")


# ── .npz ────────────────────────────────────────────────────────────────────


class Npz(Target):
  """Files of parameters, as every command opens them."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder / "npz"

  def cases(self) -> st.SearchStrategy[bytes]:
    sound = {"params/a/kernel": np.ones((2, 3), np.float32),
             "state/dictionary": np.ones((4, 2), np.float32)}
    arrays = st.dictionaries(
        st.sampled_from(("params/a", "params/a/b", "a", "", "../a", "/a",
                         "state/dictionary", "opt/target/a", "params")),
        st.sampled_from(_odd_arrays()), max_size=4)
    return st.one_of(
        edited_bytes([_npz(sound), _npz(sound, compressed=True)]),
        arrays.map(_npz))

  def run(self, case: bytes) -> None:
    from uvim.store import open_model
    with _emptied(self._folder) as folder:
      path = folder / "a.npz"
      path.write_bytes(case)
      open_model.open_model(path)


def _odd_arrays() -> list[np.ndarray]:
  return [
      np.ones((2, 3), np.float32), np.ones((4, 2), np.float32),
      np.zeros((0, 3), np.float32), np.float32(1), np.full(3, np.nan),
      np.full(2, np.inf, np.float32), np.ones(3, bool), np.array("text"),
      np.array(["a", "b"]), np.ones(3, complex), np.ones(2, np.int64),
      np.ones((1, 2, 16, 16, 3), np.float32), np.ones(2, "datetime64[s]"),
      np.ones(3, [("a", "f4"), ("b", "i4")]), np.ones(4, "V2")]


def _npz(arrays: dict[str, np.ndarray], compressed: bool = False) -> bytes:
  buffer = io.BytesIO()
  save = np.savez_compressed if compressed else np.savez
  save(buffer, **arrays)
  return buffer.getvalue()
