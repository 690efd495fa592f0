"""Prompts from the scenes or from a user's own files."""

from __future__ import annotations

from jaxreward.data.scenes import grammar


def load_prompts(source, split, kinds=None, validation_share=0.1):
  return grammar.prompts(split, kinds)
