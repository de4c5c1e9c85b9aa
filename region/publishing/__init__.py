"""What a region's operators publish as one file: signed by the region's own keys, durable, told to every node."""
