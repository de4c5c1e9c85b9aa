"""Wire contracts: messages, events, release manifest and features, each field with its residency class."""
