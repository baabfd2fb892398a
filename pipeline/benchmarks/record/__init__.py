"""The record of a device at the paper's size: steps a second and where their time goes, the pixel loss, autocast."""
