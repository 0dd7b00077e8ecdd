"""Makes the threads of OpenMP sleep while they wait. Tools import this before torch, which loads OpenMP.

By default they spin. Where another process needs the core, that delays the thread that they wait for, and a layer
takes several times as long as its share of the machine allows. An ``OMP_WAIT_POLICY`` in the environment is kept.
"""

import os

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
