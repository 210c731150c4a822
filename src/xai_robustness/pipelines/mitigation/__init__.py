"""The mitigation pipeline."""
