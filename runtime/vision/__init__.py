"""Find faces, align them, decode what the network gives."""
