"""Scores of a checkpoint as JSON; the same as its written predictions get."""

import json

import pytest

from configs import vqvae_rooms_panoptic
from tests.tools.conftest import save_noise
from tests.trainers import tiny, tiny_pix2seq_d
from tools import evaluate
from trainers import config_file, scoring
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import categories, files
from uvim.cli import convert, predict
from uvim.config import resolve
from uvim.store import checkpoint

SIZE = 32
PP = (f"decode(precise=True)|resize({SIZE})|value_range(-1, 1)|"
      'keep("image")')
LOAD = 'coco_panoptic|concat(["semantics","instances"], "labels")|'
PP_LABELS = (f'{LOAD}resize({SIZE})|resize({SIZE}, key="labels", '
             'method="nearest")|value_range(-1, 1)|make_canonical|'
             'keep("image","labels")')


def small_config(oracle=None):
  """COCO's classes at a size that compiles in seconds."""
  labels = {"semantics": (134, 64), "instances": (8, 64)}
  config = dict(
      task="panoptic_segmentation", dataset="coco/2017_panoptic",
      train_split="validation", batch_size=8, pp_train=PP_LABELS, lr=0.1,
      total_steps=9, model_name="vit", model=tiny.stage_i_model(
          input_size=(SIZE, SIZE), inputs=labels, outputs=labels),
      evals=[("uvim", "coco_panoptic")],
      uvim=dict(pp=PP_LABELS, split="validation",
                pred_kw=dict(min_fraction=0.001)))
  if oracle is None:
    return config
  task, model = config.pop("task"), config["model"]
  config["uvim"] = dict(config["uvim"], pp=PP)
  return dict(config, model_name="lm", oracle=dict(
      task=task, model_init=str(oracle), model_name="vit", model=model),
      model=dict(num_layers=1, num_heads=2, mlp_dim=32, emb_dim=32,
                 patches={"size": (8, 8)}, input_size=(SIZE, SIZE),
                 vocab_size=tiny.WORDS + 1, seq_len=tiny.LENGTH))


def foresee(path):
  """Heads that mostly say "grass" or "playingfield": some of it is true."""
  arrays = checkpoint.load_params(path)
  heads = arrays["params"]
  for i, category in enumerate(categories.coco_panoptic()):
    if category.name in ("grass-merged", "playingfield"):
      heads["head_semantics"]["bias"][i + 1] += 5
  heads["head_instances"]["bias"][1] += 4.5
  files.save_npz(path, arrays)


CONFIG = """
import json
import ml_collections

def get_config(arg=None):
  return ml_collections.ConfigDict(json.loads({text!r}))
"""


@pytest.fixture(scope="module")
def data(shared):
  return shared / "data/coco_panoptic"


@pytest.fixture(scope="module")
def run(coco_dir, tmp_path_factory):
  """A folder with both stages and their configs, for the five images."""
  folder = tmp_path_factory.mktemp("evaluate")
  one, two = folder / "one.npz", folder / "two.npz"
  configs = [dict(x, data_dir=str(coco_dir))
             for x in (small_config(), small_config(one))]
  save_noise(VqvaeFamily(resolve(configs[0])), one)
  foresee(one)
  save_noise(LmFamily(resolve(configs[1])), two)
  for name, config in zip(("one", "two"), configs, strict=True):
    (folder / f"{name}.py").write_text(CONFIG.format(text=json.dumps(config)))
  return folder


def call(run, stage, out, *extra):
  return evaluate.main(["--checkpoint", str(run / f"{stage}.npz"), "--config",
                        str(run / f"{stage}.py"), "--out", str(out), *extra])


