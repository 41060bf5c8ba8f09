"""How rival methods make tokens fewer, and how the full grid returns, by name."""

from typing import Literal

Merge = Literal["clusters", "pool", "tome", "evit", "blocks", "image"]
# "weights" is reconstruction as `reconstruction.token_weights` has it.
Return = Literal["weights", "bilinear", "copy"]
