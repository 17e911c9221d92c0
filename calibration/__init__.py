"""Calibration sets, ranges, importance matrices for quantized artifacts. Empty until they come."""