def test_written_predictions_score_what_evaluate_says(run, data, tmp_path):
  panoptic = pytest.importorskip("hotcoco.panoptic")
  out = tmp_path / "f.json"
  assert call(run, "two", out, "--set", "min_fraction=0.002") == 0
  written = json.loads(out.read_text())
  block = written["evaluations"][0]
  assert written["checkpoint"] == str(run / "two.npz")
  settings = {"min_fraction": 0.002, "temperature": 0.0, "seed": 0,
              "instance_label": "logit_sum", "merge_stuff": False}
  assert settings.items() <= block["settings"].items()
  assert (block["split"], block["pp"]) == ("validation", PP)

  assert predict.main([
      "--checkpoint", str(run / "one.npz"), "--lm", str(run / "two.npz"),
      "--out", str(tmp_path / "p"), "--min_fraction=0.002",
      str(data / "val2017")]) == 0
  theirs = panoptic.pq_compute(str(data / "panoptic_val2017.json"),
                               str(tmp_path / "p/panoptic.json"))
  assert theirs["All"]["pq"] > 0.003  # Not nothing: matches are made.
  for group, suffix in (("All", ""), ("Things", "_things"),
                        ("Stuff", "_stuff")):
    for metric in ("pq", "sq", "rq"):
      ours = block["metrics"][f"uvim/{metric.upper()}{suffix}"]
      assert ours == pytest.approx(100 * theirs[group][metric], abs=1e-9)


def test_a_workdir_knows_its_config(run, tmp_path, capsys):
  workdir = tmp_path / "run"
  convert.convert(str(run / "one.npz"), str(workdir))
  config = resolve(config_file.load_config(str(run / "one.py")))
  files.write_json(workdir / "config.json", config.to_json())
  assert scoring.config_of(str(workdir)).to_json() == config.to_json()
  argv = ["--checkpoint", str(workdir), "--out", str(tmp_path / "f.json"),
          "--evaluator", "uvim", "--set", "split=validation[:2]", "--set",
          "pred=zero_code"]
  assert evaluate.main(argv) == 0
  block, = json.loads((tmp_path / "f.json").read_text())["evaluations"]
  assert block["split"] == "validation[:2]"
  assert 0 <= block["metrics"]["uvim/PQ"] <= 100
  assert evaluate.main(argv) == 2  # F.json is there.
  assert "--overwrite replaces" in capsys.readouterr().err


def workdir_of_a_stranger(folder, **changes):
  """A run that names an address as the place of its data."""
  config = resolve(dict(small_config(), **changes))
  files.write_json(folder / "config.json", config.to_json())
  return ["--checkpoint", str(folder), "--out", str(folder / "f.json")]


def test_an_address_in_a_workdir_is_not_asked(tmp_path, capsys):
  argv = workdir_of_a_stranger(tmp_path, data_dir="gs://theirs/data")
  assert evaluate.main(argv) == 2
  assert capsys.readouterr().err == (
      f"error: {tmp_path} names gs://theirs/data as data_dir of its evaluator "
      "'uvim', which is not used unless you name it yourself: --set "
      "data_dir=gs://theirs/data.\n")
  # Another place is named: the next thing that lacks is the checkpoint.
  assert evaluate.main([*argv, "--set", f"data_dir={tmp_path}"]) == 2
  assert "://" not in capsys.readouterr().err


def test_addresses_of_other_fields_are_not_asked(tmp_path, capsys):
  for field in ("dataset", "options"):
    place = "arrays:gs://theirs"
    value = {"features": place} if field == "options" else place
    block = {**small_config()["uvim"], field: value}
    argv = workdir_of_a_stranger(tmp_path, uvim=block)
    assert evaluate.main(argv) == 2
    assert f"names {place} as " in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["coco_panoptic", "save_predictions"])
def test_a_folder_of_a_stranger_is_not_written_to(tmp_path, capsys, kind):
  theirs = tmp_path / "theirs"
  block = {**small_config()["uvim"], "options": {"save_dir": str(theirs)}}
  argv = workdir_of_a_stranger(tmp_path, evals=[("uvim", kind)], uvim=block)
  assert evaluate.main(argv) == 2
  assert capsys.readouterr().err == (
      f"error: {tmp_path} names {theirs} as save_dir of its evaluator 'uvim', "
      "which is not used unless you name it yourself: --set "
      f"save_dir={theirs}.\n")
  # The user names a folder: the next thing that lacks is the checkpoint.
  assert evaluate.main([*argv, "--set", f"save_dir={tmp_path}/mine"]) == 2
  assert "holds no checkpoint" in capsys.readouterr().err


