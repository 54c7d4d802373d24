"""Scenes that several tests of `rooms` look at."""

import pytest

from pp.rooms.render import render
from pp.rooms.scene import draw_scene, make_rng


@pytest.fixture(scope="session")
def scenes():
  """Forty scenes at drawn sizes: (what `render` returns, its Scene)."""
  rendered = []
  for index in range(40):
    scene = draw_scene(make_rng(7, index))
    rendered.append((render(7, index), scene))
  return rendered
