"""What the rooms agree on: action units, expressions, geometry, rows, manifest, errors."""
