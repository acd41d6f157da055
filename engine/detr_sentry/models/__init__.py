"""Sentry models: catalogue, bake, contract, evaluation."""
