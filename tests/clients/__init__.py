"""Clients that other people wrote, under Node and unmodified, driven by lines of JSON."""
