"""Suggestions for the first letters of a search: items, categories, brands. Built by the side, mapped, small."""
