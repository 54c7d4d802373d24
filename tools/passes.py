"""Passes over many files: in threads, in order, with all problems at once.

Threads are enough: decoding, compressing and numpy release the interpreter's
lock.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import TypeVar

from uvim import progress
from uvim.registry import ConfigError, one_line

T = TypeVar("T")
Result = TypeVar("Result")

_NUM_SHOWN = 5  # An error lists so many problems and counts the others.
_MAX_WAITING = 64  # Results that may wait for the caller.


def map_in_threads(function: Callable[[T], Result], items: Iterable[T]
                   ) -> Iterator[Result]:
  """Yields `function(item)` in the order of `items`, computed in threads.

  Only a few results wait at a time. `Executor.map` would start all of them,
  and a million examples do not fit into memory.
  """
  with futures.ThreadPoolExecutor() as pool:
    waiting = collections.deque()
    try:
      for item in items:
        waiting.append(pool.submit(function, item))
        # The oldest comes first. That keeps the order, and new ones start
        # meanwhile.
        if len(waiting) > _MAX_WAITING:
          yield waiting.popleft().result()
      # No more items, but results of the last ones.
      while waiting:
        yield waiting.popleft().result()
    finally:
      # Something is left after an error, or if the caller stops early.
      for future in waiting:
        future.cancel()


def raise_problems(problems: Sequence[str], title: str) -> None:
  """Raises one ConfigError for all problems of a pass, if there are any.

  Args:
    problems: sentences. The message lists the first few, or is one line if
      there is one problem.
    title: starts the message; it says what is wrong in general.
  """
  if not problems:
    return
  # A line break in the name of a file would look like another problem.
  shown = [one_line(problem) for problem in problems[:_NUM_SHOWN]]
  if len(problems) == 1:
    raise ConfigError(f"{title}: {shown[0]}")
  lines = [f"{title}: {len(problems)} problems.", *shown]
  num_more = len(problems) - _NUM_SHOWN
  if num_more > 0:
    lines.append(f"… and {num_more} more.")
  raise ConfigError("\n  ".join(lines))


def check_each(find_problems: Callable[[T], Sequence[str]], items: Sequence[T]
               ) -> None:
  """Checks every item, in threads, before anything is written.

  A wrong file that is found after an hour of writing costs more than a look
  at each file first.

  Args:
    find_problems: item → its problems, as sentences.
    items: what to check.

  Raises:
    ConfigError: lists the first problems and says how many there are.
  """
  problems = []
  per_item = map_in_threads(find_problems, items)
  per_item = progress.bar(
      per_item, total=len(items), label="Checking", unit="files")
  for problems_of_one in per_item:
    # All are collected, so that one run shows what is wrong everywhere.
    problems += problems_of_one
  raise_problems(problems, "The files are not consistent")
