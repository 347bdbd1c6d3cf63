"""Models in and out: checkpoints of others become runs, and runs become files that others load.

Start at `incoming` and `outgoing`; `naming` has what each calls a model's parts, `files` reads without trusting.
"""
