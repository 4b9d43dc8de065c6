"""Servers that the fan-out bench stands beside: each sends what it is published to all of its WebSockets."""
