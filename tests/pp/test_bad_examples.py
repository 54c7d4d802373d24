"""Examples that cannot be read: named, or replaced the same way everywhere."""

import io
import itertools
import re
import shutil
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from configs import vqvae_rooms_panoptic
from evaluators import base, coco_panoptic, common, mean
from pp import builder, order, stream
from tests.pp.fakes import SpoiledSource
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


def spoil(split, changes):
  """The split with some of its serialised examples changed."""
  return stream.TfdsSplit(SpoiledSource(split.source, changes))


@pytest.fixture
def train(rooms_tiny_dir):
  return stream.open_tfds_split("rooms/tiny", "train", rooms_tiny_dir)


@pytest.fixture
def validation(rooms_tiny_dir):
  return stream.open_tfds_split("rooms/tiny", "validation", rooms_tiny_dir)


def take(split, steps, **options):
  options = {"batch_size": 16, "seed": 5, "on_bad_example": "skip", **options}
  batches = split.train_batches(PP, **options)
  return list(itertools.islice(batches, steps))


def assert_equal(ours, theirs):
  for our_batch, their_batch in zip(ours, theirs, strict=True):
    assert our_batch.keys() == their_batch.keys()
    for key, value in our_batch.items():
      np.testing.assert_array_equal(value, their_batch[key], err_msg=key)


def select(batch, rows_B):
  """Some of the examples of a batch."""
  return {key: value[rows_B] for key, value in batch.items()}


def test_stand_ins_are_the_same_on_any_host_and_after_a_restart(
    train, caplog):
  bad_ids = {train.example(index)["image/id"] for index in BAD}
  spoiled = spoil(train, BAD)
  whole = take(spoiled, 4)  # One epoch of 64.
  skipped = []
  for step, batch in enumerate(whole):
    assert not bad_ids & set(batch["image/id"].tolist())
    plan = order.plan_train(step, num_examples=64, batch_size=16, seed=5)
    skipped += plan.index_B[batch["_skipped"]].tolist()
  assert sorted(skipped) == sorted(BAD)
  assert "skipped example 30: " in caplog.text

  first = take(spoiled, 4, process_index=0, process_count=2)
  second = take(spoiled, 4, process_index=1, process_count=2)
  joined = []
  for halves in zip(first, second, strict=True):
    joined.append({key: np.concatenate([half[key] for half in halves])
                   for key in halves[0]})
  assert_equal(whole, joined)
  assert_equal(whole[2:], take(spoiled, 2, start_step=2))


def test_good_examples_are_those_of_a_run_without_bad_ones(train):
  clean = take(train, 2, on_bad_example="error")
  skipping = take(spoil(train, BAD), 2)
  for clean_batch, batch in zip(clean, skipping, strict=True):
    good_B = ~batch.pop("_skipped")
    assert_equal([select(clean_batch, good_B)], [select(batch, good_B)])


@pytest.mark.parametrize("index,words", [
    (3, "fails in"), (20, "cannot be read"), (30, "cannot be read")])
def test_error_names_the_example(train, index, words):
  spoiled = spoil(train, {index: BAD[index]})
  name = f"rooms/tiny train: example {index} .*{words}"
  with pytest.raises(ConfigError, match=name):
    take(spoiled, 4, on_bad_example="error")


def garbage(record):
  del record
  return bytes(range(128, 256)) * 3


