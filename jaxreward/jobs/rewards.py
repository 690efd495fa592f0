"""Rewards of a config: found, bound, scored."""
from __future__ import annotations


def load(config, workdir, sections):
  return {}


def score(rewards, images, prompts):
  return {}, {}
