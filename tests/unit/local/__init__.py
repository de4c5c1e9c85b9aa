"""Tests of the local world."""
