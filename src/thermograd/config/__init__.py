"""What a run is: settings with their types, names and facts of algorithms, presets, and how they are resolved."""
