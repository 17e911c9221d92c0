"""A bundle: a folder of artifacts that a manifest describes; and the shipped one."""
