"""Finite self-attention networks, with finitely many heads of finitely many features: what `Attention` says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from experiments.families import FamilyNetwork
from experiments.networks import Params, network
from experiments.normalised_networks import values
from experiments.residual_networks import number
from theory.architecture import MLP, Attention, LayerScale, Parametrisation, Role

# Full precision: a GPU would otherwise round the factors to 10 bits.
_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

# Arrays of weights in an attention layer: keys (which are the queries too), values, outputs.
PARTS = 3


@dataclass(frozen=True)
class AttentionNetwork(FamilyNetwork):
    """An `Attention` network of finite width; build one with `attention_network`.

    With n features, H heads and h = φ(z_l),

        a_i(α, β) = softmax over β of (s/n) k_i(α)·k_i(β),    k_i = h K_i/√n,    v_i = h V_i/√n,
        z_{l+1}(α) = σ_w/√(nH) Σ_i Σ_β a_i(α, β) v_i(β) O_i + σ_b b_{l+1},

    which is the formula of `Attention` with the sum over heads divided by √H. In the parameters each attention layer
    has three entries, the weights (H, n, n) of its keys, of its values, and of its outputs with the bias.

    Attributes:
        widths: n, once for each z_1, …, z_{L+1}.
        inputs: channels of the sequences.
        heads, positions, sharpness, readout: H, the length of the sequences, s, 'flatten' or 'pool'.
    """

    heads: int
    positions: int
    sharpness: float
    readout: str

    @property
    def depth(self) -> int:
        """Number of attention layers."""
        return len(self.widths) - 1

    def shapes(self) -> list[tuple[int, ...]]:
        """(channels, n); thrice (heads, n, n) for each attention layer; (positions·n, outputs) or (n, outputs)."""
        n = self.widths[0]
        last = n * (self.positions if self.readout == "flatten" else 1)
        return [(self.inputs, n), *[(self.heads, n, n)] * (PARTS * self.depth), (last, self.outputs)]

    def biased(self) -> list[bool]:
        """Whether each entry has a bias: keys and values have none."""
        attention = [False] * (PARTS - 1) + [True]
        return [self.bias and has for has in (True, *attention * self.depth, True)]

    def scales(self) -> list[tuple[LayerScale, LayerScale]]:
        """Scales of the weights and of the biases, entry by entry; keys and values have the variance 1."""
        n, scheme = self.widths[0], self.parametrisation

        def pair(role: Role, fan_in: int, fan_out: int, variance: float) -> tuple[LayerScale, LayerScale]:
            return scheme.layer(role, fan_in, fan_out, variance), scheme.bias(role, fan_out, self.bias_variance)

        one_head, all_heads = pair("hidden", n, n, 1.0), pair("hidden", self.heads * n, n, self.weight_variance)
        attention = [one_head] * (PARTS - 1) + [all_heads]
        first = pair("input", self.inputs, n, self.weight_variance)
        fan_in, fan_out = self.shapes()[-1]
        return [first, *attention * self.depth, pair("output", fan_in, fan_out, self.weight_variance)]

    def preactivations(self, params: Params, x: ArrayLike) -> list[Float[Array, "n ..."]]:
        """z_1, …, z_{L+1}, each (n, positions, width), and the output (n, outputs), for x (n, positions, channels)."""
        return self._run(params, x)[0]

    def attention(self, params: Params, x: ArrayLike) -> list[Float[Array, "n heads positions positions"]]:
        """Attention weights a_i(α, β) of each layer; they sum to 1 over the last axis."""
        return self._run(params, x)[1]

    def _run(self, params: Params, x: ArrayLike) -> tuple[list[Array], list[Array]]:
        h = jnp.asarray(x, params[0]["weight"].dtype)
        if h.shape[1:] != (self.positions, self.inputs):
            raise ValueError(f"x must have shape (n, {self.positions}, {self.inputs}), got {h.shape}")
        multipliers = [weight.multiplier for weight, _ in self.scales()]
        z, attended = [self.affine(params, 0, _einsum("nac,cj->naj", h, params[0]["weight"]))], []
        for layer in range(self.depth):
            entry = 1 + PARTS * layer
            key, value, output = (params[entry + part]["weight"] for part in range(PARTS))
            h = self.activation(z[-1])
            k = multipliers[entry] * _einsum("naj,hjm->nham", h, key)
            a = jax.nn.softmax(self.sharpness / self.widths[0] * _einsum("nham,nhbm->nhab", k, k), axis=-1)
            v = multipliers[entry + 1] * _einsum("nhaj,hjm->nham", _einsum("nhab,nbj->nhaj", a, h), value)
            z.append(self.affine(params, entry + 2, _einsum("nham,hmj->naj", v, output)))
            attended.append(a)
        h = self.activation(z[-1])
        h = h.reshape(len(h), -1) if self.readout == "flatten" else h.mean(axis=1)
        return [*z, self.affine(params, len(multipliers) - 1, _einsum("nj,jk->nk", h, params[-1]["weight"]))], attended


def attention_network(
    architecture: Attention,
    *,
    width: int,
    heads: int,
    positions: int,
    channels: int,
    outputs: int = 1,
    parametrisation: str | Parametrisation = "ntk",
) -> AttentionNetwork:
    """A finite attention network of the architecture; it has biases where σ_b² > 0.

    All weights are trained. The limit's tangent kernel has values and outputs but no keys: their share, beside that of
    the gradient that passes through the attention weights, falls as 1/width. Heads alone do not reach the limit.

    Args:
        architecture: its numbers must not be traced.
        width: features n of every layer and of every head.
        heads: H, in every layer.
        positions, channels: of the sequences.
        outputs: dimension of f(x).
        parametrisation: 'ntk' or 'standard'. Which power of the heads belongs to the learning rate of outputs under
            'mean-field' or 'mup', whose limits are in the width, is not defined here.

    Raises:
        ValueError: the architecture is another one, a size is not positive, the parametrisation is another one, or as
            `network` says.

    Source: Hron et al. 2020, section 3, with finitely many heads.
    """
    if not isinstance(architecture, Attention):
        raise ValueError(f"architecture must be Attention, got {type(architecture).__name__}; use family_network")
    for name, size in (("width", width), ("heads", heads), ("positions", positions), ("channels", channels)):
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
    shape = MLP(
        architecture.depth + 1, architecture.activation, architecture.weight_variance, architecture.bias_variance
    )
    # An MLP with these sizes has the same checks.
    dense = network(shape, width=int(width), inputs=int(channels), outputs=outputs, parametrisation=parametrisation)
    if dense.parametrisation.name not in ("ntk", "standard"):
        raise ValueError(
            f"parametrisation must be 'ntk' or 'standard' for attention, got '{dense.parametrisation.name}': "
            "its learning rates would depend on how heads are counted"
        )
    return AttentionNetwork(
        *values(dense),
        heads=int(heads),
        positions=int(positions),
        sharpness=number("sharpness", architecture.sharpness),
        readout=architecture.readout,
    )
