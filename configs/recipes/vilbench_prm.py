"""ViLBench: the best of N by its steps, where the worst of them counts.

Tu et al. 2025, https://arxiv.org/abs/2503.20271, of reasoning about images: a model of step
values, learned from the share of continuations that end right, chooses among N by the
least, the mean or the last of its scores. Here steps are those of the sampler and the model
learns from clean estimates on the way what the finished image scores (`estimates`), by
squared error. `unverified`: the authors' search for step values, and their loss.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  config = recipes.steered(
    arg, __file__, sampler="ode", num_steps=3 if small else 10, name="stepwise",
    particles=2 if small else 8, looks=(1, 2) if small else (3, 5, 7),
    aggregate="min", by="steps",
  )  # fmt: skip
  return recipes.steered_by_estimates(
    config, arg, __file__,
    estimates=(3, 2, 1) if small else (10, 7, 5, 3),
  )  # fmt: skip
