"""Group statistics, advantage, and the clipped policy loss, fused."""

from pallas_kernels.grouped_advantage.api import (
  advantage,
  clipped_loss,
  grouped_policy_loss,
)

__all__ = ["advantage", "clipped_loss", "grouped_policy_loss"]
