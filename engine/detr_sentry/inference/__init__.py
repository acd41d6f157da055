"""One process for all cameras: finds people in frames and writes detections."""
