"""The localization pipeline."""
