"""Kedro hooks and the planning of runs."""
