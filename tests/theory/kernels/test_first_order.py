"""The first order in 1/n against exact moments, exact networks, the other expansions of this repository, and limits."""

import warnings

import jax
import numpy as np
import pytest

from theory.architecture import MLP
from theory.kernels import PrecisionWarning, nngp, ntk
from theory.kernels.finite_width import kurtosis_ratio
from theory.kernels.first_order import ExpansionWarning, first_order
from theory.kernels.ntk_fluctuations import ntk_second_moment
from theory.kernels.ntk_mean_shift import ntk_mean_shift
from theory.mean_field.finite_width import corrections

TENSORS = ("nngp", "nngp_shift", "nngp_covariance", "ntk", "ntk_shift", "ntk_between", "ntk_off_diagonal")
TENSORS += ("cross_covariance", "output_ntk", "ntk_covariance", "connected_four_point")


def limit(function, width=10**4):
    """lim n (f(n) − 1), with the next three orders of 1/n extrapolated away."""
    one, two, four = (n * (function(n) - 1) for n in (width, 2 * width, 4 * width))
    return (8 * four - 6 * two + one) / 3


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_one_input_is_the_expansion_of_the_exact_moments(activation, depth):
    found = first_order(MLP(depth, activation, 2.0 if activation == "relu" else 1.0), [[0.3, -1.2, 0.8]])
    kurtosis = limit(lambda n: kurtosis_ratio(activation, [n] * depth))
    np.testing.assert_allclose(found.kurtosis, [kurtosis], rtol=1e-8)
    second = limit(lambda n: ntk_second_moment(activation, [n] * depth))
    np.testing.assert_allclose(found.ntk_covariance.ravel() / found.ntk.ravel() ** 2, [second], rtol=1e-8)
    assert abs(found.ntk_shift[0, 0]) < 1e-12


