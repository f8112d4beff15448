"""A stand-in for Trigger.dev, for development and tests. It answers as the recorded server did, and runs no tasks."""
