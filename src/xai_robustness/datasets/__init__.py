"""Labelled images: the phantom, MedMNIST, and what every stage sees of them."""
