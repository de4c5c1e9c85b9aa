"""Exploration slots: what is drawn and with which chance, what came of it, what another policy would bring."""
