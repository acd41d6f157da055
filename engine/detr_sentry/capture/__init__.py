"""One process per camera: takes frames from a source and writes them into the frames ring."""
