"""Visual-ERM: faults are listed, and each costs as much as it is severe.

Liu et al. 2026, https://arxiv.org/abs/2603.13224, of charts, tables and vector graphics
rendered from code: a judge compares rendering and target and lists faults of severity 1, 2
or 3, whose sum is S; the reward is 1 + clip(1 - S / 50, 0, 1), and 0 where nothing was
rendered. Here an edit has three faults at most: what is asked for is missing (3), something
else has changed (2), somebody is not the same person (2) or, at full size, the image is
badly made (1). From S = 3 on all costs the same, so that an edit that is not done earns
nothing by what it keeps. Something is always drawn, so that no image earns 0 as one
of nothing (`composition.gate`). Exact measures find the faults of portraits, a judge those
at full size. `unverified`: severities and bound of edits. Their
critique and revision at test time are left out.
"""

from jaxreward import recipes

JUDGED = {  # name: its question and severity
  "follow": ("edit_following", 3.0),
  "keep": ("edit_keeping", 2.0),
  "look": ("picture_quality", 1.0),
}


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext."""
  size = recipes.size_of(arg)
  config = recipes.of_edits(
    "flow_grpo", arg, __file__, follow=3.0, keep=2.0, person=2.0
  )
  if size == "full":
    judge = dict(fn="vlm_pointwise", answer="score")
    judges = {
      name: dict(judge, template=template, weight=severity)
      for name, (template, severity) in JUDGED.items()
    }
    recipes.judge_with(config, arg, **judges)
  # A policy that has learned nothing makes every fault: it is still compared.
  most = 7.0 if size == "smoke" else 3.0
  config.composition = dict(name="discrepancy", most=most)
  return config
