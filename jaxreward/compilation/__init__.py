"""Costs of a compiled program, for chips that need not be present.

`topology` describes the chips, `hlo` parses the compiler's text, `flops` counts
the program as written, `roofline` turns both into seconds, `compiled` compiles.
"""
