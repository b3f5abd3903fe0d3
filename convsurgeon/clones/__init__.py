"""Clones of a user's model, and what keeps a run of one from being seen."""
