"""Writes docs/SYSTEMS.md: every published system, its recipe and its proof.

python docs/systems.py           writes the page
python docs/systems.py --check   exits with 1 where the page is out of date
"""

from __future__ import annotations

import ast
import csv
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE = HERE / "SYSTEMS.md"
RECIPES = ROOT / "configs" / "recipes"
# The test that proves a recipe's maths; each is one of the battery's rows too.
PROOFS = {
  "ac_flow": "tests/players/test_players.py",
  "adv_grpo": "tests/players/test_players.py",
  "aesthetic_predictor": "tests/reward_models/test_towers.py",
  "alignprop": "tests/feeds/test_tail.py",
  "anyprefer": "tests/advantages/test_selection.py",
  "arm_thinker_tool_rm": "tests/rewards/test_looks.py",
  "artifact_reward": "tests/players/test_artifacts.py",
  "assess_vs_optimise_probe": "tests/evaluation/test_reward_metrics.py",
  "awm": "tests/objectives/test_likelihood_free.py",
  "b2_diffurl": "tests/flow/test_windows.py",
  "barfi_bilevel_reward": "tests/composition/test_gradients.py",
  "basereward": "tests/reward_models/test_preference_losses.py",
  "branch_and_rethink_rm": "tests/rewards/test_vlm_judges.py",
  "brpo": "tests/advantages/test_selection.py",
  "carinox": "tests/steering/test_noise.py",
  "cdm_distillation": "tests/objectives/test_distillation.py",
  "cdr_density_ratio": "tests/rewards/test_implicit.py",
  "collaborative_rm_coteach": "tests/reward_models/test_curation.py",
  "compress_align_filter": "tests/reward_models/test_curation.py",
  "contrast_prompts_consistency": "tests/evaluation/test_reward_metrics.py",
  "controlnetpp_single_step": "tests/objectives/test_one_step.py",
  "copo_global_local": "tests/advantages/test_absolute.py",
  "crd": "tests/objectives/test_groups.py",
  "cream_consistency_dpo": "tests/objectives/test_groups.py",
  "ctrl_u": "tests/objectives/test_one_step.py",
  "curated_retraining": "tests/advantages/test_selection.py",
  "d2_align": "tests/players/test_directions.py",
  "d3po": "tests/objectives/test_differences.py",
  "dancegrpo": "tests/advantages/test_selection.py",
  "ddpo_tracker": "tests/advantages/test_history.py",
  "dense_grpo": "tests/advantages/test_dense.py",
  "descore_think_then_score": "tests/rewards/test_vlm_judges.py",
  "designsense_4class": "tests/reward_models/test_row_losses.py",
  "dgpo": "tests/objectives/test_groups.py",
  "diff_instruct_star": "tests/objectives/test_distillation.py",
  "diffusion_tree_sampling": "tests/steering/test_tree.py",
  "dlbs_lookahead": "tests/steering/test_methods.py",
  "dp2o_sr_hpo": "tests/objectives/test_preference.py",
  "dr_irl_grpo_s": "tests/advantages/test_process.py",
  "draft_k": "tests/feeds/test_tail.py",
  "dragon": "tests/rewards/test_sets.py",
  "edit_rrm_gcpo": "tests/reward_models/test_row_losses.py",
  "edithf": "tests/reward_models/test_row_losses.py",
  "editreward": "tests/reward_models/test_preference_losses.py",
  "editscore": "tests/composition/test_aspects.py",
  "euphonium": "tests/flow/test_marginals.py",
  "eva_idm_reward": "tests/rewards/test_motion.py",
  "evpv_gate": "tests/composition/test_reliance.py",
  "feature_reward_head": "tests/evaluation/test_combination.py",
  "fifa_filter": "tests/reward_models/test_curation.py",
  "firm_base_and_bonus": "tests/composition/test_gates.py",
  "fk_steering": "tests/steering/test_particle_weights.py",
  "flow_dpo": "tests/objectives/test_preference.py",
  "flow_dpo_offline": "tests/jobs/test_offline.py",
  "flow_dppo": "tests/objectives/test_policy_gradient.py",
  "flow_grpo_fast": "tests/flow/test_windows.py",
  "flow_matching": "tests/objectives/test_matching.py",
  "flowboost": "tests/advantages/test_absolute.py",
  "follow_up_likelihood": "tests/rewards/test_vlm_judges.py",
  "gapo_animereward": "tests/objectives/test_preference.py",
  "gardo": "tests/advantages/test_novelty_gate.py",
  "gdpo": "tests/composition/test_sums.py",
  "geneval": "tests/rewards/test_objects.py",
  "grao": "tests/objectives/test_real_members.py",
  "grpo_care": "tests/composition/test_reliance.py",
  "grpo_guard": "tests/objectives/test_policy_gradient.py",
  "grpo_lambda_gate": "tests/composition/test_gates.py",
  "grpo_ptr_trust": "tests/composition/test_trust.py",
  "gspo": "tests/objectives/test_policy_gradient.py",
  "hallo_live_hpdmd": "tests/objectives/test_distillation.py",
  "hallu_feature_reward": "tests/rewards/test_consistency.py",
  "helpsteer2_scaled_bt": "tests/reward_models/test_graded_losses.py",
  "hinge_rank_matching": "tests/reward_models/test_row_losses.py",
  "hpsv2": "tests/reward_models/test_published.py",
  "hybrid_multi_aspect": "tests/composition/test_trust.py",
  "id_aligner": "tests/feeds/test_tail.py",
  "id_booth_triplet": "tests/rewards/test_identity.py",
  "id_composer_rlvr": "tests/rewards/test_identity.py",
  "image_reward": "tests/reward_models/test_towers.py",
  "implicit_prm": "tests/players/test_players.py",
  "implicit_vs_explicit_rm_gap": "tests/rewards/test_implicit.py",
  "inpo": "tests/feeds/test_inverted.py",
  "instructvideo": "tests/setup/test_starts.py",
  "inverse_specification": "tests/tasks/scenes/test_scene_rewards.py",
  "ipro_face_reward_backprop": "tests/rewards/test_identity.py",
  "iti_gen": "tests/rewards/test_sets.py",
  "itercomp": "tests/setup/test_branches.py",
  "jarvisevo_sepo": "tests/players/test_students.py",
  "judge_master_key": "tests/setup/test_judge_teaching.py",
  "ixc25_reward": "tests/reward_models/test_progressive.py",
  "lare_return_decomposition": "tests/players/test_players.py",
  "latent_identity_reward": "tests/reward_models/test_beside_reference.py",
  "latent_value": "tests/reward_models/test_towers.py",
  "listener_reward": "tests/models/vlm/test_verdicts.py",
  "lfvoid_goal_discriminator": "tests/players/test_detectors.py",
  "lsc_transform": "tests/composition/test_reference_scores.py",
  "marble": "tests/composition/test_gradients.py",
  "masked_flow_dpo": "tests/objectives/test_preference.py",
  "mcts_dpo": "tests/objectives/test_preference.py",
  "meta_cot_cec": "tests/evaluation/test_judging.py",
  "meta_policy_optimization": "tests/advantages/test_rubrics.py",
  "mhaldetect_fdpo": "tests/objectives/test_preference.py",
  "mixgrpo": "tests/flow/test_windows.py",
  "mj_video_moe": "tests/reward_models/test_row_losses.py",
  "mlcm_reward": "tests/objectives/test_one_step.py",
  "mm_dpo_dynamic_beta": "tests/objectives/test_preference.py",
  "mrmbench_probing": "tests/evaluation/test_reward_metrics.py",
  "mrn_per_reward_norm": "tests/composition/test_sums.py",
  "multi_reward_condition": "tests/setup/test_row_scores.py",
  "mure_deep_confidence": "tests/steering/test_judged.py",
  "onereward": "tests/composition/test_aspects.py",
  "oni_async_distilled_judge": "tests/players/test_students.py",
  "openrubrics_crg": "tests/rewards/test_vlm_judges.py",
  "oprl_online_prm": "tests/advantages/test_step_rewards.py",
  "oprm_rgft": "tests/reward_models/test_graded_losses.py",
  "optiagent_lexicographic": "tests/composition/test_gates.py",
  "p_genrm": "tests/composition/test_aspects.py",
  "paco_rl": "tests/composition/test_transforms.py",
  "pagellm_mixed_grained": "tests/composition/test_trust.py",
  "pairwise_rl": "tests/rewards/test_vlm_judges.py",
  "pal_ideal_point": "tests/reward_models/test_row_losses.py",
  "pamela_personal_rm": "tests/reward_models/test_row_losses.py",
  "par_preference_as_reward": "tests/composition/test_reference_scores.py",
  "parm_potential": "tests/steering/test_judged.py",
  "parrot_pareto": "tests/composition/test_dominance.py",
  "pearl_perception_gate": "tests/composition/test_trust.py",
  "percentile": "tests/composition/test_trust.py",
  "perceptual_judgment_bias": "tests/reward_models/test_row_losses.py",
  "perceptual_stage_reward": "tests/rewards/test_stages.py",
  "persist_world": "tests/setup/test_starts.py",
  "phymotion_reward": "tests/rewards/test_bodies.py",
  "pick_score": "tests/reward_models/test_published.py",
  "pisces_ot": "tests/models/test_transport.py",
  "polar_policy_discriminator": "tests/reward_models/test_row_losses.py",
  "posteromni_reward_feedback": "tests/composition/test_aspects.py",
  "ppd_personal_dpo": "tests/setup/test_row_users.py",
  "ppr_renorm": "tests/advantages/test_process.py",
  "prdp": "tests/objectives/test_differences.py",
  "pref_grpo": "tests/composition/test_sums.py",
  "preference_strength_curation": "tests/reward_models/test_curation.py",
  "prefpaint_ellipsoid_weight": "tests/advantages/test_uncertainty.py",
  "prime": "tests/advantages/test_step_rewards.py",
  "promptecho_ce_reward": "tests/rewards/test_vlm_judges.py",
  "r0_reward_instruct": "tests/feeds/test_predictions.py",
  "rankdpo": "tests/objectives/test_groups.py",
  "rationalrewards_parrot": "tests/rewards/test_vlm_judges.py",
  "realgen_detector": "tests/players/test_detectors.py",
  "rebel": "tests/objectives/test_differences.py",
  "refl": "tests/objectives/test_backprop.py",
  "reno": "tests/steering/test_noise.py",
  "retouchiq_pgrt": "tests/players/test_detectors.py",
  "rewardanything_principles": "tests/rewards/test_vlm_judges.py",
  "rewardbench2_bestof4_ties": "tests/evaluation/test_reward_metrics.py",
  "rewarddance_yes_token": "tests/rewards/test_yes_tokens.py",
  "rg_lcd": "tests/players/test_players.py",
  "rm_nlhf": "tests/models/vlm/test_verdicts.py",
  "rm_r1": "tests/models/vlm/test_verdicts.py",
  "rlcm": "tests/flow/test_precise.py",
  "rlfr_flow_reward": "tests/players/test_flows.py",
  "rm_ensembles": "tests/composition/test_transforms.py",
  "rpo_lambda_harmonic": "tests/composition/test_transforms.py",
  "sage_grpo": "tests/flow/test_precise.py",
  "sarm_stage_rm": "tests/reward_models/test_row_losses.py",
  "searchllm_gated_aggregation": "tests/composition/test_gates.py",
  "seppo": "tests/objectives/test_real_members.py",
  "skywork_v2_curation": "tests/reward_models/test_curation.py",
  "social_reward": "tests/reward_models/test_preference_losses.py",
  "softrepa": "tests/objectives/test_matching.py",
  "solireward": "tests/reward_models/test_progressive.py",
  "srpo": "tests/objectives/test_one_step.py",
  "srum": "tests/advantages/test_uncertainty.py",
  "ssl_sweet_spot": "tests/composition/test_reliance.py",
  "starc": "tests/evaluation/test_reward_metrics.py",
  "stitchvm": "tests/reward_models/test_stitching.py",
  "stream_r1": "tests/objectives/test_distillation.py",
  "tdm_r1": "tests/players/test_players.py",
  "tempflow_grpo": "tests/advantages/test_absolute.py",
  "texforce": "tests/models/test_adapted_words.py",
  "thinkrl_edit": "tests/composition/test_dominance.py",
  "tp_grpo": "tests/advantages/test_process.py",
  "tree_preference_rm": "tests/setup/test_branches.py",
  "ttsnap": "tests/steering/test_methods.py",
  "ui_genie_rm_loop": "tests/advantages/test_selection.py",
  "unifiedreward_flex": "tests/rewards/test_vlm_judges.py",
  "unifiedreward_sift": "tests/advantages/test_selection.py",
  "unifiedreward_think": "tests/rewards/test_vlm_judges.py",
  "unipic2_pdtr": "tests/composition/test_trust.py",
  "uniworld_v2_edit_r1": "tests/advantages/test_selection.py",
  "vacot_typed_consistency": "tests/composition/test_aspects.py",
  "vefx_corn_head": "tests/reward_models/test_graded_losses.py",
  "verpo_check_weights": "tests/composition/test_transforms.py",
  "vgpo": "tests/advantages/test_absolute.py",
  "vilbench_prm": "tests/steering/test_judged.py",
  "visual_erm": "tests/composition/test_aspects.py",
  "visionprefer_vpscore": "tests/reward_models/test_preference_losses.py",
  "visualquality_r1": "tests/reward_models/test_row_losses.py",
  "visurf_gt_rollout": "tests/objectives/test_real_members.py",
  "vlic_2afc_dpo": "tests/rewards/test_yes_tokens.py",
  "vlm_rm_goal_baseline": "tests/reward_models/test_goal_head.py",
  "vpl": "tests/reward_models/test_row_losses.py",
  "vr_thinker": "tests/rewards/test_looks.py",
  "yojo_multi_response_rm": "tests/reward_models/test_graded_losses.py",
  "zoom_zero": "tests/advantages/test_process.py",
}
# Why a system has no recipe, where that is known.
REASONS: dict[str, str] = {
  "adiee_score_token": "its scorer sees the source of an edit beside the edit: the"
  " backbone `qwen_vl` reads no source, and other backbones have no token of a score",
  "promptenhancer_alignevaluator": "a writer of prompts is trained: no job trains one",
  "roboreward_progress": "its negatives are clips cut short: moving scenes have no"
  " rows of preferences",
  "themis_tool_rm": "tools answer the judge in words while it writes: here it may ask"
  " for parts of an image alone (`looks`)",
}
HEAD = """# Systems

Generated by `python docs/systems.py`; CI checks that it is up to date.

A recipe is a config in `configs/recipes/` that runs in three sizes: `:smoke` in
under a minute, the default on two CPU cores, and `:full` where public weights
exist. Every recipe goes through one battery (`tests/recipes`): it loads and is
checked at every size, padding changes nothing, a step compiles once, a resumed
step is the same to the byte, and the ratio of the first update, where an
objective has one, is exactly 1. Recipes of reward models train on the scenes in
two sizes, those of published ones on preferences of your own in the third, and so do evaluations that a reward steers; they load, are checked and
run end to end.
"Proof" is the test of its maths: a float64 reference, a limit case, a gradient
by finite differences.

"""


