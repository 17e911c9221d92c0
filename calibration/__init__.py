"""Calibration sets, ranges and importance matrices for quantized artifacts. Empty until they come."""
