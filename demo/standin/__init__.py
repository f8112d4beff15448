"""A stand-in for Trigger.dev, for development and tests: it answers like the recorded real one, and runs nothing."""
