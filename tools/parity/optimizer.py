"""Fixtures of the optimizer through this code: schedules, updates, moments."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tools.parity import common, fixtures
from tools.parity.common import Quantity, below, match
from tools.parity.fixtures import Fixture
from uvim import tree
from uvim.learn import optim, schedules

# The options behind schedules.npz, which only names them; 20 steps.
SCHEDULES = {
    "cosine_w4": {"decay_type": "cosine", "warmup_steps": 4},
    "linear": {"decay_type": "linear", "warmup_steps": 4, "linear_end": 0.1},
    "rsqrt": {"decay_type": "rsqrt", "warmup_steps": 4, "timescale": 10,
              "cooldown_steps": 5},
    "stair": {"decay_type": "stair", "steps": [5, 9], "mults": [0.5, 0.1]},
}
INPUTS = "inputs"  # The part that holds parameters and gradients.
# The original's name of the momentum.
MOMENTUM = "ema_bf16_as_f32"
# What bfloat16 keeps of a number, relative to it: the last of its eight bits.
LAST_BIT = 2.0**-8

# A moment among the leaves of the optimizer's state: its kind, its parameter.
_MOMENT = re.compile(r".*?/(v_row|v_col|v|ema)/(.*)")
# A parameter after an update: the number of the update, its name.
_PARAM_AFTER = re.compile(r".*/params_after(\d+)/(.*)")


def compare_schedules(fixture: Fixture) -> Iterator[Quantity]:
  """Learning rates by step."""
  theirs = fixtures.read_arrays(fixture.path)
  ours = {}
  for name, values in theirs.items():
    if name in SCHEDULES:
      schedule = schedules.make_schedule(
          total_steps=len(values) - 1, **SCHEDULES[name])
      ours[name] = _rates(schedule, len(values))
  yield from match(fixture.name, theirs, ours)


def _rates(schedule: Callable[[int], Any], num_steps: int) -> np.ndarray:
  return np.array([schedule(step) for step in range(num_steps)])


def compare_updates(fixture: Fixture) -> Iterator[Quantity]:
  """Parameters and moments after each update, for every config."""
  given = fixture.read_part(INPUTS)
  compare_config = functools.partial(
      _compare_config, fixture.read_meta(), given)
  yield from fixtures.compare_parts(fixture, INPUTS, compare_config)


def _compare_config(meta: Mapping[str, Any], given, part: str,
                    path: pathlib.Path) -> Iterator[Quantity]:
  """The quantities of one config of the optimizer.

  Where a compiler rounds may move the last of bfloat16's eight bits: one core,
  and another number of cores, do not add up in the same order. Such a bit of
  the momentum moves the next updates by as much of their size.
  """
  if part not in meta["configs"]:
    yield from fixtures.compare_unknown_part(path)
    return
  fields = meta["configs"][part] | {"total_steps": meta["total_steps"]}
  theirs = fixtures.read_arrays(path)
  ours = _run_optimizer(fields, given, theirs)
  for quantity in match(path.stem, theirs, ours):
    after = _PARAM_AFTER.fullmatch(quantity.name)
    if f"/{MOMENTUM}/" in quantity.name:
      quantity = dataclasses.replace(
          quantity, tolerance=LAST_BIT,
          note="stored as bfloat16: to its last bit")
    elif after and int(after[1]) > 1:
      before = theirs[f"params_after{int(after[1]) - 1}/{after[2]}"]
      quantity = allow_last_bits(quantity, before)
    yield quantity


def _run_optimizer(fields: Mapping[str, Any], given,
                   theirs) -> dict[str, Any]:
  """What the optimizer makes of the given gradients, by the fixtures' names."""
  params = tree.unflatten(below(given, "params/"))
  tx, schedules = optim.make_optimizer(**fields, params=params)
  state = tx.init(params)
  update = jax.jit(tx.update)
  ours = {}
  for number in range(1, 1 + _num_gradients(given)):
    grads = tree.unflatten(below(given, f"grad{number}/"))
    updates, state = update(grads, state, params)
    params = jax.tree.map(np.add, params, updates)
    for name, value in tree.flatten(params).items():
      ours[f"params_after{number}/{name}"] = value
  ours |= _moments(state)
  for i, schedule in enumerate(schedules):
    name = f"sched{i}"
    if name in theirs:
      ours[name] = _rates(schedule, len(theirs[name]))
  return ours


def _num_gradients(given) -> int:
  """How many updates are given: 'grad1/…', 'grad2/…', …."""
  folders = {name.split("/")[0] for name in given}
  return len(folders - {"params"})


def _moments(state) -> dict[str, np.ndarray]:
  """The moments in an optimizer's state, by the fixtures' names."""
  moments = {}
  for name, leaf in tree.flatten(state).items():
    found = _MOMENT.fullmatch(name)
    if found:
      kind = MOMENTUM if found[1] == "ema" else found[1]
      moments[f"{kind}/{found[2]}"] = np.asarray(leaf, np.float32)
  return moments


def allow_last_bits(quantity: Quantity, before: np.ndarray) -> Quantity:
  """Lets one element in a thousand follow a bit of its momentum.

  What differs in more of them is no matter of rounding: all are then held to
  the usual tolerance.

  Args:
    quantity: a parameter after an update.
    before: the same parameter before it.
  """
  theirs = quantity.theirs
  if quantity.ours is None or quantity.ours.shape != theirs.shape:
    return quantity
  scale = np.max(np.abs(theirs), initial=1e-30)
  error = np.abs(quantity.ours - theirs) / scale
  # Not "> TOLERANCE": NaN counts as too large.
  num_over = np.sum(~(error <= common.TOLERANCE))
  num_allowed = max(1, error.size // 1000)
  if not 0 < num_over <= num_allowed:
    return quantity
  update = np.max(np.abs(theirs - before))
  tolerance = max(common.TOLERANCE, LAST_BIT * update / scale)
  return dataclasses.replace(
      quantity, tolerance=tolerance,
      note=f"{num_over} of {error.size}: the last bit of a momentum in "
      "bfloat16")
