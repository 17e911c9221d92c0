"""Questions, wording, grammar, the check of claims, and the template."""
