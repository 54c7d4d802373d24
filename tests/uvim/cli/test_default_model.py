"""`uvim predict` without a checkpoint."""

import numpy as np
import pytest
from PIL import Image

from uvim.cli import predict
from uvim.registry import ConfigError
from uvim.store import published


@pytest.mark.parametrize("options,note", [
    ([], True), (["--checkpoint", "uvim-depth"], False)])
def test_it_takes_the_shipped_model_and_says_so(
    tmp_path, capsys, options, note):
  image = tmp_path / "a.png"
  Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(image)
  asked = []

  def load(checkpoint, *, lm=None):
    asked.append((checkpoint, lm))
    raise ConfigError("enough")

  argv = [str(image), "--out", str(tmp_path / "out"), *options]
  assert predict.main(argv, load=load) == 2
  wanted = published.DEFAULT_PACK if note else "uvim-depth"
  assert asked == [(wanted, None)]
  lines = capsys.readouterr().err.splitlines()
  assert lines[-1] == "error: enough" and len(lines) == 1 + note
  assert lines[0].startswith("note: no --checkpoint") == note
  # What it is not for stands in that line too.
  assert ("does not know the things of photographs" in lines[0]) == note