def recipes() -> dict[str, str]:
  """Key -> first line of the docstring."""
  found = {}
  for path in sorted(RECIPES.glob("*.py")):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    found[path.stem] = text.splitlines()[0].rstrip(".")
  return found


def systems() -> list[dict[str, str]]:
  """Rows of systems.tsv."""
  with (HERE / "systems.tsv").open(newline="") as file:
    return list(csv.DictReader(file, delimiter="\t"))


def page() -> str:
  """The whole page as Markdown."""
  known, rows = recipes(), systems()
  if stale := sorted(set(REASONS) & set(known)):
    raise SystemExit(f"docs/systems.py: {', '.join(stale)} has a recipe now")
  if stale := sorted(set(PROOFS) - set(known)):
    raise SystemExit(f"docs/systems.py: {', '.join(stale)} has no recipe")
  missing = sorted(set(known) - set(PROOFS))
  if missing:
    raise SystemExit(f"docs/systems.py: name the proof of {', '.join(missing)}")
  lines = [
    HEAD,
    "## Recipes\n",
    "| recipe | what | proof |",
    "| --- | --- | --- |",
  ]
  for key, what in known.items():
    lines.append(f"| `configs/recipes/{key}.py` | {what} | `{PROOFS[key]}` |")
  done = sum(row["key"] in known for row in rows)
  lines += [
    f"\n## Published systems\n\n{len(rows)} systems, {done} of them with a"
    " recipe. The other recipes above are of methods that are not on this list.\n",
    "| key | family | system | recipe, or why there is none |",
    "| --- | --- | --- | --- |",
  ]
  for row in sorted(rows, key=lambda row: (row["family"], row["key"])):
    link = REASONS.get(row["key"], "")
    if row["key"] in known:
      link = f"`configs/recipes/{row['key']}.py`"
    title = row["title"].replace("|", "/")
    lines.append(
      f"| {row['key']} | {row['family'].replace('_', ' ')} | {title} | {link} |"
    )
  return "\n".join(lines) + "\n"


def main() -> int:
  """Writes the page, or checks it."""
  text = page()
  if "--check" in sys.argv[1:]:
    return int(not PAGE.exists() or PAGE.read_text() != text)
  PAGE.write_text(text)
  return 0


if __name__ == "__main__":
  sys.exit(main())
