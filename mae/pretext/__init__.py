"""What an encoder is pretrained on, a file per task: `base` is the contract, `registry` a list, `masking` the masks."""
