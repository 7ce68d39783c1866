"""Tuning methods: what trains."""
