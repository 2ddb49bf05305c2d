"""All benchmarks in one run: `python -m experiments.benchmarks [--repetitions 5]`."""

import argparse

from experiments.benchmarks import kernels, training

if __name__ == "__main__":
    # Each has options of its own, too; what one of them does not know is to fail before the other has run.
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int)
    parser.parse_args()
    kernels.main()
    training.main()
