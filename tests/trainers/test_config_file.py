"""Config files as the trainers read them."""

import os
import sys

from trainers import config_file

TEXT = """
import ml_collections


def get_config():
  return ml_collections.ConfigDict({{"name": "{name}"}})
"""


def test_a_file_is_read_as_it_is_now(tmp_path, monkeypatch):
  """Also one that changed within the second and kept its size."""
  monkeypatch.setattr(sys, "dont_write_bytecode", False)
  path = tmp_path / "one.py"
  for name in ("first", "other"):
    path.write_text(TEXT.format(name=name))
    os.utime(path, (10, 10))
    assert config_file.load_config(str(path)).name == name
  assert os.listdir(tmp_path) == ["one.py"]
  assert not sys.dont_write_bytecode
