"""The oracle's codes on disk, so that stage II need not ask the oracle.

`codes.npy` is int16 or int32 [R, N, L]: R augmentations of N examples, codes of
L words, or [R, N, L, words of a place]; −1 where the example could not be read.
Where a code has no words, it holds what the oracle wrote for it, float32; NaN
stands for −1.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from uvim import models, tree
from uvim.config import TrainConfig
from uvim.store.example_cache import Cache, Header, Stored


class CodeCache(Cache):
  """A cache that may be older than some fields of its oracle's model."""

  def difference(self, old: Header, new: Header) -> list[str]:
    return super().difference(_of_today(old), _of_today(new))


def _of_today(header: Header) -> Header:
  """The header with all fields of the oracle's model, under today's names."""
  oracle = header.get("oracle")
  if not isinstance(oracle, Mapping) or "model" not in oracle:
    return header
  model = models.complete(
      oracle["model_name"], oracle["model"], "config.oracle.model")
  # As JSON has it, which knows no tuples.
  model = json.loads(json.dumps(model, default=list))
  return {**header, "oracle": {**oracle, "model": model}}


CACHE = CodeCache("codes", "code_cache", checks_rows=False)


def describe(config: TrainConfig, oracle: Any) -> Header:
  """What the codes of a stage II config depend on, as plain JSON.

  Args:
    config: of stage II, with `codes_per_image`.
    oracle: its arrays.

  Raises:
    ConfigError: as `Cache.describe`.
  """
  model = dataclasses.asdict(config.oracle)
  del model["model_init"]  # The arrays count, not where they came from.
  return CACHE.describe(config, {
      "dataset": config.dataset,
      "train_split": config.train_split,
      "oracle": model,
      "oracle_crc32": tree.fingerprint(oracle),
  })


def open_codes(path: str, config: TrainConfig, oracle: Any) -> Stored:
  """The codes of a cache, int [R, N, L]; see `Cache.open`.

  Args:
    path: the folder.
    config: of the run, as `describe` takes it.
    oracle: its arrays.

  Raises:
    ConfigError: as `Cache.open`.
  """
  return CACHE.open(path, describe(config, oracle))
