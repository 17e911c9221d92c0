"""Faces coded by eye: which faces, how they are shown to a reader, and what the readers saw.

The lists and codes beside this file are committed; the pictures are not.
"""
