"""JSON files that the user names."""

import json

import pytest

from uvim import files
from uvim.registry import ConfigError


@pytest.mark.parametrize("encoding", [
    "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_json(tmp_path, encoding):
  path = tmp_path / "a.json"
  text = json.dumps({"name": "Tür"}, ensure_ascii=False)
  path.write_bytes(text.encode(encoding))
  assert files.load_json(path, "--list") == {"name": "Tür"}


@pytest.mark.parametrize("content, expected", [
    ('{"a": 1, "b": [{"c": 1, "c": 2}]}', "has the key 'c' twice"),
    ("[" * 100_000, "is not JSON: maximum recursion depth"),
    ("1" * 5000, "is not JSON: Exceeds the limit"),
    ("", "is not JSON: Expecting value"),
    ('{"a": "T\u00fcr"}', "is not text in UTF-8"),
], ids=["twice", "deep", "long number", "empty", "latin-1"])
def test_what_is_no_json_is_said_in_one_line(tmp_path, content, expected):
  path = tmp_path / "a.json"
  path.write_bytes(content.encode("latin-1"))
  with pytest.raises(ConfigError) as caught:
    files.load_json(path, "--list")
  message = str(caught.value)
  assert expected in message
  assert message.startswith(f"--list: {str(path)!r} ")
  assert "\n" not in message
