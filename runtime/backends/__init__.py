"""One inference library each, imported on use, behind the seam of `base`."""
