"""Localization of artifacts in the pixels."""
