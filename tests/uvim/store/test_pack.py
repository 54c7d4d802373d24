"""A pack opens anywhere as the run it was made of, and says only what is so."""

import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import yaml

from tests.trainers import tiny
from tests.uvim.store.fake_hub import Client
from trainers import families
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import tree
from uvim.config import from_json
from uvim.inference.api import UViM
from uvim.inference.opening import open_predictor
from uvim.registry import ConfigError
from uvim.store import (
  checkpoint,
  hub,
  open_model,
  pack,
  published,
  run_scores,
)
from uvim.store.pack_writer import write as write_pack

write = functools.partial(write_pack, packed_with="the test")

ROWS = [[3, "cup", True], [5, "sea", False], [8, "sky", False],
        [9, "box", True]]
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)
SETTINGS = {"temperature": 0.0, "seed": 0}
EVALS = dict(
    evals=[("uvim", "coco_panoptic"), ("oracle_code", "coco_panoptic")],
    uvim=dict(log_steps=1, split="test", pp="", pred="predict",
              prefix="uvim/"),
    oracle_code=dict(log_steps=1, split="test", pp="", pred="oracle",
                     prefix="uvim/oracle/"))
METRICS = [
    {"step": 1, "uvim/PQ": 3.0, "settings": SETTINGS},
    {"step": 2, "train/loss": 1.0},
    {"step": 2, "val/loss": 0.5, "settings": {}},
    {"step": 2, "uvim/PQ": 12.5, "uvim/SQ": None, "alarm/below_no_code": 3.0,
     "settings": SETTINGS},
    {"step": 3, "failed/uvim": 1.0, "settings": {"failed": "no memory"}},
    {"step": 2, "uvim/oracle/PQ": 70.0, "settings": {
        "seed": 0, "file": "/secret/w.npz"}},
]


