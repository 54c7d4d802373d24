"""Broken input is refused by our own errors; `tools.fuzz` has the long form."""

import pytest
from hypothesis import strategies as st

from configs import vqvae_rooms_panoptic
from tools.stress import fuzz, strategies, targets
from uvim.models import make_model
from uvim.registry import ConfigError


# 500 cases in all. A config costs most: it is made into a model.
@pytest.mark.parametrize("kind, cases", [
    ("string", 120), ("config", 12), ("option", 78), ("image", 100),
    ("coco", 80), ("workdir", 50), ("npz", 60)])
def test_only_our_own_errors_come_back(kind, cases):
  report = fuzz.run(cases, seed=1, kinds={kind: fuzz.KINDS[kind]})
  assert not report.failures, "\n\n".join(report.failures)
  assert 0 < report.refused[kind] <= cases


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

  def cases(self):
    return st.integers(0, 100)

  def run(self, case):
    (self._folder / "left").write_text("behind")
    if case < 50:
      raise ConfigError("ours")
    raise KeyError(case)


def test_what_a_library_raises_is_a_failure():
  report = fuzz.run(40, kinds={"broken": Broken})
  assert report.refused["broken"]
  one_place, files = report.failures
  assert "KeyError" in one_place
  # The smallest case that fails.
  assert "case=50" in one_place
  assert "files changed" in files


@pytest.mark.parametrize("cases", [
    strategies.edited_text(["decode|resize(8)"]),
    strategies.edited_bytes([b"\x89PNG" * 9]),
    strategies.encoded_json([{"a": [1, {"b": 2}], "c": "d"}])])
def test_cases_follow_from_the_seed(cases):
  def some(seed):
    seen = []

    class Watched(targets.Target):

      def __init__(self, folder):
        del folder

      def cases(self):
        return cases

      def run(self, case):
        seen.append(case)

    fuzz.run(50, seed=seed, kinds={"watched": Watched})
    return seen

  assert some(0) == some(0)
  assert some(0) != some(1)
  assert len(set(some(0))) > 25
