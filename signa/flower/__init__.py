"""Federated runs over Flower: the extra `signa-optim[flower]`. See docs/federated.md."""

from .apps import client_app, server_app

__all__ = ["client_app", "server_app"]
