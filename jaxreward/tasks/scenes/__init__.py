"""Procedural scenes: a grammar, a renderer and a detector that agree."""
