"""Array types and the legend of dimension letters used as name suffixes.

B batch (global) · H W image pixels · C channels · N patches = tokens of a grid
P pixels in a patch · K classes or bins of one output · D model width
F MLP width · A heads, Dh head size · L code length · E codeword size
Q codebook size · V = Q+1 LM vocabulary (0 = start) · S samples per image
"""

from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int

PRNGKey = jax.Array
PyTree = Any

# Types that many signatures repeat, by the name of what they hold.
Scalar = Float[Array, ""]
# One number for each example, such as its loss.
PerExample = Float[Array, "B"]
# Name → number, for the reports; of the whole batch, or of each example.
Logs = dict[str, jax.Array]
Image = Float[Array, "B H W 3"]
# Height and width in pixels.
Size = tuple[int, int]
Tokens = Float[Array, "B N D"]
# The vectors that the base model reads, one for each place of the code.
CodeVectors = Float[Array, "B L E"]
# Words 0..Q-1, one for each place of the code.
Words = Int[Array, "B L"]
# True at places of the code that say nothing.
Dropped = Bool[Array, "B L"]
# A whole number for each pixel of each patch, such as its class.
PatchIds = Int[Array, "B N P"]
# One number for each word of the codebook, such as how often it was used.
PerWord = Float[Array, "Q"]
# One integer for each image, from which its random numbers follow.
Seeds = Int[Array, "B"]

__all__ = [
    "Array", "Bool", "CodeVectors", "Dropped", "Float", "Image", "Int", "Logs",
    "PRNGKey", "PatchIds", "PerExample", "PerWord", "PyTree", "Scalar", "Seeds",
    "Size", "Tokens", "Words"]
