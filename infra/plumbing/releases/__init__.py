"""What is inside a release, and two of them side by side: for central and for a region's operator alike."""
