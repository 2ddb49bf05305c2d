"""Upper bounds on the true risk: test-set bounds, Occam's razor, PAC-Bayes.

Plain NumPy in float64: the bounds are evaluated on arrays of risks and divergences, far from any gradient.
"""

from theory.bounds.binary_kl import bernoulli_kl, kl_inverse_lower, kl_inverse_upper
from theory.bounds.certificate import Certificate
from theory.bounds.pac_bayes import (
    CATONI_GRID,
    catoni,
    discrete_kl,
    maurer_constant,
    mcallester,
    pac_bayes_kl,
    quadratic,
)
from theory.bounds.tail import chernoff_kl, clopper_pearson, hoeffding, occam

__all__ = [
    "CATONI_GRID",
    "Certificate",
    "bernoulli_kl",
    "catoni",
    "chernoff_kl",
    "clopper_pearson",
    "discrete_kl",
    "hoeffding",
    "kl_inverse_lower",
    "kl_inverse_upper",
    "maurer_constant",
    "mcallester",
    "occam",
    "pac_bayes_kl",
    "quadratic",
]
