"""Network families: the one description that theory and finite networks are both built from.

Convention everywhere, with width n, input dimension d and L = depth + 1 weight matrices:

    z_1 = √(σ_w²/d) W_1 x + σ_b b_1,    z_{l+1} = √(σ_w²/n) W_{l+1} φ(z_l) + σ_b b_{l+1},    f = z_L,

every entry of W and b drawn from N(0, 1). The neural tangent kernel counts all W and b.
"""

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from theory.activations import (
    ACTIVATIONS,
    Activation,
    PiecewiseLinear,
    Polynomial,
    activation,
    hermite,
    leaky_relu,
    monomial,
)
from theory.arrays import is_traced

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "PARAMETRISATIONS",
    "Activation",
    "Attention",
    "Convolutional",
    "LayerNorm",
    "LayerScale",
    "Parametrisation",
    "PiecewiseLinear",
    "Polynomial",
    "Residual",
    "activation",
    "hermite",
    "leaky_relu",
    "monomial",
    "parametrisation",
]


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False)
class MLP:
    """A fully connected network with `depth` hidden layers and one activation.

    The variances are leaves of the pytree, so that kernels can be vmapped and differentiated over them and
    a sweep over variances compiles once; depth and activation are static.

    Args:
        depth: number of hidden layers, at least 1; 0 is the linear model and wants activation='linear'.
        activation: a name or an `Activation`.
        weight_variance: σ_w² ≥ 0.
        bias_variance: σ_b² ≥ 0.

    Raises:
        ValueError: depth is no integer or too small, the activation is unknown, or a variance is negative
            or not finite.
    """

    depth: int
    activation: Activation
    weight_variance: ArrayLike
    bias_variance: ArrayLike

    def __init__(
        self,
        depth: int,
        activation: str | Activation = "relu",
        weight_variance: ArrayLike = 2.0,
        bias_variance: ArrayLike = 0.0,
    ) -> None:
        function = _find_activation(activation)
        if isinstance(depth, bool) or not isinstance(depth, int | np.integer):
            raise ValueError(f"depth must be an integer number of hidden layers, got {depth!r}")
        if depth < 0 or (depth == 0 and function != ACTIVATIONS["linear"]):
            raise ValueError(
                f"depth must be at least 1 hidden layer, got {depth}; "
                "for a linear model use depth=0 with activation='linear'"
            )
        _check_variance("weight_variance", weight_variance)
        _check_variance("bias_variance", bias_variance)
        object.__setattr__(self, "depth", int(depth))
        object.__setattr__(self, "activation", function)
        object.__setattr__(self, "weight_variance", weight_variance)
        object.__setattr__(self, "bias_variance", bias_variance)

    def tree_flatten_with_keys(self):
        """Leaves with their names, and the static part."""
        key = jax.tree_util.GetAttrKey
        leaves = (
            (key("weight_variance"), self.weight_variance),
            (key("bias_variance"), self.bias_variance),
        )
        return leaves, (self.depth, self.activation)

    @classmethod
    def tree_unflatten(cls, static, leaves) -> "MLP":
        """Rebuild without validation: JAX puts tracers, gradients and placeholders into the leaves."""
        mlp = object.__new__(cls)
        for name, value in zip(("depth", "activation"), static, strict=True):
            object.__setattr__(mlp, name, value)
        for name, value in zip(("weight_variance", "bias_variance"), leaves, strict=True):
            object.__setattr__(mlp, name, value)
        return mlp


# Inside MLP.__init__ the argument `activation` hides the function of that name.
_find_activation = activation


def _check_variance(name: str, value: ArrayLike) -> None:
    """Refuse negative or non-finite variances; tracers have no value to look at and pass."""
    if is_traced(value):
        return
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.number) and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}; it is a variance, not a scale")


Role = Literal["input", "hidden", "output"]


class LayerScale(NamedTuple):
    """How one weight matrix (or bias vector) enters: effective weight = multiplier · parameter.

    `multiplier`: constant factor; `init_std`: standard deviation of the parameter's entries at the start;
    `learning_rate`: factor on the global learning rate of (stochastic) gradient descent.
    """

    multiplier: float
    init_std: float
    learning_rate: float


