"""What the house stands on: torch and Python alone."""
