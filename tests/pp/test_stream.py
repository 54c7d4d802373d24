"""Batch = f(seed, step): resume, processes, epochs; padding; named failures."""

import itertools
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from pp import order, stream
from tests.pp.fakes import CountingSource
from uvim.registry import ConfigError

EXAMPLES = 11  # Of the split 'train' of tiny_data.


def plain(data, seed):
  """Keeps what tells examples apart, and a draw from the example's seed."""
  noise = tf.random.stateless_uniform([2], seed)
  return {"image": tf.io.decode_image(data["image"]), "noise": noise,
          "value": data["value"], "name": data["name"]}


@pytest.fixture
def train(tiny_data):
  return stream.open_tfds_split("tiny", "train", tiny_data)


@pytest.fixture
def validation(tiny_data):
  return stream.open_tfds_split("tiny", "validation", tiny_data)


def take(split, count, **options):
  options = {"batch_size": 4, "seed": 3, **options}
  batches = split.train_batches(plain, **options)
  return list(itertools.islice(batches, count))


def join(batches):
  """One batch of several, such as the parts of several processes."""
  return {key: np.concatenate([batch[key] for batch in batches])
          for key in batches[0]}


def assert_equal(ours, theirs):
  assert len(ours) == len(theirs)
  for our_batch, their_batch in zip(ours, theirs, strict=True):
    assert our_batch.keys() == their_batch.keys()
    for key, value in our_batch.items():
      np.testing.assert_array_equal(value, their_batch[key])


def test_resume_equals_an_unbroken_run(train):
  whole = take(train, 7)
  assert_equal(whole[5:], take(train, 2, start_step=5))


def test_two_processes_read_one_process_s_batch(train):
  whole = take(train, 4)
  first = take(train, 4, process_index=0, process_count=2)
  second = take(train, 4, process_index=1, process_count=2)
  joined = [join(halves) for halves in zip(first, second, strict=True)]
  assert_equal(whole, joined)


def test_every_epoch_holds_every_example_once_in_its_own_order(train):
  values = join(take(train, 11))["value"]  # 4 epochs.
  epochs = values.reshape(4, EXAMPLES).tolist()
  for epoch in epochs:
    assert sorted(epoch) == list(range(EXAMPLES))
  assert len({tuple(epoch) for epoch in epochs}) == 4


def test_example_s_randomness_is_a_function_of_seed_epoch_index(train):
  def draws(**options):
    """(epoch, id) → the random numbers of that example, over four epochs."""
    batch = join(take(train, 22, batch_size=2, **options))
    found = {}
    for position, image_id in enumerate(batch["image/id"].tolist()):
      epoch = position // EXAMPLES
      found[epoch, image_id] = tuple(batch["noise"][position].tolist())
    return found

  first = draws()
  unshuffled = draws(shuffle=False)
  other = draws(seed=4)
  assert first == unshuffled  # The order does not matter.
  assert len(set(first.values())) == 44
  assert not set(first.values()) & set(other.values())


