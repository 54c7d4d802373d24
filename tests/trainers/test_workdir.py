"""A workdir belongs to one run, and a run to its config, data and arrays."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.trainers import tiny
from trainers import loop, workdir
from uvim.lock import Lock, Locked
from uvim.registry import ConfigError
from uvim.store import checkpoint, open_model

HOLD = """
import sys, time
from uvim.lock import Lock
Lock(sys.argv[1], "W").acquire()
print("held", flush=True)
time.sleep(60)
"""
TRAIN = {"name": "rooms/tiny", "version": "1.1.0", "split": "train",
         "num_examples": 24, "checksum": 17}
VAL = {**TRAIN, "split": "validation", "num_examples": 8}


def config_of(**changes):
  evals = [("val", "mean")]
  val = dict(split="validation", pp="", pred="loss", log_steps=2)
  return tiny.stage_i_config(evals=evals, val=val, **changes)


def meta_of(config, **changes):
  """What a checkpoint says of a run."""
  meta = {
      "config": config.to_json(),
      "data": {"train_split": TRAIN, "val": VAL},
      "categories": [[1, "cat", True], [7, "sky", False]],
      "oracle_crc32": 0,
      "initial_crc32": 0,
  }
  return {**meta, **changes}


def save_run(folder, config, **changes):
  """A workdir with a checkpoint; its arrays are of no interest."""
  workdir.claim_workdir(folder, config)
  with checkpoint.Checkpointer(folder) as checkpointer:
    checkpointer.save(1, {"x": np.zeros(1)}, meta_of(config, **changes))
  return folder


# ── One run at a time ───────────────────────────────────────────────────────


def test_a_second_run_is_refused_and_told_who_has_the_workdir(tmp_path):
  process = subprocess.Popen(
      [sys.executable, "-c", HOLD, str(tmp_path / "run.lock")],
      stdout=subprocess.PIPE, text=True)
  try:
    assert process.stdout.readline() == "held\n"
    message = f"--workdir {tmp_path} is in use by process {process.pid} on"
    with pytest.raises(Locked, match=message), workdir.RunLock(tmp_path):
      pass
  finally:
    process.kill()
    process.communicate()
  # A killed run keeps nobody out.
  with workdir.RunLock(tmp_path) as lock:
    lock.check()
  assert not list(tmp_path.iterdir())


def test_a_run_that_lost_its_workdir_learns_it(tmp_path):
  with workdir.RunLock(tmp_path) as lock:
    (tmp_path / "run.lock").unlink()
    with Lock(tmp_path / "run.lock", "W") as other:
      with pytest.raises(Locked, match="taken over by process"):
        lock.check()
      other.check()


def test_a_mistake_leaves_no_folder_behind(tmp_path):
  folder = tmp_path / "new"
  config = config_of()
  config = dataclasses.replace(config, dataset="nowhere")
  with pytest.raises(ConfigError, match="nowhere"):
    loop.train(config, folder)
  assert not folder.exists()


def test_a_file_in_the_place_of_the_workdir(tmp_path):
  (tmp_path / "file").write_text("mine")
  for folder in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(ConfigError, match=f"--workdir {folder} cannot be writ"):
      loop.train(config_of(), folder)
  assert (tmp_path / "file").read_text() == "mine"


def test_a_workdir_is_a_folder_on_a_disk(tmp_path, monkeypatch):
  with pytest.raises(ConfigError, match="--workdir gs://b/w; it must be a fol"):
    loop.train(config_of(), "gs://b/w")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert workdir.local_folder("~/w") == tmp_path / "w"


# ── The config ──────────────────────────────────────────────────────────────


def test_what_is_another_config():
  old = config_of(data_dir="/a", model_init="a.npz").to_json()
  same = config_of(data_dir="/b", model_init={"encoder": "b"}, on_other_data=
                   "warn", log_training_steps=7).to_json()
  assert workdir.config_diff(old, same) == []
  other = config_of(lr=2.0).to_json()
  assert workdir.config_diff(old, other) == ["config.lr: 0.01 → 2.0"]


def test_the_path_of_the_oracle_is_no_part_of_a_run():
  old = tiny.stage_ii_config("w/one").to_json()
  new = tiny.stage_ii_config("/elsewhere/one").to_json()
  assert workdir.config_diff(old, new) == []
  new["oracle"]["task"] = "depth"
  diff, = workdir.config_diff(old, new)
  assert diff.startswith("config.oracle.task: ")


def test_arrays_may_lie_elsewhere():
  old = config_of(dataset="arrays:/a").to_json()
  assert not workdir.config_diff(old, config_of(dataset="arrays:b").to_json())
  assert workdir.config_diff(old, config_of(dataset="rooms").to_json())


def test_a_field_that_is_newer_than_the_run_has_its_default():
  new = config_of().to_json()
  old = {**new}
  for name in ("skip_bad_steps", "lr_mults", "wd"):
    del old[name]
  assert workdir.config_diff(old, new) == []
  assert workdir.config_diff(old, {**new, "wd": 0.5}) == [
      "config.wd: 0.0 → 0.5"]


def test_a_field_of_the_model_that_is_newer_or_renamed():
  new = tiny.stage_ii_config("none", {"style": "ar"}).to_json()
  new["oracle"]["model"] |= {"bottleneck": "resize", "code_grid": None}
  old = tiny.stage_ii_config("none").to_json()
  old["oracle"]["model"]["bottleneck_resize"] = True
  assert workdir.config_diff(old, new) == []
  old["oracle"]["model"]["bottleneck_resize"] = False
  assert workdir.config_diff(old, new) == [
      "config.oracle.model.bottleneck: 'linear' → 'resize'"]
  new["model"]["style"] = "masked"
  assert "config.model.style: 'ar' → 'masked'" in workdir.config_diff(old, new)


def make_folder(path):
  path.mkdir()
  (path / "notes.txt").write_text("mine")


DAMAGES = {
    "deleted": lambda path: None,
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_text('{"kind": "vq'),
    "null": lambda path: path.write_text("null"),
    "an empty object": lambda path: path.write_text("{}"),
    "a list": lambda path: path.write_text("[1]"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\0"),
    "wrong values": lambda path: path.write_text('{"kind": 7, "model": 1}'),
    "a folder": make_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_config_json_is_gone(tmp_path, caplog, damage):
  """The checkpoint knows the config as well."""
  config = config_of()
  save_run(tmp_path, config)
  path = tmp_path / "config.json"
  path.unlink()
  DAMAGES[damage](path)
  with pytest.raises(ConfigError, match="of another config.*\n.*lr: 0.01 → 2"):
    workdir.check_workdir(tmp_path, config_of(lr=2.0))
  past = workdir.check_workdir(tmp_path, config)
  assert past["config"] == config.to_json()
  assert open_model.read_config(tmp_path) == config.to_json()
  assert open_model.read_meta(tmp_path)["data"]["val"] == VAL

  caplog.clear()
  workdir.claim_workdir(tmp_path, config)
  assert json.loads(path.read_text()) == config.to_json()
  if damage not in ("an empty object", "wrong values"):
    assert f"{path} is missing or damaged" in caplog.text


def test_an_edited_config_json_does_not_hide_another_run(tmp_path):
  save_run(tmp_path, config_of())
  edited = config_of(lr=2.0)
  (tmp_path / "config.json").write_text(json.dumps(edited.to_json()))
  with pytest.raises(ConfigError, match="lr: 0.01 → 2.0"):
    workdir.check_workdir(tmp_path, edited)


def test_before_the_first_checkpoint_config_json_tells(tmp_path):
  workdir.claim_workdir(tmp_path, config_of())
  with pytest.raises(ConfigError, match="lr: 0.01 → 2.0"):
    workdir.check_workdir(tmp_path, config_of(lr=2.0))
  assert workdir.read_past(tmp_path / "new") == {}


# ── Data and arrays ─────────────────────────────────────────────────────────


def check(past, meta, config=None):
  workdir.check_inputs("W", config or config_of(), past, meta)


def other_data(**changes):
  return {"train_split": {**TRAIN, **changes}, "val": VAL}


def test_the_same_data_wherever_it_lies():
  past = meta_of(config_of(data_dir="/a"))
  check(past, meta_of(config_of(data_dir="/b")))
  check({}, past)


def test_half_of_the_examples():
  past = meta_of(config_of())
  now = meta_of(config_of(), data=other_data(num_examples=12, checksum=3))
  with pytest.raises(ConfigError) as caught:
    check(past, now)
  text = str(caught.value)
  assert "config.train_split.num_examples: 24 → 12" in text
  assert "config.train_split.checksum: 17 → 3" in text
  assert "config.on_other_data = 'warn'" in text


def test_other_data_may_be_allowed(caplog):
  past = meta_of(config_of())
  now = meta_of(config_of(), data=other_data(checksum=3))
  check(past, now, config_of(on_other_data="warn"))
  assert "config.train_split.checksum: 17 → 3" in caplog.text


def test_an_evaluator_may_be_given_other_data_but_not_get_it_by_mishap():
  past = meta_of(config_of())
  data = {"train_split": TRAIN, "val": {**VAL, "checksum": 3}}
  with pytest.raises(ConfigError, match="config.val.checksum: 17 → 3"):
    check(past, meta_of(config_of(), data=data))
  val = dict(split="validation[:4]", pp="", pred="loss", log_steps=2)
  asked = tiny.stage_i_config(evals=[("val", "mean")], val=val)
  check(past, meta_of(asked, data=data))
  # A new evaluator has no past.
  check(past, meta_of(asked, data={**data, "more": VAL}))


def test_other_categories():
  past = meta_of(config_of())
  now = meta_of(config_of(), categories=[[1, "cat", True], [7, "sea", False]])
  with pytest.raises(ConfigError, match=r"class.2: .*'sky'.* → .*'sea'"):
    check(past, now)


def test_an_older_checkpoint_says_less():
  old = {"config": config_of().to_json(), "data": {"train_split": {
      "num_examples": 24}}}
  check(old, meta_of(config_of()))


def test_other_arrays_to_start_from():
  past = meta_of(config_of(model_init="a.npz"))
  now = meta_of(config_of(model_init="b.npz"), initial_crc32=0xab)
  message = "'b.npz' names other arrays.*W began with .*00000000 → 000000ab"
  with pytest.raises(ConfigError, match=message):
    check(past, now, config_of(model_init="b.npz"))


def test_arrays_to_start_from_may_be_gone(tmp_path, caplog):
  """The checkpoint has them, however the path is spelled by now."""
  past = meta_of(config_of(model_init="a.npz"))
  gone = str(tmp_path / "moved" / "a.npz")
  for model_init in ("a.npz", gone, {"encoder": gone}):
    assert workdir.needs_no_start(config_of(model_init=model_init), past)
  lines = [record.getMessage() for record in caplog.records]
  assert lines == 2 * [
      f"config.model_init: {gone!r} is not there. The run began with 'a.npz' "
      "and needs neither any more: it goes on from its own checkpoint."]


def test_arrays_to_start_from_are_read_where_they_can_be(tmp_path):
  past = meta_of(config_of(model_init="a.npz"))
  there = tmp_path / "b.npz"
  there.write_bytes(b"")
  for model_init in (str(there), "uvim-depth-stage1", "https://a/b.npz", None,
                     "dinov2-S/14", {"encoder": "hf:a/b"}):
    assert not workdir.needs_no_start(config_of(model_init=model_init), past)
  gone = config_of(model_init=str(tmp_path / "gone.npz"))
  # A run that nothing is saved of yet, and one that began from scratch.
  assert not workdir.needs_no_start(gone, {"config": past["config"]})
  assert not workdir.needs_no_start(gone, {})
  assert not workdir.needs_no_start(gone, meta_of(config_of()))


def test_another_oracle_is_told_with_both_places():
  past = meta_of(tiny.stage_ii_config("old/one"))
  now = meta_of(tiny.stage_ii_config("new/one"), oracle_crc32=0xab)
  message = "old/one → new/one; checksum 00000000 → 000000ab"
  with pytest.raises(ConfigError, match=message):
    check(past, now)
