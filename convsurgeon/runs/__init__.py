"""Runs of models and graphs: what they show, read, write and compute."""
