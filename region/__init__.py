"""The region: where user data lives and where every list is made."""
