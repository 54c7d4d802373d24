"""Batch = f(seed, step): resume, hosts, epochs; padding; named failures."""

import itertools
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from pp import sources
from pp import stream as pipeline
from uvim.registry import ConfigError


def plain(data, seed):
  """Keeps what tells examples apart, and a draw from the example's seed."""
  noise = tf.random.stateless_uniform([2], seed)
  return {"image": tf.io.decode_image(data["image"]), "noise": noise,
          "value": data["value"], "name": data["name"]}


@pytest.fixture
def train(tiny_data):
  return sources.make_source("tiny", "train", tiny_data)


@pytest.fixture
def validation(tiny_data):
  return sources.make_source("tiny", "validation", tiny_data)


def take(source, count, **kw):
  kw = {"batch_size": 4, "seed": 3, **kw}
  return list(itertools.islice(
      pipeline.train_batches(source, plain, **kw), count))


def assert_equal(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for key in x:
      np.testing.assert_array_equal(x[key], y[key])


def test_resume_equals_an_unbroken_run(train):
  whole = take(train, 7)
  assert_equal(whole[5:], take(train, 2, start_step=5))


def test_two_hosts_read_one_host_s_batch(train):
  whole = take(train, 4)
  halves = [take(train, 4, process_index=i, process_count=2) for i in (0, 1)]
  joined = [{key: np.concatenate([a[key], b[key]]) for key in a}
            for a, b in zip(*halves, strict=True)]
  assert_equal(whole, joined)


def test_every_epoch_holds_every_example_once_in_its_own_order(train):
  flat = np.concatenate([b["value"] for b in take(train, 11)])  # 4 epochs
  epochs = flat.reshape(4, 11)
  assert all(sorted(epoch) == list(range(11)) for epoch in epochs.tolist())
  assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_example_s_randomness_is_a_function_of_seed_epoch_index(train):
  def draws(**kw):
    batches = take(train, 22, batch_size=2, **kw)
    ids = np.concatenate([b["image/id"] for b in batches])
    noise = np.concatenate([b["noise"] for b in batches])
    return {(position // 11, i): tuple(row) for position, (i, row)
            in enumerate(zip(ids.tolist(), noise.tolist(), strict=True))}
  first, unshuffled, other = draws(), draws(shuffle=False), draws(seed=4)
  assert first == unshuffled  # The order does not matter.
  assert len(set(first.values())) == 44
  assert not set(first.values()) & set(other.values())


def test_order_and_seeds_of_neighbouring_seeds_are_unrelated():
  orders = [pipeline.epoch_order(seed, epoch, 4096)
            for seed in range(3) for epoch in range(3)]
  correlation = np.corrcoef(orders) - np.eye(9)
  assert np.abs(correlation).max() < 0.06  # Four sigma of 1/sqrt(4096).
  index = np.arange(4096)
  seeds = [pipeline.example_seeds(seed, np.full(4096, epoch), index)
           for seed in range(3) for epoch in range(3)]
  words = np.concatenate(seeds).view(np.uint64).ravel()
  assert len(np.unique(words)) == words.size
  bits = (words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
  assert np.abs(bits.mean(0) - 0.5).max() < 0.01


def test_order_is_the_documented_one():
  """A changed order would silently break resume: these values are fixed."""
  order = np.random.Generator(np.random.Philox(key=[3, 2])).permutation(11)
  np.testing.assert_array_equal(pipeline.epoch_order(3, 2, 11), order)
  plan = pipeline.plan_train(5, num_examples=11, batch_size=4, seed=3)
  np.testing.assert_array_equal(
      plan.index_B, [pipeline.epoch_order(3, p // 11, 11)[p % 11]
                     for p in range(20, 24)])
  np.testing.assert_array_equal(
      pipeline.example_seeds(-1, np.array([2]), np.array([5])),
      pipeline.example_seeds(2 ** 64 - 1, np.array([2]), np.array([5])))


def test_fewer_examples_than_a_batch(validation):
  batches = take(validation, 2, batch_size=8)
  flat = np.concatenate([b["value"] for b in batches])
  assert flat.shape == (16,)
  for epoch in (flat[:5], flat[5:10], flat[10:15]):
    assert sorted(epoch.tolist()) == list(range(5))


def test_unshuffled_is_the_order_of_the_source(train):
  flat = np.concatenate([b["image/id"] for b in take(train, 3, shuffle=False)])
  np.testing.assert_array_equal(flat, np.arange(12) % 11)


def test_opening_far_away_does_not_replay(train, monkeypatch):
  reads = []
  read = train.read
  monkeypatch.setattr(train, "read",
                      lambda indices: reads.append(len(indices)) or
                      read(indices))
  take(train, 1, start_step=10 ** 9)
  # The step itself, and what the bounded prefetch ran ahead.
  assert sum(reads) <= 4 * 8


def test_strings_stay_and_id_is_attached(train):
  batch = take(train, 1)[0]
  assert set(batch) == {"image", "noise", "value", "image/id"}
  np.testing.assert_array_equal(
      batch["image"], np.broadcast_to(batch["value"][:, None, None, None],
                                      (4, 4, 6, 3)))


@pytest.mark.parametrize("batch_size,hosts", [(1, 1), (4, 1), (4, 2), (32, 2)])
def test_eval_pads_the_last_batch_only(train, batch_size, hosts):
  seen = []
  for host in range(hosts):
    num_batches, start = pipeline.eval_batches(
        train, plain, batch_size=batch_size, process_index=host,
        process_count=hosts)
    batches = list(start())
    assert num_batches == len(batches) == -(-11 // batch_size)
    assert all(b["_mask"].shape == (batch_size // hosts,) for b in batches)
    seen.append(batches)
  joined = [{key: np.concatenate([b[key] for b in hosts_b])
             for key in hosts_b[0]} for hosts_b in zip(*seen, strict=True)]
  mask = np.concatenate([b["_mask"] for b in joined])
  ids = np.concatenate([b["image/id"] for b in joined])
  np.testing.assert_array_equal(ids[mask], np.arange(11))
  assert mask[:11].all() and not mask[11:].any()
  assert_equal(list(start()), seen[-1])  # A second pass is the same.


def test_a_failing_example_is_named(train):
  def op(data, seed):
    ok = tf.debugging.assert_none_equal(data["value"], np.int64(6),
                                        message="six is not allowed")
    with tf.control_dependencies([ok]):
      return {"value": tf.identity(data["value"])}
  batches = pipeline.train_batches(train, op, batch_size=4, seed=0)
  with pytest.raises(ConfigError, match="six is not allowed") as caught:
    list(itertools.islice(batches, 4))
  index = [i for i in range(11) if train.example(i)["value"] == 6][0]
  assert f"tiny train: example {index} (image/id {index})" in str(caught.value)


def test_shapes_that_differ_are_named(train):
  def op(data, seed):
    return {"x": tf.zeros([data["value"]])}
  with pytest.raises(ConfigError, match="'x' cannot be batched.*keep"):
    list(pipeline.eval_batches(train, op, batch_size=4)[1]())


def test_batch_size_must_divide(train):
  for batch_size in (0, 3):
    with pytest.raises(ConfigError, match="batch_size: "):
      pipeline.train_batches(train, plain, batch_size=batch_size, seed=0,
                             process_count=2)


def test_decode_is_put_in_front_where_no_op_decodes(train):
  for string in ('keep("image", "value")', 'decode||keep("image", "value")'):
    batch = next(pipeline.train_batches(train, string, batch_size=3, seed=0))
    assert set(batch) == {"image", "value", "image/id"}
    assert batch["image"].shape == (3, 4, 6, 3)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["value"])


def test_a_bad_string_is_reported_before_anything_is_read(train):
  # The place is the one in the string as written, decode or not.
  with pytest.raises(ConfigError, match="2.*kep.*keep"):
    pipeline.train_batches(train, 'value_range|kep("image")', batch_size=2,
                           seed=0)
  with pytest.raises(ConfigError, match="lables"):
    pipeline.eval_batches(train, 'value_range|keep("lables")', batch_size=2)


_LEFT_HALFWAY = """
import sys, time
from pp import pipeline, sources
source = sources.make_source("tiny", "train", sys.argv[1])
read = source.read
def slow(indices):
  end = time.monotonic() + 0.01
  while time.monotonic() < end:  # Holds Python's lock, as decoding would.
    pass
  return read(indices)
source.read = slow
left = [pipeline.train_batches(source, lambda data, seed: {"x": data["value"]},
                               batch_size=4, seed=i) for i in range(4)]
print([len(next(batches)) for batches in left])
"""


def test_a_run_that_stops_halfway_ends(tiny_data):
  """Threads that read ahead must not outlive the interpreter (it hung)."""
  out = subprocess.run(
      [sys.executable, "-c", _LEFT_HALFWAY, str(tiny_data)], timeout=120,
      cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True)
  assert out.returncode == 0, out.stderr
  assert out.stdout.strip() == "[2, 2, 2, 2]"
