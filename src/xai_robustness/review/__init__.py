"""The interactive review of suspects: `python -m xai_robustness.review --env <study>`; needs the extra `review`."""
