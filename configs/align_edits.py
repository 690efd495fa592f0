"""Aligns a policy that edits scenes with five families of rewards in one run.

  python -m jaxreward.main --workdir=runs/edits_aligned \
    --config=configs/align_edits.py

The tasks start from a picture (`jaxreward.tasks.scenes.edits`): four kinds of
edits, one that keeps a subject's identity, one that sharpens. A reward has a say
in the kinds that it names, and in rows that have what it compares with: where
there is no exact answer, fidelity is left out, and not 0.

    family        reward                  compares the picture with
    alignment     execution               what the words ask for
    consistency   preservation            objects that they do not speak of
                  background              the source, outside the edited cells
    identity      subject                 the subject that the source shows
    quality       clean                   nothing: how even the background is
    fidelity      ssim, psnr              the exact answer

All of these need no weights, and the detector's strict verdict, which is held
out, says whether the whole task is done. Of real pictures the same places are
taken by `clip_score`, `image_similarity`, `background`, `identity`,
`aesthetic` and `lpips`, which find source and answer in the same rows.

Each reward is measured by its own group's mean and deviation before they are
added up (GDPO, Liu et al., 2026), so that a weight means the same for all. The
policy to start from, runs/edits/policy.safetensors, comes from
configs/pretrain_edits.py.
"""

from jaxreward import config as config_lib

EDITS = dict(recolour=1.0, remove=1.0, add=1.0, move=1.0)


def get_config(arg: str | None = None):
  """`:smoke` for a few tiny iterations; `:flow_grpo` for that objective."""
  spec = f"align_scenes.py:{arg}" if arg else "align_scenes.py"
  config = config_lib.load_sibling(spec, __file__)
  config.model.takes_source = True
  config.data.update(
    source="edits", grammar="edits", kind_weights=(2, 1, 2, 2, 2, 2)
  )
  config.rewards = dict(
    execution=dict(fn="execution", weight=1.0),
    preservation=dict(fn="preservation", weight=0.5, kinds=EDITS),
    background=dict(fn="background", weight=0.5, kinds=EDITS),
    subject=dict(fn="subject", weight=1.0, kinds=dict(identity=1.0)),
    clean=dict(fn="clean", weight=0.25),
    ssim=dict(fn="ssim", weight=0.5, kinds=dict(EDITS, upscale=2.0)),
    psnr=dict(fn="psnr", weight=0.25, kinds=dict(upscale=1.0)),
  )
  config.heldout_rewards = dict(strict=dict(fn="strict", weight=1.0))
  config.composition = dict(name="gdpo", epsilon=1e-6)
  config.advantage = dict(name="group", std="none")
  if config.align.iterations < 10:  # smoke
    config.eval.guidance_scales = (1.0,)
    config.model.update(depth=2, width=64, unroll=1)
    config.init.checkpoint = ""
  else:
    config.init.checkpoint = "runs/edits/policy.safetensors"
  return config
