"""Procedural scenes: a grammar with a matching renderer and detector."""
