"""The world run of `bench residency`: what is done in it, and what is planted."""
