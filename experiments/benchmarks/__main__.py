"""All benchmarks in one run: `python -m experiments.benchmarks [--repetitions 5]`."""

from experiments.benchmarks import kernels, training

if __name__ == "__main__":
    kernels.main()
    training.main()
