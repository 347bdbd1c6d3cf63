"""MLflow, all of it: run directories are the truth, and are delivered to an MLflow store, where people look at them.

Start at `background_delivery`, which says when; `stage_delivery` and `study_delivery` say what.
"""
