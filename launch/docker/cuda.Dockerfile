# For NVIDIA GPUs:
#
#     docker build -f launch/docker/cuda.Dockerfile -t diffpo-jax:cuda .
#     docker run --init --stop-timeout=600 \
#         --gpus all -v "$PWD/runs:/diffpo_jax/runs" diffpo-jax:cuda \
#         --config=configs/sudoku.py --workdir=runs/sudoku
#
# The CUDA libraries come with JAX's wheels; the host needs the driver and the container toolkit.
# --init: otherwise process 1 of a container ignores SIGTERM.  --stop-timeout: the time to finish a
# step and save it.
FROM python:3.12-slim
WORKDIR /diffpo_jax
# A run records its commit, which needs git.
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY . .
RUN pip install --no-cache-dir --editable ".[cuda]"
ENTRYPOINT ["python", "-m", "diffpo_jax.main"]
