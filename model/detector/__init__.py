"""The face detector: network, compositions that teach it, training, and its measure."""
