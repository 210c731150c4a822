"""Corrections of a classifier; importing the package registers the methods."""

from xai_robustness.mitigation import cdep, clarc, dfr, iterative, projections, reweighting, rrr, vanilla

__all__ = ["cdep", "clarc", "dfr", "iterative", "projections", "reweighting", "rrr", "vanilla"]
