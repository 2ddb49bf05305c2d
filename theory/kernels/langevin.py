"""Langevin dynamics of an infinitely wide network with one hidden layer, in closed form at any step.

θ ← θ − η (∇L + T θ) + √(2ηT) ξ moves all parameters, with L = ½ Σ (f − y)² and the prior N(0, 1) of the NTK
parametrisation. At infinite width L moves each hidden unit by a vanishing amount, so that the units' parameters follow
the prior's part alone: with r = 1 − ηT they are N(0, v), v = 1/(1 − ηT/2), and correlate as r^τ after τ steps. The
outputs are a sum of Hermite components,

    f = Σ_j f_j,    Cov f_j(x) f_j(x') = K_j(x, x') = σ_w² E[φ(√a z) h_j(z)] E[φ(√b z) h_j(z)] ρ^j  (+ σ_b² at j = 0),

where σ_w² and σ_b² stand for v times their values. Each is a product of one output weight and j factors of first-layer
parameters, and therefore correlates as r^(1 + j)τ without data. A gradient moves it by (1 + j) K_j/v, of which the
parameters' motion in the same step leaves r^j (at v = 1: Σ_j (1 + j) K_j = Θ, the tangent kernel):

    f_j ← r^(1 + j) f_j − η r^j (1 + j) (K_j/v)(·, X) (f(X) − y) + N(0, (1 − r^(2 + 2j)) K_j).

At a vanishing step the stationary mean solves (1 + j) [K_j(·, X)(f(X) − y) + T f_j] = 0: f = K*(K + T)⁻¹ y, that of the
NNGP posterior with noise T.
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

    With g_j = r^j (1 + j)/v and f_j = √g_j K_j^½ u_j the recursion of all components is one with a symmetric matrix M,

        u ← M u + η Ψ(X)ᵀ y + N^½ ξ,    M = diag(r^(1 + j)) − η Ψ(X)ᵀ Ψ(X),    N = diag((1 − r^(2 + 2j))/g_j),

    and f(x) = Ψ(x) u, so that its eigenvectors give every step at once: with eigenvalues μ the covariance after s steps
    is N_ab (1 − (μ_a μ_b)^s)/(1 − μ_a μ_b) and what is left of the start. Compared with `nngp_posterior(…,
    noise=temperature)` it shows what start and step size add. To first order in η the variance along a direction of
    curvature h is (T/h)(1 + ηh/2); that of the mean of two consecutive states is T/h (Leimkuhler & Matthews 2013). With
    `midpoint` the law is that of (f_s + f_{s+1})/2, whose bias is of order ηT: the outputs are not linear in the
    parameters. Chains start from the prior with the variance v, within ηT/2 of 1.

    Args:
        architecture: one hidden layer; its activation smooth enough that the orders left out, which are treated as
            one, matter little.
        x_train: inputs (n, d).
        y_train: targets (n,) or (n, k).
        x_test: inputs (m, d).
        temperature: T > 0.
        learning_rate: η > 0, small enough that all eigenvalues of M lie between −1 and 1.
        steps: numbers of steps (s,).
        midpoint: whether the outputs are averaged over two consecutive steps.
        orders: Hermite components kept apart, at least 2.

    Returns:
        The mean (s, m) or (s, m, k), like the targets, and the covariance (s, m, m), the same for each output.

    Raises:
        ValueError: shapes do not match, the depth is not 1, a number is out of its range, or the steps diverge.

    Source: derived; checked against the recursion above and finite networks.
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

    if learning_rate * temperature >= 2:
        raise ValueError(f"learning_rate {learning_rate} diverges; give less than 2/T = {2 / temperature:.4g}")
    decay = 1 - learning_rate * temperature
    spread = 1 / (1 - learning_rate * temperature / 2)
    weight, bias = (spread * float(np.asarray(v)) for v in (architecture.weight_variance, architecture.bias_variance))
    if bias == 0 and not (np.abs(np.concatenate([train, test])).max(axis=1) > 0).all():
        raise ValueError("x_train and x_test must have no input that is zero everywhere without biases; drop such rows")
    wider = MLP(1, architecture.activation, weight, bias)
    components = hermite_components(wider, np.concatenate([train, test]), orders)
    eigenvalues, vectors = np.linalg.eigh(components)
    roots = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))[:, None, :]
    order = np.arange(orders)
    gains = decay**order * (1 + order) / spread
    # Ψ as (points, orders · points).
    psi = np.moveaxis(np.sqrt(gains)[:, None, None] * roots, 0, 1).reshape(len(train) + len(test), -1)
    # Most directions of most components carry nothing.
    carried = np.sum(psi**2, axis=0) > 1e-24 * np.sum(psi**2)
    psi = psi[:, carried]
    memory, gains = (np.repeat(values, roots.shape[-1])[carried] for values in (decay ** (1 + order), gains))
    factor, basis = np.linalg.eigh(np.diag(memory) - learning_rate * psi[: len(train)].T @ psi[: len(train)])
    if factor[0] <= -1:
        raise ValueError(
            f"learning_rate {learning_rate} diverges; give less than {2 * learning_rate / (1 - factor[0]):.4g}"
        )
    points, probe = (part @ basis for part in (psi[: len(train)], psi[len(train) :]))
    start = basis.T @ (basis / gains[:, None])
    kick = basis.T @ (basis * ((1 - memory**2) / gains)[:, None])
    products = factor[:, None] * factor
    means, covariances = [], []
    for count in counts:
        kept = factor**count
        mean = learning_rate * ((1 - kept) / (1 - factor))[:, None] * (points.T @ y.reshape(len(y), -1))
        law = kept[:, None] * start * kept + kick * (1 - products**count) / (1 - products)
        if midpoint:
            half = (1 + factor) / 2
            mean = half[:, None] * mean + learning_rate / 2 * points.T @ y.reshape(len(y), -1)
            law = half[:, None] * law * half + kick / 4
        means.append((probe @ mean).reshape(len(probe), *y.shape[1:]))
        covariances.append(probe @ law @ probe.T)
    return Prediction(jnp.asarray(np.stack(means)), jnp.asarray(np.stack(covariances)))
