"""Training finite networks: one compiled program for any record times, members in batches."""

from experiments.training.ensemble import Diverged, Result, members, train
from experiments.training.flow import GradientFlow
from experiments.training.methods import SGD, Adam, GradientDescent, Langevin, Method, Momentum, State
from experiments.training.objectives import CrossEntropy, Outputs, SquaredError

__all__ = [
    "SGD",
    "Adam",
    "CrossEntropy",
    "Diverged",
    "GradientDescent",
    "GradientFlow",
    "Langevin",
    "Method",
    "Momentum",
    "Outputs",
    "Result",
    "SquaredError",
    "State",
    "members",
    "train",
]
