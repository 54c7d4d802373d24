"""`uvim push`, with a hub on this disk."""

import pytest

from tests.uvim.store.fake_hub import Client
from uvim.cli import push
from uvim.store import published

PACK = published.PACKS[published.DEFAULT_PACK]


def test_it_says_how_to_open_what_it_pushed(tmp_path, capsys):
  client = Client(tmp_path)
  assert push.main([PACK, "o/n"], client=client) == 0
  assert "--checkpoint hf:o/n" in capsys.readouterr().out
  assert client.private == {"o/n": False}
  assert (tmp_path / "o/n/stage1/model.safetensors").exists()
  assert push.main([PACK, "o/m", "--private"], client=client) == 0
  assert client.private["o/m"] is True


@pytest.mark.parametrize("argv,words", [
    ([PACK, "no-owner"], "allowed: OWNER/NAME"),
    (["nowhere", "o/n"], "nowhere is no pack"),
    ([PACK], "uvim push --help"),
])
def test_mistakes_are_one_line(tmp_path, capsys, argv, words):
  assert push.main(argv, client=Client(tmp_path)) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1
  assert words in error
  assert not list(tmp_path.iterdir())


def test_a_hub_that_refuses_is_one_line(tmp_path, capsys):
  class Refuses(Client):
    def create_repo(self, repo_id, *, private, exist_ok):
      raise PermissionError("401 Client Error.\n\nInvalid credentials")

  assert push.main([PACK, "o/n"], client=Refuses(tmp_path)) == 2
  error = capsys.readouterr().err
  assert "Cannot push to hf:o/n: 401 Client Error." in error
  assert "hf auth login" in error and error.count("\n") == 1
