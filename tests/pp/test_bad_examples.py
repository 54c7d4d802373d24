"""Examples that cannot be read: named, or replaced the same way everywhere."""

import io
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from configs import vqvae_rooms_panoptic
from evaluators import coco_panoptic, common, mean
from pp import builder, order, sources
from pp import stream as pipeline
from uvim.registry import ConfigError

PP = vqvae_rooms_panoptic.get_config("tiny").pp_train
PP_EVAL = vqvae_rooms_panoptic.get_config("tiny").pp_eval
NO_LABELS = 'decode|resize(8)|value_range(-1, 1)|keep("image")'


def image_bytes(value):
  def change(features):
    features["image"].bytes_list.value[0] = value
  return change


def cut_image(features):
  image = features["image"].bytes_list
  image.value[0] = image.value[0][:len(image.value[0]) // 2]


def no_panoptic_image(features):
  features["panoptic_image"].bytes_list.value[0] = b""


def unreadable(features):
  raise OSError("the disk says no")


BAD = {3: image_bytes(b"not a picture"), 10: cut_image, 20: no_panoptic_image,
       30: unreadable}


def spoil(source, changes):
  """The source with some of its serialised examples changed."""
  read = source.read

  def spoiled(indices):
    out = []
    for index, raw in zip(indices, read(indices), strict=True):
      if int(index) in changes:
        example = tf.train.Example.FromString(raw)
        changes[int(index)](example.features.feature)
        raw = example.SerializeToString()
      out.append(raw)
    return out

  source.read = spoiled
  return source


@pytest.fixture
def train(rooms_tiny_dir):
  return sources.make_source("rooms/tiny", "train", rooms_tiny_dir)


@pytest.fixture
def validation(rooms_tiny_dir):
  return sources.make_source("rooms/tiny", "validation", rooms_tiny_dir)


def take(source, steps, *, start_step=0, **kw):
  kw = {"batch_size": 16, "seed": 5, "on_bad_example": "skip", **kw}
  return list(itertools.islice(pipeline.train_batches(
      source, PP, start_step=start_step, **kw), steps))


def assert_equal(a, b):
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for key in x:
      np.testing.assert_array_equal(x[key], y[key], err_msg=key)


def test_stand_ins_are_the_same_on_any_host_and_after_a_restart(
    train, caplog):
  ids = [train.example(i)["image/id"] for i in BAD]
  spoil(train, BAD)
  whole = take(train, 4)  # One epoch of 64.
  assert not set(ids) & {i for b in whole for i in b["image/id"].tolist()}
  assert sum(b["_skipped"].sum() for b in whole) == len(BAD)
  skipped = [order.plan_train(s, num_examples=64, batch_size=16, seed=5)
             .index_B[b["_skipped"]] for s, b in enumerate(whole)]
  assert sorted(np.concatenate(skipped).tolist()) == sorted(BAD)
  assert "skipped example 30: " in caplog.text
  hosts = [take(train, 4, process_index=i, process_count=2) for i in (0, 1)]
  assert_equal(whole, [
      {key: np.concatenate([a[key], b[key]]) for key in a}
      for a, b in zip(*hosts, strict=True)])
  assert_equal(whole[2:], take(train, 2, start_step=2))


def test_good_examples_are_those_of_a_run_without_bad_ones(train):
  clean = take(train, 2, on_bad_example="error")
  rows = take(spoil(train, BAD), 2)
  for a, b in zip(clean, rows, strict=True):
    good = ~b["_skipped"]
    assert_equal([{k: v[good] for k, v in a.items()}],
                 [{k: b[k][good] for k in a}])
  assert "_skipped" not in clean[0]


@pytest.mark.parametrize("index", [3, 20, 30])
def test_error_names_the_example(train, index):
  spoil(train, {index: BAD[index]})
  name = f"rooms/tiny train: example {index} .*fails in"
  with pytest.raises(ConfigError, match=name):
    take(train, 4, on_bad_example="error")


def test_nothing_but_bad_examples_is_an_error(
    train, validation, monkeypatch):
  monkeypatch.setattr(pipeline, "_MAX_TRIES", 9)
  for source in (train, validation):
    spoil(source, dict.fromkeys(range(64), image_bytes(b"no")))
  with pytest.raises(ConfigError, match="no good example among 9 "):
    take(train, 1, batch_size=2)
  _, start = pipeline.eval_batches(validation, PP_EVAL, batch_size=4,
                                   on_bad_example="skip")
  with pytest.raises(ConfigError, match="no good example"):
    list(start())


def predict(variables, batch):
  """The class of the upper left pixel everywhere, and the mean colour."""
  del variables
  return {"panoptic": np.broadcast_to(
      batch["labels"][:, :1, :1], batch["labels"].shape),
          "level": batch["image"].mean((1, 2, 3))}


@pytest.mark.parametrize("bad", [{}, {0: cut_image, 9: no_panoptic_image,
                                      15: cut_image}])
def test_evaluation_leaves_bad_examples_out(validation, bad):
  """Truth, place and padding of the others stay theirs."""
  spoil(validation, bad)
  _, start = pipeline.eval_batches(validation, PP_EVAL, batch_size=6,
                                   on_bad_example="skip")
  out = list(common.predict_all(predict, None, start(), put=dict))
  assert [i for i, x in enumerate(out) if x is None] == sorted(bad)
  good = [i for i in range(16) if i not in bad]
  for (index, prediction), i in zip(
      common.numbered(out, 16), good, strict=True):
    assert index == i
    assert prediction["image/id"] == validation.example(i)["image/id"]
  values = dict(mean.Evaluator(lambda v: (
      x and {"level": x["level"]} for x in out)).run(None))
  assert values["level"] == pytest.approx(
      np.mean([out[i]["level"] for i in good]))
  scores = dict(coco_panoptic.Evaluator(lambda v: iter(out), validation)
                .run(None))
  assert 0 <= scores["PQ"] < 100


def test_evaluation_counts_a_broken_truth_that_no_op_reads(validation):
  spoil(validation, {2: no_panoptic_image})
  masks = {}
  for mode in ("error", "skip"):
    _, start = pipeline.eval_batches(validation, NO_LABELS, batch_size=16,
                                     on_bad_example=mode)
    masks[mode] = next(start())["_mask"]
  assert masks["error"].all() and not masks["skip"][2]
  assert masks["skip"].sum() == 15
  with pytest.raises(ConfigError, match="rooms/tiny validation: example 2 "):
    validation.example(2)


def test_codes_come_with_their_augmentation_and_without_labels(train):
  codes = np.arange(2 * 64 * 3).reshape(2, 64, 3).astype(np.int16)
  kw = dict(codes_per_image=2, on_bad_example="error")
  plain = take(train, 9, **kw)
  # The label of 20 cannot be read; with its code known nobody does.
  spoil(train, {20: no_panoptic_image})
  cached = take(train, 9, codes=codes, **kw)
  for step, (a, b) in enumerate(zip(plain, cached, strict=True)):
    assert set(b) == {"image", "image/id", "code"}
    np.testing.assert_array_equal(a["image"], b["image"])
    plan = order.plan_train(step, num_examples=64, batch_size=16, seed=5)
    round_B = step // 4 % 2
    np.testing.assert_array_equal(b["code"], codes[round_B, plan.index_B])
    assert b["code"].dtype == np.int32

  codes[0, 7] = -1  # Was bad when the codes were written.
  with pytest.raises(ConfigError, match="code of example 7: "):
    take(train, 4, codes=codes, **kw)
  rows = take(train, 4, codes=codes, codes_per_image=2)
  assert sum(b["_skipped"].sum() for b in rows) == 1
  assert min(b["code"].min() for b in rows) == 0
  with pytest.raises(ConfigError, match="holds codes of 63 examples"):
    take(train, 1, codes=codes[:, :63], **kw)


def test_augmentations_repeat_after_so_many_epochs():
  def seeds(epoch, **kw):
    plan = order.plan_train(epoch, num_examples=9, batch_size=9, seed=1, **kw)
    assert sorted(plan.index_B) == list(range(9))
    return dict(zip(plan.index_B.tolist(), map(tuple, plan.seed_B2.tolist()),
                    strict=True))
  assert seeds(0, num_rounds=2) == seeds(2, num_rounds=2) == seeds(0)
  assert seeds(1, num_rounds=2) == seeds(3, num_rounds=2) == seeds(1)
  assert not set(seeds(0).values()) & set(seeds(1).values())
  orders = [order.plan_train(e, num_examples=9, batch_size=9, seed=1,
                             num_rounds=2).index_B.tolist() for e in (0, 2)]
  assert orders[0] != orders[1]  # Only the augmentations repeat.


def encode(array, kind, **kw):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, kind, **kw)
  return buffer.getvalue()


