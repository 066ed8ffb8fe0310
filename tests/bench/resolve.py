#!/usr/bin/env python3
"""Hydra composing and resolving a sweep in one process: seconds of processor time, without the start of Python and imports.

    resolve.py CONF PRIMARY < jobs        jobs: one a line, overrides separated by blanks
"""
import sys
import time
import warnings

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

warnings.simplefilter("ignore")
conf, primary = sys.argv[1:3]
jobs = [line.split() for line in sys.stdin]
with initialize_config_dir(version_base="1.3", config_dir=conf):
    compose(primary, jobs[0])  # warm
    start = time.process_time()
    for job in jobs:
        OmegaConf.to_container(compose(primary, job), resolve=True)
    print(time.process_time() - start)
