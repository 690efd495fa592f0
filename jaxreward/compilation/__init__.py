"""What a compiled program costs on chips that need not be there.

`topology` knows the chips, `hlo` reads the compiler's text, `flops` counts the
program as written, `roofline` turns both into seconds, `compiled` compiles.
"""
