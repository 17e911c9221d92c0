"""Readers of data sets, packs, pseudo-labels, augmentation, instruction texts."""