def save_run(workdir, family, config, **meta):
  """A workdir with a checkpoint of noise."""
  rng = np.random.default_rng(5)

  def noise(spec):
    return rng.normal(size=spec.shape).astype(spec.dtype) / 3

  params, extra = jax.eval_shape(family.init, jax.random.key(0))
  state = {"params": jax.tree.map(noise, params)}
  if "state" in extra:
    state["extra"] = {"state": jax.tree.map(noise, extra["state"])}
    # No number of 16 bits.
    state["extra"]["state"]["counts"][:] = 1e6
  fields = config.to_json()
  # What a stranger need not know.
  fields["data_dir"] = str(workdir / "private")
  meta = {"version": "7.8", "config": fields, "categories": ROWS, **meta}
  with checkpoint.Checkpointer(workdir) as checkpointer:
    checkpointer.save(2, state, meta)
  (workdir / "config.json").write_text(json.dumps(fields))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The workdir of stage II; stage I lies beside it."""
  folder = tmp_path_factory.mktemp("runs")
  one, two = folder / "stage_one", folder / "two"
  config = tiny.stage_i_config()
  save_run(one, VqvaeFamily(config), config)
  crc32 = tree.fingerprint(checkpoint.load_params(one))
  config = tiny.stage_ii_config(one, **EVALS)
  save_run(two, LmFamily(config), config, oracle_crc32=crc32)
  lines = [json.dumps(line) for line in METRICS]
  # A kill has cut the last line short.
  (two / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3, "uv']))
  # It went on with newer code.
  sessions = [{"commit": "0ld"}, {"commit": "f00d"}]
  (two / "sessions.json").write_text(json.dumps(sessions))
  return two


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
  """(folder of a pack in full precision, in half precision, its facts)."""
  folder = tmp_path_factory.mktemp("elsewhere")
  full, half = str(folder / "full"), str(folder / "half")
  write(str(run), full, license_id="cc-by-4.0")
  facts = write(str(run), half, half=True)
  return full, half, facts


def front_matter(folder):
  text = (pathlib.Path(folder) / "README.md").read_text()
  _, head, _ = text.split("---\n", 2)
  return yaml.safe_load(head), text


def test_a_pack_predicts_as_its_run(run, packed):
  expected = UViM.from_checkpoint(run).predict(IMAGE)
  model = UViM.from_checkpoint(packed[0])
  found = model.predict(IMAGE)
  np.testing.assert_array_equal(found.codes, expected.codes)
  np.testing.assert_array_equal(found.logprob, expected.logprob)
  np.testing.assert_array_equal(
      found.outputs["panoptic"][0], expected.outputs["panoptic"][0])
  assert [list(category) for category in model.categories] == ROWS
  assert model.dataset == "none"


def test_half_precision_is_loaded_as_float32(packed):
  full, half, facts = packed
  for stage in "", "stage1":
    exact = tree.flatten(checkpoint.load_params(f"{full}/{stage}"))
    rounded = tree.flatten(checkpoint.load_params(f"{half}/{stage}"))
    assert exact.keys() == rounded.keys()
    for name, array in rounded.items():
      assert array.dtype == np.float32
      np.testing.assert_allclose(array, exact[name], rtol=2**-11, atol=1e-7)
      if name.startswith("state/"):
        np.testing.assert_array_equal(array, exact[name])
  sizes = [path.stat().st_size
           for path in pathlib.Path(half).rglob("*.safetensors")]
  assert facts.num_bytes == sum(sizes)
  num_parameters = sum(facts.parameters.values())
  assert sum(sizes) < 2.5 * num_parameters + 20_000


def test_the_card_names_the_code_that_trained_last(packed, tmp_path):
  _, text = front_matter(packed[0])
  assert "| trained with | uvim 7.8, commit `f00d` |" in text
  assert run_scores.read_commit(tmp_path) == ""
  (tmp_path / "sessions.json").write_text('["no session"]')
  assert run_scores.read_commit(tmp_path) == ""


def test_the_card_tells_what_half_precision_changes(packed):
  full, half, facts = packed
  one, other = (UViM.from_checkpoint(path) for path in (full, half))
  code = np.zeros((1, tiny.LENGTH), np.int32)
  moved = np.abs(one.log_prob(IMAGE, code) - other.log_prob(IMAGE, code)).max()
  told = float(facts.rounding.split("words by at most ")[1].split()[0])
  assert 0 < told < 50 * moved and moved < 50 * told
  assert facts.rounding in front_matter(half)[1]
  assert "changes" not in front_matter(full)[1]


def test_parameters_that_float16_cannot_hold_stay(packed):
  large = np.float32([1, 70_000])
  kept = pack.halve({"params": {"a": large, "b": large[:1]}})["params"]
  np.testing.assert_array_equal(kept["a"], large)
  assert kept["a"].dtype == np.float32 and kept["b"].dtype == np.float16


def test_no_file_names_a_path_of_its_machine(run, packed):
  for path in pathlib.Path(packed[0]).rglob("*"):
    if path.is_file():
      content = path.read_bytes()
      assert str(run.parent).encode() not in content, path
      assert b"/secret" not in content, path
  config = from_json(json.loads((run / "config.json").read_text()))
  assert config.data_dir.endswith("private")
  clean = pack.without_places(
      {"a": ["/x", "gs://b/c", "~/d", "dir/e", "hf:o/n", 3]})
  assert clean == {"a": [None, None, None, "dir/e", "hf:o/n", 3]}


def test_front_matter_has_the_scores_of_predictions_alone(packed):
  head, text = front_matter(packed[0])
  assert head["license"] == "cc-by-4.0"
  assert head["library_name"] == "uvim"
  assert head["pipeline_tag"] == "image-segmentation"
  index, = head["model-index"]
  result, = index["results"]
  assert result["dataset"] == {"type": "none", "name": "none", "split": "test"}
  assert result["metrics"] == [{
      "type": "PQ", "name": "PQ (uvim)", "value": 12.5, "args": SETTINGS}]
  # The oracle's has a place below, and is called what it is.
  assert "### oracle_code\n\nThe oracle, which sees the truth" in text
  assert "raised an alarm here: below no code." in text
  assert "| 70.00 |" in text and "cup, sea, sky, box" in text
  assert "16 × 16 pixels" in text and "uvim 7.8" in text
  assert "the test" in text


def test_the_hubs_own_package_reads_the_card(packed):
  huggingface_hub = pytest.importorskip("huggingface_hub")
  data = huggingface_hub.ModelCard.load(f"{packed[0]}/README.md").data
  result, = data.eval_results
  assert (result.metric_type, result.metric_value) == ("PQ", 12.5)
  assert result.metric_args == SETTINGS and data.license == "cc-by-4.0"


def test_no_license_is_made_up(packed):
  head, text = front_matter(packed[1])
  assert "license" not in head
  assert "| license | not stated |" in text


def test_a_pack_stands_for_a_workdir(packed):
  full = packed[0]
  assert published.locate(full, kind="vqvae") == f"{full}/stage1"
  assert published.locate(full, kind="lm") == full
  opened = open_model.open_model(f"{full}/stage1")
  assert opened.prior is None and len(opened.categories) == 4
  config = from_json(open_model.read_config(full))
  _, variables = families.open_checkpoint(full, config)
  prior = variables["params"]
  wanted = checkpoint.load_params(full)["params"]
  assert tree.fingerprint(prior) == tree.fingerprint(wanted)


def test_a_stage_i_of_another_pack_is_refused(packed, tmp_path):
  full, half, _ = packed
  shutil.copytree(full, tmp_path / "mixed")
  shutil.copy(f"{half}/stage1/model.safetensors", tmp_path / "mixed/stage1")
  with pytest.raises(ConfigError, match="learned the code of another stage I"):
    open_model.open_model(tmp_path / "mixed")
  shutil.rmtree(tmp_path / "mixed/stage1")
  with pytest.raises(ConfigError, match="stage1 holds no pack of stage I"):
    open_model.open_model(tmp_path / "mixed")


def test_a_damaged_pack_is_told(packed, tmp_path):
  shutil.copytree(packed[0], tmp_path / "bad")
  (tmp_path / "bad/model.safetensors").write_bytes(b"\1" + bytes(9))
  with pytest.raises(ConfigError, match="no readable .safetensors file"):
    open_model.open_model(tmp_path / "bad")
  with pytest.raises(ConfigError, match="its header is damaged"):
    pack.read_meta(tmp_path / "bad")


def test_a_pack_of_stage_i_alone(run, tmp_path):
  folder = str(tmp_path / "one")
  facts = write(str(run.parent / "stage_one"), folder)
  assert list(facts.parameters) == ["stage I"]
  assert UViM.from_checkpoint(folder).prior is None
  head, text = front_matter(folder)
  assert "model-index" not in head and "no language model" in text


def test_a_pack_of_pix2seq_d_has_the_averaged_parameters(
    pix2seq_d_run, tmp_path):
  workdir, _, extra = pix2seq_d_run
  folder = tmp_path / "half"
  facts = write(str(workdir), str(folder), half=True)
  assert list(facts.parameters) == ["the network"]
  model = open_predictor(folder)
  assert model.predict(IMAGE, num_steps=2).outputs["panoptic"][0].any()
  found = tree.flatten(checkpoint.load_params(folder)["params"])
  for name, array in tree.flatten(extra["ema"]).items():
    np.testing.assert_allclose(found[name], array, rtol=2**-11, atol=1e-7)
  # It stands for a workdir.
  config = from_json(open_model.read_config(folder))
  families.open_checkpoint(str(folder), config)
  _, text = front_matter(folder)
  assert "A Pix2Seq-D model of the task *panoptic segmentation*" in text
  assert 'Pix2SeqDPredictor.from_checkpoint("half")' in text
  assert "the bits of a step move by at most" in text


def test_what_makes_no_pack(run, packed, tmp_path):
  (tmp_path / "there").mkdir()
  with pytest.raises(ConfigError, match="there exists already"):
    write(str(run), str(tmp_path / "there"))
  with pytest.raises(ConfigError, match="SRC = 'w.npz'; a pack is made of"):
    write("w.npz", str(tmp_path / "new"))
  with pytest.raises(ConfigError, match="--license 'My Own'; allowed: an iden"):
    write(str(run), str(tmp_path / "new"), license_id="My Own")
  with pytest.raises(ConfigError, match="DST = 'gs://b/p'; a pack is writte"):
    write(str(run), "gs://b/p")
  with pytest.raises(ConfigError, match="full' is a pack already"):
    write(packed[0], str(tmp_path / "new"))
  assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


# ── The hub ─────────────────────────────────────────────────────────────────


def test_a_pack_goes_to_the_hub_and_comes_back(packed, tmp_path):
  shutil.copytree(packed[1], tmp_path / "mine")
  (tmp_path / "mine" / "token.txt").write_text("secret")
  client = Client(tmp_path / "hub")
  name = hub.push_pack(
      str(tmp_path / "mine"), "o/n", private=True, client=client)
  assert name == "hf:o/n" and client.private == {"o/n": True}
  assert not (tmp_path / "hub/o/n/token.txt").exists()
  folder = published.locate_pack("hf:o/n@v1", client)
  opened = open_model.open_model(folder)
  wanted = checkpoint.load_params(packed[1])["params"]
  assert tree.fingerprint(opened.prior_params) == tree.fingerprint(wanted)


def test_a_repository_without_a_pack_is_left_to_others(tmp_path):
  client = Client(tmp_path)
  (tmp_path / "o/n").mkdir(parents=True)
  # An encoder of another project.
  (tmp_path / "o/n/config.json").write_text('{"model_type": "dinov2"}')
  (tmp_path / "o/n/model.safetensors").write_text("")
  assert published.locate_pack("hf:o/n", client) == "hf:o/n"
  assert published.locate_pack("hf:o/n/w.safetensors", client) == (
      "hf:o/n/w.safetensors")
  with pytest.raises(ConfigError, match="Cannot fetch hf:o/x: 404") as caught:
    published.locate_pack("hf:o/x", client)
  assert "\n" not in str(caught.value)


def test_what_cannot_be_pushed(packed, run, tmp_path):
  client = Client(tmp_path)
  with pytest.raises(ConfigError, match="'name'; allowed: OWNER/NAME"):
    hub.push_pack(packed[1], "name", client=client)
  with pytest.raises(ConfigError, match="is no pack. `uvim convert"):
    hub.push_pack(str(run), "o/n", client=client)
  assert client.private == {}


# ── The pack that is shipped ────────────────────────────────────────────────


def test_the_shipped_pack_is_small_and_opens():
  name = published.DEFAULT_PACK
  folder = pathlib.Path(published.PACKS[name])
  assert sum(path.stat().st_size for path in folder.rglob("*")) < 8e6
  opened = open_model.open_model(name)
  assert opened.dataset == "rooms" and opened.prior is not None
  assert len(opened.categories) == 12 and opened.antialias
  result, = front_matter(folder)[0]["model-index"][0]["results"]
  scores = {metric["type"]: metric["value"] for metric in result["metrics"]}
  assert scores["PQ"] == pytest.approx(40.2976)


def test_a_misspelt_name_is_mended():
  with pytest.raises(ConfigError, match="Did you mean 'uvim-rooms-panoptic'"):
    published.locate("uvim-rooms-panoptc")
