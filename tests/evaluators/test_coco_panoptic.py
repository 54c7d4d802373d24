"""From batches to PQ: order, padding, resize, categories, files."""

import functools
import json
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import evaluators
from evaluators import base, coco_panoptic, common, pq
from uvim import resize
from uvim.categories import Category
from uvim.learn import sharding
from uvim.registry import ConfigError

CATEGORIES = (Category(1, "cup", True), Category(13, "cat", True),
              Category(92, "wall", False))
SIZE = (8, 12)
NUM = 5


def _example(index):
  """Wall, a cup, a cat of varying size and some void, with RGB ids."""
  ids = np.full(SIZE, 700)
  ids[:2] = 0
  ids[2:5, 1:4] = 70000
  ids[4:8, 6:8 + index % 4] = 9
  rgb = np.stack([ids >> s & 255 for s in (0, 8, 16)], -1).astype(np.uint8)
  return {
      "image/id": 10**10 + index,  # more than 32 bits
      "panoptic_image": rgb,
      "panoptic_objects": {
          "id": np.array([9, 700, 70000]), "label": np.array([1, 2, 0]),
          "is_crowd": np.array([False] * 3)},
  }


def _channels(index):
  """The same as the task would give it: (class + 1, instance)."""
  rgb = _example(index)["panoptic_image"].astype(int)
  ids = rgb @ [1, 256, 65536]
  table = {0: (0, 0), 700: (3, 0), 70000: (1, 1), 9: (2, 2)}
  return np.array([table[i] for i in ids.ravel()]).reshape(*SIZE, 2)


def _source(num=NUM):
  return types.SimpleNamespace(
      dataset="toy", split="validation", num_examples=num,
      categories=CATEGORIES, example=_example)


def _predictions(maps):
  for i, panoptic in enumerate(maps):
    yield {"panoptic": panoptic, "image/id": 10**10 + i}


def _evaluator(num, **options):
  return evaluators.make_evaluator("coco_panoptic", _source(num), options)


def _evaluate(maps, **options):
  return base.score(_evaluator(len(maps), **options), _predictions(maps))


def _per_class(maps):
  """Category id → its own numbers."""
  outcome = base.run_pass(_evaluator(len(maps)), _predictions(maps))
  return outcome.state.stat.result()["per_class"]


def test_the_truth_scores_100_instance_zero_included():
  maps = [_channels(i) for i in range(NUM)]
  scores = _evaluate(maps)
  assert scores == {f"{m}{g}": 100.0 for g in ("", "_things", "_stuff")
                    for m in ("PQ", "SQ", "RQ")}
  assert _per_class(maps)[13]["tp"] == NUM


@pytest.mark.parametrize("key", ["id", "label", "is_crowd"])
def test_objects_that_lack_a_part_are_told(key):
  example = _example(7)
  example["panoptic_objects"][key] = example["panoptic_objects"][key][1:]
  with pytest.raises(ConfigError) as caught:
    coco_panoptic.make_truth(example, CATEGORIES)
  text = str(caught.value)
  assert "image/id 10000000007 has" in text and f"2 of {key!r}" in text
  assert "3 of" in text and "\n" not in text


@pytest.mark.parametrize("key", ["panoptic_image", "panoptic_objects"])
def test_a_data_set_of_another_kind_is_told(key):
  example = _example(0)
  del example[key]
  with pytest.raises(ConfigError, match=f"this data set has no '{key}'"):
    coco_panoptic.make_truth(example, CATEGORIES)


def test_classes_become_category_ids_not_labels():
  swapped = _channels(0)
  swapped[..., 0] = np.array([0, 2, 1, 3])[swapped[..., 0]]
  scores = _evaluate([swapped])
  assert scores["PQ_things"] == 0 and scores["PQ_stuff"] == 100


def test_merge_stuff_joins_instances_of_a_stuff_class_only():
  split = _channels(0)
  split[:, 6:, 1] += 10  # cuts the wall in two; the cat only changes its name
  apart = _evaluate([split])
  joined = _evaluate([split], merge_stuff=True)
  assert apart["PQ_things"] == joined["PQ_things"] == 100
  assert apart["PQ_stuff"] < 60
  assert joined["PQ_stuff"] == 100


