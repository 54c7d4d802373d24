"""Writes panoptic maps as official files and scores them officially.

Suffixes: H W pixels.
"""

import contextlib
import importlib
import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from uvim import files, pixels
from uvim.registry import ConfigError

Records = list[dict[str, Any]]  # The 'annotations' of the official JSON.

# The official name of a group of categories → its value of `isthing`.
_GROUPS = {"All": None, "Things": True, "Stuff": False}


def write_png(folder: pathlib.Path, image_id: int, ids_HW: np.ndarray) -> str:
  """Writes a map of ids below 2^24; returns the name of its file."""
  from PIL import Image
  # COCO's own names have twelve digits.
  name = f"{image_id:012d}.png"
  image = Image.fromarray(pixels.rgb_from_ids(ids_HW))
  files.replace_file(folder / name, lambda file: image.save(file, "PNG"))
  return name


def write_maps(folder: pathlib.Path, maps: Sequence[Any]) -> Records:
  """One PNG for each prediction, a `ScoredMap`; returns their records."""
  records = []
  for scored in maps:
    ids_HW = scored.packed_ids.unpack()
    # Copies, for the official code writes areas into them.
    segments = [dict(segment) for segment in scored.segments]
    image_id = scored.truth.image_id
    records.append(_write_map(folder, image_id, ids_HW, segments))
  return records


def write_truths(folder: pathlib.Path, truths: Sequence[Any]) -> Records:
  """One PNG for each `Truth`; returns their records, segments with an area."""
  records = []
  for truth in truths:
    ids_HW = truth.ids()
    num_ids = len(truth.segments) + 1
    area_of = np.bincount(ids_HW.ravel(), minlength=num_ids)
    segments = []
    for segment in truth.segments:
      # The official code takes a truth's area from its record, not from the
      # map.
      area = int(area_of[segment["id"]])
      segments.append({**segment, "area": area})
    records.append(_write_map(folder, truth.image_id, ids_HW, segments))
  return records


def _write_map(
    folder: pathlib.Path,
    image_id: int,
    ids_HW: np.ndarray,
    segments: list[dict[str, int]],
) -> dict[str, Any]:
  """Writes one PNG; returns its record for the JSON."""
  file_name = write_png(folder, image_id, ids_HW)
  return {"image_id": image_id, "file_name": file_name,
          "segments_info": segments}


def official_code() -> Any:
  """The module panopticapi.evaluation.

  Raises:
    ConfigError: it is not installed; says how to.
  """
  try:
    return importlib.import_module("panopticapi.evaluation")
  except ImportError as error:
    raise ConfigError(
        "coco_panoptic: official=True needs the package panopticapi, which is "
        "not installed. To get it: pip install "
        "git+https://github.com/cocodataset/panopticapi") from error


def official_scores(truth: Iterable[dict[str, Any]],
                    records: Sequence[dict[str, Any]], *,
                    categories: Sequence[Any], truth_dir: pathlib.Path,
                    prediction_dir: pathlib.Path
                    ) -> dict[str, dict[str, float]]:
  """'All', 'Things', 'Stuff' → {'pq', 'sq', 'rq'} by panopticapi.

  Args:
    truth: the 'annotations' of the truth, whose segments have 'area'.
    records: those of the predictions, in the same order; their segments get
      an 'area'.
    categories: rows with .id, .isthing.
    truth_dir: where the PNGs of the truth lie.
    prediction_dir: where those of the predictions lie.
  """
  code = official_code()
  table = {}
  for category in categories:
    table[category.id] = {
        "id": category.id, "isthing": int(category.isthing)}
  pairs = list(zip(truth, records, strict=True))
  # Its `pq_compute` would fork this process, which JAX's threads forbid. It
  # also prints what it does.
  with contextlib.redirect_stdout(io.StringIO()):
    stat = code.pq_compute_single_core(
        0, pairs, str(truth_dir), str(prediction_dir), table)
  return {group: _average(stat, table, isthing)
          for group, isthing in _GROUPS.items()}


def _average(stat: Any, table: dict[int, Any], isthing: bool | None
             ) -> dict[str, float]:
  """The official mean over one group; zeros where no category occurs."""
  try:
    average, _ = stat.pq_average(table, isthing)
  # The official code divides by the number of categories that occur.
  except ZeroDivisionError:
    return {"pq": 0.0, "sq": 0.0, "rq": 0.0}
  return average
