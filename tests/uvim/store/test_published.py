"""Weights by name and address: fetched once, whole or not at all."""

import http.client
import http.server
import re
import threading
import urllib.request

import numpy as np
import pytest

from uvim.registry import ConfigError
from uvim.store import checkpoint, published

DATA = bytes(range(256)) * 4000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """An empty cache folder."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  return tmp_path / "uvim"


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves DATA at /x/w.npz, and faulty answers at other paths."""

  def do_GET(self):
    self.server.asked.append(self.path)
    fault = self.path.split("/")[1]
    if fault == "absent":
      return self.send_error(404)
    self.send_response(302 if fault == "moved" else 200)
    if fault == "moved":
      self.send_header("Location", "http://elsewhere.example/w.npz")
    if fault != "endless":
      self.send_header("Content-Length", str(len(DATA)))
    self.end_headers()
    self.wfile.write(DATA[:len(DATA) // 2] if fault == "short" else DATA)

  def log_message(self, *args):
    pass


@pytest.fixture
def server(monkeypatch):
  """A real server; its https is plain http, for want of a certificate."""
  monkeypatch.setattr(
      urllib.request.HTTPSHandler, "https_open",
      lambda self, request: self.do_open(http.client.HTTPConnection, request))
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  server.asked = []
  server.address = f"https://127.0.0.1:{server.server_port}"
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  yield server
  server.shutdown()
  server.server_close()
  thread.join()


def files(folder):
  return [p for p in folder.rglob("*") if p.is_file()]


def test_a_file_is_fetched_once_and_then_found_offline(server, cache):
  path = published.locate(f"{server.address}/x/w.npz")
  with open(path, "rb") as f:
    assert f.read() == DATA
  assert files(cache) == [published.cache_path(f"{server.address}/x/w.npz")]
  assert published.locate(f"{server.address}/x/w.npz") == path
  assert server.asked == ["/x/w.npz"]


def test_two_addresses_are_two_files():
  paths = {published.cache_path(f"https://h/{name}") for name in (
      "a/w.npz", "b/w.npz", "a/w.npz?v=2", "a%2Fw.npz")}
  assert len(paths) == 4


@pytest.mark.parametrize("fault,reason", [
    ("short", "broke off after 512,000 of 1,024,000"),
    ("endless", "how large"),
    ("moved", "http://elsewhere"),
    ("absent", "404"),
])
def test_a_failed_download_leaves_nothing(server, cache, fault, reason):
  address = f"{server.address}/{fault}/w.npz"
  with pytest.raises(ConfigError, match=re.escape(reason)) as e:
    published.fetch(address)
  # What to do about it.
  assert address in str(e.value)
  assert str(published.cache_path(address)) in str(e.value)
  assert files(cache) == []


def test_an_interrupted_download_is_not_taken_for_the_file(
    server, cache):
  address = f"{server.address}/x/w.npz"

  def stop(address):
    yield DATA[:100]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    published.fetch(address, read=stop)
  assert files(cache) == []
  assert published.fetch(address).read_bytes() == DATA


def test_without_a_network_the_error_says_what_to_do(server):
  server.server_close()
  with pytest.raises(ConfigError, match="Without a network.*put it at"):
    published.fetch(f"{server.address}/x/w.npz")


def test_names_stand_for_the_published_addresses(shared):
  text = (shared / "seeds" / "002_38986ca12c94b84a.txt").read_text()
  addresses = set(re.findall(r"https://storage\S+?\.npz", text))
  assert len(addresses) == 6
  assert set(published.MODELS.values()) == addresses
  assert published.MODELS["uvim-color-stage2"].endswith(
      "/color_stageII_params.npz")
  assert published.VITS["howto-i21k-L/16"] == (
      "https://storage.googleapis.com/vit_models/augreg/"
      "L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0.npz")


def test_a_short_name_is_that_of_the_stage():
  for stage, file in (1, b"one"), (2, b"two"):
    address = published.MODELS[f"uvim-depth-stage{stage}"]
    path = published.cache_path(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file)
  for kind, file in ("vqvae", b"one"), ("lm", b"two"):
    with open(published.locate("uvim-depth", kind=kind), "rb") as f:
      assert f.read() == file
  with pytest.raises(ConfigError, match="Did you mean 'uvim-depth-stage"):
    published.locate("uvim-depth")


def test_unknown_names_and_addresses_are_refused():
  with pytest.raises(ConfigError, match="Did you mean 'howto-i21k-L/16'"):
    published.locate("howto-i21k-L/61")
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
