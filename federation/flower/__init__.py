"""Flower: the ServerApp, the thin ClientApp, and the deployment that runs both."""
