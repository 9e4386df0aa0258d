"""Kubernetes mode: what the API server says of namespaces, and what follows from it."""
