"""Find, locate and remove the shortcuts of medical image classifiers, and prove the removal."""
