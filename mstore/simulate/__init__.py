"""A load generator: a cluster's nodes as their collectors would report them, reproducible from a seed."""

from mstore.simulate.generator import Batch, Simulator, builtin_cluster

__all__ = ["Batch", "Simulator", "builtin_cluster"]
