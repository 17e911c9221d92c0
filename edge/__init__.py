"""What is deployed: the command a person types. Knows the runtime alone."""
