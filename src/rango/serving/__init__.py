"""Decisions over HTTP, both ways: runs that are served, and endpoints that are asked."""