def test_void_predictions_count_nothing_but_misses():
  void = [np.zeros((*SIZE, 2), np.int32)]
  assert _evaluate(void)["PQ"] == 0
  assert [v["fp"] for v in _per_class(void).values()] == [0] * 3
  assert [v["fn"] for v in _per_class(void).values()] == [1] * 3


def test_predictions_of_another_size_are_resized_to_the_truth():
  scores = _evaluate([_channels(i).repeat(3, 0).repeat(3, 1)
                         for i in range(2)])
  assert scores["PQ"] == 100
  half = _evaluate([_channels(0)[1::2, 1::2]])
  assert 40 < half["PQ"] < 100


def test_saved_files_are_official_and_score_the_same(tmp_path):
  maps = [_channels(i)[::-1] for i in range(2)]
  scores = _evaluate(maps, save_dir=str(tmp_path))
  records = json.loads((tmp_path / "panoptic.json").read_text())
  record = records["annotations"][1]
  png = np.asarray(Image.open(tmp_path / "panoptic" / record["file_name"]))
  ids = png.astype(int) @ [1, 256, 65536]
  assert set(np.unique(ids)) - {0} == {
      s["id"] for s in record["segments_info"]}
  cat = [s["id"] for s in record["segments_info"] if s["category_id"] == 13]
  np.testing.assert_array_equal(ids == cat[0], maps[1][..., 0] == 2)
  saved = json.loads((tmp_path / "results.json").read_text())
  assert 100 * saved["All"]["pq"] == scores["PQ"]


def _suffixed(scores):
  return {k.removesuffix("_official"): v for k, v in scores.items()
          if k.endswith("_official")}


@pytest.mark.parametrize("save", [False, True])
def test_official_scores_come_from_the_files(tmp_path, monkeypatch, save):
  folders = []

  def score(proc_id, pairs, truth_dir, prediction_dir, categories):
    """Official in its interface: it reads files and trusts their areas."""
    print("images processed")
    assert categories[92] == {"id": 92, "isthing": 0}
    stat = pq.PQStat.zeros(CATEGORIES)
    for truth, prediction in pairs:
      gt, pred = (
          np.asarray(Image.open(pathlib.Path(folder) / one["file_name"]))
          .astype(int) @ [1, 256, 65536]
          for folder, one in ((truth_dir, truth), (prediction_dir, prediction)))
      for segment in truth["segments_info"]:
        assert segment["area"] == (gt == segment["id"]).sum() > 0
      stat += pq.pq_image(gt, truth["segments_info"], pred,
                          prediction["segments_info"], categories=CATEGORIES)
      prediction["segments_info"][0]["area"] = np.int64(3)  # as it does
    folders.append((truth_dir, prediction_dir))
    groups = {None: "All", True: "Things", False: "Stuff"}
    return types.SimpleNamespace(pq_average=lambda table, isthing: (
        stat.result()[groups[isthing]], {}))

  fake = types.ModuleType("panopticapi.evaluation")
  fake.pq_compute_single_core = score
  monkeypatch.setitem(sys.modules, "panopticapi", types.ModuleType("p"))
  monkeypatch.setitem(sys.modules, "panopticapi.evaluation", fake)
  maps = [np.roll(_channels(i), 1, 1) for i in range(2)]
  plain = _evaluate(maps)
  scores = _evaluate(maps, official=True,
                        save_dir=str(tmp_path) if save else None)
  assert 0 < scores["PQ"] < 100
  assert _suffixed(scores) == plain
  assert {**plain, **scores} == scores
  (truth_dir, prediction_dir), = folders
  assert not pathlib.Path(truth_dir).exists()
  assert pathlib.Path(prediction_dir).exists() == save
  if save:
    assert prediction_dir == str(tmp_path / "panoptic")


def test_official_package_agrees_where_it_is_installed():
  pytest.importorskip("panopticapi.evaluation")
  maps = [np.roll(_channels(i), 1, 1) for i in range(NUM)]
  scores = _evaluate(maps, official=True)
  plain = _evaluate(maps)
  assert _suffixed(scores) == pytest.approx(plain, abs=1e-9)
  only_things = [np.where(m[..., :1] == 3, 0, m) for m in maps]
  assert _evaluate(only_things, official=True)["PQ_stuff_official"] == 0


