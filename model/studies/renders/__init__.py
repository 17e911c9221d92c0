"""What renders teach: a small network of AUs, trained on mixes, read on faces coded by eye."""
