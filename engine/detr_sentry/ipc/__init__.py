"""Shared memory between the services: leased rings, messages in place, bells, heartbeats, the control socket."""
