"""Panoptic quality against the official numbers and against hotcoco."""

import json

import numpy as np
import pytest
from PIL import Image

from evaluators import pq
from uvim.categories import Category
from uvim.registry import ConfigError

CATEGORIES = (Category(1, "cup", True), Category(7, "cat", True),
              Category(92, "wall", False))
PREDICTIONS = ("identity", "shift8", "merge_things", "swap3", "coarse16",
               "drop_small", "split_things", "fill_void", "all_void")


def _read_ids(path):
  rgb = np.asarray(Image.open(path).convert("RGB")).astype(np.uint32)
  return rgb @ np.array([1, 256, 65536], np.uint32)


def _seg(id, category_id, iscrowd=0):
  return dict(id=id, category_id=category_id, iscrowd=iscrowd)


def _score(gt, gt_segments, pred, pred_segments):
  stat = pq.pq_image(np.array([gt]), gt_segments, np.array([pred]),
                     pred_segments, categories=CATEGORIES)
  return {c.id: (stat.tp[i], stat.fp[i], stat.fn[i], stat.iou[i])
          for i, c in enumerate(CATEGORIES)}


@pytest.fixture(scope="module")
def coco_truth(shared):
  folder = shared / "data/coco_panoptic"
  truth = json.loads((folder / "panoptic_val2017.json").read_text())
  categories = [Category(c["id"], c["name"], bool(c["isthing"]))
                for c in truth["categories"]]
  images = {
      a["image_id"]: (_read_ids(folder / "panoptic_val2017" / a["file_name"]),
                      a["segments_info"]) for a in truth["annotations"]}
  return categories, images


@pytest.mark.parametrize("name", PREDICTIONS)
def test_equals_the_official_numbers_on_real_images(shared, coco_truth, name):
  categories, images = coco_truth
  folder = shared / "data/metrics"
  expected = json.loads((folder / "panoptic_expected.json").read_text())
  folder = folder / "panoptic_coco_dev5"
  preds = json.loads((folder / f"{name}.json").read_text())["annotations"]
  stat = pq.PQStat.zeros(categories)
  assert len(preds) == len(images)
  for p in preds:
    stat += pq.pq_image(
        *images[p["image_id"]], _read_ids(folder / name / p["file_name"]),
        p["segments_info"], categories=categories)
  result = stat.result()
  for group in ("All", "Things", "Stuff"):
    for key, value in expected[f"coco_dev5/{name}"][group].items():
      assert result[group][key] == pytest.approx(value, abs=1e-9), (group, key)


def _random_case(rng, truth=None):
  """Blobs with sparse ids: a void id, ids in no list, a crowd region."""
  ids = rng.choice(2**24 - 1, 9, replace=False) + 1
  blocks = rng.integers(0, 9, (5, 7))
  index = blocks.repeat(8, 0).repeat(6, 1)
  index = np.roll(index, rng.integers(-3, 4, 2), (0, 1))
  id_map = np.where(index == 0, 0, ids[index]).astype(np.uint32)
  if truth is not None:  # so that some pairs match
    keep = rng.random((5, 7)).repeat(8, 0).repeat(6, 1) < rng.uniform(.2, 1)
    id_map = np.where(keep, truth, id_map)
  segments = [
      dict(_seg(int(i), CATEGORIES[rng.integers(3)].id, int(rng.random() < .2)),
           area=int((id_map == i).sum()), bbox=[0, 0, 1, 1])
      for i in np.unique(id_map) if i]
  return id_map, segments


def _write(folder, name, ids, segments_info):
  rgb = np.stack([ids >> s & 255 for s in (0, 8, 16)], -1).astype(np.uint8)
  folder.mkdir(exist_ok=True)
  Image.fromarray(rgb).save(folder / f"{name}.png")
  return dict(image_id=name, file_name=f"{name}.png",
              segments_info=segments_info)


def test_equals_hotcoco_on_random_maps_with_crowd_and_void(tmp_path):
  panoptic = pytest.importorskip("hotcoco.panoptic")
  rng = np.random.default_rng(0)
  files = {"gt": [], "pred": []}
  stat = pq.PQStat.zeros(CATEGORIES)
  for i in range(40):
    gt, gt_segments = _random_case(rng)
    # The last id of the truth is in no list: neither void nor a segment.
    gt_segments = gt_segments[:-1]
    pred, pred_segments = _random_case(rng, gt)
    known = {s["id"]: s["category_id"] for s in gt_segments}
    for s in pred_segments:
      s["category_id"] = known.get(s["id"], s["category_id"])
    stat += pq.pq_image(gt, gt_segments, pred, pred_segments,
                        categories=CATEGORIES)
    files["gt"].append(_write(tmp_path / "gt", i, gt, gt_segments))
    files["pred"].append(_write(tmp_path / "pred", i, pred, pred_segments))
  rows = [dict(id=c.id, name=c.name, isthing=int(c.isthing))
          for c in CATEGORIES]
  for name, annotations in files.items():
    (tmp_path / f"{name}.json").write_text(json.dumps(dict(
        images=[dict(id=i, height=40, width=42, file_name=f"{i}.png")
                for i in range(40)],
        categories=rows, annotations=annotations)))
  theirs = panoptic.pq_compute(str(tmp_path / "gt.json"),
                               str(tmp_path / "pred.json"))
  ours = stat.result()
  assert stat.tp.sum() > 20 and stat.fp.sum() > 20 and stat.fn.sum() > 20
  for group in ("All", "Things", "Stuff"):
    for key in ("pq", "sq", "rq", "n"):
      assert ours[group][key] == pytest.approx(theirs[group][key], abs=1e-9)


