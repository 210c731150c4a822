"""Concepts: suspects, review, concept activation vectors, retrieval."""