class _Powers(NamedTuple):
    """Exponents (of fan_in, of fan_out) of a layer's multiplier, initial scale and learning rate."""

    multiplier: tuple[float, float]
    init_std: tuple[float, float]
    learning_rate: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Parametrisation:
    """An abc-parametrisation: the powers of the width in multiplier (a), initial scale (b), learning rate (c).

    With width n: W = n^-a w, w ~ N(0, n^-2b), learning rate η n^-c (Yang & Hu 2021, Section 3 and Table 1;
    the input dimension d is constant there and follows the convention 1/√d here):

        name         input layer            hidden layers        output layer         learning rate
        ntk          w √(σ_w²/d)            w √(σ_w²/n)          w √(σ_w²/n)          η
        standard     w ~ σ_w²/d             w ~ σ_w²/n           w ~ σ_w²/n           η
        mean-field   w √(σ_w²/d)            w √(σ_w²/n)          w σ_w/n              η n
        mup          w √(n/d), w ~ σ_w²/n   w ~ σ_w²/n           w/√n, w ~ σ_w²/n     η

    A missing "w ~" means unit variance, a missing factor means 1. Multiplying a layer's a by n^-θ, its b by
    n^θ and its c by n^2θ changes nothing in the function learned: mean-field is mup shifted by θ = ½ (for
    one hidden layer it is the parametrisation of Mei, Montanari & Nguyen 2018), exactly so at σ_w = 1;
    without biases mean-field at the rate η is mup at the rate σ_w² η.
    Warning: in "standard" the largest stable learning rate falls as 1/n; η is not transferable there.

    Args:
        name: a key of `PARAMETRISATIONS`.
        input, hidden, output: powers of fan_in and fan_out in each role.
        scaled_parameters: whether σ_w and σ_b scale the parameters at the start (standard, mup) or the
            multipliers (ntk, mean-field).
    """

    name: str
    input: _Powers
    hidden: _Powers
    output: _Powers
    scaled_parameters: bool

    def layer(self, role: Role | str, fan_in: int, fan_out: int, weight_variance: float = 1.0) -> LayerScale:
        """Scales of a weight matrix (fan_out, fan_in) in that role."""
        powers = {"input": self.input, "hidden": self.hidden, "output": self.output}
        if role not in powers:
            raise ValueError(f"role must be 'input', 'hidden' or 'output', got {role!r}")
        multiplier, init_std, learning_rate = (
            float(fan_in) ** power_in * float(fan_out) ** power_out for power_in, power_out in powers[role]
        )
        return self._with_variance(multiplier, init_std, learning_rate, weight_variance)

    def bias(self, role: Role | str, fan_out: int, bias_variance: float = 1.0) -> LayerScale:
        """Scales of a bias vector (fan_out,): an input layer with fan_in 1, but for the output's bias.

        The output has no width, so its bias is never rescaled.
        """
        if role == "output" or self.name in ("ntk", "standard"):
            return self._with_variance(1.0, 1.0, 1.0, bias_variance)
        return self.layer("input", 1, fan_out, bias_variance)

    def _with_variance(self, multiplier: float, init_std: float, rate: float, variance: float) -> LayerScale:
        scale = float(variance) ** 0.5
        if self.scaled_parameters:
            return LayerScale(multiplier, init_std * scale, rate)
        return LayerScale(multiplier * scale, init_std, rate)


_NTK = _Powers((-0.5, 0.0), (0.0, 0.0), (0.0, 0.0))
_STANDARD = _Powers((0.0, 0.0), (-0.5, 0.0), (0.0, 0.0))

