#!/bin/bash
# usage: names.sh SITE-PACKAGES    Print names.txt: what the CUDA build of PyTorch in SITE-PACKAGES wants of NVIDIA's libraries.
#
# A line is "library function".  Imported names are those that are undefined in PyTorch's libraries and defined in NVIDIA's.
# Of the driver and of NVML, which are loaded at run time, they are the names that stand in PyTorch's libraries as text.
set -euo pipefail
export LC_ALL=C
site=$1
wanted=$(nm -D --undefined-only "$site"/torch/lib/*.so | awk 'NF == 2 && $1 == "U" { sub(/@.*/, "", $2); print $2 }' | sort -u)
cat <<'END'
# Functions of NVIDIA's libraries that PyTorch 2.14.1 (cu130) names; written by names.sh.
END
for library in cudart cublas cublasLt cudnn cupti cufft cusparse cusolver curand cufile cusparseLt nccl; do
	file=$(printf '%s\n' "$site"/nvidia/*/lib/lib"$library".so.* | head -1)
	comm -12 <(nm -D --defined-only "$file" | awk '{ sub(/@.*/, "", $3); print $3 }' | sort -u) <(printf '%s\n' "$wanted") |
		grep -E "^(__cuda|cu|nccl)" | sed "s/^/$library /" || true
done
texts=$(strings -n 6 "$site"/torch/lib/lib{torch_cuda,c10_cuda}.so)
driver='^cu(Ctx|Dev|Device|Func|Get|Green|Init|Launch|Link|Logs|Mem|Module|Multicast|Occupancy|Pointer|Stream|Tensor)[A-Za-z0-9]*(_v[0-9])?$'
{ printf '%s\n' "$texts"; printf '%s\n' "$wanted"; } | grep -E "$driver" | grep -v -e '[a-z]Rj$' | sort -u | sed 's/^/cuda /'
printf '%s\n' "$texts" | grep -E '^nvml[A-Z][A-Za-z0-9]*(_v[0-9])?$' | sort -u | sed 's/^/nvml /'