def test_order_and_seeds_of_neighboring_seeds_are_unrelated():
  pairs = list(itertools.product(range(3), range(3)))
  orders = [order.epoch_order(seed, epoch, 4096) for seed, epoch in pairs]
  correlation = np.corrcoef(orders) - np.eye(9)
  assert np.abs(correlation).max() < 0.06  # Four sigma of 1/sqrt(4096).
  index = np.arange(4096)
  seeds = [order.example_seeds(seed, np.full(4096, epoch), index)
           for seed, epoch in pairs]
  words = np.concatenate(seeds).view(np.uint64).ravel()
  assert len(np.unique(words)) == words.size
  bits = (words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
  assert np.abs(bits.mean(0) - 0.5).max() < 0.01


def test_order_is_the_documented_one():
  """A changed order would silently break resume: these values are fixed."""
  expected = np.random.Generator(np.random.Philox(key=[3, 2])).permutation(11)
  np.testing.assert_array_equal(order.epoch_order(3, 2, 11), expected)
  plan = order.plan_train(5, num_examples=11, batch_size=4, seed=3)
  expected = [order.epoch_order(3, position // 11, 11)[position % 11]
              for position in range(20, 24)]
  np.testing.assert_array_equal(plan.index_B, expected)
  # Seeds are taken modulo 2**64.
  np.testing.assert_array_equal(
      order.example_seeds(-1, np.array([2]), np.array([5])),
      order.example_seeds(2 ** 64 - 1, np.array([2]), np.array([5])))


def test_fewer_examples_than_a_batch(validation):
  values = join(take(validation, 2, batch_size=8))["value"]
  assert values.shape == (16,)
  for epoch in (values[:5], values[5:10], values[10:15]):
    assert sorted(epoch.tolist()) == list(range(5))


def test_unshuffled_is_the_order_of_the_source(train):
  ids = join(take(train, 3, shuffle=False))["image/id"]
  np.testing.assert_array_equal(ids, np.arange(12) % EXAMPLES)


def test_opening_far_away_does_not_replay(train):
  source = CountingSource(train.source)
  take(stream.TfdsSplit(source), 1, start_step=10 ** 9)
  # The step itself, and what the bounded prefetch ran ahead.
  assert sum(len(indices) for indices in source.reads) <= 4 * 8


def test_strings_stay_and_id_is_attached(train):
  batch = take(train, 1)[0]
  assert set(batch) == {"image", "noise", "value", "image/id"}
  values = batch["value"][:, None, None, None]
  np.testing.assert_array_equal(
      batch["image"], np.broadcast_to(values, (4, 4, 6, 3)))


@pytest.mark.parametrize("batch_size,processes",
                         [(1, 1), (4, 1), (4, 2), (32, 2)])
def test_eval_pads_the_last_batch_only(train, batch_size, processes):
  parts = []
  for process in range(processes):
    whole = train.eval_batches(
        plain, batch_size=batch_size, process_index=process,
        process_count=processes)
    batches = list(whole.start())
    assert whole.num_batches == len(batches) == -(-EXAMPLES // batch_size)
    for batch in batches:
      assert batch["_mask"].shape == (batch_size // processes,)
    parts.append(batches)
  everything = join([join(batches) for batches in zip(*parts, strict=True)])
  mask = everything["_mask"]
  ids = everything["image/id"]
  np.testing.assert_array_equal(ids[mask], np.arange(EXAMPLES))
  assert mask[:EXAMPLES].all()
  assert not mask[EXAMPLES:].any()
  assert_equal(list(whole.start()), parts[-1])  # A second pass is the same.


def test_a_failing_example_is_named(train):
  def fail_on_six(data, seed):
    del seed
    check = tf.debugging.assert_none_equal(
        data["value"], np.int64(6), message="six is not allowed")
    with tf.control_dependencies([check]):
      return {"value": tf.identity(data["value"])}

  batches = train.train_batches(fail_on_six, batch_size=4, seed=0)
  with pytest.raises(ConfigError, match="six is not allowed") as caught:
    list(itertools.islice(batches, 4))
  values = [train.example(index)["value"] for index in range(EXAMPLES)]
  index = values.index(6)
  expected = f"tiny train: example {index} (image/id {index})"
  assert expected in str(caught.value)


def test_a_message_holds_the_string_as_it_was_written(train):
  string = 'central_crop(9)|keep("image")'
  batches = train.train_batches(
      train.make_preprocess(string), batch_size=2, seed=0)
  with pytest.raises(ConfigError) as caught:
    next(batches)
  assert f"fails in {string!r}" in str(caught.value)


def test_shapes_that_differ_are_named(train):
  def shape_of_value(data, seed):
    del seed
    return {"x": tf.zeros([data["value"]])}

  whole = train.eval_batches(shape_of_value, batch_size=4)
  with pytest.raises(ConfigError, match="'x' cannot be batched.*keep"):
    list(whole.start())


def test_batch_size_must_divide(train):
  for batch_size in (0, 3):
    with pytest.raises(ConfigError, match="batch_size: "):
      train.train_batches(
          plain, batch_size=batch_size, seed=0, process_count=2)


def test_decode_is_put_in_front_where_no_op_decodes(train):
  for string in ('keep("image", "value")', 'decode||keep("image", "value")'):
    batch = next(train.train_batches(string, batch_size=3, seed=0))
    assert set(batch) == {"image", "value", "image/id"}
    assert batch["image"].shape == (3, 4, 6, 3)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["value"])


def test_a_bad_string_is_reported_before_anything_is_read(train):
  # The place is the one in the string as written, decode or not.
  with pytest.raises(ConfigError, match="2.*kep.*keep"):
    train.train_batches('value_range|kep("image")', batch_size=2, seed=0)
  with pytest.raises(ConfigError, match="lables"):
    train.eval_batches('value_range|keep("lables")', batch_size=2)


_LEFT_HALFWAY = """
import sys, time
from pp import sources, stream

class SlowSource(sources.Source):
  def __init__(self, source):
    vars(self).update(vars(source))

  def read(self, indices):
    end = time.monotonic() + 0.01
    while time.monotonic() < end:  # Holds Python's lock, as decoding would.
      pass
    return super().read(indices)

split = stream.TfdsSplit(
    SlowSource(sources.make_source("tiny", "train", sys.argv[1])))
left = [split.train_batches(lambda data, seed: {"x": data["value"]},
                            batch_size=4, seed=i) for i in range(4)]
print([len(next(batches)) for batches in left])
"""


def test_a_run_that_stops_halfway_ends(tiny_data):
  """Threads that read ahead must not outlive the interpreter (it hung)."""
  done = subprocess.run(
      [sys.executable, "-c", _LEFT_HALFWAY, str(tiny_data)], timeout=120,
      cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True,
      check=False)
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "[2, 2, 2, 2]"
