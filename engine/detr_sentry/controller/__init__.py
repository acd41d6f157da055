"""Owns mode, state machine, history and the control socket; writes the sentry ring."""