def test_official_without_the_package_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "panopticapi", None)
  monkeypatch.delitem(sys.modules, "panopticapi.evaluation", raising=False)
  # When it is built, not after an hour of predictions.
  with pytest.raises(ConfigError, match="pip install git.*panopticapi"):
    _evaluator(NUM, official=True)


def test_predictions_out_of_order_or_number_are_noticed():
  def predictions(ids):
    for i in ids:
      yield {"panoptic": _channels(0), "image/id": 10**10 + i}
  for ids, message in [([1, 0], "of image"), ([0], "1 predictions for the 2"),
                       ([0, 1, 2], "more predictions")]:
    with pytest.raises(ValueError, match=message):
      base.score(_evaluator(2), predictions(ids))


def test_truth_is_decoded_once_for_all_passes():
  source = _source(2)
  calls = []
  source.example = lambda i: calls.append(i) or _example(i)
  maps = [{"panoptic": _channels(i)} for i in range(2)]
  evaluator = evaluators.make_evaluator("coco_panoptic", source)
  assert base.score(evaluator, maps) == base.score(evaluator, maps)
  assert calls == [0, 1]


def test_mistakes_in_the_config_are_named():
  with pytest.raises(ConfigError, match="coco_panoptic"):
    evaluators.make_evaluator("coco_panoptc", _source())
  with pytest.raises(ConfigError, match="merge_stuff"):
    _evaluator(NUM, merge_stuf=True)
  with pytest.raises(ConfigError, match="merge_stuff = 1.*True or False"):
    _evaluator(NUM, merge_stuff=1)
  with pytest.raises(ConfigError, match="none"):
    evaluators.make_evaluator("mean", _source(), {"merge_stuff": True})
  with pytest.raises(ConfigError, match=r"0\.\.3"):
    _evaluate([_channels(0) + 1])


def _batches(batch_size, num=NUM):
  for start in range(0, num, batch_size):
    index = np.arange(start, start + batch_size)
    yield {"maps": np.stack([_channels(min(i, num - 1)) for i in index]),
           "image/id": 10**10 + np.minimum(index, num - 1),
           "_mask": index < num}


@jax.jit
def _predict(offset, batch):
  # Depends on the example, and is wrong for some, so that padding would tell.
  odd = batch["image/id"] % 2 == 1
  wrong = jnp.where(odd[:, None, None, None], batch["maps"][:, ::-1],
                    batch["maps"])
  return {"panoptic": wrong, "loss": batch["image/id"] % 7 + offset}


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_metrics_do_not_depend_on_the_batch_size(batch_size):
  def predictions(variables):
    return common.predict_all(_predict, variables, _batches(batch_size),
                              put=lambda batch: batch)

  scores = base.score(_evaluator(NUM), predictions(0))
  assert scores["PQ"] == pytest.approx(_expected_pq(), abs=1e-9)
  mean = evaluators.make_evaluator("mean", _source())
  losses = [{"loss": p["loss"]} for p in predictions(3)]
  low = [(10**10 + i) % 2**32 for i in range(NUM)]
  expected = np.mean([i % 7 for i in low]) + 3
  assert base.score(mean, losses) == {
      "loss": pytest.approx(expected, abs=1e-9)}


@functools.cache
def _expected_pq():
  maps = [_channels(i)[::-1] if (10**10 + i) % 2 else _channels(i)
          for i in range(NUM)]
  return _evaluate(maps)["PQ"]


def test_predict_all_keeps_order_and_long_ids_on_a_mesh():
  mesh = sharding.make_mesh([("data", -1)])
  put = functools.partial(sharding.shard_batch, mesh=mesh)
  out = list(common.predict_all(_predict, 0, _batches(8, num=11), put=put))
  assert [p["image/id"] for p in out] == [10**10 + i for i in range(11)]
  assert all(type(p["panoptic"]) is np.ndarray for p in out)


