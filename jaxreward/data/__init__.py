"""Prompts, preferences, images and the embedded scenes."""
