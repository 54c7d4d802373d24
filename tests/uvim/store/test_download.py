"""Downloads: once, whole, unchanged, and nowhere but in the cache folder."""

import concurrent.futures
import hashlib
import http.client
import http.server
import io
import os
import re
import threading
import time
import urllib.request

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from uvim.registry import ConfigError
from uvim.store import checkpoint, download, published


def npz_bytes(value):
  buffer = io.BytesIO()
  np.savez(buffer, x=np.full(128_000, value))
  return buffer.getvalue()


DATA = npz_bytes(1.0)
ADDRESS = "https://h/a/w.npz"


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
    if fault == "nonsense":
      self.send_header("Content-Length", "many")
    elif fault != "endless":
      self.send_header("Content-Length", str(len(DATA)))
    self.end_headers()
    data = DATA
    if fault == "short":
      data = DATA[:len(DATA) // 2]
    if fault == "page":
      data = b"<html>Log in first</html>".ljust(len(DATA))
    self.wfile.write(data)

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


def gives(*chunks):
  """A reader for `fetch`."""
  def read(address):
    del address
    yield from chunks
  return read


def files(folder):
  return sorted(p for p in folder.rglob("*") if p.is_file())


def sha256_path(address):
  path = download.cache_path(address)
  return path.with_name(path.name + ".sha256")


def test_a_file_is_fetched_once_and_then_found_offline(server, cache, capsys):
  address = f"{server.address}/x/w.npz"
  path = published.locate(address)
  with open(path, "rb") as f:
    assert f.read() == DATA
  assert files(cache) == [download.cache_path(address), sha256_path(address)]
  assert published.locate(address) == path
  assert server.asked == ["/x/w.npz"]
  assert f"Fetching {address}: 1.0 MB" in capsys.readouterr().err


@pytest.mark.parametrize("fault,reason", [
    ("short", f"broke off after {len(DATA) // 2:,} of {len(DATA):,}"),
    ("endless", "how large"),
    ("nonsense", "how large"),
    ("moved", "http://elsewhere"),
    ("absent", "404"),
    ("page", "what came is no .npz"),
])
def test_a_failed_download_leaves_nothing(server, cache, fault, reason):
  address = f"{server.address}/{fault}/w.npz"
  with pytest.raises(ConfigError, match=re.escape(reason)) as e:
    download.fetch(address)
  # What to do about it.
  assert address in str(e.value)
  assert str(download.cache_path(address)) in str(e.value)
  assert files(cache) == []


def test_an_interrupted_download_is_not_taken_for_the_file(server, cache):
  address = f"{server.address}/x/w.npz"

  def stop(address):
    yield DATA[:100]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    download.fetch(address, read=stop)
  assert files(cache) == []
  assert download.fetch(address).read_bytes() == DATA


def test_without_a_network_the_error_says_what_to_do(server):
  server.server_close()
  with pytest.raises(ConfigError, match="Without a network.*put it at"):
    download.fetch(f"{server.address}/x/w.npz")


# ── Where a file is kept ─────────────────────────────────────────────────────


def test_two_addresses_are_two_files():
  names = ("a/w.npz", "b/w.npz", "a/w.npz?v=2", "a%2Fw.npz", "a//w.npz",
           "a/./w.npz", "a/w.npz.sha256", ".a/w.npz", "ü/w.npz")
  assert len({download.cache_path(f"https://h/{name}") for name in names}) == (
      len(names))


@pytest.mark.parametrize("rest", (
    "h//etc/x.npz", "h/a.npz?to=/etc/passwd", "h/~/x.npz", "h/a\\..\\b.npz",
    "h/a\nb.npz", "h/?" + "x" * 900, "h/" + "x" * 300, "./x.npz", "~/x.npz",
    "h", "h/"))
def test_no_address_leaves_the_cache_folder(cache, rest):
  path = download.fetch(f"https://{rest}", read=gives(DATA))
  assert path.is_relative_to(cache)
  assert ".." not in path.parts
  assert path.read_bytes() == DATA


@pytest.mark.parametrize("rest", (
    "/etc/x.npz", "", "../x.npz", "h/../../x.npz", "h/%2e%2e/x.npz",
    "h/.%2E/x.npz"))
def test_what_is_no_address_of_a_file_is_refused(cache, rest):
  with pytest.raises(ConfigError, match="must not hold|expected https://HOST"):
    download.fetch(f"https://{rest}", read=gives(DATA))
  assert not cache.exists()


@pytest.mark.parametrize("rest", ("[::1/x.npz", "h:x/x.npz", "\udcff/x.npz"))
def test_an_address_that_cannot_be_asked_is_one_line(rest):
  with pytest.raises(ConfigError, match="Cannot fetch"):
    download.fetch(f"https://{rest}")


def test_links_and_leftovers_of_others_are_not_written_through(
    cache, tmp_path):
  path = download.cache_path(ADDRESS)
  path.parent.mkdir(parents=True)
  victim = tmp_path / "victim"
  victim.write_text("mine")
  # The name that a killed process, or somebody who waits for us, has left.
  left = path.with_name(f".{path.name}.{os.getpid()}.part")
  left.symlink_to(victim)
  download.fetch(ADDRESS, read=gives(DATA))
  assert victim.read_text() == "mine"
  assert not left.is_symlink()
  assert files(cache) == [path, sha256_path(ADDRESS)]


# ── One file at a time, and always the same ──────────────────────────────────


def test_threads_that_want_one_file_fetch_it_once():
  asked = []

  def slow(address):
    asked.append(address)
    yield DATA[:1000]
    time.sleep(0.3)
    yield DATA[1000:]

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    paths = list(pool.map(lambda _: download.fetch(ADDRESS, slow), range(4)))
  assert asked == [ADDRESS]
  assert {path.read_bytes() for path in paths} == {DATA}


def test_a_file_that_is_no_longer_what_it_was_is_refused():
  path = download.fetch(ADDRESS, read=gives(DATA))
  known = sha256_path(ADDRESS).read_text().split()[0]
  assert known == hashlib.sha256(DATA).hexdigest()
  path.write_bytes(npz_bytes(2.0))
  with pytest.raises(ConfigError, match=f"changed.*Delete it.*{known}"):
    download.fetch(ADDRESS)
  # As the message says.
  path.unlink()
  assert download.fetch(ADDRESS, read=gives(DATA)).read_bytes() == DATA


def test_a_server_that_has_another_file_now_is_not_believed():
  path = download.fetch(ADDRESS, read=gives(DATA))
  path.unlink()
  other = npz_bytes(2.0)
  with pytest.raises(ConfigError, match="another file now.*If you trust it"):
    download.fetch(ADDRESS, read=gives(other))
  assert not path.exists()
  sha256_path(ADDRESS).unlink()
  assert download.fetch(ADDRESS, read=gives(other)).read_bytes() == other


def test_an_address_tells_what_the_file_must_be():
  """The other kind, or half of a file, is no such file."""
  array = np.ones(1000, np.float32)
  data = safetensors_numpy.save({"x": array})
  for name in ("w.safetensors", "w.safetensors?download=true"):
    path = download.fetch(f"https://h/{name}", read=gives(data))
    assert path.suffix == ".safetensors"
    loaded = checkpoint.load_params(path)["params"]
    np.testing.assert_array_equal(loaded["x"], array)
  for wrong in (DATA, data[:-1], b"<html>Log in first</html>", b""):
    with pytest.raises(ConfigError, match="what came is no .safetensors"):
      download.fetch("https://h/other.safetensors", read=gives(wrong))


@pytest.mark.parametrize("content", (b"", b"<html>", DATA[:1000]))
def test_what_an_older_version_kept_is_no_longer_believed(content):
  path = download.cache_path(ADDRESS)
  path.parent.mkdir(parents=True)
  path.write_bytes(content)
  with pytest.raises(ConfigError, match="is no .npz. Delete it"):
    download.fetch(ADDRESS)


def test_a_file_put_there_by_hand_is_taken():
  path = download.cache_path(ADDRESS)
  path.parent.mkdir(parents=True)
  path.write_bytes(DATA)
  assert download.fetch(ADDRESS) == path
  assert sha256_path(ADDRESS).exists()


@pytest.mark.parametrize("content", (b"", b"\xff\xfe", b"nonsense"))
def test_a_damaged_checksum_is_told(content):
  download.fetch(ADDRESS, read=gives(DATA))
  sha256_path(ADDRESS).write_bytes(content)
  with pytest.raises(ConfigError, match="delete .*sha256|Delete it"):
    download.fetch(ADDRESS)
