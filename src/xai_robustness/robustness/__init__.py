"""Behaviour of models and explanations under corruptions."""
