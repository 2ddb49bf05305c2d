"""What a bound hands back: its value, how rigorous it is, and whether it says anything."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Certificate:
    """An upper bound on a true risk that fails with probability at most δ over the draw of the sample.

    Attributes:
        name: the bound's name in the literature.
        value: the bound, in the units of the risk; not clipped at 1, since by how far a bound is vacuous is
            information too.
        rigour: "theorem" (proved as stated, for finite samples), "asymptotic" or "heuristic".
    """

    name: str
    value: Float[np.ndarray, "..."]
    rigour: str = "theorem"

    @property
    def vacuous(self) -> Bool[np.ndarray, "..."]:
        """Where the bound is at least 1 and so says nothing about a risk in [0, 1]."""
        return np.asarray(self.value >= 1)
