"""A run's encoder as a model in MLflow's registry: `mlflow.pytorch.load_model("models:/NAME/1")` gives it back."""

import logging
from pathlib import Path

from mae import __version__
from mae.errors import RunError, UserError, first_line
from mae.exchange.feature_encoder import FeatureEncoder
from mae.exchange.incoming import Model
from mae.runs.directory import RunDirectory
from mae.tracking.mlflow_store import NONE
from mae.tracking.stage_delivery import deliver_stage


def register_model(run: RunDirectory, model: Model, name: str, uri: str, runs_dir: Path) -> str:
    """Log the encoder of a finished run in its MLflow run, with its signature, as a new version of `name`.

    Return its address, such as `models:/NAME/1`. `UserError` without a store, `RunError` if the store fails.
    """
    if uri == NONE:
        raise UserError("--register needs an MLflow store; leave --tracking-uri none out")
    encoder = FeatureEncoder(model)
    try:
        run_id = deliver_stage(run, uri, runs_dir)
        return f"models:/{name}/{_log(encoder, run_id, name, uri)}"
    except Exception as error:  # whatever a store raises
        raise RunError(f"--register {name}: {first_line(error)}") from error


def _log(encoder: FeatureEncoder, run_id: str, name: str, uri: str) -> str:
    import mlflow
    import numpy as np
    import timm
    import torch
    from mlflow.models import Model as MlflowModel
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it warns of pickles, which its users open as they see fit
    mlflow.set_tracking_uri(uri)
    # Left alone, it would be in another experiment than its run, and its files in whatever folder the command ran in.
    mlflow.set_experiment(experiment_id=mlflow.get_run(run_id).info.experiment_id)
    data, width = encoder.config.data, encoder.config.model.encoder.dim * (2 if encoder.pooling == "both" else 1)
    inputs = Schema([TensorSpec(np.dtype(np.uint8), (-1, data.channels, *(-1 for _ in data.seen)))])
    outputs = Schema([TensorSpec(np.dtype(np.float32), (-1, width))])
    told = MlflowModel.log(
        None,
        mlflow.pytorch,
        name,
        name="encoder",
        run_id=run_id,
        pytorch_model=encoder,
        serialization_format="pickle",  # a traced graph would be of one image size
        signature=ModelSignature(inputs, outputs),
        pip_requirements=[f"mae-cli=={__version__}", f"torch=={torch.__version__}", f"timm=={timm.__version__}"],
    )
    return str(told.registered_model_version)
