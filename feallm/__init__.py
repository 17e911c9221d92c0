"""feallm-edge: read a face on the device it stands in front of, and say why."""
