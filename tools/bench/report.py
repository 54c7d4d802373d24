"""The printed report: columns, the original's figures, and targets."""

import dataclasses

from tools.bench.rows import Row

NOTHING = "–"
HEADS = (
    "benchmark", "original", "naive", "ours", "unit", "ratio",
    "floor s (ours over it)", "CPU s naive / ours", "temp MB naive / ours",
    "GFLOP naive / ours", "GFLOP/s ours (ceiling)", "target")


@dataclasses.dataclass(frozen=True)
class Original:
  """The original as measured on another machine with two cores.

  Attributes:
    text: what the report shows.
    temp_bytes: scratch memory, which carries to this machine; None: unknown.
    flops: operations, which carry too; None: unknown.
  """
  text: str
  temp_bytes: float | None = None
  flops: float | None = None


@dataclasses.dataclass(frozen=True)
class Target:
  """What a row should reach; None: no matter.

  Memory and operations are held against those of the naive side, or of the
  original where they are known and smaller.

  Attributes:
    ratio: the least ratio to the naive side.
    temp: the largest share of scratch memory.
    flops: the largest share of operations.
    floor: the longest time, as a multiple of the floor on this machine.
    floor_is_enough: whether a row within `floor` may miss `ratio`.
  """
  ratio: float | None = None
  temp: float | None = None
  flops: float | None = None
  floor: float | None = None
  floor_is_enough: bool = False

  def text(self) -> str:
    words = self._words_of_speed()
    if self.temp is not None:
      words.append(f"temp ≤ {self.temp:g}×")
    if self.flops is not None:
      words.append(f"flops ≤ {self.flops:g}×")
    return ", ".join(words)

  def _words_of_speed(self) -> list[str]:
    words = []
    if self.ratio is not None:
      words.append(f"≥ {self.ratio:g}×")
    if self.floor is not None:
      words.append(f"≤ {self.floor:g} × floor")
    if self.floor_is_enough:
      return [" or ".join(words)]
    return words


# By the name of the row.
ORIGINALS = {
    "C1": Original("2.16 images/s, 1198 MB, 141.5 GFLOP", 1198e6, 141.5e9),
    "C2": Original("10 images/s, 522 MB, 92.8 GFLOP", 522e6, 92.8e9),
    "C2 codes given": Original("17.8 images/s, 40.2 GFLOP", flops=40.2e9),
    "C3": Original("1378–1503 tokens/s"),
    "C4 20 segments": Original("49 images/s, 950 MB"),
    "C4 60 segments": Original("83 ms CPU per image"),
    "C5": Original("2.74 images/s, 1740 MB", 1740e6),
    "C6": Original("67–71 images/s"),
    "C7": Original("29600 MB, 11500 GFLOP", 29.6e9, 11.5e12),
    "C8": Original("54200 MB, 25100 GFLOP", 54.2e9, 25.1e12),
}
UNKNOWN = Original(NOTHING)

# By the name of the row.
TARGETS = {
    "C1": Target(ratio=2, temp=0.4, floor=1.6),
    "C2": Target(ratio=2, floor=1.6),
    "C2 codes given": Target(ratio=1.3, floor=1.6),
    "C3": Target(ratio=4, floor=1.3, floor_is_enough=True),
    "C4 20 segments": Target(ratio=2.5),
    "C4 60 segments": Target(ratio=4),
    "C5": Target(ratio=4, temp=0.08),
    "C6": Target(ratio=15),
    "C7": Target(temp=0.35, flops=1.1),
    "C8": Target(temp=0.3, flops=1.25),
}


def is_met(row: Row) -> bool | None:
  """Whether the row meets its target; None if it has none."""
  target = TARGETS.get(row.name)
  if target is None:
    return None
  original = ORIGINALS.get(row.name, UNKNOWN)
  temp = _share(row.temp_bytes_ours, row.temp_bytes_naive, original.temp_bytes)
  flops = _share(row.flops_ours, row.flops_naive, original.flops)
  # A target may name some of the four only.
  return (_is_fast(row, target) and _is_at_most(temp, target.temp)
          and _is_at_most(flops, target.flops))


