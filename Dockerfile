# gistserve on an NVIDIA GPU.
#
#   docker build -t gistserve .
#   docker run --gpus all -p 8000:8000 -v gistserve:/data gistserve \
#       serve --host 0.0.0.0 --model Qwen/Qwen3-0.6B
#
# PyTorch's wheels bring the CUDA libraries; the base image brings what the driver needs. Triton
# compiles its launchers at run time, hence gcc and Python's headers. Without a GPU it runs as well.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/gistserve/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1
RUN python3 -m venv /opt/gistserve

WORKDIR /src
COPY . .
RUN pip install . && rm -rf /src/*

# Models from the hub, registered prompts and compiled kernels outlive the container in /data.
RUN useradd --create-home --uid 10001 gistserve \
    && install --directory --owner=gistserve --group=gistserve /data
ENV HF_HOME=/data/huggingface \
    XDG_CACHE_HOME=/data/cache \
    TRITON_CACHE_DIR=/data/triton
USER gistserve
WORKDIR /home/gistserve
VOLUME /data
EXPOSE 8000

HEALTHCHECK --start-period=5m --interval=30s --timeout=5s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["gistserve"]
CMD ["serve", "--host", "0.0.0.0"]
