"""One line of the report: figures of our code and of the naive one."""

import dataclasses
from typing import Any

from tools.bench.measure import Program, Times


@dataclasses.dataclass
class Row:
  """One line of the report; None where a figure has no meaning.

  Attributes:
    name: of the benchmark and, after a space, of its variant.
    unit: of `ours` and `naive`.
    ours: our median.
    naive: the median of the naive side.
    ratio: how many times better ours is, whichever direction is better.
    temp_bytes_ours: scratch memory of our compiled program; where nothing is
      compiled, growth of the process's peak.
    temp_bytes_naive: the same of the naive side.
    flops_ours: operations of one run of ours, see tools/bench/flops.py.
    flops_naive: of one run of the naive side.
    times_floor: how many times as long as the least that this machine needs
      ours takes; see `add_floor`.
    details: further figures by name, for the printed report only.
  """
  name: str
  unit: str
  ours: float
  naive: float
  ratio: float
  temp_bytes_ours: float | None = None
  temp_bytes_naive: float | None = None
  flops_ours: float | None = None
  flops_naive: float | None = None
  times_floor: float | None = None
  details: dict[str, Any] = dataclasses.field(default_factory=dict)

  def to_json(self) -> dict[str, Any]:
    """What `--json` writes."""
    values = dataclasses.asdict(self)
    del values["details"]
    return values


def timed_row(name: str, times: list[Times], *, items: int,
              unit: str) -> Row:
  """A row of throughputs.

  Args:
    name: of the row.
    times: of ours and of the naive side.
    items: images, words, … of one run.
    unit: such as 'images/s'.
  """
  ours, naive = times
  details = _spread(ours, "ours") | _spread(naive, "naive")
  # The ratio is that of throughputs: the naive time stands above.
  return Row(name, unit, ours=items / ours.median, naive=items / naive.median,
             ratio=naive.median / ours.median, details=details)


def _spread(times: Times, side: str) -> dict[str, float]:
  """Details of one side: median, range, and CPU time."""
  return {
      f"seconds_{side}": times.median,
      f"min_{side}": min(times.wall),
      f"max_{side}": max(times.wall),
      f"cpu_{side}": times.cpu_median,
  }


def memory_row(name: str, ours: Program, naive: Program) -> Row:
  """A row of scratch memory, of programs that are compiled but not run."""
  # Less memory is better, so the naive figure stands above.
  row = Row(name, "bytes", ours=ours.temp_bytes, naive=naive.temp_bytes,
            ratio=naive.temp_bytes / ours.temp_bytes)
  add_programs(row, ours, naive)
  return row


def add_programs(row: Row, ours: Program, naive: Program) -> None:
  """Enters memory and operations of both sides."""
  row.temp_bytes_ours = ours.temp_bytes
  row.temp_bytes_naive = naive.temp_bytes
  row.flops_ours = ours.flops
  row.flops_naive = naive.flops


def add_floor(row: Row, seconds: float) -> None:
  """Enters the least that this machine needs for the work.

  Args:
    row: a timed row.
    seconds: of one run in which nothing but arithmetic or reading takes time,
      at the rates that were measured in the same process.
  """
  row.times_floor = row.details["seconds_ours"] / seconds
  row.details["seconds_floor"] = seconds


def add_ceiling(row: Row, peak_flops: float) -> None:
  """Enters our speed, and the machine's best; see `measure.peak_flops`.

  Args:
    row: a timed row whose programs are entered.
    peak_flops: operations per second of a plain matrix product.
  """
  row.details["gflops_ours"] = (
      row.flops_ours / row.details["seconds_ours"] / 1e9)
  row.details["ceiling_gflops"] = peak_flops / 1e9