def half(record):
  return record[:len(record) // 2]


def without(key):
  def change(record):
    example = tf.train.Example.FromString(record)
    del example.features.feature[key]
    return example.SerializeToString()
  return change


def flip_bit(record):
  """As a disk does it: behind the back of the checksum."""
  return bytes([record[0] ^ 1]) + record[1:]


DAMAGE = {
    "bit": (flip_bit, "record 5 does not fit its checksum"),
    "garbage": (garbage, "Could not parse example"),
    "half": (half, "Could not parse example"),
    "no image": (without("image"), "image .*required"),
    "no id": (without("image/id"), "image/id .*required"),
}


def rewrite(data_dir, split, change):
  """Changes record 5 of a split of rooms/tiny."""
  path, = data_dir.glob(f"rooms/tiny/*/rooms-{split}.tfrecord-*")
  records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
  changed = change(records[5])
  if change is flip_bit:
    path.write_bytes(path.read_bytes().replace(records[5], changed))
    return
  records[5] = changed
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_on_disk(rooms_tiny_dir, tmp_path, caplog, kind):
  change, words = DAMAGE[kind]
  data_dir = tmp_path / "data"
  shutil.copytree(rooms_tiny_dir, data_dir)
  for split in ("train", "validation"):
    rewrite(data_dir, split, change)
  train = stream.open_tfds_split("rooms/tiny", "train", data_dir)
  validation = stream.open_tfds_split("rooms/tiny", "validation", data_dir)

  with pytest.raises(ConfigError, match=words) as caught:
    take(train, 4, on_bad_example="error")
  message = str(caught.value)
  assert message.startswith("rooms/tiny train: example 5 cannot be read: ")
  assert message.isprintable()  # One line, and no bytes of the record.
  assert len(message) < 700
  whole = validation.eval_batches(PP_EVAL, batch_size=16)
  with pytest.raises(ConfigError, match=f"validation: example 5 .*{words}"):
    next(whole.start())
  with pytest.raises(ConfigError, match=f"validation: example 5 .*{words}"):
    validation.example(5)

  batches = take(train, 4)
  assert sum(batch["_skipped"].sum() for batch in batches) == 1
  assert re.search(f"train: skipped example 5: .*{words}", caplog.text)
  whole = validation.eval_batches(
      PP_EVAL, batch_size=16, on_bad_example="skip")
  batch = next(whole.start())
  assert np.flatnonzero(batch["_skipped"]).tolist() == [5]
  assert np.flatnonzero(~batch["_mask"]).tolist() == [5]


def test_nothing_but_bad_examples_is_an_error(train, validation):
  all_bad = dict.fromkeys(range(64), image_bytes(b"no"))
  # A hundred draws of 64 examples hit some of them twice.
  with pytest.raises(ConfigError, match="among the [3-6][0-9] that were tried"):
    take(spoil(train, all_bad), 1, batch_size=2)
  whole = spoil(validation, all_bad).eval_batches(
      PP_EVAL, batch_size=4, on_bad_example="skip")
  with pytest.raises(ConfigError, match="among the 16 that were tried"):
    list(whole.start())


def test_few_bad_examples_are_named_and_all_are_counted(train, caplog):
  changes = dict.fromkeys(range(40), image_bytes(b"no"))
  batches = take(spoil(train, changes), 4)
  assert sum(batch["_skipped"].sum() for batch in batches) == 40
  warnings = [record.message for record in caplog.records
              if "skipped example" in record.message]
  assert len(warnings) == 20
  assert warnings[-1].endswith("; further ones are only counted")


def predict(variables, batch):
  """The class of the upper left pixel everywhere, and the mean color."""
  del variables
  corner = batch["labels"][:, :1, :1]
  return {"panoptic": np.broadcast_to(corner, batch["labels"].shape),
          "level": batch["image"].mean((1, 2, 3))}


def level_alone(predictions):
  """What the evaluator `mean` is to average; None for a bad example."""
  for prediction in predictions:
    yield prediction and {"level": prediction["level"]}


@pytest.mark.parametrize("bad", [
    {}, {0: cut_image, 9: no_panoptic_image, 15: cut_image}])
def test_evaluation_leaves_bad_examples_out(validation, bad):
  """Truth, place and padding of the others stay theirs."""
  spoiled = spoil(validation, bad)
  whole = spoiled.eval_batches(PP_EVAL, batch_size=6, on_bad_example="skip")
  out = list(common.predict_all(predict, None, whole.start(), put=dict))
  missing = [index for index, item in enumerate(out) if item is None]
  assert missing == sorted(bad)
  good = [index for index in range(16) if index not in bad]
  numbered = common.numbered(out, 16)
  for (index, prediction), expected in zip(numbered, good, strict=True):
    assert index == expected
    assert prediction["image/id"] == validation.example(index)["image/id"]
  values = base.score(mean.Mean(spoiled), level_alone(out))
  assert values["level"] == pytest.approx(
      np.mean([out[index]["level"] for index in good]))
  scores = base.score(coco_panoptic.CocoPanoptic(spoiled), out)
  assert 0 <= scores["PQ"] < 100


def test_evaluation_counts_a_broken_truth_that_no_op_reads(validation):
  spoiled = spoil(validation, {2: no_panoptic_image})
  masks = {}
  for mode in ("error", "skip"):
    whole = spoiled.eval_batches(
        NO_LABELS, batch_size=16, on_bad_example=mode)
    masks[mode] = next(whole.start())["_mask"]
  assert masks["error"].all()
  assert not masks["skip"][2]
  assert masks["skip"].sum() == 15
  with pytest.raises(ConfigError, match="rooms/tiny validation: example 2 "):
    spoiled.example(2)


def test_codes_come_with_their_augmentation_and_without_labels(train):
  codes = np.arange(2 * 64 * 3).reshape(2, 64, 3).astype(np.int16)
  options = dict(codes_per_image=2, on_bad_example="error")
  plain = take(train, 9, **options)
  # The label of 20 cannot be read. With its code known, nobody reads it.
  spoiled = spoil(train, {20: no_panoptic_image})
  cached = take(spoiled, 9, cached={"code": (codes, None)},
                unused=("labels",), **options)
  for step, (expected, batch) in enumerate(zip(plain, cached, strict=True)):
    assert set(batch) == {"image", "image/id", "code"}
    np.testing.assert_array_equal(expected["image"], batch["image"])
    plan = order.plan_train(step, num_examples=64, batch_size=16, seed=5)
    augmentation = step // 4 % 2
    np.testing.assert_array_equal(
        batch["code"], codes[augmentation, plan.index_B])
    assert batch["code"].dtype == np.int32


def test_an_example_without_a_code_is_bad(train):
  codes = np.arange(2 * 64 * 3).reshape(2, 64, 3).astype(np.int16)
  codes[0, 7] = -1  # Was bad when the codes were written.
  options = dict(cached={"code": (codes, None)}, codes_per_image=2)
  missing = "example 7: config.code_cache has no code"
  with pytest.raises(ConfigError, match=missing):
    take(train, 4, on_bad_example="error", **options)
  batches = take(train, 4, **options)
  assert sum(batch["_skipped"].sum() for batch in batches) == 1
  assert min(batch["code"].min() for batch in batches) == 0


def test_codes_of_another_split_are_an_error(train):
  codes = np.zeros((2, 63, 3), np.int16)
  with pytest.raises(ConfigError, match="code_cache is for 63 examples"):
    take(train, 1, cached={"code": (codes, None)}, codes_per_image=2)


def test_augmentations_repeat_after_so_many_epochs():
  def seeds(epoch, num_augmentations=None):
    """Number of an example → its seed in that epoch."""
    plan = order.plan_train(epoch, num_examples=9, batch_size=9, seed=1,
                            num_augmentations=num_augmentations)
    assert sorted(plan.index_B) == list(range(9))
    pairs = map(tuple, plan.seed_B2.tolist())
    return dict(zip(plan.index_B.tolist(), pairs, strict=True))

  for epoch in (0, 1):
    assert seeds(epoch, num_augmentations=2) == seeds(epoch)
    assert seeds(epoch + 2, num_augmentations=2) == seeds(epoch)
  assert not set(seeds(0).values()) & set(seeds(1).values())
  first, third = (
      order.plan_train(epoch, num_examples=9, batch_size=9, seed=1,
                       num_augmentations=2).index_B.tolist()
      for epoch in (0, 2))
  assert first != third  # Only the augmentations repeat, not the order.


def encode(array, kind, **options):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, kind, **options)
  return buffer.getvalue()


