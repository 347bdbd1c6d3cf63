"""Ablation studies. Start with `study.py`: what one is. `plan.py` makes jobs of it, `run_studies.py` has them done."""