def test_a_network_of_a_stranger_is_not_run(tmp_path, capsys):
  for features, words in (("inception.pb", "names inception.pb as features"),
                          ("quadrants", "holds no checkpoint")):
    block = {**small_config()["uvim"], "options": {
        "features": features, "reference_split": "validation"}}
    argv = workdir_of_a_stranger(
        tmp_path, evals=[("uvim", "coltran_fid")], uvim=block)
    assert evaluate.main(argv) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("stage,extra,words", [
    ("one", ["--evaluator", "uvmi"], ["'uvmi'", "Did you mean 'uvim'?"]),
    ("one", ["--set", "merge_stuf=True"],
     ["merge_stuf", "options.merge_stuff'"]),
    ("one", ["--set", "split=test"], ["test", "validation (5)"]),
    ("one", ["--set", "seed"], ["KEY=VALUE"]),
    ("one", ["--config.lrr=1"], ["config.lrr", "'lr'"]),
    ("one", ["--wrong"], ["'--wrong'"]),
    ("two", ["--checkpoint", "{run}/one.npz"],
     ["one.npz", "another model", "unexpected"]),
    ("one", ["--checkpoint", "nowhere.npz"], ["No checkpoint at nowhere"]),
    ("one", ["--config", "nowhere.py"], ["no such file"]),
    # Of another task.
    ("one", ["--config.task=depth"], ["model.inputs", "['depth']"]),
    ("one", ["--set", "pred=uvim"], ["'uvim'", "predict"]),
])
def test_mistakes(run, tmp_path, capsys, stage, extra, words):
  extra = [x.format(run=run) for x in extra]
  assert call(run, stage, tmp_path / "f.json", *extra) == 2
  error = capsys.readouterr().err
  assert "Traceback" not in error and "error: " in error
  for word in words:
    assert word in error
  assert not (tmp_path / "f.json").exists()


def test_bare_arrays_need_a_config(run, capsys):
  assert evaluate.main(["--checkpoint", str(run / "one.npz"), "--out",
                        "f.json"]) == 2
  assert "name the config with --config" in capsys.readouterr().err


# ── Pix2Seq-D ────────────────────────────────────────────────────────────────


def test_evaluators_of_a_run_of_pix2seq_d(rooms_tiny_dir, tmp_path, capsys):
  pp = vqvae_rooms_panoptic.pp_strings(16)
  block = dict(log_steps=1, split="validation[:8]", pp=pp.predict)
  workdir = tmp_path / "run"
  model = tiny_pix2seq_d.MODEL | dict(num_classes=13, num_ids=16, num_bits=8)
  tiny_pix2seq_d.save_run(
      workdir, model=model, dataset="rooms/tiny", data_dir=str(rooms_tiny_dir),
      evals=[("steps_2", "coco_panoptic"), ("val", "mean")],
      steps_2=dict(block, pred_kw=dict(num_steps=2)),
      val=dict(block, pp=pp.eval, pred="loss"))
  out = tmp_path / "scores.json"
  argv = ["--checkpoint", str(workdir), "--out", str(out)]
  assert evaluate.main([*argv, "--set", "seed=3"]) == 0
  steps, val = json.loads(out.read_text())["evaluations"]
  assert steps["settings"]["num_steps"] == 2
  assert steps["settings"]["seed"] == val["settings"]["seed"] == 3
  assert "steps_2/PQ" in steps["metrics"]
  assert val["metrics"]["val/loss"] > 0
  argv += ["--overwrite", "--evaluator", "steps_2", "--set", "sampler=ddmi"]
  assert evaluate.main(argv) == 2
  assert "must be one of ddim, ddpm" in capsys.readouterr().err
