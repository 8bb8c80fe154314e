"""What the door offers beside the rooms' own functions: runs, any model, and whole studies."""