PARAMETRISATIONS = {
    "ntk": Parametrisation("ntk", _NTK, _NTK, _NTK, scaled_parameters=False),
    "standard": Parametrisation("standard", _STANDARD, _STANDARD, _STANDARD, scaled_parameters=True),
    "mean-field": Parametrisation(
        "mean-field",
        input=_Powers((-0.5, 0.0), (0.0, 0.0), (0.0, 1.0)),
        hidden=_Powers((-0.5, 0.0), (0.0, 0.0), (1.0, 0.0)),
        output=_Powers((-1.0, 0.0), (0.0, 0.0), (1.0, 0.0)),
        scaled_parameters=False,
    ),
    "mup": Parametrisation(
        "mup",
        input=_Powers((-0.5, 0.5), (0.0, -0.5), (0.0, 0.0)),
        hidden=_Powers((0.0, 0.0), (-0.5, 0.0), (0.0, 0.0)),
        output=_Powers((-0.5, 0.0), (-0.5, 0.0), (0.0, 0.0)),
        scaled_parameters=True,
    ),
}


def parametrisation(name_or_object: str | Parametrisation) -> Parametrisation:
    """The parametrisation of that name, or the object itself.

    Raises:
        ValueError: there is no such name.
    """
    if isinstance(name_or_object, Parametrisation):
        return name_or_object
    if name_or_object not in PARAMETRISATIONS:
        raise ValueError(f"unknown parametrisation {name_or_object!r}; there are {', '.join(PARAMETRISATIONS)}")
    return PARAMETRISATIONS[name_or_object]


class _Family:
    """What the families below share with MLP: numbers are leaves of the pytree, all else is static."""

    _leaves: ClassVar[tuple[str, ...]]
    _static: ClassVar[tuple[str, ...]]

    def tree_flatten_with_keys(self):
        """Leaves with their names, and the static part."""
        leaves = tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in self._leaves)
        return leaves, tuple(getattr(self, name) for name in self._static)

    @classmethod
    def tree_unflatten(cls, static, leaves):
        """Rebuild without validation: JAX puts tracers, gradients and placeholders into the leaves."""
        family = object.__new__(cls)
        family._set(**dict(zip((*cls._static, *cls._leaves), (*static, *leaves), strict=True)))
        return family

    def _set(self, **fields) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)


def _check_depth(depth: int, what: str) -> int:
    if isinstance(depth, bool) or not isinstance(depth, int | np.integer) or depth < 1:
        raise ValueError(f"depth must be an integer number of {what}, at least 1, got {depth!r}")
    return int(depth)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


