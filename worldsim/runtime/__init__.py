"""Where and how to compute: devices, threads, compiled steps."""
