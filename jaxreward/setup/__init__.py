"""From a config to parts: policy, parameters, sampler, mesh, prompts, rewards."""

from jaxreward.setup.parameters import (
  ASSETS,
  OWN_POLICY,
  POLICY_FILE,
  checkpoint_path,
  decoder_shapes,
  load_decoder,
  load_params,
  put_decoder,
)
from jaxreward.setup.placing import (
  batch_devices,
  log_placement,
  make_mesh,
  parts_of,
  profile_folder,
  put,
  shapes,
  spread_rows,
)
from jaxreward.setup.policies import (
  Trainable,
  make_policy,
  make_trainable,
  picture_side,
  score_frames,
)
from jaxreward.setup.prompts import (
  load_prompts,
  prompt_batches,
  prompt_ids,
)
from jaxreward.setup.sampling import (
  make_sampler,
  make_schedule,
  make_steps,
  section_times,
  step_table,
)
from jaxreward.setup.starts import make_start, start_latents, to_latents
from jaxreward.setup.steering import make_particles, make_steering
from jaxreward.setup.task import make_task

__all__ = [
  "ASSETS",
  "OWN_POLICY",
  "POLICY_FILE",
  "Trainable",
  "batch_devices",
  "checkpoint_path",
  "decoder_shapes",
  "load_decoder",
  "load_params",
  "load_prompts",
  "log_placement",
  "make_mesh",
  "make_particles",
  "make_policy",
  "make_sampler",
  "make_schedule",
  "make_start",
  "make_steering",
  "make_steps",
  "make_task",
  "make_trainable",
  "parts_of",
  "picture_side",
  "profile_folder",
  "prompt_batches",
  "prompt_ids",
  "put",
  "put_decoder",
  "score_frames",
  "section_times",
  "shapes",
  "spread_rows",
  "start_latents",
  "step_table",
  "to_latents",
]
