"""`python -m detr_sentry` is the `detr-sentry` command."""

from __future__ import annotations

from detr_sentry.cli import main

raise SystemExit(main())
