# For NVIDIA GPUs:
#
#     docker build -f launch/docker/cuda.Dockerfile -t diffpo-jax:cuda .
#     docker run --init --stop-timeout=600 \
#         --gpus all -v "$PWD/runs:/diffpo_jax/runs" diffpo-jax:cuda \
#         --config=configs/sudoku.py --workdir=runs/sudoku
#
# The CUDA libraries come with JAX's wheels; the host needs the driver and the container toolkit.
# --init: a first process hears no SIGTERM by itself; a step and its checkpoint take their time.
FROM python:3.12-slim
WORKDIR /diffpo_jax
# What a run says about itself includes the commit.
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY . .
RUN pip install --no-cache-dir --editable ".[cuda]"
ENTRYPOINT ["python", "-m", "diffpo_jax.main"]
