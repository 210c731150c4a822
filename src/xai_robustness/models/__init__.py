"""Classifiers: building, training, saving, cutting and correcting them."""
