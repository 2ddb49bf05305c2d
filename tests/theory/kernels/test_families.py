"""What holds for the kernels of every family: the precision of single-precision inputs, and errors."""

import numpy as np
import pytest

from theory.architecture import Attention, Convolutional, LayerNorm, Residual
from theory.kernels import nngp, ntk

FAMILIES = (
    (Residual(4, "relu", 2.0, 0.1), ()),
    (LayerNorm(Residual(2, "erf", 2.0, 0.1)), ()),
    (Convolutional(3, "relu", 2.0, 0.0, filter=(3,), readout="pool"), (5,)),
    (Attention(2, "relu", 2.0, 0.1), (3,)),
)


@pytest.mark.parametrize(("architecture", "space"), FAMILIES)
def test_single_precision_is_exact_to_two_parts_in_a_million(architecture, space, rng):
    """Duplicates, near-duplicates and antipodes included; in the dtype of the inputs."""
    x = rng.normal(size=(4, *space, 6))
    x = np.concatenate([x, x[:1], x[:1] + 1e-5 * rng.normal(size=x[:1].shape), -x[:1]]).astype(np.float32)
    for kernel in (nngp, ntk):
        for second in (None, x[:3]):
            single = kernel(architecture, x, second)
            double = np.asarray(kernel(architecture, x.astype(np.float64), second))
            root = np.sqrt(np.diag(np.asarray(kernel(architecture, x.astype(np.float64)))))
            assert single.dtype == np.float32
            scale = np.outer(root, root[: double.shape[1]])
            assert np.max(np.abs(np.asarray(single, np.float64) - double) / scale) < 2e-6


JUMPS = ((Residual(4, "sign", 1.3, 0.1), ()), (Convolutional(4, "sign", 1.3, 0.0, filter=(3,), readout="pool"), (5,)))


@pytest.mark.parametrize(("architecture", "space"), JUMPS)
def test_duplicates_under_a_jump_are_duplicates_at_any_depth(architecture, space, rng):
    """Each layer takes the root of an angle: out of rounding, 1e-16, the fourth would make 1e-2."""
    for channels in (6, 3072):
        x = rng.uniform(size=(5, *space, channels))
        kernel = np.asarray(nngp(architecture, np.concatenate([x, x])))
        np.testing.assert_array_equal(kernel[:5, 5:], kernel[:5, :5])
