"""How well a model does: its accuracy on marked photos, and its false alarms where nobody is. `detr-sentry eval`."""
