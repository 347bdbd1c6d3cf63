"""What an encoder is pretrained on, a file per task. `base` is the contract, `registry` the list, `masking` the masks."""