def test_a_rotated_image_and_its_labels_stay_as_they_are_stored():
  """EXIF rotates neither: the labels are drawn on the stored pixels."""
  exif = Image.Exif()
  exif[274] = 6  # "Rotate by 90° to look at it."
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
  batches = train.train_batches(op, batch_size=2, seed=0)
  with pytest.raises(ConfigError, match="example .*fails in"):
    next(batches)


def test_more_instances_than_the_model_knows_keep_their_numbers():
  """Those past the last class give no loss; the others must not move."""
  ids = np.arange(150).reshape(10, 15, 1).astype(np.int32)
  labels = tf.constant(np.concatenate([np.ones_like(ids), ids], -1))
  out = builder.build("make_canonical")({"labels": labels})["labels"]
  np.testing.assert_array_equal(out, labels)


def features_of_noise():
  rng = np.random.default_rng(0)
  return rng.normal(size=(2, 64, 4, 3)).astype(np.float16)


def test_an_image_that_nobody_needs_is_not_decoded(train):
  features = features_of_noise()
  spoiled = spoil(train, {3: image_bytes(b"not an image"), 10: cut_image})
  options = dict(codes_per_image=2, on_bad_example="error",
                 cached={"features": (features, None)})
  batches = take(spoiled, 9, unused=("image",), **options)
  for step, batch in enumerate(batches):
    assert set(batch) == {"labels", "image/id", "features"}
    plan = order.plan_train(step, num_examples=64, batch_size=16, seed=5)
    np.testing.assert_array_equal(
        batch["features"], features[step // 4 % 2, plan.index_B])
  with pytest.raises(ConfigError, match="fails in"):
    take(spoiled, 4, **options)


def test_an_example_without_features_is_bad(train):
  features = features_of_noise()
  features[0, 7] = np.nan  # Was bad when the features were written.
  options = dict(cached={"features": (features, None)}, codes_per_image=2)
  missing = "example 7: config.feature_cache has no features"
  with pytest.raises(ConfigError, match=missing):
    take(train, 4, on_bad_example="error", **options)
  batches = take(train, 4, **options)
  assert sum(batch["_skipped"].sum() for batch in batches) == 1
  assert all(np.isfinite(batch["features"]).all() for batch in batches)


def test_a_row_that_does_not_fit_its_checksum_is_named(train):
  features = features_of_noise()
  checksums = np.zeros((2, 64), np.uint32)
  for place in np.ndindex(2, 64):
    checksums[place] = zlib.crc32(features[place])
  options = dict(codes_per_image=2, on_bad_example="error",
                 cached={"features": (features, checksums)})
  take(train, 4, **options)
  features[0, 7, 2, 1] += 1
  with pytest.raises(ConfigError, match="example 7 of .* its checksum"):
    take(train, 4, **options)


def evaluated_with(split, features, on_bad_example="error"):
  """The batches of an evaluation with a cache of features."""
  one_pass = split.eval_batches(
      PP_EVAL, batch_size=6, on_bad_example=on_bad_example,
      cached={"features": (features, None)})
  return list(one_pass.start())


def test_an_evaluation_reads_features_in_the_order_of_the_split(validation):
  num_examples = validation.num_examples
  rng = np.random.default_rng(0)
  features = rng.normal(size=(1, num_examples, 4, 3)).astype(np.float32)
  batches = evaluated_with(validation, features)
  read = np.concatenate([batch["features"] for batch in batches])
  is_real = np.concatenate([batch["_mask"] for batch in batches])
  np.testing.assert_array_equal(read[is_real], features[0])
  with pytest.raises(ConfigError, match="examples, 2 augmentations"):
    evaluated_with(validation, np.repeat(features, 2, axis=0))


def test_an_evaluation_skips_what_has_no_features(validation):
  features = np.ones((1, validation.num_examples, 4, 3), np.float32)
  features[0, 7] = np.nan  # Was bad when the features were written.
  with pytest.raises(ConfigError, match="example 7: .* has no features"):
    evaluated_with(validation, features)
  batches = evaluated_with(validation, features, "skip")
  read = np.concatenate([batch["features"] for batch in batches])
  is_skipped = np.concatenate([batch["_skipped"] for batch in batches])
  assert np.flatnonzero(is_skipped).tolist() == [7]
  assert not read[7].any() and np.isfinite(read).all()
