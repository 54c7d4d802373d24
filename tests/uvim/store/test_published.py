"""Weights by name: what the names mean, and what older files call arrays."""

import re

import numpy as np
import pytest

from uvim.registry import ConfigError
from uvim.store import checkpoint, download, published


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """An empty cache folder."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def write_npz(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(path, x=value)
  return path.read_bytes()


def test_names_stand_for_the_published_addresses(shared):
  text = (shared / "seeds" / "002_38986ca12c94b84a.txt").read_text()
  addresses = set(re.findall(r"https://storage\S+?\.npz", text))
  assert len(addresses) == 6
  uvim = {name: address for name, address in published.MODELS.items()
          if name.startswith("uvim-")}
  assert set(uvim.values()) == addresses
  assert published.MODELS["givt-depth-stage2"].endswith(
      "/big_vision/givt/givt_nyu_depth_params.npz")
  assert published.MODELS["uvim-color-stage2"].endswith(
      "/color_stageII_params.npz")
  assert published.VITS["howto-i21k-L/16"] == (
      "https://storage.googleapis.com/vit_models/augreg/"
      "L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0.npz")


def test_a_short_name_is_that_of_the_stage():
  contents = {}
  for stage, kind in (1, "vqvae"), (2, "lm"):
    address = published.MODELS[f"uvim-depth-stage{stage}"]
    contents[kind] = write_npz(download.cache_path(address), stage)
  for kind, content in contents.items():
    with open(published.locate("uvim-depth", kind=kind), "rb") as f:
      assert f.read() == content
  with pytest.raises(ConfigError, match="Did you mean 'uvim-depth-stage"):
    published.locate("uvim-depth")


def test_unknown_names_and_addresses_are_refused():
  with pytest.raises(ConfigError, match="Did you mean 'howto-i21k-L/16'"):
    published.locate("howto-i21k-L/61")
  with pytest.raises(ConfigError, match="Did you mean 'dinov2-S/14'"):
    published.locate("dinov2-S/41")
  with pytest.raises(ConfigError, match="a pickle.*Take the .safetensors"):
    published.locate("https://h/w.pth?download=true")
  with pytest.raises(ConfigError, match="https:// only"):
    published.locate("http://h/w.npz")
  with pytest.raises(ConfigError, match="must not hold"):
    published.locate("https://h/../../w.npz")


def test_paths_stay_as_they_are(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "uvim-run").mkdir()
  for path in "uvim-run", "w.npz", "gs://bucket/w.npz", "./uvim-depth":
    assert published.locate(path, kind="vqvae") == path


def test_a_storage_that_cannot_be_reached_is_explained():
  def no_package(path):
    raise ImportError("Please install gcsfs to access Google Storage")

  with pytest.raises(ConfigError, match="gs://b/w.npz: Please.*googleapis"):
    published.load_params("gs://b/w.npz", load=no_package)
  with pytest.raises(ImportError):  # Not the storage's fault.
    published.load_params("w.npz", load=no_package)


@pytest.mark.parametrize("prefix", ["params/", "", "opt/target/",
                                    "opt/target/params/"])
def test_older_names_are_read_as_todays(tmp_path, prefix):
  arrays = {"a/kernel": np.ones((2, 3), np.float32), "b": np.zeros(2)}
  state = {"state/counts": np.ones(4), "state/dictionary": np.ones((4, 2))}
  old = {"opt/state/step": np.array(7)} if "opt/" in prefix else {}
  path = tmp_path / "w.npz"
  np.savez(path, **{prefix + k: x for k, x in arrays.items()}, **state, **old)
  loaded = published.load_params(path)
  assert checkpoint.array_specs(loaded) == {
      "params/a/kernel": [[2, 3], "float32"], "params/b": [[2], "float64"],
      "state/counts": [[4], "float64"], "state/dictionary": [[4, 2], "float64"]}
  np.testing.assert_array_equal(loaded["params"]["a"]["kernel"], 1)
