# For Cloud TPU, on its VMs or on GKE; /mnt/bucket is a bucket mounted with gcsfuse:
#
#     docker build -f launch/docker/tpu.Dockerfile -t diffpo-jax:tpu .
#     docker run --init --stop-timeout=600 \
#         --privileged --net=host -v /mnt/bucket/runs:/runs diffpo-jax:tpu \
#         --config=configs/sudoku.py --workdir=/runs/sudoku
# --init: otherwise process 1 of a container ignores SIGTERM.  --stop-timeout: the time to finish a
# step and save it.
FROM python:3.12-slim
WORKDIR /diffpo_jax
# A run records its commit, which needs git.
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY . .
RUN pip install --no-cache-dir --editable ".[tpu]"
ENTRYPOINT ["python", "-m", "diffpo_jax.main"]
