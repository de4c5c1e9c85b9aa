"""A subject's rights: everything the region has of it handed out, or erased with a signed receipt."""
