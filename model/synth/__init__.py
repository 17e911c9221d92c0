"""Faces drawn from a morphable head, with action units that follow from its geometry."""
