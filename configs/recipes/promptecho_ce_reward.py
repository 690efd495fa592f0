"""PromptEcho: the reward is how likely a model finds the prompt as the image's caption.

Liu et al. 2026, https://arxiv.org/abs/2604.12652: a frozen vision-language model is asked
to describe the image, and the mean log-probability of the prompt's tokens is the reward;
advantages are differences from the group's mean (roooobotx/prompt_echo, README). The
authors take Qwen3-VL 32B; here 8B. Without such weights, on scenes, a tiny model with
random weights stands in: it shows that the recipe runs and teaches nothing.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  echo = dict(fn="prompt_echo", weights="tiny", length=256, weight=1.0)
  if recipes.size_of(arg) == "full":
    echo.update(weights="Qwen/Qwen3-VL-8B-Instruct", dtype="bfloat16")
  config.rewards = dict(echo=echo)
  config.advantage = dict(name="group", std="none")
  return config