def test_predict_all_dispatches_one_batch_ahead():
  events = []

  def predict(_, batch):
    events.append("start")
    return {"x": batch["x"]}

  batches = [{"x": np.arange(2)}] * 2
  for _ in common.predict_all(predict, None, batches, put=dict):
    events.append("use")
  assert events == ["start", "start", "use", "use", "use", "use"]


def test_nearest_resize_equals_the_released_one(fixtures):
  z = np.load(fixtures / "eval_metrics.npz")
  for size in (21, 30), (7, 9):
    np.testing.assert_array_equal(
        resize.resize_nearest(z["resize_in"], size),
        z[f"resize_nearest_{size[0]}x{size[1]}"])


def test_nearest_resize_is_exact_where_a_centre_falls_on_a_border():
  rows = resize.resize_nearest(np.arange(512)[:, None], (427, 1))[:, 0]
  # Row 213 of 427 has its centre at 256 exactly.
  assert rows[213] == 256


# ── What stands behind the scores ───────────────────────────────────────────


def details_of(maps):
  evaluator = coco_panoptic.CocoPanoptic(_source(len(maps)))
  outcome = base.run_pass(evaluator, _predictions(maps))
  before = evaluator.result(outcome.state)
  details = evaluator.details(outcome.state)
  # They are no metrics.
  assert evaluator.result(outcome.state) == before
  return details


def test_details_of_a_perfect_prediction():
  content, examples = details_of([_channels(i) for i in range(NUM)])
  assert content["num_images"] == NUM
  assert content["confusions"] == []
  rows = {row["name"]: row for row in content["categories"]}
  assert list(rows) == ["cup", "cat", "wall"]
  assert rows["cat"]["pq"] == 100 and rows["cat"]["tp"] == NUM
  assert not rows["wall"]["isthing"] and rows["wall"]["pieces"] == 1
  kinds = [image["kind"] for image in content["images"]]
  assert kinds == ["worst"] * 3 + ["best"] * 3
  assert [example.caption for example in examples] == ["PQ 100"] * 6
  # The truth is drawn as the task would predict it.
  classes = examples[0].truth["panoptic"][..., 0]
  np.testing.assert_array_equal(classes, _channels(0)[..., 0])
  assert examples[0].image is None


def test_confusions_pieces_and_images():
  maps = [_channels(i) for i in range(NUM)]
  # Image 1: the cup is taken for a cat, a third of the wall for nothing.
  maps[1][2:5, 1:4] = (2, 7)
  wall = np.argwhere(maps[1][..., 0] == 3)
  third = wall[:len(wall) // 3]
  maps[1][tuple(third.T)] = 0
  # Image 2: the wall in two pieces.
  left = maps[2][:, :6]
  left[left[..., 0] == 3] = (3, 1)
  content, _ = details_of(maps)
  is_wall = [_channels(i)[..., 0] == 3 for i in range(NUM)]
  num_wall = sum(mask.sum() for mask in is_wall)
  by_share = {(x["truth"], x["prediction"]): x["share"]
              for x in content["confusions"]}
  assert by_share == {
      ("cup", "cat"): pytest.approx(100 / NUM),
      ("wall", None): pytest.approx(100 * len(third) / num_wall)}
  rows = {row["name"]: row for row in content["categories"]}
  assert rows["wall"]["pieces"] == (NUM + 1) / NUM
  worst = content["images"][0]
  assert worst["kind"] == "worst" and worst["id"] == 10**10 + 1
  assert worst["pq"] < 100 == content["images"][-1]["pq"]
  # A cup has 9 pixels of 96, cats have 8, 12, 16, 20 and 8.
  assert content["thing_share"] == pytest.approx(100 * 9 / 96)


def test_details_of_two_parts_are_those_of_the_whole():
  maps = [_channels(i) for i in range(NUM)]
  maps[3][..., 0] = 1
  evaluator = coco_panoptic.CocoPanoptic(_source())
  states = [evaluator.initial(), evaluator.initial()]
  for index, panoptic in enumerate(maps):
    part = index // 3
    states[part] = evaluator.update(
        states[part], {"panoptic": panoptic}, evaluator.read_truth(index))
  merged = evaluator.details(evaluator.merge(*states))
  assert merged.content == details_of(maps).content
