"""Array types and the legend of dimension letters used as name suffixes.

B batch (global) · H W image pixels · C channels · N patches = tokens of a grid
P pixels in a patch · K classes or bins of one output · D model width
F MLP width · A heads, Dh head size · L code length · E codeword size
Q dictionary size · V = Q+1 LM vocabulary (0 = start) · S samples per image
"""

from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int

PRNGKey = jax.Array
PyTree = Any

__all__ = ["Array", "Bool", "Float", "Int", "PRNGKey", "PyTree"]
