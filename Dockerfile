FROM python:3.12-slim
WORKDIR /opt/mae-cli
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[notebooks]'
ENV MAE_CACHE_DIR=/work/cache
WORKDIR /work
ENTRYPOINT ["mae-cli"]
