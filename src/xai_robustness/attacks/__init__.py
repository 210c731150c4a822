"""Attacks on predictions and on explanations."""