def test_void_leaves_the_union():
  # 3 of 5 predicted pixels are the segment, 2 are void: IoU 3/3.
  score = _score([5, 5, 5, 0, 0], [_seg(5, 1)], [9] * 5, [_seg(9, 1)])
  assert score[1] == (1, 0, 0, 1.0)


def test_an_unlisted_truth_id_stays_in_the_union():
  score = _score([5, 5, 5, 8, 8], [_seg(5, 1)], [9] * 5, [_seg(9, 1)])
  assert score[1] == (1, 0, 0, 3 / 5)


def test_half_is_not_enough_to_match_or_to_be_ignored():
  score = _score([5, 0, 6, 6], [_seg(5, 1), _seg(6, 7)],
                 [9, 9, 3, 4], [_seg(9, 92), _seg(3, 7), _seg(4, 7)])
  assert score[92] == (0, 1, 0, 0)  # exactly half on void: counted
  assert score[7] == (0, 2, 1, 0)   # two halves of one segment
  assert score[1] == (0, 0, 1, 0)


def test_crowd_is_never_missed_and_hides_only_its_own_category():
  gt = [5, 5, 5, 5], [_seg(5, 1, iscrowd=1)]
  assert _score(*gt, [9] * 4, [_seg(9, 1)])[1] == (0, 0, 0, 0)
  assert _score(*gt, [9] * 4, [_seg(9, 7)])[7] == (0, 1, 0, 0)


def test_two_halves_of_one_stuff_class_stay_two_segments():
  score = _score([1, 1, 1, 1, 1], [_seg(1, 92)],
                 [2, 2, 2, 3, 3], [_seg(2, 92), _seg(3, 92)])
  assert score[92] == (1, 1, 0, 3 / 5)


def test_only_categories_that_occur_are_averaged():
  stat = pq.pq_image(np.array([[1, 2]]), [_seg(1, 1), _seg(2, 92)],
                     np.array([[1, 0]]), [_seg(1, 1)], categories=CATEGORIES)
  result = stat.result()
  assert result["All"] == dict(pq=0.5, sq=0.5, rq=0.5, n=2)
  assert result["Things"] == dict(pq=1.0, sq=1.0, rq=1.0, n=1)
  assert result["per_class"][7]["tp"] == 0
  assert result["per_class"][92]["fn"] == 1
  empty = pq.PQStat.zeros(CATEGORIES).result()
  assert empty["All"] == dict(pq=0.0, sq=0.0, rq=0.0, n=0)


def test_sums_merge_in_any_grouping():
  rng = np.random.default_rng(1)
  stats = []
  for _ in range(4):
    gt, gt_segments = _random_case(rng)
    pred, pred_segments = _random_case(rng, gt)
    stats.append(pq.pq_image(gt, gt_segments, pred, pred_segments,
                             categories=CATEGORIES))
  a, b, c, d = stats
  left, right = ((a + b) + c) + d, (a + b) + (c + d)
  np.testing.assert_array_equal(left.tp, right.tp)
  np.testing.assert_allclose(left.iou, right.iou, atol=1e-12)


def test_contradictions_are_named():
  gt = [1, 1], [_seg(1, 1)]
  with pytest.raises(ConfigError, match="2 predicted pixels"):
    _score(*gt, [3, 3], [])
  with pytest.raises(ConfigError, match=r"without a pixel: \[4\]"):
    _score(*gt, [3, 3], [_seg(3, 1), _seg(4, 1)])
  with pytest.raises(ConfigError, match="Category id 6 of the prediction"):
    _score(*gt, [3, 3], [_seg(3, 6)])
  with pytest.raises(ConfigError, match="differ in size"):
    _score(*gt, [3, 3, 3], [_seg(3, 1)])


def test_index_map_names_segments_by_place():
  ids = np.array([[70000, 0], [3, 9]], np.uint32)
  np.testing.assert_array_equal(
      pq.index_map(ids, [3, 70000]), [[2, 0], [1, 3]])
