"""Langevin dynamics of an infinitely wide network with one hidden layer, in closed form at any step.

θ ← θ − η (∇L + T θ) + √(2ηT) ξ moves all parameters, with L = ½ Σ (f − y)² and the prior N(0, 1) of the NTK
parametrisation. At infinite width L moves each hidden unit by a vanishing amount, so that the units' parameters stay
N(0, 1) and decorrelate by the prior's drift alone. The Hermite component of order j of the outputs,

    f = Σ_j f_j,    Cov f_j(x) f_j(x') = K_j(x, x') = σ_w² E[φ(√a z) h_j(z)] E[φ(√b z) h_j(z)] ρ^j  (+ σ_b² at j = 0),

a product of one output weight and j factors of first-layer parameters, therefore forgets at the rate T(1 + j), and its
tangent kernel is (1 + j) K_j: Σ_j (1 + j) K_j = Θ. To first order in ηT it follows

    f_j ← f_j − η (1 + j) [K_j(·, X) (f(X) − y) + T f_j] + √(2ηT (1 + j)) K_j^½ ξ_j.

At a vanishing step its stationary law solves K_j(·, X)(f(X) − y) = −T f_j for the mean: f = K*(K + T)⁻¹ y, the NNGP
posterior with noise T.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from theory.architecture import MLP
from theory.arrays import ArrayLike, as_float, check_finite, row_pair
from theory.kernels.infinite import nngp
from theory.kernels.prediction import Prediction
from theory.quadrature import trapezoid


def hermite_components(architecture: MLP, x: Float[np.ndarray, "m d"], orders: int) -> Float[np.ndarray, "orders m m"]:
    """K_j(x, x') for j < orders − 1 and, last, the rest of the NNGP kernel K = Σ_j K_j.

    Args:
        architecture: one hidden layer, variances that are numbers, K_0(x, x) > 0.
        x: inputs.
        orders: how many terms, at least 2.

    Source: Mehler's formula for the Hermite polynomials h_j, normalised to E h_j(z)² = 1.
    """
    weight, bias = float(np.asarray(architecture.weight_variance)), float(np.asarray(architecture.bias_variance))
    first = weight * x @ x.T / x.shape[1] + bias
    deviation = np.sqrt(np.diag(first))
    correlation = first / np.outer(deviation, deviation)
    # As dense as the package's rule for single integrals in double precision: smooth activations are exact to rounding.
    z, w = trapezoid(12.0, 32)
    values = np.asarray(architecture.activation(jnp.asarray(deviation[:, None] * z))) * w
    components, before, polynomial = [], np.zeros_like(z), np.ones_like(z)
    for j in range(orders - 1):
        coefficient = values @ polynomial
        components.append(weight * np.outer(coefficient, coefficient) * correlation**j + (bias if j == 0 else 0.0))
        following = (z * polynomial - np.sqrt(j) * before) / np.sqrt(j + 1)
        before, polynomial = polynomial, following
    rest = np.asarray(nngp(architecture, x)) - np.sum(components, axis=0)
    return np.stack([*components, rest])


def langevin_law(
    architecture: MLP,
    x_train: ArrayLike,
    y_train: ArrayLike,
    x_test: ArrayLike,
    *,
    temperature: float,
    learning_rate: float,
    steps: ArrayLike,
    midpoint: bool = False,
    orders: int = 24,
) -> Prediction:
    """Mean and covariance of the outputs after that many steps, started from the prior.

    With f_j = √(1 + j) K_j^½ u_j the recursion of all components is one with a symmetric matrix B,

        u ← (1 − ηB) u + η Ψ(X)ᵀ y + √(2ηT) ξ,    B = Ψ(X)ᵀ Ψ(X) + T diag(1 + j),    f(x) = Ψ(x) u,

    whose eigenvectors give every step at once. Compared with `nngp_posterior(…, noise=temperature)` it shows what is
    left of the start and what the finite step adds: along a direction of curvature h the stationary variance is
    (T/h)/(1 − ηh/2). That of the mean of two consecutive states is T/h exactly, since (1 − ηh/2)² V + ηT/2 = T/h:
    with `midpoint` the law is that of (f_s + f_{s+1})/2.

    Args:
        architecture: one hidden layer; its activation smooth enough that the orders left out, which are treated as
            one, matter little.
        x_train: inputs (n, d).
        y_train: targets (n,) or (n, k).
        x_test: inputs (m, d).
        temperature: T > 0.
        learning_rate: η > 0, below 2/λ_max(B).
        steps: numbers of steps (s,).
        midpoint: whether the outputs are averaged over two consecutive steps.
        orders: Hermite components kept apart, at least 2.

    Returns:
        The mean (s, m) or (s, m, k), like the targets, and the covariance (s, m, m), the same for each output.

    Raises:
        ValueError: shapes do not match, the depth is not 1, a number is out of its range, or the steps diverge.

    Source: derived; checked against the recursion above and finite networks. Midpoints: Leimkuhler & Matthews 2013.
    """
    train, test = (np.asarray(a, np.float64) for a in row_pair(x_train, x_test, ("x_train", "x_test")))
    y = np.asarray(as_float(y_train), np.float64)
    if y.ndim not in (1, 2) or len(y) != len(train):
        raise ValueError(f"y_train must have shape ({len(train)},) or ({len(train)}, k), got {y.shape}")
    check_finite("y_train", y)
    if architecture.depth != 1:
        raise ValueError(f"architecture must have one hidden layer, got {architecture.depth}: deeper ones do not close")
    if orders < 2:
        raise ValueError(f"orders must be at least 2, got {orders}")
    for name, value in (("temperature", temperature), ("learning_rate", learning_rate)):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
    counts = np.atleast_1d(np.asarray(steps))
    if (counts < 0).any() or (counts != np.round(counts)).any():
        raise ValueError(f"steps must be whole numbers of at least 0, got {steps}")

    components = hermite_components(architecture, np.concatenate([train, test]), orders)
    eigenvalues, vectors = np.linalg.eigh(components)
    roots = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))[:, None, :]
    speed = 1.0 + np.arange(orders)
    # Ψ as (points, orders · points).
    psi = np.moveaxis(np.sqrt(speed)[:, None, None] * roots, 0, 1).reshape(len(train) + len(test), -1)
    speeds = np.repeat(speed, roots.shape[-1])
    # Most directions of most components carry nothing.
    carried = np.sum(psi**2, axis=0) > 1e-24 * np.sum(psi**2)
    psi, speeds = psi[:, carried], speeds[carried]
    curvature, basis = np.linalg.eigh(psi[: len(train)].T @ psi[: len(train)] + temperature * np.diag(speeds))
    if learning_rate * curvature[-1] >= 2:
        raise ValueError(f"learning_rate {learning_rate} diverges; give less than {2 / curvature[-1]:.4g}")
    rotated = psi @ basis
    start = basis.T @ (basis / speeds[:, None])
    factor = 1 - learning_rate * curvature
    means, covariances = [], []
    for count in counts:
        kept = factor**count
        noise = 2 * learning_rate * temperature * (1 - kept**2) / (1 - factor**2)
        if midpoint:
            half = (1 + factor) / 2
            noise = half**2 * noise + learning_rate * temperature / 2
            kept = half * kept
        gain = rotated[len(train) :] * ((1 - kept) / curvature)
        means.append(gain @ (rotated[: len(train)].T @ y))
        law = kept[:, None] * start * kept + np.diag(noise)
        covariances.append(rotated[len(train) :] @ law @ rotated[len(train) :].T)
    return Prediction(jnp.asarray(np.stack(means)), jnp.asarray(np.stack(covariances)))
