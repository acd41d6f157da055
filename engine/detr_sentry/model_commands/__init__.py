"""`detr-sentry models`: the commands around the store of models."""
