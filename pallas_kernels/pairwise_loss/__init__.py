"""Sums over all pairs of a group, without a matrix of pairs."""

from pallas_kernels.pairwise_loss.api import pairwise_loss, win_rate

__all__ = ["pairwise_loss", "win_rate"]
