"""Robot policies behind LeRobot's interface: judged in a learned world and in the real simulator, and made of one."""
