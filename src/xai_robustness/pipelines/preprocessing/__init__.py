"""The preprocessing pipeline."""
