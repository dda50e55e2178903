#!/bin/sh
# Builds model.plan beside every model.onnx of this repository, for the GPU it runs on. A plan loads in the TensorRT
# version that built it alone: run this in the TensorRT container of the same release as the server's.
#
#   docker run --rm --gpus all -v "$$PWD:/models" nvcr.io/nvidia/tensorrt:$triton-py3 sh /models/build_engines.sh
set -eu
cd "$$(dirname "$$0")"
for graph in */1/model.onnx; do
  trtexec --onnx="$$graph" --saveEngine="$${graph%.onnx}.plan" --noTF32 \
    --minShapes=$least --optShapes=$usual --maxShapes=$most
done
