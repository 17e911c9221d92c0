"""Experiments behind the ADRs, kept runnable: `python -m feallm.model.studies.NAME`."""
