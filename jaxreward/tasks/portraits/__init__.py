"""Portraits: people with exact attributes, and edits of them."""
