"""Passes over many files: in threads, in order, with a bar; problems together.

Threads suffice: decoding, compressing and numpy release the interpreter's
lock.
"""

import collections
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

from tqdm import tqdm

from uvim.registry import ConfigError

_SHOWN = 5  # Problems listed in an error; the rest are counted.
_AHEAD = 64  # Results that may wait: Executor.map would queue a million.


def progress(items: Iterable[Any], *, total: int, desc: str, unit: str = ""
             ) -> Iterable[Any]:
  """`items` with a bar."""
  # A log file keeps every line of the bar; a terminal overwrites them.
  interval = 0.1 if sys.stderr.isatty() else 15
  return tqdm(items, desc, total, unit=f" {unit or 'files'}",
              mininterval=interval)


def map_ahead(fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
  """`map(fn, items)` in threads, a bounded number of results ahead."""
  with futures.ThreadPoolExecutor() as pool:
    waiting = collections.deque()
    try:
      for item in items:
        waiting.append(pool.submit(fn, item))
        if len(waiting) > _AHEAD:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:  # After an error, or when the caller stops.
        future.cancel()


def raise_problems(problems: Sequence[str], what: str) -> None:
  """One ConfigError for all problems of a pass, showing the first few."""
  if problems:
    more = len(problems) - _SHOWN
    tail = [f"… and {more} more."] if more > 0 else []
    raise ConfigError("\n  ".join(
        [f"{what}: {len(problems)} problem(s)."] + list(problems[:_SHOWN])
        + tail))


def check_each(check: Callable[[Any], Sequence[str]], items: Sequence[Any]
               ) -> None:
  """Looks at every item before anything is written.

  A wrong file found after an hour of writing, or not at all, costs more than
  looking at each one first.

  Args:
    check: item → its problems, as sentences.
    items: what to check.

  Raises:
    ConfigError: listing the first problems and how many there are.
  """
  problems = []
  for some in progress(map_ahead(check, items), total=len(items),
                       desc="Checking"):
    problems += some
  raise_problems(problems, "The files are not consistent")
