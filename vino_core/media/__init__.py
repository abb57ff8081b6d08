"""Reference pictures and clips: sizes, reading, preparing, writing."""
