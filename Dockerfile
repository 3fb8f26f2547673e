# hlserve in a container: `docker build .` for the CPU, `docker build --target gpu .` for NVIDIA GPUs.
# A release pins the base: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

# ---- what strips
FROM ${BASE} AS tools
RUN apt-get update && apt-get install --yes --no-install-recommends binutils

# ---- the wheel, and the built-in model readable by every user whatever the checkout's modes
FROM ${BASE} AS wheel
WORKDIR /src
COPY requirements/build.txt requirements/
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY hlserve hlserve
COPY compress compress
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .
COPY models /models
RUN chmod -R a+rX,go-w /models

# ---- one environment each, without pip or setuptools: the base's pip installs into them. uvloop
# ---- comes with 10 MB of symbols that nobody needs
FROM tools AS environment-cpu
COPY requirements/cpu.txt /requirements.txt
RUN python -m venv --without-pip /opt/hlserve \
 && pip --python /opt/hlserve/bin/python install --no-cache-dir --require-hashes -r /requirements.txt
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    pip --python /opt/hlserve/bin/python install --no-cache-dir --no-index --no-deps /wheels/*.whl \
 && strip /opt/hlserve/lib/python*/site-packages/uvloop/*.so

FROM tools AS environment-gpu
COPY requirements/gpu.txt /requirements.txt
RUN python -m venv --without-pip /opt/hlserve \
 && pip --python /opt/hlserve/bin/python install --no-cache-dir --require-hashes -r /requirements.txt
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    pip --python /opt/hlserve/bin/python install --no-cache-dir --no-index --no-deps /wheels/*.whl \
 && strip /opt/hlserve/lib/python*/site-packages/uvloop/*.so

# ---- what both images have in common
FROM ${BASE} AS common
LABEL org.opencontainers.image.title="hlserve" \
      org.opencontainers.image.licenses="Apache-2.0 AND MIT AND CC-BY-4.0"
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin hlserve
ENV PATH=/opt/hlserve/bin:$PATH \
    HLSERVE_HOST=0.0.0.0 \
    HLSERVE_MODELS=/models \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# The built-in model stands where a folder of models is mounted: the mount hides it.
COPY --from=wheel /models /models
USER 10001:10001
EXPOSE 8001 8002
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD hlserve health "127.0.0.1:${HLSERVE_PORT:-8001}"
ENTRYPOINT ["hlserve"]
CMD ["serve"]

FROM common AS gpu
ENV HLSERVE_PROVIDER=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=environment-gpu /opt/hlserve /opt/hlserve

# ---- the last stage is what `docker build .` makes
FROM common AS cpu
COPY --from=environment-cpu /opt/hlserve /opt/hlserve
