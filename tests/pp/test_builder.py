"""The preprocessing language: what parses, what does not and what is said."""

import numpy as np
import pytest
import tensorflow as tf

from pp import builder
from uvim.registry import ConfigError


def _seed(i):
  return tf.constant([i, 7], tf.int64)


def test_parse_reads_literals_of_every_kind():
  calls = builder.parse(
      'a|b()|c(1, -2.5, "x", [1, "y"], (3, 4), k=True, n=None)')
  assert [(c.name, c.args, c.kwargs) for c in calls] == [
      ("a", (), {}), ("b", (), {}),
      ("c", (1, -2.5, "x", [1, "y"], (3, 4)), {"k": True, "n": None})]


def test_empty_sections_are_skipped():
  assert [c.name for c in builder.parse("|a| |b||c|")] == ["a", "b", "c"]
  assert builder.parse("") == []


@pytest.mark.parametrize("string, args", [
    ('op("a|b")|op', ("a|b",)),
    ("op('a|\"|b')", ('a|"|b',)),
    (r'op("a\"|b")', ('a"|b',)),
    (r'op("a\\")|op("b")', ("a\\",)),
])
def test_pipes_inside_quotes_survive(string, args):
  assert builder.parse(string)[0].args == args


@pytest.mark.parametrize("section", [
    "resize(__import__('os').getpid())", "resize(RES)", "resize(2**9)",
    "resize(*[1])", "resize(**{'size': 3})", "resize(f'{1}')",
    "resize(lambda: 1)", "resize(1", "resize 1", "a.b(1)", "3", '"keep"',
    "resize(1)(2)", 'keep("image)', "resize(size=1, size=2)"])
def test_what_is_not_a_call_with_literals_is_refused(section):
  with pytest.raises(ConfigError, match="preprocessing op 2 "):
    builder.build(f"decode|{section}")


@pytest.mark.parametrize("string, words", [
    ("decode||resise(3)", ["op 2", "resise(3)", "'resise'", "'resize'"]),
    ("decode|resize(3, metod='area')", ["op 2", "'metod'", "'method'"]),
    ("resize", ["op 1", "size"]),
    ("resize(1, 2, 3, 4, 5)", ["op 1", "too many"]),
    ("decode(key='image', inkey='image')", ["op 1", "key"]),
    ("keep(3)", ["op 1", "3"]),
    ("keep(keys='image')", ["op 1", "'keys'"]),
    ("value_range(0, 1, 5, 5)", ["op 1", "in_min"]),
    ("resize(3, method='nearst')", ["op 1", "'nearst'", "'nearest'"]),
    ("resize('3')", ["op 1", "size", "'3'"]),
    ("resize((3, 0))", ["op 1", "size"]),
    ("resize(True)", ["op 1", "size"]),
    ("make_canonical(main_sort_axis='z')", ["op 1", "'z'"]),
    ("inception_box(area=(1, 0.5))", ["op 1", "area"]),
    ("concat('semantics')", ["op 1", "inkeys"]),
    ("value_range('a', 'b')", ["op 1"]),
])
def test_mistakes_name_the_op_its_place_and_the_nearest_name(string, words):
  with pytest.raises(ConfigError) as error:
    builder.build(string)
  for word in words:
    assert word in str(error.value), word


def test_modules_choose_the_ops():
  builder.build("resize(3)", ["ops_image"])
  with pytest.raises(ConfigError, match="coco_panoptic"):
    builder.build("coco_panoptic", ["ops_general", "ops_image"])
  with pytest.raises(ConfigError, match="'ops_imag'.*Did you mean 'ops_image'"):
    builder.build("decode", ["ops_imag"])
  with pytest.raises(ConfigError, match="list of names"):
    builder.build("decode", "ops_image")


@pytest.mark.parametrize("string", [
    'value_range|resize(2, key="labls")', 'value_range|copy("labls", "x")',
    'value_range|keep("image", "labls")', 'value_range|drop("labls")',
    'value_range|concat(["labls"])', 'value_range|det_fliplr(key="labls")'])
def test_a_missing_key_is_told_with_the_keys_there_are(string):
  data = {"image": tf.zeros([2, 2, 3], tf.uint8),
          "labels": tf.zeros([2, 2, 1], tf.int32), "fliplr": tf.constant(0.7)}
  preprocess = builder.build(string)
  with pytest.raises(ConfigError, match="op 2 .*labls.*'labels'"):
    preprocess(data)
  # As the same error from inside a data set.
  with pytest.raises(ConfigError, match="op 2 .*labls.*'labels'"):
    tf.data.Dataset.from_tensors(data).map(preprocess)


def test_the_input_is_left_alone_and_steps_add_up():
  data = {"image": tf.ones([4, 4, 3], tf.uint8)}
  preprocess = builder.build('copy("image", "b")|resize(2)|drop("b")')
  out = preprocess(data)
  assert list(data) == ["image"] and data["image"].shape == (4, 4, 3)
  assert [step.name for step in preprocess.steps] == ["copy", "resize", "drop"]
  state = data
  for step in preprocess.steps:
    state = step.fn(state)
  np.testing.assert_array_equal(state["image"], out["image"])


def test_randomness_is_a_function_of_seed_and_place():
  two = builder.build('randu("a")||randu("b")')
  first, again, other = two({}, _seed(0)), two({}, _seed(0)), two({}, _seed(1))
  assert first["a"] == again["a"] and first["b"] == again["b"]
  assert first["a"] != first["b"] and first["a"] != other["a"]
  with pytest.raises(ConfigError, match="needs a seed"):
    two({})


def test_draws_are_uniform_over_neighbouring_seeds():
  preprocess = builder.build('randu("a")')
  draws = np.array([preprocess({}, _seed(i))["a"] for i in range(500)])
  # Kolmogorov–Smirnov: 1.63 / sqrt(n) is the 1 % point.
  gap = np.abs(np.sort(draws) - (np.arange(500) + 0.5) / 500).max()
  assert gap < 1.63 / np.sqrt(500)
  assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.15
