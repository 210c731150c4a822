"""Corrections of a classifier; importing the package registers the methods."""

from xai_robustness.mitigation import clarc, rrr, vanilla

__all__ = ["clarc", "rrr", "vanilla"]
