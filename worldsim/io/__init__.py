"""Files: read and written with care; a world's folder, frames, video, text."""