def test_a_turned_photograph_and_its_labels_stay_as_they_are_stored():
  """EXIF turns neither: the labels are drawn on the stored pixels."""
  exif = Image.Exif()
  exif[274] = 6  # "Turn by 90° to look at it."
  ids = np.zeros((20, 30), np.int64)
  ids[:10, 15:] = 7
  ramp = np.uint8(np.where(ids, 200, 20))[..., None].repeat(3, -1)
  out = builder.build(
      'decode|coco_panoptic|concat(["semantics", "instances"], "labels")')({
          "image": tf.constant(encode(ramp, "JPEG", quality=95, exif=exif)),
          "panoptic_image": tf.constant(np.stack(
              [ids, 0 * ids, 0 * ids], -1).astype(np.uint8)),
          "panoptic_objects": {"id": tf.constant([7], tf.int64),
                               "label": tf.constant([3], tf.int64)}})
  assert out["image"].shape[:2] == out["labels"].shape[:2] == (20, 30)
  bright = out["image"].numpy().mean(-1) > 100
  np.testing.assert_array_equal(bright, out["labels"][..., 1] == 1)


def test_a_box_that_leaves_nothing_is_reported(train):
  """A label map much smaller than its image: the box has no pixel in it."""
  def op(data, seed):
    del seed
    # As drawn: not known before the example is.
    zero = 0 * tf.cast(data["image/id"], tf.float32)
    return crop({"labels": tf.ones([2, 3, 1]), "value": data["image/id"],
                 "box": {"begin": tf.constant([0.5, 0.5]) + zero,
                         "size": tf.constant([0.01, 0.5]) + zero}}, None)
  crop = builder.build('crop_box(key="labels")|resize(4, key="labels")|'
                       'keep("labels", "value")')
  batches = pipeline.train_batches(train, op, batch_size=2, seed=0)
  with pytest.raises(ConfigError, match="example .*fails in"):
    next(batches)


def test_more_instances_than_the_model_knows_keep_their_numbers():
  """Those past the last class give no loss; the others must not move."""
  ids = np.arange(150).reshape(10, 15, 1).astype(np.int32)
  labels = tf.constant(np.concatenate([np.ones_like(ids), ids], -1))
  out = builder.build("make_canonical")({"labels": labels})["labels"]
  np.testing.assert_array_equal(out, labels)
