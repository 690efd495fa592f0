"""How well rewards judge images: functions of scores, in float64 on the host."""
