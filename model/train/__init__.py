"""Training: eyes, words, and what the words see."""
