"""OneReward: for each criterion of a task, the odds to beat the reference policy.

Gong et al. 2025, https://arxiv.org/abs/2508.21066: one judge of pairs reads the task and
the criterion, and the opponent of an image is one that the policy drew where training
began, which holds it there in the place of a KL. Here a pair is judged by the difference
of exact scores, and the odds are a reward; the authors follow a judge's gradient through
one step (linear or log odds, coefficients and the refreshed opponent are unverified). A
judge is `judge_pairwise` with `pairs="reference"`, and its question per criterion in
`templates`.
"""

from jaxreward import recipes

CRITERIA = dict(
  keep=dict(give=1.0, recolour=1.0, express=1.0, restyle=1.0),
  person=dict(identity=1.0),
)


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext."""
  config = recipes.of_edits(
    "diffusion_nft", arg, __file__, follow=1.0, keep=1.0, person=1.0, look=1.0
  )
  if recipes.size_of(arg) != "full":
    for name, kinds in CRITERIA.items():
      config.rewards[name].kinds = kinds
  config.composition = dict(name="preference_sum", scale=10.0)
  return config
