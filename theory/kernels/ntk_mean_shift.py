r"""First correction in 1/n to the mean tangent kernel of a finite network at initialisation: E Θ = Θ_∞ + c/n + O(1/n²).

Bias-free networks of equal hidden widths n in the NTK parametrisation, with L weight matrices. Given the layers below,
the units of layer ℓ are independent and Gaussian with covariance G_ℓ = (σ_w²/n) h_{ℓ−1}·h'_{ℓ−1}, and their tangent
kernel has the mean R_ℓ over the weights of the layer. It is not independent of the pre-activations z: by Stein's lemma

    E[F(z_i) Θ_ii | below] = R_ℓ E F + Σ_ab P_ℓ^ab E ∂_a ∂_b F,
    E[H(z_i) K(z_j) Θ_ij | below] = Σ_ab P_ℓ^ab E ∂_a H · E ∂_b K    (i ≠ j),
    P_ℓ^ab = (σ_w⁴/n²) Σ_kl φ(z_k^a) φ(z_l^b) φ'(z_k) φ'(z_l') Θ_kl^(ℓ−1)

for any functions of the pre-activations of both inputs; a, b run over the inputs. P is of order 1/n. With

    V(G) = σ_w² E φφ',   V̇(G) = σ_w² E φ'φ',   R_{ℓ+1} → V(G_ℓ) + V̇(G_ℓ) R_ℓ + σ_w² Σ_ab P_ℓ^ab E ∂_a ∂_b (φ'φ'),

the means of G and R, the covariances of G with itself and with R, and P close among themselves to first order: no other
moment is needed, because R enters linearly. The recursion starts from G_1 = R_1 = σ_w² x·x'/d and P_1 = 0.

Every coefficient is a Gaussian expectation of products of φ and φ' times Hermite polynomials (derivatives of E F in G
and expectations of derivatives of F alike), so that kinks need no special care: the quadrature is polar, in sectors
between the kinks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import erf

from theory.kernels.gaussian_tensors import derivatives, gaussian_rule, pairs

# φ and φ', in double precision.
UNITS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "relu": (lambda z: np.maximum(z, 0.0), lambda z: (z > 0).astype(float)),
    "linear": (lambda z: z, np.ones_like),
    "square": (lambda z: z * z, lambda z: 2.0 * z),
    "erf": (erf, lambda z: 2.0 / np.sqrt(np.pi) * np.exp(-z * z)),
    "tanh": (np.tanh, lambda z: 1.0 / np.cosh(z) ** 2),
}


@dataclass(frozen=True)
class MeanShift:
    """The mean kernel to first order in 1/n.

    Attributes:
        limit: Θ_∞(x, x').
        coefficient: c = lim n (E Θ − Θ_∞).
        nngp_limit, nngp_coefficient: the same for the mean of G_L, the covariance of the outputs.
    """

    limit: float
    coefficient: float
    nngp_limit: float
    nngp_coefficient: float

    @property
    def relative(self) -> float:
        """c/Θ_∞."""
        return self.coefficient / self.limit


def ntk_mean_shift(
    activation: str, depth: int, cosine: float, weight_variance: float, *, independent: bool = False
) -> MeanShift:
    """First-order shift of the mean tangent kernel, for two inputs with |x|²/d = 1 and x·x'/d = cosine.

    It vanishes for L = depth + 1 = 2 and every activation, where E Θ = Θ_∞ exactly, for linear units, and on the
    diagonal (cosine = 1) for ReLU, where E Θ = Θ_∞ at every width and depth.

    Args:
        activation: "relu", "linear", "square", "erf" or "tanh".
        depth: number of hidden layers, at least 1.
        cosine: from −1 to 1; 1 is the diagonal. The coefficient is good to 1e-12 at 0.9, 1e-10 at 0.99, 1e-4 at
            0.9999: towards ±1 the sectors of the quadrature become needles.
        weight_variance: σ_w² > 0.
        independent: take a unit's tangent kernel as independent of its pre-activation (P = 0). This "gradient
            independence" gives the right limit, and a wrong coefficient: it is there to be compared with.

    Returns:
        Limit and coefficient, in double precision.

    Raises:
        ValueError: an unknown activation, a depth below 1, a cosine outside (−1, 1], or no positive variance.

    Source: derived here; Guillen, Misof & Gerken 2025 and Roberts, Yaida & Hanin 2022, chapter 8, have recursions for
        the same quantity.
    """
    if activation not in UNITS:
        raise ValueError(f"activation must be one of {', '.join(UNITS)}, got {activation!r}")
    if depth < 1:
        raise ValueError(f"depth must be at least 1 hidden layer, got {depth}")
    if not -1 < cosine <= 1:
        raise ValueError(f"cosine must lie in (−1, 1], got {cosine}; for opposite inputs take the limit")
    if not weight_variance > 0:
        raise ValueError(f"weight_variance must be positive, got {weight_variance}")
    inputs = 1 if cosine == 1 else 2
    entries = pairs(inputs)
    cross = entries.index((0, inputs - 1))
    g = weight_variance * np.array([1.0 if a == b else cosine for a, b in entries])
    r = float(g[cross])
    # Coefficients of 1/n: shifts of G and R, covariances of G with G and with R, and P.
    dg, dr = np.zeros(len(g)), 0.0
    gg, gr, p = np.zeros((len(g), len(g))), np.zeros(len(g)), np.zeros((inputs, inputs))
    for _ in range(depth):
        m = _layer(activation, float(weight_variance), tuple(float(value) for value in g))
        # What a layer does to the mean and covariances that it is given …
        gradient = m.v1[cross] + r * m.t1
        curvature = m.v2[cross] + r * m.t2
        new_dr = gradient @ dg + m.t * dr + 0.5 * np.sum(curvature * gg) + m.t1 @ gr + np.sum(m.bend * p)
        new_dg = m.v1 @ dg + 0.5 * np.einsum("pgh,gh->p", m.v2, gg)
        # … and the fluctuations of its own units.
        new_gg = m.v1 @ gg @ m.v1.T + m.products
        new_gr = m.v1 @ (gg @ gradient + m.t * gr) + m.products[:, cross] + r * m.mixed
        p = np.zeros_like(p) if independent else r * m.same + m.left @ p @ m.right.T
        r = float(m.v[cross] + m.t * r)
        g, dg, dr, gg, gr = m.v, new_dg, float(new_dr), new_gg, new_gr
    return MeanShift(r, dr, float(g[cross]), float(dg[cross]))


class _Layer(NamedTuple):
    """Gaussian expectations of one layer; p runs over pairs of inputs, and so do g and h, the entries of G.

    v, v1, v2: V [p] and its first [p, g] and second [p, g, h] derivatives in G; t, t1, t2: the same of V̇.
    bend: σ_w² E ∂_a ∂_b (φ'φ'). products, mixed: covariance of one unit's σ_w² φφ [p] with itself and with σ_w² φ'φ'.
    same, left, right: of the recursion of P, for equal units, and for different ones on either side.
    """

    v: np.ndarray
    v1: np.ndarray
    v2: np.ndarray
    t: float
    t1: np.ndarray
    t2: np.ndarray
    bend: np.ndarray
    products: np.ndarray
    mixed: np.ndarray
    same: np.ndarray
    left: np.ndarray
    right: np.ndarray


@lru_cache(maxsize=256)
def _layer(activation: str, weight_variance: float, g: tuple[float, ...]) -> _Layer:
    phi, slope = UNITS[activation]
    inputs = 1 if len(g) == 1 else 2
    entries = pairs(inputs)
    covariance = np.zeros((inputs, inputs))
    for (a, b), value in zip(entries, g, strict=True):
        covariance[a, b] = covariance[b, a] = value
    rule = gaussian_rule(covariance)
    weights, hermite = rule.weights, rule.hermite
    f, s = phi(rule.nodes), slope(rule.nodes)
    products = weight_variance * np.stack([f[:, a] * f[:, b] for a, b in entries])
    slopes = weight_variance * s[:, 0] * s[:, -1]
    first, second = derivatives(rule)
    v, t = products @ weights, float(slopes @ weights)
    centred = (products - v[:, None]) * weights
    return _Layer(
        v,
        products @ first.T,
        np.einsum("pz,ghz->pgh", products, second),
        t,
        first @ slopes,
        second @ slopes,
        (hermite[2] * weights) @ slopes,
        centred @ products.T,
        centred @ slopes,
        weight_variance * (f.T * weights * slopes) @ f,
        weight_variance * (f.T * weights * s[:, 0]) @ hermite[1].T,
        weight_variance * (f.T * weights * s[:, -1]) @ hermite[1].T,
    )
