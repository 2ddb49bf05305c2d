"""Bayesian inference with infinitely wide networks: the posterior of the Gaussian process of the initial outputs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.arrays import ArrayLike, as_float, check_finite, is_traced
from theory.kernels.examples import AnyArchitecture, train_and_test
from theory.kernels.infinite import nngp
from theory.kernels.prediction import Prediction, eigendecomposition
from theory.kernels.trust import warn_if_unresolved


def nngp_posterior(
    architecture: AnyArchitecture, x_train: ArrayLike, y_train: ArrayLike, x_test: ArrayLike, *, noise: ArrayLike = 0.0
) -> Prediction:
    """Posterior of the outputs under y = f(x) + ε, ε ~ N(0, noise), with f a Gaussian process of covariance K (NNGP).

        mean K* (K + σ² I)⁻¹ y,    covariance K** − K* (K + σ² I)⁻¹ K*ᵀ,    σ² = noise.

    Outputs are independent and have one covariance, that of f itself: add noise·I for that of new labels. Two trainings
    end in this law. Only the last layer trained by gradient flow to t = ∞: noise 0. All parameters trained by Langevin
    dynamics at temperature T on the loss ½ Σ (f − y)², with the prior N(0, 1) of every parameter: noise T. Training all
    layers by gradient flow ends in another law, `predict`.

    Where K is singular and the noise 0 (equal inputs, say), the labels are met in the least-squares sense: directions
    in which K + σ² is below n·ε·λ_max, ε the rounding error of the dtype, are left out.

    Args:
        architecture: an MLP, or another family: its examples then have the shapes that its kernel takes.
        x_train: inputs (n, d).
        y_train: targets (n,) or (n, k).
        x_test: inputs (m, d); the training inputs themselves are allowed.
        noise: σ² ≥ 0, the variance of the labels' noise, not its standard deviation; a number or an array.

    Returns:
        The mean (*noise, m) or (*noise, m, k), like the targets, and the covariance (*noise, m, m).

    Raises:
        ValueError: shapes do not match, an entry is not finite, or a noise is negative or not finite.

    Warns:
        PrecisionWarning: the dtype leaves a relative error above 1 %; see `theory.kernels.trust`.

    Source: Lee et al. 2018, eqs. (8)–(9); Matthews et al. 2018. Last layer: Lee et al. 2019, Section 2.3.1 (with the
    sum in place of their mean in the loss). Langevin: Welling & Teh 2011.
    """
    train, test = train_and_test(architecture, x_train, x_test)
    y = as_float(y_train)
    if y.ndim not in (1, 2) or y.shape[0] != train.shape[0]:
        raise ValueError(f"y_train must have shape ({train.shape[0]},) or ({train.shape[0]}, k), got {y.shape}")
    check_finite("y_train", y)
    variances = as_float(noise)
    if not is_traced(variances) and not (np.isfinite(variances).all() and (np.asarray(variances) >= 0).all()):
        raise ValueError(f"noise must be finite and at least 0, got {noise!r}; it is a variance, not a scale")
    eigenvalues, vectors = eigendecomposition(nngp(architecture, train))
    if not is_traced(variances):
        warn_if_unresolved(eigenvalues, math.inf, float(np.min(variances)))
    kernels = nngp(architecture, test, train), nngp(architecture, test)
    return _posterior(eigenvalues, vectors, *kernels, y.astype(train.dtype), variances.astype(train.dtype))


@jax.jit
def _posterior(
    eigenvalues: Float[Array, " n"],
    vectors: Float[Array, "n n"],
    k_star: Float[Array, "m n"],
    k_test: Float[Array, "m m"],
    y: Float[Array, "n *k"],
    noise: Float[Array, "*noise"],
) -> Prediction:
    """In the eigenbasis of K, which serves every noise and a singular K as well."""
    shifted = jnp.maximum(eigenvalues, 0.0) + noise[..., None]
    kept = shifted > len(eigenvalues) * jnp.finfo(eigenvalues.dtype).eps * eigenvalues[-1]
    gains = jnp.where(kept, 1.0 / jnp.where(kept, shifted, 1.0), 0.0)
    projected = _product(k_star, vectors)
    weighted = projected * gains[..., None, :]
    targets = _product(vectors.T, y if y.ndim == 2 else y[:, None])
    mean = _product(weighted, targets)
    covariance = k_test - _product(weighted, projected.T)
    covariance = 0.5 * (covariance + jnp.swapaxes(covariance, -1, -2))
    return Prediction(mean if y.ndim == 2 else mean[..., 0], covariance)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
