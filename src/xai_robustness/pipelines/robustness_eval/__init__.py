"""The robustness_eval pipeline."""
