"""Configurations of kohya-ss/sd-scripts as runs of this trainer."""
