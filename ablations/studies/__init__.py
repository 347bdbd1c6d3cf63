"""Ablation studies. Start with `study.py`, what a study is; `plan.py` makes jobs of it, and `run.py` has them done."""
