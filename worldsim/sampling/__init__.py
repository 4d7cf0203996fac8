"""How a frame is drawn: noise, schedule, solver."""
