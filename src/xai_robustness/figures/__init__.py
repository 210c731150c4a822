"""Figures from arrays and tables: `matplotlib.figure.Figure` objects, never saved here and never through pyplot."""
