"""Depth of hard scenes: scores of several answers.

See configs/sweeps/depth_joint.py.
"""

from configs.sweeps import depth_joint, recipe


def get_sweep(size):
  shipped = recipe.rooms_recipe(size, "depth", "hard", cost=recipe.HARD_COST)
  return depth_joint.make_sweep(size, shipped, "hard scenes")
