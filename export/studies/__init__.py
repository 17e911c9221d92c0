"""Measurements that chose how things are exported."""
