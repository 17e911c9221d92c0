"""Photos, folders and videos to frames; which face is which from frame to frame."""
