"""Broken input is refused by our own errors; `tools.fuzz` has the long form."""

import random

import pytest

from configs import vqvae_rooms_panoptic
from tools.stress import fuzz, mutate, targets
from uvim.models import make_model
from uvim.registry import ConfigError


@pytest.mark.parametrize("cases, kinds", [
    (300, ("string", "image")), (12, ("config",))])
def test_only_our_own_errors_come_back(cases, kinds):
  makers = {kind: fuzz.KINDS[kind] for kind in kinds}
  report = fuzz.run(cases, seed=1, kinds=makers)
  assert not report.failures, "\n\n".join(report.failures)
  for kind in kinds:
    assert 0 < report.refused[kind] <= cases // len(kinds)


def test_a_number_that_would_never_end_is_refused():
  """Found by the fuzz: one Python object per block of the model."""
  config = vqvae_rooms_panoptic.get_config("tiny")
  for name in ("oracle_depth", "base_model_depth"):
    fields = config.model.to_dict() | {name: 10**20}
    with pytest.raises(ConfigError, match=f"config.model.{name} = 1000"):
      make_model("vit", fields, "config.model")


@pytest.mark.parametrize("change", [
    {"input_size": (48, ...)}, {"outputs": {"semantics": ("image", 64)}}])
def test_sizes_that_are_no_numbers_are_refused(change):
  """Found by the fuzz."""
  fields = vqvae_rooms_panoptic.get_config("tiny").model.to_dict() | change
  with pytest.raises(ConfigError, match=f"model.{next(iter(change))}"):
    make_model("vit", fields, "config.model")


class Broken(targets.Target):
  """Refuses half of its cases, fails at the others, and leaves a file."""

  def __init__(self, folder):
    self._folder = folder

  def make(self, rng):
    return rng.random()

  def run(self, case):
    (self._folder / "left").write_text("behind")
    if case < 0.5:
      raise ConfigError("ours")
    raise KeyError(case)


def test_what_a_library_raises_is_a_failure():
  report = fuzz.run(20, kinds={"broken": Broken})
  assert 0 < report.refused["broken"] < 20
  one_place, files = report.failures
  assert "KeyError" in one_place
  assert "files changed" in files


@pytest.mark.parametrize("mutation, seed", [
    (mutate.mutate_text, "decode|resize(8)"),
    (mutate.mutate_bytes, b"\x89PNG" * 9)])
def test_mutations_follow_from_the_seed(mutation, seed):
  def some(start):
    return [mutation(random.Random(f"{start}/{i}"), seed) for i in range(50)]
  assert some(0) == some(0)
  assert some(0) != some(1)
  assert len(set(some(0))) > 40
