"""The reveal pipeline."""
