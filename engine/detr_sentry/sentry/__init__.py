"""The sentry: a pure state machine and its rules. No I/O; time and data are parameters."""
