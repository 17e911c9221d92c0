"""The device: contract, pixels to readings to words, bundles. Knows no other room, and no torch."""
