"""A region's resident device gateway: phones on one side, the SuperNode on the other."""