@pytest.mark.parametrize(("activation", "variance"), [("relu", 2.0), ("erf", 0.5), ("tanh", 1.5), ("square", 0.1)])
def test_two_inputs_have_the_mean_shift_of_the_other_recursion(activation, variance):
    x = np.array([[1.0, 1.0], [0.7 + np.sqrt(0.51), 0.7 - np.sqrt(0.51)]])
    # Below five hidden layers P is still symmetric, and its indices might be exchanged unseen.
    found = first_order(MLP(5, activation, variance), x)
    diagonal, cross = (ntk_mean_shift(activation, 5, cosine, variance) for cosine in (1.0, 0.7))
    for matrix, name in (
        (found.ntk, "limit"),
        (found.ntk_shift, "coefficient"),
        (found.nngp_shift, "nngp_coefficient"),
    ):
        expected = [getattr(diagonal, name), getattr(cross, name)]
        np.testing.assert_allclose(matrix, [expected, expected[::-1]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_limits_are_the_infinite_kernels(activation, rng):
    architecture, x = MLP(3, activation, 1.7, 0.2), rng.standard_normal((3, 4))
    found = first_order(architecture, x)
    np.testing.assert_allclose(found.nngp, nngp(architecture, x), rtol=1e-10)
    np.testing.assert_allclose(found.ntk, ntk(architecture, x), rtol=1e-10)


def test_linear_networks_at_several_inputs(rng):
    """With σ_w² = 1 every recursion is a sum over layers of products of K, by Wick's theorem."""
    x, depth = rng.standard_normal((3, 5)), 4
    found = first_order(MLP(depth, "linear", 1.0), x)
    k = x @ x.T / 5
    wick = np.einsum("ac,bd->abcd", k, k) + np.einsum("ad,bc->abcd", k, k)
    layers = np.arange(1, depth + 1)
    np.testing.assert_allclose(found.nngp_covariance, depth * wick, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.ntk_off_diagonal, np.sum(layers**2) * np.einsum("ab,cd->abcd", k, k), rtol=1e-9)
    np.testing.assert_allclose(found.output_ntk, np.sum(layers) * np.einsum("ab,cd->abcd", k, k), rtol=1e-9)
    # C'(G, R) = C(G, G) + C(G, R) + wick, and C'(R, R) = C(G, G) + 2 C(G, R) + C(R, R) + wick.
    cross = between = 0
    for layer in layers:
        cross, between = layer + cross, layer + 2 * cross + between
    np.testing.assert_allclose(found.cross_covariance, cross * wick, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.ntk_between, between * wick, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.ntk_shift, 0, atol=1e-10)


def rule_of(covariance):
    """Nodes and weights that integrate polynomials of degree 15 exactly."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    n = len(covariance)
    u = np.stack([m.ravel() for m in np.meshgrid(*[nodes] * n)], axis=1)
    w = np.prod(np.stack(np.meshgrid(*[weights] * n)), axis=0).ravel() / (2 * np.pi) ** (n / 2)
    return u @ np.linalg.cholesky(covariance).T, w


def test_squares_with_biases_at_three_inputs():
    """For φ = z² and two hidden layers V and V̇ are polynomials in G, and one unit's contributions sums over a rule."""
    s, b, n = 0.4, 0.3, 3
    x = np.array([[1.0, 0.2, -0.4], [0.3, -0.9, 0.5], [-0.2, 0.6, 1.1]])
    k = s * x @ x.T / 3 + b

    def unit(g, r):
        """What one unit at each node contributes to the next G and R, less the mean; the means; the rule."""
        z, w = rule_of(g)
        products = s * np.einsum("za,zb->zab", z**2, z**2)
        both = products + 4 * s * np.einsum("za,zb,ab->zab", z, z, r)
        means = [np.einsum("z,zab->ab", w, part) for part in (products, both)]
        return products - means[0], both - means[1], means[0] + b, means[1] + b, z, w

    def covariance(w, one, other):
        return np.einsum("z,zab,zcd->abcd", w, one, other)

    g_unit, r_unit, g, r, z, w = unit(k, k)
    found = first_order(MLP(2, "square", s, b), x)
    # V_ab = s (G_aa G_bb + 2 G_ab²) + b and V̇_ab = 4 s G_ab, for the fluctuations that each node stands for.
    own = np.einsum("zaa->za", g_unit)
    g_next = s * (np.einsum("za,b->zab", own, np.diag(g)) + np.einsum("zb,a->zab", own, np.diag(g)) + 4 * g * g_unit)
    r_next = g_next + 4 * s * (g_unit * r + g * r_unit)
    g_unit2, r_unit2, g2, r2, z2, w2 = unit(g, r)
    np.testing.assert_allclose([found.nngp, found.ntk], [g2, r2], rtol=1e-10)
    for name, one, other, one2, other2 in (
        ("nngp_covariance", g_next, g_next, g_unit2, g_unit2),
        ("cross_covariance", g_next, r_next, g_unit2, r_unit2),
        ("ntk_between", r_next, r_next, r_unit2, r_unit2),
    ):
        expected = covariance(w, one, other) + covariance(w2, one2, other2)
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-8)
    # E ∂_e ∂_f (φ'_a φ'_b) is 4 for {e, f} = {a, b}, and 8 for a = b.
    p = s**2 * np.einsum("z,ze,zf,za,zb,ab->efab", w, z**2, z**2, 2 * z, 2 * z, k)
    bend = 4 * s * (np.einsum("abab->ab", p) + np.einsum("baab->ab", p))
    vertex = covariance(w, g_unit, g_unit)
    shift = s * (np.einsum("aabb->ab", vertex) + 2 * np.einsum("abab->ab", vertex))
    np.testing.assert_allclose(found.nngp_shift, shift, rtol=1e-8)
    mixed = np.einsum("abab->ab", covariance(w, g_unit, r_unit))
    np.testing.assert_allclose(found.ntk_shift, shift + 4 * s * mixed + bend, rtol=1e-8)
    # E ∂_e (φ_a φ'_c) = 4 G_ac for e = a, and 2 G_aa for e = c.
    eye = np.eye(n)
    tilt = 4 * np.einsum("ac,ae->ace", g, eye) + 2 * np.einsum("aa,ce->ace", g, eye)
    same = np.einsum("z,za,zb,zc,zd,cd->abcd", w2, z2**2, z2**2, 2 * z2, 2 * z2, r)
    rest = np.einsum("ace,bdf,efcd->abcd", tilt, tilt, p)
    np.testing.assert_allclose(found.output_ntk, s**2 * (same + rest), rtol=1e-8)
    q = 16 * s**2 * np.einsum("z,za,zb,zc,zd,ab,cd->abcd", w, z, z, z, z, k, k)
    same = 16 * np.einsum("z,za,zb,zc,zd,ab,cd->abcd", w2, z2, z2, z2, z2, r, r)
    rest = 16 * np.einsum("ac,bd,abcd->abcd", g, g, q)
    np.testing.assert_allclose(found.ntk_off_diagonal, s**2 * (same + rest), rtol=1e-8)


@pytest.mark.parametrize("activation", ["gelu", "tanh"])
def test_kernels_fluctuate_as_in_the_expansion_of_mean_field_theory(activation):
    """There are lengths and correlation of two inputs on the units of a layer, by automatic differentiation."""
    architecture = MLP(3, activation, 1.6, 0.1)
    x = np.array([[1.0, 1.0], [0.9, -0.5]])
    lengths = np.sum(x**2, axis=1) / 2
    cosine = x[0] @ x[1] / np.sqrt(x[0] @ x[0] * (x[1] @ x[1]))
    expected = corrections(architecture, lengths[0], lengths[1], cosine)
    found = first_order(MLP(2, activation, 1.6, 0.1), x)
    k, entries = found.nngp, ((0, 0), (1, 1), (0, 1))
    # The observed products of the third layer's own units scatter around G by Wick's theorem.
    own = np.array([[k[a, c] * k[b, d] + k[a, d] * k[b, c] for c, d in entries] for a, b in entries])
    joint = np.array([[found.nngp_covariance[*one, *other] for other in entries] for one in entries]) + own
    c = k[0, 1] / np.sqrt(k[0, 0] * k[1, 1])
    slope = np.eye(3)
    slope[2] = -0.5 * c / k[0, 0], -0.5 * c / k[1, 1], c / k[0, 1]
    np.testing.assert_allclose(slope @ joint @ slope.T, expected.covariance[2, 2], rtol=1e-6)
    np.testing.assert_allclose(np.diag(found.nngp_shift), expected.shift[2, :2], rtol=1e-6)


def test_symmetries_and_repeated_inputs(rng):
    x, order = rng.standard_normal((3, 4)), np.array([2, 0, 1, 2])
    one, other = (first_order(MLP(2, "relu", 2.0, 0.1), points) for points in (x, x[order]))
    for name in TENSORS:
        tensor = getattr(one, name)
        np.testing.assert_allclose(getattr(other, name), tensor[np.ix_(*[order] * tensor.ndim)], rtol=1e-8, atol=1e-9)
    for name in ("nngp_covariance", "ntk_covariance", "ntk_off_diagonal", "output_ntk"):
        tensor = getattr(one, name)
        np.testing.assert_allclose(tensor, np.einsum("abcd->badc", tensor), rtol=1e-9, atol=1e-9)
    # ReLU is homogeneous, and so are its networks without biases: of degree 4 in all four inputs together.
    near, far = (first_order(MLP(2, "relu"), scale * x[:2]) for scale in (1.0, 3.0))
    for name in TENSORS:
        tensor = getattr(near, name)
        np.testing.assert_allclose(getattr(far, name), 3.0**tensor.ndim * tensor, rtol=1e-8, atol=1e-8)


def test_covariances_are_positive(rng):
    """Of G and R together, at more inputs than dimensions."""
    found = first_order(MLP(3, "relu", 1.5), rng.standard_normal((4, 2)))
    blocks = (t.reshape(16, 16) for t in (found.nngp_covariance, found.cross_covariance, found.ntk_between))
    vertex, cross, between = blocks
    eigenvalues = np.linalg.eigvalsh(np.block([[vertex, cross], [cross.T, between]]))
    # Ten of each sixteen entries of G are different, and as many of R.
    assert np.all(np.abs(eigenvalues[:12]) < 1e-9 * eigenvalues[-1])
    assert np.all(eigenvalues[12:] > 1e-8 * eigenvalues[-1])


def test_double_precision_is_not_left_to_the_caller(rng):
    x = rng.standard_normal((2, 3))
    double = first_order(MLP(2, "tanh", 1.3, 0.2), x)
    with jax.enable_x64(False):
        single = first_order(MLP(2, "tanh", 1.3, 0.2), x)
    for name in TENSORS:
        np.testing.assert_array_equal(getattr(single, name), getattr(double, name))


def test_parallel_inputs():
    """A smooth activation takes them, as the limit of inputs that are not; a kink is refused with a reason."""
    x = np.array([[1.0, 0.5], [-2.0, -1.0], [-2.0, -1.0 + 1e-4]])
    found = first_order(MLP(2, "tanh", 1.5), x)
    for name in TENSORS:
        tensor = getattr(found, name)
        assert np.max(np.abs(tensor[1] - tensor[2])) < 1e-3 * np.max(np.abs(tensor))
        assert np.max(np.abs(tensor[0] - tensor[1])) > 0.05 * np.max(np.abs(tensor))
    with pytest.raises(ValueError, match=r"inputs 1 and 2 .*parallel"):
        first_order(MLP(2, "relu"), np.array([[3.0, 1.0], [1.0, 0.5], [-2.0, -1.0]]))


def test_the_kurtosis_is_within_its_radius(rng):
    """Exact kurtosis of ReLU: at most half the square of the correction is left out, and the reader is told where."""
    depth = 6
    found = first_order(MLP(depth, "relu"), rng.standard_normal((1, 3)))
    assert abs(found.coefficient - 5) < 1e-9
    assert abs(found.radius() - 0.02) < 1e-10
    for width in (300, 1000):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            at = found.at(width)
        left_out = kurtosis_ratio("relu", [width] * depth) - at.kurtosis[0]
        assert 0.3 * at.correction**2 < left_out < 0.51 * at.correction**2
        assert found.valid(width)
    assert not found.valid(299)
    with pytest.warns(ExpansionWarning, match="from width 300 on"):
        found.at(299)
    with pytest.raises(ValueError, match="at least 30"):
        found.at(29)
    at = found.at(1000)
    spread = np.sqrt(ntk_second_moment("relu", [1000] * depth) - 1)
    np.testing.assert_allclose(at.ntk_deviation / found.ntk, spread, rtol=0.02)


@pytest.mark.parametrize("activation", ["tanh", "sin"])
def test_the_kurtosis_at_criticality_is_universal(activation):
    """⅔ L/n for every smooth odd φ, where K decays as 1/L (Roberts, Yaida & Hanin 2022, chapter 5)."""
    few, some, many = (first_order(MLP(depth, activation, 1.0), [[1.0]]).kurtosis[0] for depth in (30, 60, 120))
    # A term of relative order 1/L adds a logarithm of the depth, which this difference of slopes is free of.
    np.testing.assert_allclose(2 * (many - some) / 60 - (some - few) / 30, 2 / 3, rtol=1e-3)


def test_the_radius_of_other_networks():
    """As the module says: 0.05 for linear networks, and 0.15 for deep tanh networks."""
    linear, tanh = (first_order(MLP(*which, 1.0), [[1.0]]) for which in ((3, "linear"), (100, "tanh")))
    assert abs(linear.radius() - 0.05) < 1e-9
    assert abs(tanh.radius() - 0.15) < 0.003


def test_a_network_that_does_not_fluctuate_is_always_valid():
    """Signs have the square 1 in every unit."""
    found = first_order(MLP(2, "sign", 1.0), [[1.0]])
    assert found.coefficient < 1e-12
    assert found.needed() == 1
    np.testing.assert_allclose(found.at(1).kurtosis, 1, rtol=1e-12)


def test_what_is_refused_or_warned_of():
    x = np.eye(2)
    with pytest.raises(ValueError, match="depth"):
        first_order(MLP(0, "linear"), x)
    with pytest.raises(ValueError, match="variance zero"):
        first_order(MLP(1, "relu"), np.array([[0.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="shape"):
        first_order(MLP(1, "relu"), np.ones(3))
    found = first_order(MLP(1, "relu"), x)
    for wrong in (lambda: found.at(0), lambda: found.radius(0.0)):
        with pytest.raises(ValueError, match="must be"):
            wrong()
    with pytest.warns(PrecisionWarning, match="nearly parallel"):
        first_order(MLP(1, "relu"), np.array([[1.0, 0.0], [1.0, 5e-4]]))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 3)), "x must have at least one input"),
        # The caller's numbers, with duplicates before.
        ([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]], "inputs 2 and 3 are parallel"),
        ([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], "input 2 has pre-activations of variance zero"),
    ],
)
def test_inputs_are_named_as_the_caller_numbers_them(x, message):
    with pytest.raises(ValueError, match=message):
        first_order(MLP(1, "relu", 2.0, 0.0), x)
