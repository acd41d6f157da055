"""HTTP and WebSocket API, live page."""
