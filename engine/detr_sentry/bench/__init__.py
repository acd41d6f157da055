"""Benchmarks of the design budgets: `detr-sentry bench`."""
