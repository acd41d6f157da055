"""The sentry's pure core: state machine, rules, events. No I/O; time is a parameter."""