PADDINGS, READOUTS = ("circular", "same", "valid"), ("flatten", "pool")


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False)
class Convolutional(_Family):
    """A convolutional network of stride 1 on images (n, *space, c), with one or two axes of space.

    At every position α, with q the number of positions in the filter, S positions in the last layer and n channels,

        z_1(α) = √(σ_w²/(cq)) Σ_β W_1(β) x(α+β) + σ_b b_1,
        z_{l+1}(α) = √(σ_w²/(nq)) Σ_β W_{l+1}(β) φ(z_l(α+β)) + σ_b b_{l+1},
        flatten: f = √(σ_w²/(nS)) Σ_α W(α) φ(z_L(α)) + σ_b b,
        pool: f = √(σ_w²/n) W (1/S) Σ_α φ(z_L(α)) + σ_b b.

    Global average pooling makes f invariant under shifts if the padding is circular. The neural tangent kernel counts
    all W and b.

    Args:
        depth: number L ≥ 1 of convolutional layers, each followed by φ; the readout comes on top.
        activation: a name or an `Activation`.
        weight_variance, bias_variance: σ_w² and σ_b², leaves of the pytree.
        filter: size along each axis of space; its length, 1 or 2, says how many axes there are.
        padding: 'circular' (wraps around), 'same' (zeros around) or 'valid' (positions are lost at the edges). A filter
            of even size k reaches k/2 further positions to the right and k/2 − 1 to the left, except that 'valid' has
            no left.
        readout: 'flatten' or 'pool'.

    Raises:
        ValueError: an argument is outside its range.

    Source: Novak et al. 2019, sections 2 and 3; Arora et al. 2019, section 4.
    """

    depth: int
    activation: Activation
    weight_variance: ArrayLike
    bias_variance: ArrayLike
    filter: tuple[int, ...]
    padding: str
    readout: str

    _leaves: ClassVar[tuple[str, ...]] = ("weight_variance", "bias_variance")
    _static: ClassVar[tuple[str, ...]] = ("depth", "activation", "filter", "padding", "readout")

    def __init__(
        self,
        depth: int,
        activation: str | Activation = "relu",
        weight_variance: ArrayLike = 2.0,
        bias_variance: ArrayLike = 0.0,
        *,
        filter: tuple[int, ...] = (3, 3),
        padding: str = "circular",
        readout: str = "flatten",
    ) -> None:
        sizes = tuple(filter) if isinstance(filter, tuple | list) else ()
        whole = [isinstance(k, int | np.integer) and not isinstance(k, bool) and k >= 1 for k in sizes]
        if len(sizes) not in (1, 2) or not all(whole):
            raise ValueError(f"filter must be one or two sizes of at least 1, such as (3, 3), got {filter!r}")
        _check_choice("padding", padding, PADDINGS)
        _check_choice("readout", readout, READOUTS)
        _check_variance("weight_variance", weight_variance)
        _check_variance("bias_variance", bias_variance)
        self._set(
            depth=_check_depth(depth, "convolutional layers"),
            activation=_find_activation(activation),
            weight_variance=weight_variance,
            bias_variance=bias_variance,
            filter=tuple(int(k) for k in sizes),
            padding=padding,
            readout=readout,
        )


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False)
class Residual(_Family):
    """A fully connected network with skip connections, in the order of pre-activations.

    With width n and input dimension d,

        z_1 = √(σ_w²/d) W_1 x + σ_b b_1,    z_{l+1} = z_l + α (√(σ_w²/n) W_{l+1} φ(z_l) + σ_b b_{l+1}),
        f = √(σ_w²/n) W φ(z_{L+1}) + σ_b b.

    Args:
        depth: number L ≥ 1 of residual blocks.
        activation: a name or an `Activation`.
        weight_variance, bias_variance: σ_w² and σ_b², leaves of the pytree.
        branch_scale: α ≥ 0, a leaf too; 1/√L keeps the variance bounded in depth.

    Raises:
        ValueError: an argument is outside its range.

    Source: He et al. 2016 for the order; Yang & Schoenholz 2017 for the limit.
    """

    depth: int
    activation: Activation
    weight_variance: ArrayLike
    bias_variance: ArrayLike
    branch_scale: ArrayLike

    _leaves: ClassVar[tuple[str, ...]] = ("weight_variance", "bias_variance", "branch_scale")
    _static: ClassVar[tuple[str, ...]] = ("depth", "activation")

    def __init__(
        self,
        depth: int,
        activation: str | Activation = "relu",
        weight_variance: ArrayLike = 2.0,
        bias_variance: ArrayLike = 0.0,
        *,
        branch_scale: ArrayLike = 1.0,
    ) -> None:
        _check_variance("weight_variance", weight_variance)
        _check_variance("bias_variance", bias_variance)
        if not is_traced(branch_scale) and not (
            np.isfinite(branch_scale).all() and (np.asarray(branch_scale) >= 0).all()
        ):
            raise ValueError(f"branch_scale must be finite and at least 0, got {branch_scale!r}")
        self._set(
            depth=_check_depth(depth, "residual blocks"),
            activation=_find_activation(activation),
            weight_variance=weight_variance,
            bias_variance=bias_variance,
            branch_scale=branch_scale,
        )


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False)
class LayerNorm(_Family):
    """An architecture with a layer norm before every activation: φ(z) becomes φ((z − mean z)/√(variance of z)).

    Mean and variance are over the neurons of one layer (the channels at one position), without learned scales or
    shifts, and a variance of 0 gives 0. In a residual network it stands in the branch, after the skip connection.

    Args:
        architecture: an MLP of at least one hidden layer, `Convolutional` or `Residual`.

    Raises:
        ValueError: it is another one.

    Source: Ba, Kiros & Hinton 2016.
    """

    architecture: "MLP | Convolutional | Residual"

    _leaves: ClassVar[tuple[str, ...]] = ("architecture",)
    _static: ClassVar[tuple[str, ...]] = ()

    def __init__(self, architecture: "MLP | Convolutional | Residual") -> None:
        if not isinstance(architecture, MLP | Convolutional | Residual) or architecture.depth < 1:
            raise ValueError(
                f"architecture must be an MLP with a hidden layer, Convolutional or Residual, got {architecture!r}"
            )
        self._set(architecture=architecture)


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False)
class Attention(_Family):
    """Self-attention with tied keys and queries and linear scaling, on sequences (n, positions, c).

    With h_l = φ(z_l), keys that are their own queries, and attention weights a(α, β) = softmax over β of
    s ⟨W h_l(α), W h_l(β)⟩/n² for n features and n keys,

        z_1(α) = √(σ_w²/c) W_1 x(α) + σ_b b_1,    z_{l+1}(α) = (σ_w/n) O_{l+1} V_{l+1} Σ_β a(α, β) h_l(β) + σ_b b_{l+1},

    with infinitely many heads, each with weights W, V and O of its own. The readout on φ(z_{L+1}) is that of
    `Convolutional`. Scaling by 1/n in place of 1/√n makes the attention weights deterministic in the limit: each
    position attends to those that are like it. There is no positional encoding.

    Args:
        depth: number L ≥ 1 of attention layers.
        activation: a name or an `Activation`.
        weight_variance: σ_w² of the input, of the readout, and of values and outputs together; a leaf.
        bias_variance: σ_b², a leaf.
        sharpness: s ≥ 0, a leaf; at 0 each position attends to all alike.
        readout: 'flatten' or 'pool'.

    Raises:
        ValueError: an argument is outside its range.

    Source: Hron et al. 2020, section 3.
    """

    depth: int
    activation: Activation
    weight_variance: ArrayLike
    bias_variance: ArrayLike
    sharpness: ArrayLike
    readout: str

    _leaves: ClassVar[tuple[str, ...]] = ("weight_variance", "bias_variance", "sharpness")
    _static: ClassVar[tuple[str, ...]] = ("depth", "activation", "readout")

    def __init__(
        self,
        depth: int,
        activation: str | Activation = "relu",
        weight_variance: ArrayLike = 2.0,
        bias_variance: ArrayLike = 0.0,
        *,
        sharpness: ArrayLike = 1.0,
        readout: str = "flatten",
    ) -> None:
        _check_choice("readout", readout, READOUTS)
        for name, value in (
            ("weight_variance", weight_variance),
            ("bias_variance", bias_variance),
            ("sharpness", sharpness),
        ):
            _check_variance(name, value)
        self._set(
            depth=_check_depth(depth, "attention layers"),
            activation=_find_activation(activation),
            weight_variance=weight_variance,
            bias_variance=bias_variance,
            sharpness=sharpness,
            readout=readout,
        )


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False)
class StandardBiases(_Family):
    """An architecture whose biases b ~ N(0, σ_b²) are learned as they are, in place of σ_b b with b ~ N(0, 1).

    At initialisation both are one network, and the NNGP kernel is the same. In the tangent kernel a bias counts 1 in
    place of σ_b², and also where σ_b² = 0: then biases start at 0 and are learned. Weights keep the NTK
    parametrisation. A finite network in NTK parametrisation does the same with a learning rate of η/σ_b² for its
    biases; one in standard parametrisation with ησ_w²/fan_in for its weights and η for its biases.

    Args:
        architecture: any other architecture.

    Raises:
        ValueError: it is none.

    Source: Sohl-Dickstein et al. 2020, section 2.
    """

    architecture: "MLP | Convolutional | Residual | LayerNorm | Attention"

    _leaves: ClassVar[tuple[str, ...]] = ("architecture",)
    _static: ClassVar[tuple[str, ...]] = ()

    def __init__(self, architecture: "MLP | Convolutional | Residual | LayerNorm | Attention") -> None:
        if not isinstance(architecture, MLP | Convolutional | Residual | LayerNorm | Attention):
            raise ValueError(f"architecture must be one without StandardBiases, got {architecture!r}")
        self._set(architecture=architecture)
