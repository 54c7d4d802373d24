"""Names of leaves and first-match rules over them."""

import flax
import numpy as np
import pytest

from uvim import tree
from uvim.registry import ConfigError

PARAMS = {
    "pos_embedding_encoder": 0,
    "encoder": {"Dense_0": {"kernel": 1, "bias": 2}},
    "decoder": {"kernel": 3},
}
NAMES = [
    "decoder/kernel",
    "encoder/Dense_0/bias",
    "encoder/Dense_0/kernel",
    "pos_embedding_encoder",
]


class Box(flax.struct.PyTreeNode):
  inside: dict
  pair: tuple


def test_names_are_the_published_ones_in_leaf_order():
  assert tree.leaf_names(PARAMS) == NAMES
  box = Box({"a": 1}, (2, None, 3))
  assert tree.leaf_names(box) == ["inside/a", "pair/0", "pair/2"]


def test_unflatten_undoes_flatten():
  assert tree.unflatten(tree.flatten(PARAMS)) == PARAMS


@pytest.mark.parametrize("names", [["a", "a/b"], ["a/b", "a"]])
def test_a_name_cannot_be_array_and_folder(names):
  with pytest.raises(ConfigError, match="a"):
    tree.unflatten(dict.fromkeys(names, np.zeros(1)))


def test_a_fingerprint_is_the_one_that_files_hold():
  arrays = {
      "a": {"b": np.arange(6.0).reshape(2, 3), "c": np.zeros((), "int32")},
      "x": (np.ones(3, "float16"), np.ones((2, 2), "float32")),
  }
  assert tree.fingerprint(arrays) == 2945344387
  arrays["a"]["b"][1, 2] += 1
  assert tree.fingerprint(arrays) != 2945344387


def test_first_match_wins_and_only_whole_names_match():
  patterns = ["encoder.*", ".*kernel", ".*bias"]
  indices = tree.first_match(NAMES, patterns, what="")
  assert dict(zip(NAMES, indices, strict=True)) == {
      "pos_embedding_encoder": -1,
      "encoder/Dense_0/bias": 0,
      "encoder/Dense_0/kernel": 0,
      "decoder/kernel": 1,
  }


@pytest.mark.parametrize("part", ["encoder", "encoder/Dense_0", "kernel"])
def test_part_of_a_name_does_not_match(part):
  with pytest.raises(ConfigError, match="matches no parameter"):
    tree.first_match(NAMES, [part], what="")
  indices = tree.first_match(NAMES, [part], what="", must_match=False)
  assert set(indices) == {-1}


def test_a_pattern_that_matches_nothing_is_an_error_that_helps():
  message = ("config.lr_mults.*'decoder/kernal'"
             ".*nearest name is 'decoder/kernel'")
  with pytest.raises(ConfigError, match=message):
    tree.first_match(NAMES, ["decoder/kernal"], what="config.lr_mults")
  indices = tree.first_match(NAMES, ["nothing"], what="", must_match=False)
  assert set(indices) == {-1}


def test_a_broken_expression_is_named():
  with pytest.raises(ConfigError, match=r"'\(' is not a regular expression"):
    tree.first_match(NAMES, ["("], what="")
