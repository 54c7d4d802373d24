"""The Hugging Face hub: addresses, a stand-in client, a cache without net."""

import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from uvim.registry import ConfigError
from uvim.store import hub, published

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("text, parts", [
    ("hf:facebook/dinov2-small",
     ("facebook/dinov2-small", None, "model.safetensors")),
    ("hf:a/b@v1.0", ("a/b", "v1.0", "model.safetensors")),
    ("hf:a/b/c/d.safetensors", ("a/b", None, "c/d.safetensors")),
    ("hf:a/b@main/d.safetensors", ("a/b", "main", "d.safetensors")),
])
def test_an_address_has_three_parts(text, parts):
  address = hub.parse(text)
  assert (address.repository, address.revision, address.file) == parts


@pytest.mark.parametrize("text", (
    "hf:", "hf:gpt2", "hf:/b", "hf:a/", "hf:a/b@", "hf:a/b/c.bin",
    "hf:a/../c.safetensors", "hf:../b", "hf:a/b@../c.safetensors",
    "hf:a/b/.safetensors", "hf:a/b\n", "hf:a b/c", "hf:a/b?x"))
def test_anything_else_is_refused(text):
  with pytest.raises(ConfigError, match="expected hf:OWNER/NAME"):
    hub.parse(text)


class Client:
  """Stands for the package: files by name, in a folder like its cache."""

  def __init__(self, folder, *names):
    self.folder = folder / "models--a--b" / "snapshots" / COMMIT
    self.names = names
    self.asked = []

  def hf_hub_download(self, repo_id, filename, *, revision):
    self.asked.append((repo_id, filename, revision))
    if filename not in self.names:
      raise FileNotFoundError(f"404 Client Error.\n\nNo {filename} there")
    return str(self.folder / filename)


def test_the_commit_is_printed(tmp_path, capsys):
  client = Client(tmp_path, "model.safetensors")
  path = hub.fetch("hf:a/b@v1", client)
  assert path == client.folder / "model.safetensors"
  assert client.asked == [("a/b", "model.safetensors", "v1")]
  assert COMMIT in capsys.readouterr().err


def test_weights_in_several_files_are_refused(tmp_path):
  client = Client(tmp_path, "model.safetensors.index.json")
  with pytest.raises(ConfigError, match="split into several files"):
    hub.fetch("hf:a/b", client)


def test_what_is_not_there_is_one_line(tmp_path):
  with pytest.raises(ConfigError, match="Cannot fetch hf:a/b: 404") as caught:
    hub.fetch("hf:a/b", Client(tmp_path))
  assert "\n" not in str(caught.value)


# In another process: the package reads its settings when it is imported.
LOCATE = """
import os, sys
from uvim.registry import ConfigError
from uvim.store import published

def locate():
  try:
    print(published.locate("hf:a/b"))
  except ConfigError as error:
    print(error)

kept, file = sys.argv[1:]
locate()
os.rename(kept, file)
locate()
# As if the package were not installed.
sys.modules["huggingface_hub"] = None
locate()
"""


def test_the_package_finds_what_it_has_kept(tmp_path):
  pytest.importorskip("huggingface_hub")
  repository = tmp_path / "hub" / "models--a--b"
  snapshot = repository / "snapshots" / COMMIT
  snapshot.mkdir(parents=True)
  (repository / "refs").mkdir()
  (repository / "refs" / "main").write_text(COMMIT)
  kept = tmp_path / "kept"
  safetensors_numpy.save_file({"a": np.ones(2, np.float32)}, kept)
  file = snapshot / "model.safetensors"
  # An empty cache, and no network.
  environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
  found = subprocess.run(
      [sys.executable, "-c", LOCATE, kept, file], env=environment, text=True,
      capture_output=True, check=False)
  nothing, path, no_package = found.stdout.splitlines()
  assert "HF_HUB_OFFLINE=1" in nothing
  assert path == str(file)
  assert COMMIT in found.stderr
  assert "pip install 'huggingface_hub'" in no_package


def test_names_of_encoders_lead_to_the_hub():
  for name in ("dinov2-S/14", "mae-B/16", "dino-S/16", "siglip-B/16",
               "clip-B/16"):
    address = published.VITS[name]
    assert address.startswith("https://huggingface.co/")
    assert address.endswith("/resolve/main/model.safetensors")
    assert published.family_of(name) == name.split("-")[0]
  assert published.family_of("howto-i21k-L/16") == "augreg"
  assert published.family_of("w.npz") is None