def _is_fast(row, target):
  reaches_ratio = target.ratio is None or row.ratio >= target.ratio
  is_near_floor = _is_at_most(row.times_floor, target.floor)
  if target.floor_is_enough:
    return reaches_ratio or is_near_floor
  return reaches_ratio and is_near_floor


def _share(ours, naive, original):
  """Our part of the smaller of the other two; None if nothing is known."""
  # Zero or None: not measured.
  others = [figure for figure in (naive, original) if figure]
  if ours is None or not others:
    return None
  return ours / min(others)


def _is_at_most(share, limit):
  # What is not known cannot miss its target.
  return share is None or limit is None or share <= limit


# ── Tables ──────────────────────────────────────────────────────────────────


def text(rows: list[Row]) -> str:
  """The report for a terminal."""
  table = _table(rows)
  widths = []
  # A column is as wide as its longest cell.
  for column in zip(*table, strict=True):
    widths.append(max(len(cell) for cell in column))
  lines = []
  for cells in table:
    padded = [cell.ljust(width)
              for cell, width in zip(cells, widths, strict=True)]
    lines.append("  ".join(padded).rstrip())
  return "\n".join(lines)


def markdown(rows: list[Row]) -> str:
  """The report as a table of Markdown."""
  table = _table(rows)
  # Markdown wants a line of dashes below the heads.
  table.insert(1, ["---"] * len(HEADS))
  return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _table(rows: list[Row]) -> list[list[str]]:
  return [list(HEADS), *(_cells(row) for row in rows)]


def _cells(row: Row) -> list[str]:
  """What the line of a row shows, in the order of HEADS."""
  details = row.details
  # The report shows memory in MB.
  unit = "MB temp" if row.unit == "bytes" else row.unit
  return [
      row.name,
      ORIGINALS.get(row.name, UNKNOWN).text,
      _value(row, row.naive, "naive"),
      _value(row, row.ours, "ours"),
      unit,
      f"{row.ratio:.2f}",
      _floor(row),
      _pair(details.get("cpu_naive"), details.get("cpu_ours"), 1, 2),
      _pair(row.temp_bytes_naive, row.temp_bytes_ours, 1e-6, 0),
      _pair(row.flops_naive, row.flops_ours, 1e-9, 1),
      _ceiling(row),
      _target(row),
  ]


def _value(row: Row, value: float, side: str) -> str:
  """A median with its spread; a memory row has no spread."""
  if row.unit == "bytes":
    return f"{value / 1e6:.0f}"
  width = row.details[f"max_{side}"] - row.details[f"min_{side}"]
  # Half of the width, in per cent.
  spread = 50 * width / row.details[f"seconds_{side}"]
  return f"{value:.3g} ± {spread:.0f} %"


def _pair(naive: float | None, ours: float | None, scale: float,
          digits: int) -> str:
  return f"{_figure(naive, scale, digits)} / {_figure(ours, scale, digits)}"


def _figure(value, scale, digits):
  if value is None:
    return NOTHING
  return f"{value * scale:.{digits}f}"


def _floor(row: Row) -> str:
  if row.times_floor is None:
    return NOTHING
  return f"{row.details['seconds_floor']:.2g} ({row.times_floor:.2f}×)"


def _ceiling(row: Row) -> str:
  if "ceiling_gflops" not in row.details:
    return NOTHING
  ours = row.details["gflops_ours"]
  return f"{ours:.1f} ({row.details['ceiling_gflops']:.0f})"


def _target(row: Row) -> str:
  if row.name not in TARGETS:
    return NOTHING
  verdict = "met" if is_met(row) else "missed"
  return f"{TARGETS[row.name].text()}: {verdict}"
