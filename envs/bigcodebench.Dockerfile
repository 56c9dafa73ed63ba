# FGit with bubblewrap and, beside it, the older Python in which BigCodeBench's tests run.
# NOT BUILT YET. From the top of the repository:
#   docker build --file envs/bigcodebench.Dockerfile --tag fgit .
# In it, --worker-python is /opt/bigcodebench/bin/python. Bubblewrap inside a container needs user
# namespaces: docker run --security-opt seccomp=unconfined, or Apptainer.
FROM python:3.11-bookworm
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bubblewrap libgdal-dev libgl1 tesseract-ocr \
 && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv && uv python install --install-dir /opt/python 3.10
COPY envs /fgit/envs
WORKDIR /fgit
RUN uv venv --python 3.10 --python-preference only-managed /opt/bigcodebench \
 && uv pip install --no-cache --python /opt/bigcodebench/bin/python -r envs/bigcodebench.txt \
 && uv pip install --no-cache --python /opt/bigcodebench/bin/python --no-deps -r envs/bigcodebench-nodeps.txt
RUN pip install --no-cache-dir -r envs/main.txt \
 && pip install --no-cache-dir --no-deps -r envs/main-nodeps.txt
COPY . /fgit
RUN pip install --no-cache-dir --no-deps .
