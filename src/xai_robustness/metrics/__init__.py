"""Metrics as pure functions, with bootstrap intervals; NaN means undefined."""
