"""Fixtures of diffusion over analog bits: bits, schedules, noise and steps.

B batch
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from tools.parity import common
from tools.parity.common import Quantity
from tools.parity.fixtures import Fixture
from uvim.diffusion import bits, schedules, steps
from uvim.diffusion.schedules import Level

_GAMMA = "gamma/"
# What its last bit makes of a cosine or a logistic curve near 1.
_SCHEDULE_TOLERANCE = 1e-6
# The original takes 1 - α from logarithms, and loses digits where α is near 1.
_DDPM_TOLERANCE = 1e-3


def read(fixture: Fixture) -> dict[str, np.ndarray]:
  """The arrays beside the fixture's first file."""
  return fixture.read_part("")


# ── Bits ────────────────────────────────────────────────────────────────────


def compare_bits(fixture: Fixture) -> Iterator[Quantity]:
  """Integers to bits, and back; maps to analog bits, and back."""
  theirs = read(fixture)
  ours = {}
  for name in theirs:
    kind, _, rest = name.partition("/")
    if kind == "bits":
      ours[name] = bits.integers_to_bits(theirs[f"int/{rest}"], int(rest))
    elif kind == "back":
      ours[name] = bits.bits_to_integers(theirs[f"bits/{rest}"])
    elif name.startswith("overflow/bits/"):
      num_bits = int(name.split("/")[-1])
      ours[name] = bits.integers_to_bits(theirs["overflow/int"], num_bits)
    elif rest.startswith("analog/"):
      scale = float(name.split("/")[-1])
      num_bits = theirs[name].shape[-1]
      ours[name] = bits.encode_map(theirs[f"{kind}/int"], num_bits, scale)
    elif name.startswith("decode/int/"):
      sizes = [int(size) for size in name.split("/")[-1].split("_")]
      ours[name] = bits.decode_map(theirs["decode/analog"], sizes)
  yield from common.match(
      fixture.name, theirs, ours,
      inputs=["int/*", "*/int", "decode/analog"])


# ── Schedules and noise ─────────────────────────────────────────────────────


def compare_schedules(fixture: Fixture) -> Iterator[Quantity]:
  """γ by time."""
  theirs = read(fixture)
  ours = {}
  for name in theirs:
    if name.startswith(_GAMMA):
      schedule = name.removeprefix(_GAMMA)
      ours[name] = schedules.level_at(theirs["t"], schedule).signal
  yield from _with_tolerance(
      common.match(fixture.name, theirs, ours, inputs=["t"]),
      _SCHEDULE_TOLERANCE)


def compare_corruption(fixture: Fixture) -> Iterator[Quantity]:
  """Noise added at a time for each example."""
  arrays = read(fixture)
  for case, (schedule, _) in fixture.read_meta()["cases"].items():
    theirs = common.below(arrays, f"{case}/")
    t_B111 = theirs["t"].reshape(-1, 1, 1, 1)
    level = schedules.level_at(t_B111, schedule)
    ours = {
        "gamma": level.signal,
        "xt": steps.corrupt(theirs["x0"], theirs["noise"], level),
    }
    yield from common.match(f"{fixture.name}/{case}", theirs, ours,
                            inputs=["t", "x0", "noise"])


# ── Steps ───────────────────────────────────────────────────────────────────


def compare_steps(fixture: Fixture) -> Iterator[Quantity]:
  """Single steps of sampling, with the γ that the original has there."""
  arrays = read(fixture)
  meta = fixture.read_meta()
  for case in meta["cases"]:
    theirs = common.below(arrays, f"{case['case']}/")
    title = f"{fixture.name}/{case['case']}"
    inputs = ("raw", "xt", "noise", "gamma_*")
    ours = _splits(theirs, case["b"]) | _steps(theirs)
    for quantity in common.match(title, theirs, ours, inputs=inputs):
      if "/ddpm" in quantity.name:
        quantity = dataclasses.replace(quantity, tolerance=_DDPM_TOLERANCE)
      yield quantity
    yield from _times(title, case)


def _splits(theirs, scale: float) -> dict[str, np.ndarray]:
  """x_0 and ε for every meaning of the network's output."""
  noisy = theirs["xt"]
  raw = theirs["raw"]
  level = Level.of(theirs["gamma_now"])
  clean_of = {
      "x": raw,
      "eps": steps.clean_of_noise(noisy, raw, level),
      "v": steps.clean_of_velocity(noisy, raw, level),
  }
  ours = {}
  for kind, clean in clean_of.items():
    clipped = np.clip(clean, -scale, scale)
    split = steps.split_by_clean(noisy, clipped, level)
    ours[f"{kind}/x0"] = split.clean
    ours[f"{kind}/eps"] = split.noise
  return ours


def _steps(theirs) -> dict[str, np.ndarray]:
  """Where each sampler goes."""
  split = steps.Split(theirs["x/x0"], theirs["x/eps"])
  now = Level.of(theirs["gamma_now"])
  after = Level.of(theirs["gamma_prev"])
  sampler_of = {
      "ddim": "ddim",
      "ddpm": "ddpm",
      "ddpm@large": "ddpm",
      "ddpm@small": "ddpm_small",
  }
  ours = {}
  for name, sampler in sampler_of.items():
    ours[name] = steps.step(
        theirs["xt"], split, now, after, theirs["noise"], sampler)
  return ours


def _times(title: str, case) -> Iterator[Quantity]:
  """The times of the step, which the index names."""
  times = steps.times(case["steps"], case["td"])
  index = case["step"]
  ours = {"t_now": times.now[index], "t_next": times.next[index]}
  for name, value in ours.items():
    yield Quantity(f"{title}/{name}", value, np.float32(case[name]))


def _with_tolerance(quantities, tolerance: float) -> Iterator[Quantity]:
  for quantity in quantities:
    yield dataclasses.replace(quantity, tolerance=tolerance)
