"""Checkpoint to bundle: one short file a format, and the folder's writer."""
