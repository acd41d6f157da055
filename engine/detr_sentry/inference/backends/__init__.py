"""Runtimes that execute a sentry model; the only modules that name a runtime library."""
