"""Training and test examples as the architecture takes them: rows of features, images or sequences."""

from jaxtyping import Array, Float

from theory.architecture import MLP, LayerNorm, Residual, StandardBiases
from theory.arrays import ArrayLike, example_pair, row_pair
from theory.kernels.families import Family

AnyArchitecture = MLP | Family | StandardBiases


def train_and_test(
    architecture: AnyArchitecture, x_train: ArrayLike, x_test: ArrayLike
) -> tuple[Float[Array, "n ..."], Float[Array, "m ..."]]:
    """Both sets of one dtype; their kernel checks the rest of the shape.

    Raises:
        ValueError: the shapes do not match each other or the architecture, or an entry is not finite.
    """
    plain = architecture.architecture if isinstance(architecture, StandardBiases) else architecture
    plain = plain.architecture if isinstance(plain, LayerNorm) else plain
    pair = row_pair if isinstance(plain, MLP | Residual) else example_pair
    return pair(x_train, x_test, ("x_train", "x_test"))
