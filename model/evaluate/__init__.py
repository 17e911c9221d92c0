"""Figures on labelled splits."""
