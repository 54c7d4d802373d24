"""Where a run of stage II finds its stage I, and what it asks for it."""

import io
import json
import zipfile

import numpy as np
import pytest

from tests.trainers import tiny
from trainers import families, scoring
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim.registry import ConfigError
from uvim.store import checkpoint, download, open_model, published

ADDRESS = "https://example.org/one.npz"


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
  """An empty cache, and whoever wants to fill it fails."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # Nobody listens.


def run_on(oracle, folder):
  """A workdir of stage II, as a stranger may send it."""
  folder.mkdir(exist_ok=True)
  config = tiny.stage_ii_config(oracle).to_json()
  (folder / "config.json").write_text(json.dumps(config))
  return folder


def oracle_of(oracle, tmp_path):
  workdir = run_on(oracle, tmp_path / "two")
  return open_model.oracle_path(workdir, open_model.read_config(workdir))


@pytest.mark.parametrize("address", [
    ADDRESS, "https://example.org", "http://example.org/one.npz",
    "gs://bucket/one", "gs://bucket", "s3://bucket/one", "file:///etc/passwd",
    "hf:owner/name"])
def test_a_strangers_address_is_not_asked_for(tmp_path, address):
  with pytest.raises(ConfigError) as caught:
    oracle_of(address, tmp_path)
  text = str(caught.value)
  assert f"names {address} as its stage I model" in text
  assert f"--checkpoint {address} --lm {tmp_path / 'two'}" in text
  assert "\n" not in text
  # Nothing else is tried before that.
  with pytest.raises(ConfigError, match="as its stage I model"):
    open_model.open_model(tmp_path / "two")


def test_evaluation_asks_no_stranger_but_whom_the_user_names(tmp_path):
  workdir = run_on(ADDRESS, tmp_path / "two")
  config = scoring.config_of(str(workdir))
  with pytest.raises(ConfigError, match=f"tools.evaluate --oracle {ADDRESS}"):
    families.open_checkpoint(str(workdir), config)
  named = LmFamily.config_for(config, str(workdir), oracle=ADDRESS)
  assert named.oracle.model_init == ADDRESS
  # Bare arrays come without a config: this one is the user's.
  named = LmFamily.config_for(config, "two.npz")
  assert named.oracle.model_init == ADDRESS


def test_an_address_that_was_fetched_before_is_read_from_the_cache(tmp_path):
  path = download.cache_path(ADDRESS)
  path.parent.mkdir(parents=True)
  path.write_bytes(b"")
  assert oracle_of(ADDRESS, tmp_path) == ADDRESS


@pytest.mark.parametrize("name", [
    "uvim-panoptic", "uvim-panoptic-stage1",
    published.MODELS["uvim-panoptic-stage1"]])
def test_published_weights_are_followed(tmp_path, name):
  assert oracle_of(name, tmp_path) == name


def test_both_runs_were_moved_together(tmp_path):
  (tmp_path / "one").mkdir()
  assert oracle_of("/gone/one", tmp_path) == str(tmp_path / "one")
  assert oracle_of("/gone/other", tmp_path) == "/gone/other"


def test_home_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "one").mkdir()
  workdir = run_on("x", tmp_path / "two")
  config = {"oracle": {"model_init": "~/one"}}
  assert open_model.oracle_path(workdir, config) == str(tmp_path / "one")
  with pytest.raises(ConfigError, match=f"No checkpoint at {tmp_path}/none"):
    open_model.open_model("~/none.npz")


@pytest.mark.parametrize("oracle", [None, {}, {"model_init": 3}])
def test_a_run_that_names_no_stage_i(tmp_path, oracle):
  workdir = run_on("x", tmp_path / "two")
  config = json.loads((workdir / "config.json").read_text())
  config["oracle"] = oracle
  (workdir / "config.json").write_text(json.dumps(config))
  with pytest.raises(ConfigError, match="two names no stage I model"):
    open_model.open_model(workdir)


def test_a_config_of_another_program(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"kind": 3}))
  with pytest.raises(ConfigError, match="config.json: config.kind = 3"):
    open_model.read_config(tmp_path)
  (tmp_path / "config.json").write_text('{"kind": "lm", "oracle": "x"}')
  with pytest.raises(ConfigError, match="config.oracle = 'x'; it must be a b"):
    open_model.read_config(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps({"model": {}}))
  with pytest.raises(ConfigError, match="a run of version 0.1.0"):
    open_model.read_config(tmp_path)


@pytest.mark.parametrize("path", ["nowhere", "config.json", "w.npz", "", "."])
def test_what_is_no_run_has_no_config(tmp_path, monkeypatch, path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "w.npz").mkdir()
  assert open_model.read_config(path) == {}
  assert open_model.read_meta(path) == {}


QUERY = ("params/decoder/encoderblock_0/MultiHeadDotProductAttention_0/query/"
         "kernel")


@pytest.mark.parametrize("name, array, words", [
    ("params/ctx_dec_embedding/bias", np.zeros(99), r"is \[99\]; its model"),
    ("params/ctx_dec_embedding/bias", None, "lacks the array .*bias' "),
    (QUERY, np.float32(1), r"query/kernel' is \[\]; expected 3 axes"),
    ("state/dictionary", np.zeros(8), r"dictionary' is \[8\]; expected 2 axes"),
    ("params/head_semantics/kernel", np.zeros((2, 2)), "expected 3 axes")])
def test_arrays_that_make_no_model_are_told_before_it_runs(
    tmp_path, name, array, words):
  tiny.save_stage_i(VqvaeFamily(tiny.stage_i_config()), tmp_path / "a.npz")
  arrays = dict(np.load(tmp_path / "a.npz"))
  assert name in arrays
  del arrays[name]
  if array is not None:
    arrays[name] = array
  np.savez(tmp_path / "b.npz", **arrays)
  with pytest.raises(ConfigError, match=words) as caught:
    open_model.open_model(tmp_path / "b.npz", code_len=4)
  assert "\n" not in str(caught.value)


ROWS = [[7, "cup", True], [9, "sky", False], [11, "sea", False]]


def known_categories(workdir, rows, num_classes, dataset="mine"):
  """Of a run whose checkpoint lists these rows."""
  with checkpoint.Checkpointer(workdir) as checkpointer:
    meta = {"config": {"kind": "vqvae"}, "categories": rows}
    checkpointer.save(1, {"params": {"x": np.zeros(1)}}, meta)
  return open_model.categories_of(workdir, num_classes, dataset)


def test_a_run_knows_its_classes(tmp_path):
  known = known_categories(tmp_path, ROWS, 3)
  assert [tuple(category) for category in known] == list(map(tuple, ROWS))
  assert known[1].name == "sky" and not known[1].isthing
  # Of other classes, or of none.
  assert open_model.categories_of(tmp_path, 4, "mine") == ()
  assert open_model.categories_of(tmp_path, None, "mine") == ()


def test_bare_weights_have_the_classes_of_coco():
  assert open_model.categories_of("a.npz", 133, "")[132].id == 200
  assert open_model.categories_of("a.npz", 12, "") == ()
  assert open_model.categories_of("a.npz", 133, "mine") == ()


@pytest.mark.parametrize("rows", [
    3, "abc", [3], [[1, "a"]], [["1", "a", True]], [[1, "a", True]] * 2,
    {"a": 1}, [[1, "a\nb", True]]])
def test_damaged_names_of_classes_are_none(tmp_path, rows, caplog):
  assert known_categories(tmp_path, rows, 2) == ()
  message, = [record.getMessage() for record in caplog.records
              if "classes are damaged" in record.getMessage()]
  assert str(tmp_path) in message and "\n" not in message


@pytest.mark.parametrize("names, words", [
    (["params/decoder_stem/kernel"], "stage 1; stage 2 is needed"),
    (["params/some/kernel"], "not a UViM checkpoint")])
def test_a_file_of_something_else_is_refused_by_its_headers(
    tmp_path, names, words):
  # Its data is damaged, so that whoever reads it says something else.
  with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
    for name in names:
      buffer = io.BytesIO()
      np.save(buffer, np.zeros((3, 4), np.float32))
      archive.writestr(f"{name}.npy", buffer.getvalue()[:-9])
  with pytest.raises(ConfigError, match=words):
    open_model._read_arrays(str(tmp_path / "b.npz"), "lm")
